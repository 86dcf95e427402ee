//! A hello that travels with the SYN: in a network namespace whose sockets all allow it.

use std::fs;
use std::io::Read;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::Lb;
use crate::harness::recorder::ClosedPort;
use crate::namespace;
use crate::trial::Trial;
use crate::wire::{Close, read_to_close, send};

#[test]
fn with_fast_open_a_hello_travels_with_the_syn() {
    // Clients and every listening socket may, without a cookie (Linux, ip-sysctl, tcp_fastopen).
    namespace::run_test("echo 1543 > /proc/sys/net/ipv4/tcp_fastopen", "fast_open::where_it_is_allowed");
}

#[test]
#[ignore = "for the test above, which runs it in a namespace of its own"]
fn where_it_is_allowed() {
    let backend = Backend::answering(&ANSWER);
    let closed = ClosedPort::new();
    let dead = closed.address;
    let keys = "balance: first\nejection: off\nconnect: { fast_open: true }";
    let lb = Lb::new()
        .route_with("a.test", [backend.address], "connect: { fast_open: true }")
        .route_with("dead.test", [dead], keys)
        .route_with("other.test", [dead, backend.address], keys)
        .route("slow.test", &backend);
    let lb = Trial::of(lb);

    let before = sent_with_syn();
    for _ in 0..10 {
        is_answered(&lb, &hello("a.test"));
    }
    assert_eq!(sent_with_syn() - before, 10);
    // Who refuses is known to refuse before anybody waits for an answer.
    is_answered(&lb, &hello("other.test"));
    assert_eq!(lb.metric("backend_connects_total", &[("pool", "pool-2"), ("result", "refused")]), 1.0);
    assert_eq!(read_to_close(&mut send(lb.address(), &hello("dead.test"))).1, Close::Reset);
    lb.wait_for_closed("connect_refused", 1.0);

    // Early data must not arrive twice, so what is more than a hello waits for the handshake; so does who has not asked.
    let before = sent_with_syn();
    let early = [hello("a.test"), b"early".to_vec()].concat();
    is_answered(&lb, &early);
    is_answered(&lb, &hello("slow.test"));
    assert_eq!(sent_with_syn(), before);
    lb.end();
}

fn is_answered(lb: &Trial, bytes: &[u8]) {
    let mut answer = [0; ANSWER.len()];
    send(lb.address(), bytes).read_exact(&mut answer).unwrap();
    assert_eq!(answer, ANSWER);
}

/// Bytes that were acknowledged with the SYN, by the number of connections (TCPFastOpenActive).
fn sent_with_syn() -> u64 {
    let text = fs::read_to_string("/proc/net/netstat").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == "TCPFastOpenActive").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

/// The first bytes of a ServerHello.
const ANSWER: [u8; 6] = *b"\x16\x03\x03\x00\x40\x02";
