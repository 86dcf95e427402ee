//! Names as no honest client sends them.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::Value;

use crate::backend::Backend;
use crate::bytes::{
    DECODE_ERROR, HANDSHAKE_FAILURE, ILLEGAL_PARAMETER, MISSING_EXTENSION, MOST_IN_RECORD, UNRECOGNIZED_NAME, alert,
    extension, hello, message, prefixed, records, server_name, server_names, versions,
};
use crate::harness::{Lb, poll};
use crate::trial::{Trial, soaking};
use crate::wire::{Close, ask, connect, read_to_close, reset, send};

#[test]
fn odd_names_have_fixed_outcomes_and_their_log_lines_stay_lines() {
    let backend = Backend::answering(b"never");
    let lb = Trial::of(Lb::new().route("*.routed.test", &backend));
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert_eq!(longest.len(), 253);
    let one = |name: &[u8]| server_name(name);
    let table: Vec<(&str, Vec<u8>, &str, u8)> = vec![
        ("two extensions", [one(b"a.test"), one(b"b.test")].concat(), "invalid_sni", ILLEGAL_PARAMETER),
        ("the same twice", [one(b"a.test"), one(b"a.test")].concat(), "invalid_sni", ILLEGAL_PARAMETER),
        ("two names", server_names(&[(0, b"a.test"), (0, b"b.test")]), "invalid_sni", ILLEGAL_PARAMETER),
        ("another type", server_names(&[(1, b"a.test")]), "bad_hello", DECODE_ERROR),
        ("another type first", server_names(&[(9, b"x"), (0, b"a.test")]), "bad_hello", DECODE_ERROR),
        ("an empty name", one(b""), "no_sni", MISSING_EXTENSION),
        ("two empty names", server_names(&[(0, b""), (0, b"")]), "invalid_sni", ILLEGAL_PARAMETER),
        ("an empty name and another", server_names(&[(0, b""), (0, b"a.test")]), "invalid_sni", ILLEGAL_PARAMETER),
        ("an empty name twice", [one(b""), one(b"")].concat(), "invalid_sni", ILLEGAL_PARAMETER),
        ("an empty name, then another", [one(b""), one(b"a.test")].concat(), "invalid_sni", ILLEGAL_PARAMETER),
        ("an empty list", extension(0, &prefixed(&[])), "bad_hello", DECODE_ERROR),
        ("an empty extension", extension(0, &[]), "bad_hello", DECODE_ERROR),
        ("a dot alone", one(b"."), "invalid_sni", ILLEGAL_PARAMETER),
        ("two dots at the end", one(b"a.test.."), "invalid_sni", ILLEGAL_PARAMETER),
        ("a dot in front", one(b".a.test"), "invalid_sni", ILLEGAL_PARAMETER),
        ("an empty label", one(b"a..test"), "invalid_sni", ILLEGAL_PARAMETER),
        ("NUL", one(b"a.routed.test\0.evil.test"), "invalid_sni", ILLEGAL_PARAMETER),
        ("CR LF", one(b"a.test\r\n{\"reason\":\"ok\"}"), "invalid_sni", ILLEGAL_PARAMETER),
        ("escape", one(b"\x1b[31ma.test"), "invalid_sni", ILLEGAL_PARAMETER),
        ("a space", one(b"a .test"), "invalid_sni", ILLEGAL_PARAMETER),
        ("DEL", one(b"a\x7f.test"), "invalid_sni", ILLEGAL_PARAMETER),
        ("UTF-8", one("bücher.test".as_bytes()), "invalid_sni", ILLEGAL_PARAMETER),
        ("no UTF-8", one(b"\xff\xfe.test"), "invalid_sni", ILLEGAL_PARAMETER),
        ("a star", one(b"*.routed.test"), "invalid_sni", ILLEGAL_PARAMETER),
        ("a label of 64", one(format!("{label}a.test").as_bytes()), "invalid_sni", ILLEGAL_PARAMETER),
        ("254 bytes", one(format!("{longest}a").as_bytes()), "invalid_sni", ILLEGAL_PARAMETER),
        ("60,000 bytes", one(&vec![b'a'; 60_000]), "invalid_sni", ILLEGAL_PARAMETER),
        ("253 bytes", one(longest.as_bytes()), "no_route", UNRECOGNIZED_NAME),
        ("253 bytes and a dot", one(format!("{longest}.").as_bytes()), "no_route", UNRECOGNIZED_NAME),
        ("quotes", one(br#"a"b\c<d>.test"#), "invalid_sni", ILLEGAL_PARAMETER),
        ("a tag", one(b"a<b>;x.test"), "invalid_sni", ILLEGAL_PARAMETER),
        ("a port", one(b"a.test:443"), "invalid_sni", ILLEGAL_PARAMETER),
        ("a path", one(b"a.test/"), "invalid_sni", ILLEGAL_PARAMETER),
        ("a hyphen in front", one(b"-lead.test"), "invalid_sni", ILLEGAL_PARAMETER),
        ("a hyphen at the end", one(b"a-.test"), "invalid_sni", ILLEGAL_PARAMETER),
        ("underscores", one(b"_a._tcp.a_b.test"), "no_route", UNRECOGNIZED_NAME),
        ("the apex", one(b"routed.test"), "no_route", UNRECOGNIZED_NAME),
        ("two labels more", one(b"a.b.routed.test"), "no_route", UNRECOGNIZED_NAME),
        ("IPv4", one(b"192.0.2.1"), "no_sni", MISSING_EXTENSION),
        ("IPv6", one(b"2001:db8::1"), "no_sni", MISSING_EXTENSION),
        ("IPv6 in brackets", one(b"[::1]"), "no_sni", MISSING_EXTENSION),
        ("no name", vec![], "no_sni", MISSING_EXTENSION),
    ];
    for (what, names, reason, number) in &table {
        let seen = lb.log().len();
        let hello = records(&message(&[&names[..], &versions()].concat()), MOST_IN_RECORD);
        assert_eq!(ask(lb.address(), &hello), (alert(*number), Close::Fin), "{what}");
        let line = lb.wait_for_line_after(seen, |line| line["reason"].is_string());
        assert_eq!(line["reason"], *reason, "{what}: {line}");
    }
    // An older client without a name does not know missing_extension, nor a record of TLS 1.2 if it is older still.
    let tls12 = records(&message(&extension(23, &[])), MOST_IN_RECORD);
    assert_eq!(ask(lb.address(), &tls12), (alert(HANDSHAKE_FAILURE), Close::Fin));
    let mut tls10 = tls12;
    tls10[10] = 1;
    assert_eq!(ask(lb.address(), &tls10), (vec![21, 3, 1, 0, 2, 2, HANDSHAKE_FAILURE], Close::Fin));
    lb.wait_for_metric("connections_closed_total", &[], table.len() as f64 + 2.0);
    assert!(lb.log().iter().all(Value::is_object), "a line that is no JSON");
    assert_eq!(backend.contacts(), 0);
    lb.end();
}

#[test]
fn case_and_one_dot_at_the_end_do_not_matter_and_are_passed_on() {
    let (backend, arrivals) = Backend::recording();
    let lb = Trial::of(Lb::new().route("Shop.Test", &backend));
    for name in ["shop.test", "SHOP.TEST", "shop.test.", "sHoP.tEsT."] {
        let hello = hello(name);
        drop(send(lb.address(), &hello));
        assert_eq!(arrivals.recv_timeout(crate::harness::DEADLINE).unwrap(), hello, "{name}");
    }
    lb.end();
}

#[test]
fn names_that_nobody_routes_leave_no_trace_in_the_metrics() {
    let names = if soaking() { 1_000_000 } else { 20_000 };
    let mut visited = 1000;
    let lb = Trial::of(Lb::new().with("log: { connections: off }"));
    let visit = |from: usize, to: usize| {
        thread::scope(|scope| {
            for part in 0..4 {
                let address = lb.address();
                scope.spawn(move || {
                    for i in (from + part..to).step_by(4) {
                        let mut client = connect(address);
                        std::io::Write::write_all(&mut client, &hello(&format!("n{i}.test"))).unwrap();
                        assert_eq!(read_to_close(&mut client), (alert(UNRECOGNIZED_NAME), Close::Fin));
                        // No TIME_WAIT, of which the machine has only so many.
                        reset(client);
                    }
                });
            }
        });
        lb.wait_for_closed("no_route", to as f64);
    };
    visit(0, visited);
    let series = series(&lb);
    lb.some_round_leaves_less_than(names as u64 * 64, || {
        visit(visited, visited + names);
        visited += names;
    });
    assert_eq!(self::series(&lb), series, "series came or went");
    lb.end();
}

/// The names and labels of all series.
fn series(lb: &Trial) -> BTreeSet<String> {
    let (_, text) = lb.admin_get("/metrics");
    text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series.to_owned()).collect()
}

#[test]
fn a_name_is_never_looked_up() {
    let Ok(mut strace) = Command::new("strace").arg("-V").stdout(Stdio::null()).spawn() else {
        return println!("skipped: no strace");
    };
    strace.wait().unwrap();
    let lb = Trial::of(Lb::new());
    let trace = lb.directory().join("trace");
    let mut strace = Command::new("strace")
        .args(["-f", "-q", "-e", "trace=network", "-o"])
        .arg(&trace)
        .args(["-p", &lb.pid().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let names = ["169.254.169.254.", "localhost", "metadata.google.internal", "example.com", "127.1", "https"];
    // The first one shows that the trace has begun.
    let traced = poll(|| {
        ask(lb.address(), &hello(names[1]));
        let text = fs::read_to_string(&trace).unwrap_or_default();
        if text.contains("accept") || strace.try_wait().unwrap().is_some() { Ok(text) } else { Err(()) }
    });
    if !traced.is_ok_and(|text| text.contains("accept")) {
        strace.kill().unwrap();
        strace.wait().unwrap();
        return println!("skipped: strace may not trace here");
    }
    for name in names {
        let (answer, _) = ask(lb.address(), &hello(name));
        assert!([alert(UNRECOGNIZED_NAME), alert(MISSING_EXTENSION)].contains(&answer), "{name}: {answer:?}");
    }
    strace.kill().unwrap();
    strace.wait().unwrap();
    let text = fs::read_to_string(&trace).unwrap();
    let outgoing: Vec<&str> =
        text.lines().filter(|line| line.contains("connect(") || line.contains("socket(")).collect();
    assert!(outgoing.is_empty(), "{outgoing:#?}");
    lb.end();
}
