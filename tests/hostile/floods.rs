//! Clients that come only to make the log long, and a hello that is to be remembered for the life of a relay.

use std::collections::BTreeMap;

use crate::backend::Backend;
use crate::bytes::{alpn, hello, message, records, server_name};
use crate::harness::{Lb, poll};
use crate::trial::Trial;
use crate::wire::{connect, send};

#[test]
fn refusals_have_a_hundred_lines_a_second_and_a_summary_that_adds_up() {
    let backend = Backend::answering(b"hello");
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    let malformed = records(&[&[1, 0, 0, 40, 3, 3][..], &[0; 38]].concat(), 1000);
    let flood: [(&str, Vec<u8>); 3] =
        [("bad_hello", malformed), ("no_route", hello("b.test")), ("not_tls", b"nothing of the kind".to_vec())];
    const EACH: u64 = 600;
    for _ in 0..EACH {
        flood.iter().for_each(|(_, bytes)| drop(send(lb.address(), bytes)));
        drop(connect(lb.address()));
    }
    // While these are suppressed, who is served has a line each.
    let served: Vec<_> = (0..150).map(|_| send(lb.address(), &hello("a.test"))).collect();
    drop(served);
    lb.wait_for_metric("connections_active", &[], 0.0);

    // A client that closes early may be gone before it is refused.
    let reported = || {
        let mut lines = BTreeMap::<String, (u64, u64)>::new();
        for line in lb.log() {
            let Some(reason) = line["reason"].as_str() else { continue };
            let (written, suppressed) = lines.entry(reason.to_owned()).or_default();
            match line["event"].as_str() {
                Some("refusals_suppressed") => *suppressed += line["count"].as_u64().unwrap(),
                _ => *written += 1,
            }
        }
        lines
    };
    let adds_up = poll(|| {
        let lines = reported();
        let is_whole = |(reason, (written, suppressed)): (&String, &(u64, u64))| {
            (*written + *suppressed) as f64 == lb.closed(reason)
        };
        let total: u64 = lines.values().map(|(written, suppressed)| written + suppressed).sum();
        if total == 4 * EACH + 150 && lines.iter().all(is_whole) { Ok(lines) } else { Err(lines) }
    });
    let lines = adds_up.unwrap_or_else(|lines| panic!("written and suppressed: {lines:?}"));
    assert!(lines["no_route"].1 > 0 && lines["bad_hello"].1 > 0, "{lines:?}");
    for (reason, (_, suppressed)) in &lines {
        assert!(*suppressed == 0 || !["ok", "client_reset", "backend_reset"].contains(&&**reason), "{lines:?}");
    }
    lb.end();
}

#[test]
fn a_long_list_of_protocols_costs_an_idle_relay_nothing() {
    const RELAYS: u64 = 100;
    let backend = Backend::echoing();
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    let name = "n".repeat(255);
    let protocols = alpn(&vec![name.as_str(); 230]);
    let long = records(&message(&[server_name(b"a.test"), protocols].concat()), 16_384);
    let open = |hello: &[u8]| {
        let client = send(lb.address(), hello);
        // The first byte of the echo: it is relayed.
        client.peek(&mut [0]).expect("an answer");
        client
    };
    // Whatever the first ones leave behind is there for the rest.
    let mut held: Vec<_> = (0..10).map(|_| open(&long)).collect();
    let before = lb.resident_bytes();
    held.extend((0..RELAYS).map(|_| open(&long)));
    let each = lb.resident_bytes().saturating_sub(before) / RELAYS;
    assert!(each < 30_000, "{each} bytes for a relay, of which the list is to cost none");
    drop(held);
    lb.wait_for_metric("connections_active", &[], 0.0);
    let line = lb.wait_for_line(|line| line["alpn"].is_array());
    assert_eq!(line["alpn"], serde_json::json!(vec!["n".repeat(32); 8]));
    lb.end();
}
