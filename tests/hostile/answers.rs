//! What the log says about a backend's first bytes, and about the backends that failed before.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::backend::Backend;
use crate::bytes::{INTERNAL_ERROR, REFUSED_OFFER, SERVER_HELLO, alert, hello};
use crate::harness::Lb;
use crate::harness::recorder::ClosedPort;
use crate::trial::Trial;
use crate::wire::{self, Close, read_to_close, send};

const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nConnection: close\r\n\r\n<html>";

/// Takes the hello, answers and closes.
fn saying(answer: impl Into<Vec<u8>>) -> Backend {
    let answer = answer.into();
    Backend::that(move |mut stream| {
        if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
            let _ = stream.write_all(&answer);
        }
    })
}

/// What a client gets that closes its side behind its hello.
#[track_caller]
fn answer(lb: &Trial, name: &str) -> Vec<u8> {
    let mut client = send(lb.address(), &hello(name));
    client.shutdown(Shutdown::Write).unwrap();
    let (answer, close) = read_to_close(&mut client);
    assert_eq!(close, Close::Fin, "{name}");
    answer
}

fn connects(lb: &Trial, backend: SocketAddr, result: &str) -> f64 {
    lb.metric("backend_connects_total", &[("backend", &backend.to_string()), ("result", result)])
}

#[test]
fn a_backend_without_tls_is_shown_by_what_it_says() {
    let long = [b"220-".to_vec(), vec![b'x'; 9000]].concat();
    let shown = format!("220-{}", "x".repeat(36));
    for (says, shown) in [
        (BAD_REQUEST, "HTTP/1.1 400"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH-2.0-OpenSSH_9.6"),
        (b"\x1b[2J\"\x00\xff", "\\x1b[2J\\\"\\x00\\xff"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "\\x00\\x00\\x12\\x04\\x00\\x00\\x00\\x00\\x00"),
        (&long, &shown),
    ] {
        let backend = saying(says);
        let lb = Trial::of(Lb::new().route("a.test", &backend));
        assert_eq!(answer(&lb, "a.test"), says);
        let line = lb.wait_for_connection("a.test");
        assert_eq!(line["error"], format!("backend's first bytes are not TLS ({shown})"), "{line}");
        assert_eq!((&line["answer"], &line["reason"]), (&"other".into(), &"ok".into()), "{line}");
        assert!(line["failed"].is_null(), "{line}");
        assert_eq!([connects(&lb, backend.address, "not_tls"), connects(&lb, backend.address, "ok")], [1.0, 0.0]);
        lb.end();
    }
}

#[test]
fn the_kind_of_the_answer_is_logged_and_counted() {
    let reset = Backend::that(|mut stream| {
        if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
            wire::reset(stream);
        }
    });
    let [good, broken, picky] = [SERVER_HELLO, INTERNAL_ERROR, REFUSED_OFFER].map(Backend::answering);
    let (unknown, closes) = (saying(alert(200)), saying([]));
    let lb = Lb::new().route("good.test", &good).route("broken.test", &broken).route("picky.test", &picky);
    let lb = lb.route("unknown.test", &unknown).route("closes.test", &closes).route("reset.test", &reset);
    let lb = Trial::of(lb);
    for (name, backend, answer, result) in [
        ("good.test", &good, "server_hello", "ok"),
        ("broken.test", &broken, "alert internal_error", "ok"),
        ("picky.test", &picky, "alert handshake_failure", "ok"),
        ("unknown.test", &unknown, "alert unknown", "ok"),
        ("closes.test", &closes, "none", "closed"),
        ("reset.test", &reset, "none", "reset"),
    ] {
        let mut client = send(lb.address(), &hello(name));
        if result == "ok" {
            client.shutdown(Shutdown::Write).unwrap();
        }
        read_to_close(&mut client);
        drop(client);
        let line = lb.wait_for_connection(name);
        assert_eq!((&line["answer"], &line["error"]), (&answer.into(), &serde_json::Value::Null), "{line}");
        let reason = match result {
            "closed" => "no_answer",
            "reset" => "backend_reset",
            _ => "ok",
        };
        assert_eq!((&line["reason"], line["level"] == "WARN"), (&reason.into(), reason != "ok"), "{line}");
        lb.wait_for_metric("connections_active", &[], 0.0);
        let all = lb.metric("backend_connects_total", &[("backend", &backend.address.to_string())]);
        assert_eq!((connects(&lb, backend.address, result), all), (1.0, 1.0), "{name}");
    }
    lb.end();
}

#[test]
fn a_failover_line_says_which_backends_failed_and_why() {
    let (dead, http, closes, good) = (ClosedPort::new(), saying(BAD_REQUEST), saying([]), saying(SERVER_HELLO));
    let all = [dead.address, http.address, closes.address, good.address];
    let lb = Trial::of(Lb::new().route_with("a.test", all, "balance: first\nconnect: { attempts: 4 }"));
    assert_eq!(answer(&lb, "a.test"), SERVER_HELLO);
    let line = lb.wait_for_connection("a.test");
    let failed = serde_json::json!([
        format!("{} refused: Connection refused (os error 111)", dead.address),
        format!("{} not_tls: backend's first bytes are not TLS (HTTP/1.1 400)", http.address),
        format!("{} closed: the backend accepted the hello and closed without an answer", closes.address),
    ]);
    assert_eq!((&line["failed"], &line["answer"]), (&failed, &"server_hello".into()), "{line}");
    assert!(line["error"].is_null() && line["backend"] == good.address.to_string(), "{line}");
    lb.end();
}

#[test]
fn an_ejection_says_why() {
    let (dead, http, good) = (ClosedPort::new(), saying(BAD_REQUEST), saying(SERVER_HELLO));
    let (broken, closes) = (saying(INTERNAL_ERROR), saying([]));
    for (bad, why) in [
        (dead.address, "Connection refused (os error 111)"),
        (http.address, "backend's first bytes are not TLS (HTTP/1.1 400)"),
        (closes.address, "the backend accepted the hello and closed without an answer"),
        (broken.address, "the backend answered with the alert internal_error (80)"),
    ] {
        let keys = "balance: first\nejection: { failures: 1 }";
        let lb = Lb::new().route_with("a.test", [bad, good.address], keys);
        let lb = Trial::on_listener("proxy_protocol: { trusted: [127.0.0.0/8] }", lb);
        // What may be the doing of one client counts from the third on.
        for client in 1..=3 {
            let header = format!("PROXY TCP4 192.0.2.{client} 192.0.2.250 1000 443\r\n");
            let mut client = send(lb.address(), &[header.as_bytes(), &hello("a.test")].concat());
            client.shutdown(Shutdown::Write).unwrap();
            read_to_close(&mut client);
        }
        let line = lb.wait_for_line(|line| line["event"] == "backend_ejected");
        assert_eq!((&line["why"], &line["address"]), (&why.into(), &bad.to_string().into()), "{line}");
        lb.end();
    }
}

/// The first answer that was heard is better than none.
#[test]
fn when_no_backend_speaks_tls_the_client_gets_what_one_said() {
    let (dead, gone, closes, silent) = (ClosedPort::new(), ClosedPort::new(), saying([]), Backend::that(hold));
    let (http, ssh) = (saying(BAD_REQUEST), saying(b"SSH-2.0-x\r\n"));
    for others in [
        &[http.address, dead.address][..],
        &[dead.address, http.address],
        &[dead.address, http.address, gone.address],
        &[http.address, closes.address],
        &[http.address, silent.address],
        &[http.address, ssh.address],
        &[closes.address, http.address, dead.address],
    ] {
        let others: Vec<String> = others.iter().map(|address| format!("\"{address}\"")).collect();
        let config = Lb::new().route_with("a.test", dead.address, "balance: first\nconnect: { first_byte: 200ms }");
        let plain = format!("backends: [\"{}\"]", dead.address);
        let config = config.config();
        assert!(config.contains(&plain), "{config}");
        let lb = Trial::with(&config.replace(&plain, &format!("backends: [{}]", others.join(", "))));
        assert_eq!(answer(&lb, "a.test"), BAD_REQUEST, "{others:?}");
        let line = lb.wait_for_connection("a.test");
        assert_eq!(line["error"], "backend's first bytes are not TLS (HTTP/1.1 400)", "{line}");
        assert_eq!(line["backend"], http.address.to_string(), "{line}");
        assert_eq!((&line["answer"], &line["reason"]), (&"other".into(), &"ok".into()), "{line}");
        assert_eq!(connects(&lb, http.address, "not_tls"), 1.0);
        assert_eq!(lb.metric("backend_connects_total", &[("result", "ok")]), 0.0);
        let first_record = [("backend", &*http.address.to_string()), ("kind", "other")];
        assert_eq!(lb.metric("backend_first_record_total", &first_record), 1.0);
        lb.end();
    }
}

/// It is kept open in the meantime, and relayed to as if it had been the only one.
#[test]
fn what_follows_the_answer_of_the_one_that_spoke_comes_too() {
    let rest = crate::bytes::noise(3 << 20);
    let (all, dead) = ([BAD_REQUEST, &rest].concat(), ClosedPort::new());
    let http = saying(all.clone());
    let lb = Trial::of(Lb::new().route_with("a.test", [http.address, dead.address], "balance: first"));
    assert!(answer(&lb, "a.test") == all);
    lb.end();
}

/// Says nothing until the other side has enough.
fn hold(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}
