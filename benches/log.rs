//! What does a line of the log cost the connection that it is about, and what the thread that writes it?
//!
//! The bound for the first is 1.5 µs in each format. A connection does the same work whatever the format is: it copies its
//! values into the queue. The second is that and the formatting, per line.

use std::net::SocketAddr;
use std::time::Duration;

use snigate::internals::log::{
    Alpn, ConnectionLine, ConnectionLog, Endpoint, Feature, FirstRecord, LoggedAddress, Match, Reason,
};
use snigate::internals::settings::{Log, LogFields, LogFormat, Shown};
use snigate::internals::{ConnectionId, State};

fn main() {
    divan::main();
}

fn settings(of: &str) -> Log {
    let (format, fields, shown) = match of {
        "json" => (LogFormat::Json, LogFields::Native, Shown::Clear),
        "json, ecs" => (LogFormat::Json, LogFields::Ecs, Shown::Clear),
        "json, hashed" => (LogFormat::Json, LogFields::Native, Shown::Hashed),
        "logfmt" => (LogFormat::Logfmt, LogFields::Native, Shown::Clear),
        _ => (LogFormat::Pretty, LogFields::Native, Shown::Clear),
    };
    Log { format, fields, names: shown, clients: shown, ..Log::default() }
}

fn line(address: SocketAddr) -> ConnectionLine<'static> {
    ConnectionLine {
        id: ConnectionId(42),
        listener: "https",
        client: ([198, 51, 100, 7], 50312).into(),
        peer: ([198, 51, 100, 7], 50312).into(),
        endpoint: Endpoint::default(),
        ech: None,
        outer_sni: None,
        sni: Some("shop.example.com"),
        alpn: Alpn::Wire(b"\x02h2\x08http/1.1"),
        tls: Some("1.3"),
        offers: &[Feature::Tls13, Feature::H2, Feature::Http11],
        hello_bytes: Some(517),
        hello_records: Some(1),
        hello_ms: Some(Duration::from_micros(412)),
        saw: None,
        request: None,
        route: Some("shop"),
        matched: Some(Match::Exact),
        pool: Some("shop"),
        backend: Some("10.0.0.11:443"),
        address: Some(LoggedAddress::Inet(address)),
        attempts: 1,
        failed: &[],
        answer: Some((FirstRecord::ServerHello, None)),
        connect_ms: Some(Duration::from_micros(310)),
        first_byte_ms: Some(Duration::from_micros(2100)),
        duration_ms: Duration::from_micros(1_530_077),
        bytes_to_backend: 1890,
        bytes_to_client: 48_211,
        phase: State::Relaying,
        reason: Reason::Ok,
        config: "4f1c2a9e07b35d68",
        error: None,
        nameless_error: None,
    }
}

fn log(of: &str) -> ConnectionLog {
    ConnectionLog::to(|bytes| Ok(bytes.len()), &settings(of))
}

/// What a worker does at the end of a connection. Each sample is few enough lines that the queue never overflows.
#[divan::bench(args = ["json", "logfmt", "pretty"], sample_size = 1000, sample_count = 100)]
fn on_the_path(bencher: divan::Bencher, of: &str) {
    let (log, line) = (log(of), line(([10, 0, 0, 11], 443).into()));
    bencher.bench_local(|| log.line(divan::black_box(&line)));
}

/// A thousand lines, from the connection to write(2).
#[divan::bench(args = ["json", "json, ecs", "json, hashed", "logfmt", "pretty"], sample_count = 50)]
fn a_thousand_written_lines(bencher: divan::Bencher, of: &str) {
    let (log, line) = (log(of), line(([10, 0, 0, 11], 443).into()));
    bencher.bench_local(|| {
        (0..1000).for_each(|_| log.line(divan::black_box(&line)));
        log.flush();
    });
}
