//! Clients of a listener that speaks HTTP.
//!
//! Source: RFC 9112 (messages), RFC 9110 §15 (status codes), RFC 8555 §8.3 (HTTP-01).

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

use serde_json::Value;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::DEADLINE;
use crate::harness::recorder::ClosedPort;
use crate::trial::Trial;
use crate::wire::{Close, ask, connect, read_to_close, send, wait_until_sent};

/// A listener for TLS and one for HTTP, with `keys`; `a.test` and names below it go to a pool with `pool`.
fn config(keys: &str, pool: &str) -> String {
    format!(
        "listeners:\n  - {{ name: https, bind: \"127.0.0.1:0\" }}\n  - {{ name: web, bind: \"127.0.0.1:0\", protocol: http{keys} }}\n\
         routes:\n  - {{ name: a, sni: [a.test, \"**.a.test\"], pool: p }}\n  - {{ sni: refused.test, refuse: alert }}\n  \
         - {{ sni: reset.test, refuse: reset }}\n  - {{ sni: inside.test, source: [127.0.0.0/8], pool: p }}\n  \
         - {{ sni: outside.test, source: [10.0.0.0/8], pool: p }}\n  - {{ sni: h2.test, alpn: [h2], pool: p }}\n  - {{ sni: denied.test, deny: [127.0.0.0/8], pool: p }}\n\
         pools:\n  p: {{ {pool} }}\nadmin: {{ bind: \"127.0.0.1:0\" }}\n"
    )
}

fn web(lb: &Trial) -> SocketAddr {
    lb.addresses()[1]
}

/// A backend whose port for TLS is closed.
fn http_only(backend: &Backend) -> String {
    format!("backends: [\"127.0.0.1:1\"], http_port: {}", backend.address.port())
}

fn request(line: &str, fields: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\n{fields}\r\n\r\n").into_bytes()
}

/// The status and the fields of the answer, which the connection ends with, and the line that is logged.
#[track_caller]
fn answered(lb: &Trial, bytes: &[u8]) -> (u16, String, Value) {
    let seen = lb.log().len();
    let (answer, close) = ask(web(lb), bytes);
    let shown = bytes[..bytes.len().min(200)].escape_ascii();
    assert_eq!(close, Close::Fin, "{shown}");
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("{shown}: {answer:?}"));
    assert!(answer.contains("\r\nConnection: close\r\n"), "{shown}: {answer}");
    let line = lb.wait_for_line_after(seen, |line| line["reason"].is_string());
    assert_eq!(line["status"], status, "{shown}: {line}");
    (status, answer, line)
}

const CHALLENGE: &str = "/.well-known/acme-challenge/LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0";

#[test]
fn a_challenge_reaches_the_backend_byte_for_byte_and_alone() {
    let (backend, arrivals) = Backend::handing_over();
    let (lb, backend_address) = (Trial::with(&config("", &http_only(&backend))), backend.address);
    let head =
        format!("GET {CHALLENGE} HTTP/1.1\r\nhOST:  A.Test:80 \r\nX-Odd:\tbär \r\nAccept-Encoding: gzip\r\n\r\n");
    let second = b"GET /admin HTTP/1.1\r\nHost: a.test\r\n\r\n";
    for (at_once, later) in [(&b""[..], &b""[..]), (second, b""), (b"", second), (second, second)] {
        for cut in [1, head.len() / 2, head.len() - 1, head.len()] {
            let seen = lb.log().len();
            let bytes = [head.as_bytes(), at_once].concat();
            let mut client = connect(web(&lb));
            client.write_all(&bytes[..cut]).unwrap();
            wait_until_sent(&client);
            client.write_all(&bytes[cut..]).unwrap();
            let mut backend = arrivals.recv_timeout(DEADLINE).unwrap();
            let mut read = vec![0; head.len()];
            backend.read_exact(&mut read).unwrap();
            assert_eq!(read, head.as_bytes());
            client.write_all(later).unwrap();
            if later.is_empty() {
                client.shutdown(Shutdown::Write).unwrap();
            }
            // Nothing more comes, whether the client closed its side or sent what it may not.
            assert_eq!(read_to_close(&mut backend), (vec![], Close::Fin));
            backend.write_all(b"HTTP/1.1 200 OK\r\n\r\ntoken.key").unwrap();
            drop(backend);
            let (answer, close) = read_to_close(&mut client);
            assert_eq!(answer, b"HTTP/1.1 200 OK\r\n\r\ntoken.key");
            // If what a client sent later has not been read yet, the kernel closes with a reset.
            assert!(close == Close::Fin || !later.is_empty(), "{close:?}");
            let line = lb.wait_for_line_after(seen, |line| line["reason"].is_string());
            assert_eq!(
                [&line["host"], &line["method"], &line["path"], &line["route"], &line["reason"]],
                ["a.test", "GET", CHALLENGE, "a", "ok"],
                "{line}"
            );
            assert_eq!(
                (&line["backend"], &line["address"]),
                (&"127.0.0.1:1".into(), &backend_address.to_string().into())
            );
            assert_eq!((&line["bytes_to_backend"], &line["status"]), (&head.len().into(), &Value::Null), "{line}");
        }
    }
    lb.end();
}

#[test]
fn other_requests_are_redirected_to_https_if_their_name_has_a_route() {
    let backend = Backend::answering(b"never");
    let lb = Trial::with(&config("", &http_only(&backend)));
    for (line, host, location) in [
        ("GET /", "a.test", "https://a.test/"),
        ("GET /x/../y;z?q=%2f&r=//b", "X.A.Test.:8080", "https://x.a.test/x/../y;z?q=%2f&r=//b"),
        ("POST //evil.test/%0d%0aA:b", "a.test", "https://a.test//evil.test/%0d%0aA:b"),
        ("GET http://a.test?q", "a.test", "https://a.test/?q"),
        ("GET //.well-known/acme-challenge/x", "a.test", "https://a.test//.well-known/acme-challenge/x"),
        ("GET /", "inside.test", "https://inside.test/"),
    ] {
        let (status, answer, line) = answered(&lb, &request(line, &format!("Host: {host}")));
        assert!(status == 308 && answer.contains(&format!("\r\nLocation: {location}\r\n")), "{answer}");
        assert_eq!(line["reason"], "redirected", "{line}");
    }
    for target in ["/", CHALLENGE] {
        let (status, _, line) = answered(&lb, &request(&format!("GET {target}"), "Host: denied.test"));
        assert_eq!((status, &line["reason"], &line["route"]), (403, &"denied".into(), &"denied.test".into()), "{line}");
    }
    for (host, reason) in [
        ("b.test", "no_route"),
        ("refused.test", "refused"),
        ("outside.test", "no_route"),
        ("h2.test", "no_route"),
        ("192.0.2.1", "no_sni"),
        ("[::1]:80", "no_sni"),
    ] {
        for target in ["/", CHALLENGE] {
            let (status, _, line) = answered(&lb, &request(&format!("GET {target}"), &format!("Host: {host}")));
            assert_eq!((status, &line["reason"]), (404, &reason.into()), "{host}");
        }
    }
    assert_eq!(ask(web(&lb), &request("GET /", "Host: reset.test")), (vec![], Close::Reset));
    let head = ask(web(&lb), &request("HEAD /", "Host: a.test")).0;
    assert!(head.starts_with(b"HTTP/1.1 308 ") && head.ends_with(b"\r\n\r\n"));
    assert_eq!(backend.contacts(), 0);
    lb.wait_for_metric("connections_closed_total", &[("route", "a"), ("reason", "redirected"), ("fault", "none")], 6.0);
    lb.end();
}

#[test]
fn a_request_that_cannot_be_served_gets_the_status_that_says_why() {
    let backend = Backend::answering(b"never");
    let lb = Trial::with(&config("", &http_only(&backend)));
    let host = "Host: a.test";
    let challenge = format!("GET {CHALLENGE}");
    for (bytes, wanted) in [
        (request("GET /", "A: b"), 400),
        (b"GET / HTTP/1.0\r\n\r\n".to_vec(), 400),
        (request("GET /", "Host: a.test\r\nHost: b.test"), 400),
        (request("GET /", "Host: a b"), 400),
        (request("GET /", "Host: a.test\r\nA: b\r\n c"), 400),
        (b"GET / HTTP/1.1\nHost: a.test\n\n".to_vec(), 400),
        (request("GET /", "Host: a.test\r\nA: \0"), 400),
        (request("GET http://b.test/", host), 400),
        (request("GET https://a.test/", host), 400),
        (request("CONNECT a.test:443", host), 405),
        (request("OPTIONS *", host), 405),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 505),
        (request(&format!("GET /{}", "a".repeat(70_000)), host), 414),
        (request("GET /", &format!("{host}\r\nA: {}", "b".repeat(70_000))), 431),
        (request("GET /", &format!("{host}{}", "\r\nA: b".repeat(100))), 431),
        (request(&format!("{challenge}/../../admin"), host), 400),
        (request(&challenge.replace("Loq", "%2e%2e/"), host), 400),
        (request(&challenge.replace("Loq", "..;/"), host), 400),
        (request(&challenge, &format!("{host}\r\nUpgrade: h2c\r\nConnection: Upgrade")), 400),
        (request(&challenge.replace("GET", "POST"), &format!("{host}\r\nContent-Length: 0")), 405),
        (request(&challenge, &format!("{host}\r\nContent-Length: 5")), 413),
        (request(&challenge, &format!("{host}\r\nTransfer-Encoding: chunked")), 413),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec(), 400),
    ] {
        let (status, answer, line) = answered(&lb, &bytes);
        assert_eq!((status, &line["reason"]), (wanted, &"bad_request".into()), "{line}");
        assert_eq!(answer.contains("\r\nAllow: GET, HEAD\r\n"), status == 405, "{answer}");
    }
    let (alert, close) = ask(web(&lb), &hello("a.test"));
    assert_eq!((&alert[..], close), (&[21, 3, 3, 0, 2, 2, 70][..], Close::Fin), "protocol_version");
    assert_eq!(backend.contacts(), 0);
    lb.end();
}

#[test]
fn a_request_has_the_deadline_of_a_hello() {
    let backend = Backend::answering(b"never");
    let lb = Trial::with(&(config("", &http_only(&backend)) + "timeouts: { hello: 2s }\n"));
    let (status, _, line) = answered(&lb, b"GET / HTTP/1.1\r\nHost: a.test\r\n");
    assert_eq!((status, &line["reason"]), (408, &"hello_timeout".into()));
    assert_eq!(ask(web(&lb), b""), (vec![], Close::Fin));
    lb.wait_for_closed("probe", 1.0);
    drop(send(web(&lb), b"GET / HT"));
    lb.wait_for_closed("client_gone", 1.0);
    lb.end();
}

#[test]
fn a_request_above_the_limit_of_its_route_is_answered_and_may_be_tried_again() {
    let (backend, arrivals) = Backend::handing_over();
    let config = config("", &http_only(&backend)).replacen("name: a, sni", "name: a, max_connections: 1, sni", 1);
    let lb = Trial::with(&config);
    let challenge = request(&format!("GET {CHALLENGE}"), "Host: a.test");
    let first = send(web(&lb), &challenge);
    let held = arrivals.recv_timeout(DEADLINE).unwrap();
    let (status, answer, line) = answered(&lb, &challenge);
    assert_eq!((status, &line["reason"]), (503, &"limit_route".into()), "{line}");
    assert!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
    drop((first, held));
    lb.end();
}

/// Anybody may ask for any challenge, so a backend must not suffer for not serving HTTP.
#[test]
fn a_backend_without_http_is_answered_for_and_keeps_its_standing() {
    let (backend, closed) = (Backend::answering(b"\x15\x03\x03\0\x02\x02\x28"), ClosedPort::new());
    let pool = format!("backends: [\"{}\"], http_port: {}", backend.address, closed.address.port());
    let lb = Trial::with(&config("", &pool));
    let challenge = request(&format!("GET {CHALLENGE}"), "Host: a.test");
    for _ in 0..5 {
        let (status, _, line) = answered(&lb, &challenge);
        assert_eq!((status, &line["reason"]), (502, &"connect_refused".into()), "{line}");
    }
    assert_eq!(lb.metric("backend_ejections_total", &[]), 0.0);
    assert_eq!(lb.metric("backend_connects_total", &[]), 0.0);
    assert_eq!(lb.metric("backend_up", &[]), 1.0);
    lb.end();
}

#[test]
fn a_unix_socket_has_no_port_for_http() {
    let lb = Trial::with(&config("", "backends: [\"unix:/nowhere.sock\"]"));
    let (status, _, line) = answered(&lb, &request(&format!("GET {CHALLENGE}"), "Host: a.test"));
    assert_eq!((status, &line["reason"]), (503, &"no_backend".into()), "{line}");
    lb.end();
}

#[test]
fn a_challenge_does_not_go_round_in_a_circle() {
    let lb = Trial::with(&config("", "backends: [\"127.0.0.1:1\"]"));
    let port = web(&lb).port();
    lb.stop();
    // The port was free a moment ago; `localhost` is not resolved when the file is read.
    let config = config(
        "",
        &format!("backends: [\"localhost:1\"], http_port: {port}, resolve: {{ family: v4, allow: [127.0.0.0/8] }}"),
    );
    let lb = Trial::with(&config.replacen(
        "name: web, bind: \"127.0.0.1:0\"",
        &format!("name: web, bind: \"127.0.0.1:{port}\""),
        1,
    ));
    let (status, _, line) = answered(&lb, &request(&format!("GET {CHALLENGE}"), "Host: a.test"));
    assert_eq!((status, &line["reason"]), (502, &"connect_failed".into()), "{line}");
    lb.wait_for_metric("connections_accepted_total", &[("listener", "web")], 1.0);
    lb.stop();
}

#[test]
fn otherwise_is_what_the_listener_says() {
    let (challenges, others) =
        (Backend::answering(b"HTTP/1.1 200 OK\r\n\r\n1"), Backend::answering(b"HTTP/1.1 200 OK\r\n\r\n2"));
    let pools = format!("{} }}\n  q: {{ backends: [\"{}\"]", http_only(&challenges), others.address);
    let lb = Trial::with(&config(", otherwise: { pool: q }", &pools));
    let answer = |target: &str, host: &str| {
        let mut client = send(web(&lb), &request(&format!("GET {target}"), &format!("Host: {host}")));
        let mut answer = [0; 20];
        client.read_exact(&mut answer).unwrap();
        answer[19]
    };
    assert_eq!(answer(CHALLENGE, "a.test"), b'1');
    for (target, host) in [("/", "a.test"), ("/", "unknown.test"), ("/", "refused.test"), ("/x", "192.0.2.1")] {
        assert_eq!(answer(target, host), b'2', "{target} {host}");
    }
    let line = lb.wait_for_line(|line| line["host"] == "unknown.test");
    assert_eq!((&line["route"], &line["pool"]), (&"otherwise".into(), &"q".into()), "{line}");
    lb.end();

    let lb = Trial::with(&config(", otherwise: refuse, acme_challenge: off", &http_only(&challenges)));
    for target in ["/", CHALLENGE] {
        let (status, _, line) = answered(&lb, &request(&format!("GET {target}"), "Host: a.test"));
        assert_eq!((status, &line["reason"]), (404, &"refused".into()), "{line}");
    }
    lb.end();
}
