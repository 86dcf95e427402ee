//! The lines that other tests format, and what a record takes of them.

use std::time::UNIX_EPOCH;

use super::super::record::{Record, Value};
use super::*;

pub(in crate::telemetry) const NOW: Duration = Duration::from_millis(1_772_368_496_789);

pub(in crate::telemetry) fn bare() -> ConnectionLine<'static> {
    ConnectionLine {
        id: ConnectionId(42),
        listener: "https",
        client: "198.51.100.7:50312".parse().unwrap(),
        peer: "198.51.100.7:50312".parse().unwrap(),
        endpoint: Endpoint::default(),
        sni: None,
        ech: None,
        outer_sni: None,
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
        nameless_error: None,
    }
}

/// The line that the docs use as an example.
pub(in crate::telemetry) fn full() -> ConnectionLine<'static> {
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
        address: Some(LoggedAddress::Inet("10.0.0.11:443".parse().unwrap())),
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

/// The record of `line`.
pub(in crate::telemetry) fn recorded(line: &ConnectionLine<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    line.record(&mut out, UNIX_EPOCH + NOW);
    out
}

fn protocols(alpn: Alpn<'_>) -> Vec<String> {
    let bytes = recorded(&ConnectionLine { alpn, ..bare() });
    let Some(Value::List(names)) = Record::next(&mut &bytes[..]).unwrap().find(Key::Alpn) else { panic!("no list") };
    names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

#[test]
fn a_list_of_protocols_is_bounded_and_a_lying_length_ends_it() {
    assert_eq!(protocols(Alpn::Wire(&b"\x01x".repeat(5000))).len(), MAX_ALPN_NAMES);
    assert_eq!(protocols(Alpn::List(&[&[b'x'; 200]])), ["x".repeat(MAX_ALPN_NAME_BYTES)]);
    assert_eq!(protocols(Alpn::Wire(b"\x02h2\xff?")), ["h2"]);
    assert!(protocols(Alpn::Wire(b"")).is_empty());
}

#[test]
fn severity_follows_the_fault() {
    let severity = |reason| {
        let bytes = recorded(&ConnectionLine { reason, ..bare() });
        Record::next(&mut &bytes[..]).unwrap().severity
    };
    assert_eq!(severity(Reason::Ok), Severity::Info);
    assert_eq!(severity(Reason::NoRoute), Severity::Info);
    assert_eq!(severity(Reason::ConnectRefused), Severity::Warn);
    assert_eq!(severity(Reason::Panic), Severity::Error);
}
