use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

use serde_json::Value as Json;

use super::super::line::tests::{NOW, bare, full, recorded};
use super::super::line::{Alpn, ConnectionLine, Endpoint, LoggedAddress};
use super::super::record::{Entry, Severity};
use super::*;
use crate::settings::Shown;
use crate::telemetry::Reason;

const CLEAR: Style = Style {
    form: Form::Json(LogFields::Native),
    names: Shown::Clear,
    inner_names: Shown::Clear,
    clients: Shown::Clear,
};

fn formatted(record: &[u8], style: Style) -> String {
    let mut out = String::new();
    Formatter::default().write(&mut out, Record::next(&mut &record[..]).unwrap(), style);
    assert_eq!(out.matches('\n').count(), 1, "{out:?}");
    out
}

fn written(line: &ConnectionLine<'_>, form: Form) -> String {
    formatted(&recorded(line), Style { form, ..CLEAR })
}

fn json(line: &ConnectionLine<'_>, fields: LogFields) -> Json {
    serde_json::from_str(&written(line, Form::Json(fields))).unwrap()
}

/// The keys of a line of JSON, in its order.
fn keys(line: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut rest = line.trim_end().trim_start_matches('{');
    while let Some((key, value)) = rest.split_once("\":") {
        keys.push(key.trim_start_matches([',', '"']).to_owned());
        let mut values = serde_json::Deserializer::from_str(value).into_iter::<Json>();
        values.next().unwrap().unwrap();
        rest = &value[values.byte_offset()..];
    }
    keys
}

/// A line that has all fields, though no connection has.
fn all(address: &dyn fmt::Display) -> ConnectionLine<'_> {
    use super::super::line::{Asked, RequestLine};
    use crate::telemetry::Saw;
    let asked = Some(Asked { host: "a.test", method: "GET", path: "/x" });
    ConnectionLine {
        peer: "198.51.100.8:1".parse().unwrap(),
        endpoint: Endpoint {
            vpc_endpoint: Some(b"vpce-0"),
            private_link_id: Some(7),
            psc_connection_id: Some(1 << 63),
        },
        address: Some(LoggedAddress::Other(address)),
        saw: Some(Saw::Http),
        request: Some(RequestLine { asked, status: Some(404) }),
        failed: Box::leak(Box::new(["10.0.0.12:443 refused: Connection refused (os error 111)".to_owned()])),
        error: Some(&"x"),
        nameless_error: Some("y"),
        ..full()
    }
}

#[test]
fn the_docs_show_a_line_as_it_is_and_name_its_fields_and_reasons() {
    let docs = include_str!("../../../../docs/logs.md");
    for form in [
        Form::Json(LogFields::Native),
        Form::Json(LogFields::Ecs),
        Form::Json(LogFields::Otel),
        Form::Logfmt,
        Form::Pretty(Colour::None),
    ] {
        let line = written(&full(), form);
        assert!(docs.contains(&line), "docs/logs.md does not show {line}");
    }
    for field in keys(&written(&all(&"unix:/a"), Form::Json(LogFields::Native))) {
        assert!(docs.contains(&format!("`{field}`")), "docs/logs.md does not name {field}");
    }
    for reason in Reason::ALL {
        assert!(docs.contains(&format!("| `{reason}` |")), "docs/logs.md does not have {reason}");
    }
}

#[test]
fn every_field_has_a_name_in_every_schema_and_the_docs_have_the_table() {
    let docs = include_str!("../../../../docs/logs.md");
    for key in Key::ALL {
        let [native, ecs, otel] = [LogFields::Native, LogFields::Ecs, LogFields::Otel].map(|fields| key.name(fields));
        let (ecs, otel) = if key.is_address() {
            (format!("{ecs}.ip`, `{ecs}.port"), format!("{otel}.address`, `{otel}.port"))
        } else {
            (ecs.to_owned(), otel.to_owned())
        };
        let row = format!("| `{native}` | `{ecs}` | `{otel}` |");
        assert!(docs.contains(&row), "docs/logs.md does not have the row {row}");
    }
    let line = all(&"[2001:db8::1]:443");
    let native: Vec<String> = keys(&written(&line, Form::Json(LogFields::Native)));
    for fields in [LogFields::Ecs, LogFields::Otel] {
        let written = keys(&written(&line, Form::Json(fields)));
        let unique: BTreeSet<&String> = written.iter().collect();
        assert_eq!(unique.len(), written.len(), "{written:?}");
        for name in &native {
            let key = Key::ALL.iter().find(|key| key.name(LogFields::Native) == name).unwrap();
            let wanted = key.name(fields);
            let is_there = written.iter().any(|name| {
                name == wanted || (key.is_address() && name.starts_with(wanted) && name.ends_with(".port"))
            });
            assert!(is_there, "{wanted} is missing: {written:?}");
        }
    }
}

#[test]
fn a_person_finds_reason_and_error_first_and_nothing_twice() {
    let address: SocketAddr = "10.0.0.11:443".parse().unwrap();
    let line = ConnectionLine { error: Some(&"x"), ..full() };
    let order = keys(&written(&line, Form::Json(LogFields::Native)));
    assert_eq!(order[..8], ["ts", "level", "event", "reason", "error", "listener", "client", "sni"]);
    // The peer is the client, and the backend is called by its address.
    assert!(!order.iter().any(|key| key == "peer" || key == "address"), "{order:?}");
    assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), order.len());
    let other = ConnectionLine { backend: Some("b.test:443#1"), address: Some(LoggedAddress::Inet(address)), ..line };
    assert_eq!(json(&other, LogFields::Native)["address"], "10.0.0.11:443");
    let behind = ConnectionLine { peer: "10.0.0.1:7".parse().unwrap(), ..full() };
    assert_eq!(json(&behind, LogFields::Native)["peer"], "10.0.0.1:7");
    let unix: &dyn fmt::Display = &"unix:/run/b";
    let unix = ConnectionLine { backend: Some("unix:/run/b"), address: Some(LoggedAddress::Other(unix)), ..full() };
    assert_eq!(json(&unix, LogFields::Native)["address"], Json::Null);
    assert_eq!(json(&unix, LogFields::Ecs)["destination.address"], "unix:/run/b");
}

#[test]
fn what_is_unknown_is_left_out() {
    assert_eq!(
        written(&bare(), Form::Json(LogFields::Native)),
        "{\"ts\":\"2026-03-01T12:34:56.789Z\",\"level\":\"INFO\",\"event\":\"connection\",\"reason\":\"probe\",\
         \"listener\":\"https\",\"client\":\"198.51.100.7:50312\",\"duration_ms\":1530.077,\"bytes_to_backend\":0,\
         \"bytes_to_client\":0,\"phase\":\"hello\",\"id\":\"000000000000002a\",\"config\":\"4f1c2a9e07b35d68\"}\n"
    );
}

#[test]
fn other_schemas_have_their_own_units_and_types() {
    let ecs = json(&full(), LogFields::Ecs);
    assert_eq!((&ecs["client.ip"], &ecs["client.port"]), (&"198.51.100.7".into(), &50312.into()));
    assert_eq!(ecs["event.duration"], 1_530_077_000_u64, "nanoseconds");
    let line = written(&full(), Form::Json(LogFields::Ecs));
    assert_eq!(keys(&line)[..4], ["@timestamp", "log.level", "message", "ecs.version"]);
    let otel = json(&full(), LogFields::Otel);
    assert_eq!((&otel["severity_number"], &otel["body"]), (&9.into(), &"connection ended: ok".into()));
    assert_eq!((&otel["client.address"], &otel["client.port"]), (&"198.51.100.7".into(), &50312.into()));
}

#[test]
fn hostile_bytes_stay_inside_their_field() {
    let hostile = "a\0b\r\n{\"level\":\"ERROR\"}\x1b[2J\"\\\u{2028}\u{202e}\u{61c}\u{200b}";
    let line = ConnectionLine {
        sni: Some(hostile),
        alpn: Alpn::List(&[b"h2", b"\xff\x00\r\n", b"\"}", b""]),
        error: Some(&hostile),
        endpoint: Endpoint { vpc_endpoint: Some(hostile.as_bytes()), ..Endpoint::default() },
        route: Some(hostile),
        backend: Some(hostile),
        ..bare()
    };
    let value = json(&line, LogFields::Native);
    assert_eq!(value["sni"], hostile);
    assert_eq!(value["error"], hostile);
    assert_eq!(value["vpc_endpoint"], hostile);
    assert_eq!(value["alpn"], serde_json::json!(["h2", "\\xff\0\r\n", "\"}", ""]));
    for form in [
        Form::Json(LogFields::Native),
        Form::Json(LogFields::Ecs),
        Form::Json(LogFields::Otel),
        Form::Logfmt,
        Form::Pretty(Colour::None),
    ] {
        let line = written(&line, form);
        let bad = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{202e}' | '\u{61c}' | '\u{200b}');
        assert!(!line.trim_end_matches('\n').contains(bad), "{line:?}");
    }
}

#[test]
fn what_is_hidden_is_in_no_field_of_any_form() {
    let error = "invalid server name `secret.test`: the name is empty";
    let line = ConnectionLine {
        client: "[::ffff:198.51.100.7]:50312".parse().unwrap(),
        peer: "203.0.113.9:4".parse().unwrap(),
        sni: Some("secret.test"),
        error: Some(&error),
        nameless_error: Some("invalid server name: the name is empty"),
        ..full()
    };
    let mut message = Vec::new();
    let mut entry = Entry::new(&mut message, UNIX_EPOCH + NOW, Severity::Info, Kind::Message);
    entry.text(Key::Msg, "over a limit");
    entry.text(Key::Client, "198.51.100.7:1");
    entry.text(Key::Peer, "203.0.113.9:5");
    entry.text(Key::Sni, "secret.test");
    entry.finish();
    for form in [
        Form::Json(LogFields::Native),
        Form::Json(LogFields::Ecs),
        Form::Json(LogFields::Otel),
        Form::Logfmt,
        Form::Pretty(Colour::Ansi),
    ] {
        for shown in [Shown::Hashed, Shown::Off] {
            let style = Style { form, names: shown, inner_names: shown, clients: shown };
            for record in [&recorded(&line), &message] {
                let line = formatted(record, style);
                let secrets = ["secret.test", "198.51.100.7", "203.0.113.9", "50312"];
                assert!(secrets.iter().all(|secret| !line.contains(secret)), "{line}");
                assert_eq!(line.contains('#'), shown == Shown::Hashed, "{line}");
            }
            let line = formatted(&recorded(&line), style);
            assert!(line.contains("is empty"), "{line}");
        }
        let clear = written(&ConnectionLine { error: None, ..line.clone() }, form);
        assert!(clear.contains("secret.test") && clear.contains("198.51.100.7"), "{clear}");
    }
    // The same in a line and in a message, with whatever port and in whatever family.
    let formatter = Formatter::default();
    let style = Style { names: Shown::Hashed, inner_names: Shown::Hashed, clients: Shown::Hashed, ..CLEAR };
    let [line, message] = [&recorded(&line), &message].map(|record| {
        let mut out = String::new();
        formatter.write(&mut out, Record::next(&mut &record[..]).unwrap(), style);
        serde_json::from_str::<Json>(&out).unwrap()
    });
    for key in ["client", "peer", "sni"] {
        assert!(line[key].as_str().unwrap().starts_with('#'), "{line}");
        assert_eq!(line[key], message[key]);
    }
}

/// `log.inner_names`.
#[test]
fn a_name_that_was_encrypted_may_be_hidden_though_others_are_not() {
    let line = ConnectionLine {
        sni: Some("secret.test"),
        ech: Some(crate::telemetry::EchResult::Accepted),
        outer_sni: Some("public.test"),
        ..bare()
    };
    let shown = |names, inner_names| formatted(&recorded(&line), Style { names, inner_names, ..CLEAR });
    let clear = shown(Shown::Clear, Shown::Clear);
    assert!(clear.contains("secret.test") && clear.contains("public.test"), "{clear}");
    for inner_names in [Shown::Off, Shown::Hashed] {
        let hidden = shown(Shown::Clear, inner_names);
        assert!(!hidden.contains("secret.test") && hidden.contains("\"public.test\""), "{hidden}");
        assert_eq!(hidden.contains("\"sni\":\"#"), inner_names == Shown::Hashed, "{hidden}");
    }
    let inner_alone = shown(Shown::Off, Shown::Clear);
    assert!(inner_alone.contains("secret.test") && !inner_alone.contains("public.test"), "{inner_alone}");
}
