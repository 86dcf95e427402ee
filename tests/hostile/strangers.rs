//! Clients that do not speak TLS.

use crate::backend::Backend;
use crate::bytes::{hello, noise};
use crate::harness::{DEADLINE, Lb};
use crate::trial::Trial;
use crate::wire::{Close, ask, send};

/// What is no TLS handshake: how it is called, and its first bytes.
fn strangers() -> Vec<(&'static str, Vec<u8>)> {
    // SSLv2 (RFC 5246 appendix E.2): a length with its high bit set, CLIENT-HELLO, version 3.1.
    let sslv2 = [&[0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10][..], &[1; 37]].concat();
    let proxied = [b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n", &hello("a.test")[..]].concat();
    let mut random = noise(500);
    random[0] = 0xa7;
    vec![
        ("SSLv2", sslv2),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("SMTP", b"EHLO mail.test\r\n".to_vec()),
        ("TLS behind a PROXY header", proxied),
        ("random bytes", random),
        ("0x16 all over", vec![0x16; 600]),
        ("zeros", vec![0; 600]),
        ("an alert", vec![21, 3, 3, 0, 2, 2, 40]),
        ("application data", vec![23, 3, 3, 0, 5, 1, 2, 3, 4, 5]),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
    ]
}

#[test]
fn what_is_no_tls_is_closed_without_a_backend() {
    let backend = Backend::answering(b"never");
    let lb = Trial::of(Lb::new().route("*", &backend).unmatched(&backend).no_sni(&backend));
    for (what, bytes) in strangers() {
        let (answer, close) = ask(lb.address(), &bytes);
        let http = answer.starts_with(b"HTTP/1.1 400 ");
        assert!((answer.is_empty() || what == "HTTP/2" && http) && close == Close::Fin, "{what}: {answer:?} {close:?}");
    }
    lb.wait_for_closed("not_tls", strangers().len() as f64);
    assert_eq!(backend.contacts(), 0);
    lb.end();
}

#[test]
fn http_is_reported_that_this_port_speaks_tls() {
    let lb = Trial::of(Lb::new());
    for request in ["GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "POST /x HTTP/1.0\r\n\r\n", "OPTIONS * HTTP/1.1\r\n\r\n"]
    {
        let (answer, close) = ask(lb.address(), request.as_bytes());
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && close == Close::Fin, "{request}: {answer} {close:?}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
    }
    lb.wait_for_closed("not_tls", 3.0);
    lb.end();
}

#[test]
fn a_pool_for_strangers_gets_every_byte_of_them() {
    let (backend, arrivals) = Backend::recording();
    let lb = Trial::of(Lb::new().not_tls(&backend));
    for (what, bytes) in strangers() {
        drop(send(lb.address(), &bytes));
        assert_eq!(arrivals.recv_timeout(DEADLINE).unwrap(), bytes, "{what}");
    }
    lb.end();
}
