use std::time::UNIX_EPOCH;

use serde_json::Value;

use super::*;

const NOW: Duration = Duration::from_millis(1_772_368_496_789);

fn bare() -> ConnectionLine<'static> {
    ConnectionLine {
        id: ConnectionId(42),
        listener: "https",
        client: "198.51.100.7:50312".parse().unwrap(),
        peer: "198.51.100.7:50312".parse().unwrap(),
        endpoint: Endpoint::default(),
        sni: None,
        alpn: Alpn::Absent,
        tls: None,
        offers: &[],
        hello_bytes: None,
        hello_records: None,
        hello_ms: None,
        saw: None,
        request: None,
        route: None,
        matched: None,
        pool: None,
        backend: None,
        address: None,
        attempts: 0,
        failed: &[],
        answer: None,
        connect_ms: None,
        first_byte_ms: None,
        duration_ms: Duration::from_micros(1_530_077),
        bytes_to_backend: 0,
        bytes_to_client: 0,
        phase: State::Hello,
        reason: Reason::Probe,
        config: "4f1c2a9e07b35d68",
        error: None,
    }
}

/// The line that the docs use as an example.
fn full(address: &dyn fmt::Display) -> ConnectionLine<'_> {
    ConnectionLine {
        sni: Some("shop.example.com"),
        alpn: Alpn::Wire(b"\x02h2\x08http/1.1"),
        tls: Some("1.3"),
        offers: &[Feature::Tls13, Feature::H2, Feature::Http11],
        hello_bytes: Some(517),
        hello_records: Some(1),
        hello_ms: Some(Duration::from_micros(412)),
        route: Some("shop"),
        matched: Some(Match::Exact),
        pool: Some("shop"),
        backend: Some("10.0.0.11:443"),
        address: Some(address),
        attempts: 1,
        connect_ms: Some(Duration::from_micros(310)),
        first_byte_ms: Some(Duration::from_micros(2100)),
        answer: Some((FirstRecord::ServerHello, None)),
        bytes_to_backend: 1890,
        bytes_to_client: 48211,
        phase: State::Relaying,
        reason: Reason::Ok,
        ..bare()
    }
}

fn written(line: &ConnectionLine<'_>, format: LogFormat) -> String {
    let mut out = String::new();
    line.write(&mut out, format, UNIX_EPOCH + NOW);
    assert_eq!(out.matches('\n').count(), 1, "{out:?}");
    out
}

fn json(line: &ConnectionLine<'_>) -> Value {
    serde_json::from_str(&written(line, LogFormat::Json)).unwrap()
}

#[test]
fn the_docs_show_a_line_as_it_is_and_name_its_fields_and_reasons() {
    let docs = include_str!("../../../docs/logs.md");
    let address: SocketAddr = "10.0.0.11:443".parse().unwrap();
    let line = full(&address);
    for format in [LogFormat::Json, LogFormat::Text] {
        let line = written(&line, format);
        assert!(docs.contains(&line), "docs/logs.md does not show {line}");
    }
    let failed = ["10.0.0.12:443 refused: Connection refused (os error 111)".to_owned()];
    let endpoint =
        Endpoint { vpc_endpoint: Some(b"vpce-0"), private_link_id: Some(7), psc_connection_id: Some(1 << 63) };
    let line = ConnectionLine { error: Some(&"x"), failed: &failed, endpoint, ..line };
    for field in json(&line).as_object().unwrap().keys() {
        assert!(docs.contains(&format!("`{field}`")), "docs/logs.md does not name {field}");
    }
    for reason in Reason::ALL {
        assert!(docs.contains(&format!("| `{reason}` |")), "docs/logs.md does not have {reason}");
    }
}

#[test]
fn what_is_unknown_is_left_out() {
    assert_eq!(
        written(&bare(), LogFormat::Json),
        "{\"ts\":\"2026-03-01T12:34:56.789Z\",\"event\":\"connection\",\"id\":\"000000000000002a\",\
         \"listener\":\"https\",\"client\":\"198.51.100.7:50312\",\"peer\":\"198.51.100.7:50312\",\
         \"duration_ms\":1530.077,\"bytes_to_backend\":0,\"bytes_to_client\":0,\"phase\":\"hello\",\
         \"reason\":\"probe\",\"config\":\"4f1c2a9e07b35d68\"}\n"
    );
}

#[test]
fn hostile_bytes_stay_inside_their_field() {
    let hostile = "a\0b\r\n{\"level\":\"ERROR\"}\x1b[2J\"\\\u{2028}\u{202e}";
    let line = ConnectionLine {
        sni: Some(hostile),
        alpn: Alpn::List(&[b"h2", b"\xff\x00\r\n", b"\"}", b""]),
        error: Some(&hostile),
        endpoint: Endpoint { vpc_endpoint: Some(hostile.as_bytes()), ..Endpoint::default() },
        ..bare()
    };
    let value = json(&line);
    assert_eq!(value["sni"], hostile);
    assert_eq!(value["error"], hostile);
    assert_eq!(value["vpc_endpoint"], hostile);
    assert_eq!(value["alpn"], serde_json::json!(["h2", "\\xff\0\r\n", "\"}", ""]));
    for format in [LogFormat::Json, LogFormat::Text] {
        let line = written(&line, format);
        assert!(!line.trim_end_matches('\n').contains(|c: char| c.is_control() || c == '\u{2028}'), "{line:?}");
    }
}

#[test]
fn a_list_of_protocols_is_bounded_and_a_lying_length_ends_it() {
    let long = b"\x01x".repeat(5000);
    let value = json(&ConnectionLine { alpn: Alpn::Wire(&long), ..bare() });
    assert_eq!(value["alpn"].as_array().unwrap().len(), MAX_ALPN_NAMES);
    let value = json(&ConnectionLine { alpn: Alpn::Wire(b"\x02h2\xff?"), ..bare() });
    assert_eq!(value["alpn"], serde_json::json!(["h2"]));
    assert_eq!(json(&ConnectionLine { alpn: Alpn::Wire(b""), ..bare() })["alpn"], serde_json::json!([]));
}
