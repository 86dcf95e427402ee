//! Connections that live long: how old they may become, what is logged of them meanwhile, and whether they outlive their
//! backend's health.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::Reload;
use crate::trial::Trial;
use crate::wire::{Close, read_to_close, send};

/// Routes as they stand in the file, to one pool with these further keys.
pub fn config(routes: &[&str], pool: &str, rest: &str) -> String {
    let routes: String = routes.iter().map(|route| format!("  - {{ {route}, pool: p }}\n")).collect();
    format!(
        "listeners:\n  - {{ name: https, bind: \"127.0.0.1:0\" }}\nadmin: {{ bind: \"127.0.0.1:0\", token_file: token }}\n\
         routes:\n{routes}pools: {{ p: {{ {pool} }} }}\n{rest}\n"
    )
}

pub fn backends(backends: &[&Backend]) -> String {
    let addresses: Vec<_> = backends.iter().map(|backend| format!("\"{}\"", backend.address)).collect();
    format!("backends: [{}]", addresses.join(", "))
}

/// A client that has its answer from the backend.
#[track_caller]
pub fn served(lb: &Trial, name: &str) -> TcpStream {
    let mut client = send(lb.address(), &hello(name));
    client.read_exact(&mut [0; 6]).expect("an answer");
    client
}

#[test]
fn a_connection_ends_at_its_age_although_it_is_busy() {
    let backend = Backend::echoing();
    let routes = ["sni: a.test", "sni: b.test, max_age: off", "sni: c.test, max_age: 1h"];
    let lb = Trial::with(&config(&routes, &backends(&[&backend]), "timeouts: { max_age: 1s }"));
    let [old, mut other, mut young] = ["a.test", "b.test", "c.test"].map(|name| send(lb.address(), &hello(name)));
    let mut talk = old.try_clone().unwrap();
    // Busy to the end.
    let talker = std::thread::spawn(move || {
        let mut answer = [0; 1];
        while talk.write_all(b"x").is_ok() && talk.read_exact(&mut answer).is_ok() {}
    });
    lb.wait_for_closed("max_age", 1.0);
    talker.join().unwrap();
    let line = lb.wait_for_connection("a.test");
    let age = line["duration_ms"].as_f64().unwrap();
    assert!(line["reason"] == "max_age" && age >= 900.0, "{line}");
    for client in [&mut other, &mut young] {
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_close(client).1, Close::Fin);
    }
    lb.wait_for_closed("ok", 2.0);
    lb.end();
}

#[test]
fn an_open_connection_is_logged_at_each_interval_with_its_bytes_so_far() {
    let backend = Backend::echoing();
    let with = |interval: &str| {
        let rest = format!("log: {{ connections: off, interval: {interval} }}\nruntime: {{ workers: 2 }}");
        config(&["sni: a.test"], &backends(&[&backend]), &rest)
    };
    let lb = Trial::with(&with("off"));
    assert_eq!(lb.edit(&with("1s")), Reload::Applied);
    let sent = hello("a.test");
    let mut client = send(lb.address(), &sent);
    client.read_exact(&mut vec![0; sent.len()]).unwrap();
    let first = lb.wait_for_line(|line| line["event"] == "connection_open");
    client.write_all(b"more").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    let seen = lb.log().len();
    let second = lb.wait_for_line_after(seen, |line| line["event"] == "connection_open");
    assert_eq!((&first["sni"], &first["phase"], &first["pool"]), (&"a.test".into(), &"relaying".into(), &"p".into()));
    assert_eq!(first["backend"], backend.address.to_string());
    assert_eq!(first["id"], second["id"]);
    let bytes = |line: &serde_json::Value| (line["bytes_to_backend"].as_u64(), line["bytes_to_client"].as_u64());
    let of = |bytes: usize| Some(bytes as u64);
    assert_eq!(bytes(&first), (of(sent.len()), of(sent.len())));
    assert_eq!(bytes(&second), (of(sent.len() + 4), of(sent.len() + 4)));
    let age = |line: &serde_json::Value| line["duration_ms"].as_f64().unwrap();
    assert!(age(&first) >= 1000.0 && age(&second) >= 2000.0, "{first} {second}");
    drop(client);
    lb.end();
}

#[test]
fn a_backend_that_is_down_takes_its_connections_along_if_the_pool_says_so() {
    for (on_down, reason) in [("close", "backend_down"), ("keep", "ok")] {
        let (failing, steady) = (Backend::echoing(), Backend::echoing());
        // The checks go to a port of their own, so that they can fail while the backend still serves.
        let checked = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = checked.local_addr().unwrap().port();
        let pool = format!(
            "{}, on_down: {on_down}, balance: first, \
             health_check: {{ kind: tcp, port: {port}, interval: 60ms, rise: 1, fall: 2 }}",
            backends(&[&failing])
        );
        let other = format!("  q: {{ {}, on_down: close, health_check: {{ kind: tcp }} }}", backends(&[&steady]));
        let text = config(&["sni: a.test"], &pool, "not_tls: { pool: q }");
        let lb = Trial::with(
            &text.replace("pools: { p:", &format!("pools:\n{other}\n  p:")).replace(" } }\nnot", " }\nnot"),
        );
        lb.wait_for_metric("backend_state", &[("pool", "p"), ("state", "up")], 1.0);
        let mut clients: Vec<TcpStream> = (0..3).map(|_| served(&lb, "a.test")).collect();
        let mut elsewhere = send(lb.address(), b"not tls");
        elsewhere.read_exact(&mut [0; 7]).unwrap();
        drop(checked);
        lb.wait_for_line(|line| line["event"] == "backend_down");
        if on_down == "close" {
            let line = lb.wait_for_line(|line| line["event"] == "backend_connections_ended");
            assert_eq!((&line["ended"], &line["pool"]), (&3.into(), &"p".into()), "{line}");
        }
        for client in &mut clients {
            if on_down == "keep" {
                client.write_all(b"still there").unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            }
            let close = read_to_close(client).1;
            assert_eq!(close, if on_down == "close" { Close::Reset } else { Close::Fin });
        }
        lb.wait_for_closed(reason, 3.0);
        // Another pool's connections are not affected.
        elsewhere.write_all(b"x").unwrap();
        elsewhere.read_exact(&mut [0; 1]).unwrap();
        drop((clients, elsewhere));
        lb.end();
    }
}
