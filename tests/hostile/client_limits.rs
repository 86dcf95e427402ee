//! Limits per client: connections and rate, on all listeners, on one, and on a route.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use crate::access::connect_from;
use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::{Lb, Reload};
use crate::trial::Trial;
use crate::wire::{Close, read_to_close};

/// A client at 127.0.0.`last` that asks for `name`: its connection if it is served, `None` if it is reset.
#[track_caller]
fn served(last: u8, to: SocketAddr, name: &str) -> Option<TcpStream> {
    behind_proxy(last, to, "", name)
}

/// The same through a proxy that sends `header`.
#[track_caller]
fn behind_proxy(last: u8, to: SocketAddr, header: &str, name: &str) -> Option<TcpStream> {
    let mut stream = connect_from(last, to);
    let _ = stream.write_all(&[header.as_bytes(), &hello(name)].concat());
    let mut answer = [0; 6];
    if stream.read_exact(&mut answer).is_ok() {
        assert_eq!(&answer, b"served");
        return Some(stream);
    }
    assert_eq!(read_to_close(&mut stream).0, b"", "an answer to a client that is refused");
    None
}

fn limited(backend: &Backend, per_client: &str) -> Lb {
    let lb = Lb::new().route("a.test", backend).with("runtime: { workers: 2 }");
    lb.with(&format!("limits: {{ per_client: {{ {per_client} }} }}"))
}

#[test]
fn of_a_hundred_connections_of_one_client_ten_are_served_by_two_workers() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(limited(&backend, "connections: 10"));
    let to = lb.address();
    let clients: Vec<_> = (0..100).map(|_| thread::spawn(move || served(2, to, "a.test"))).collect();
    let mut held: Vec<TcpStream> = clients.into_iter().filter_map(|client| client.join().unwrap()).collect();
    assert_eq!(held.len(), 10);
    lb.wait_for_closed("limit_client", 90.0);
    lb.wait_for_metric("limit_rejections_total", &[("scope", "client_connections"), ("enforced", "true")], 90.0);
    let line = lb.wait_for_line(|line| line["reason"] == "limit_client");
    assert_eq!(line["error"], "the client has `per_client.connections` open", "{line}");
    assert_eq!(lb.metric("client_hello_total", &[]), 10.0, "a hello was waited for");
    // Nothing has to be sent for it.
    assert_eq!(read_to_close(&mut connect_from(2, to)), (vec![], Close::Reset));

    let others: Vec<_> = (0..10).map(|_| served(3, to, "a.test").expect("another client")).collect();
    drop((held.pop(), others));
    lb.wait_for_metric("connections_active", &[], 9.0);
    held.push(served(2, to, "a.test").expect("one has left"));
    assert!(served(2, to, "a.test").is_none());

    // A reload changes the limit, and forgets nobody.
    assert_eq!(lb.edit(&limited(&backend, "connections: 12").config()), Reload::Applied);
    held.extend((0..2).map(|_| served(2, to, "a.test").expect("two more")));
    assert!(served(2, to, "a.test").is_none());
    drop(held);
    lb.end();
}

#[test]
fn a_client_may_open_a_burst_and_then_waits() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(limited(&backend, "rate: 1/h, burst: 5"));
    let count = |last| (0..8).filter(|_| served(last, lb.address(), "a.test").is_some()).count();
    assert_eq!((count(2), count(3)), (5, 5));
    lb.wait_for_metric("limit_rejections_total", &[("scope", "client_rate"), ("enforced", "true")], 6.0);
    assert_eq!(lb.edit(&limited(&backend, "rate: off, connections: 1").config()), Reload::Applied);
    assert!(served(2, lb.address(), "a.test").is_some());
    lb.end();
}

#[test]
fn what_is_not_enforced_is_counted_and_logged_and_whoever_is_exempt_is_not() {
    let backend = Backend::answering(b"served");
    let lb = Trial::of(limited(&backend, "connections: 1, enforce: false, exempt: [127.0.0.3]"));
    let held = [2, 2, 2, 3, 3].map(|last| served(last, lb.address(), "a.test").expect("all are served"));
    let not_enforced = [("scope", "client_connections"), ("enforced", "false")];
    lb.wait_for_metric("limit_rejections_total", &not_enforced, 2.0);
    let line = lb.wait_for_line(|line| line["event"] == "client_over_limit");
    assert!(line["client"].as_str().unwrap().starts_with("127.0.0.2:"), "{line}");
    assert_eq!((&line["limit"], &line["of"]), (&"client_connections".into(), &"listener https".into()));
    drop(held);
    lb.end();
}

#[test]
fn the_client_that_a_proxy_announces_is_limited() {
    let backend = Backend::answering(b"served");
    let lb = limited(&backend, "connections: 1").on_listener("proxy_protocol: { trusted: [127.0.0.1] }");
    let lb = Trial::of(lb);
    let from = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 5 6\r\n");
    let _held = ["192.0.2.1", "192.0.2.2"]
        .map(|client| behind_proxy(1, lb.address(), &from(client), "a.test").expect("the first connection of each"));
    assert!(behind_proxy(1, lb.address(), &from("192.0.2.1"), "a.test").is_none());
    // Clients without an address are one client together.
    let unknown = behind_proxy(1, lb.address(), "PROXY UNKNOWN\r\n", "a.test");
    assert!(unknown.is_some() && behind_proxy(1, lb.address(), "PROXY UNKNOWN\r\n", "a.test").is_none());
    lb.wait_for_closed("limit_client", 2.0);
    drop((_held, unknown));
    lb.end();
}

#[test]
fn a_route_limits_after_the_hello_and_counts_for_itself() {
    let backend = Backend::answering(b"served");
    let lb = Lb::new().route("open.test", &backend).with("limits: { per_client: { connections: 5 } }").config();
    let route = "routes:\n  - { name: login, sni: login.test, pool: pool-0, per_client: { connections: 1 } }\n";
    let lb = Trial::with(&lb.replace("routes:\n", route));
    let first = served(2, lb.address(), "login.test").expect("the first");
    assert!(served(2, lb.address(), "login.test").is_none());
    let others = (served(2, lb.address(), "open.test").unwrap(), served(3, lb.address(), "login.test").unwrap());
    lb.wait_for_metric("connections_closed_total", &[("reason", "limit_client"), ("route", "login")], 1.0);
    drop((first, others));
    lb.settle();
    drop(served(2, lb.address(), "login.test").expect("the first has left"));
    lb.end();
}

#[test]
fn a_listener_has_limits_of_its_own_or_none() {
    let backend = Backend::answering(b"served");
    let lb = limited(&backend, "connections: 1").config();
    let more = "listeners:\n  - { name: own, bind: \"127.0.0.1:0\", per_client: { connections: 2 } }\n  \
                - { name: free, bind: \"127.0.0.1:0\", per_client: off }\n";
    let lb = Trial::with(&lb.replace("listeners:\n", more));
    let [own, free, all] = *lb.addresses() else { panic!("three listeners") };
    let mut held = Vec::new();
    for (to, most) in [(own, 2), (all, 1), (free, 5)] {
        let of_this = (0..5).filter_map(|_| served(2, to, "a.test")).collect::<Vec<_>>();
        assert_eq!(of_this.len(), most, "{to}");
        held.extend(of_this);
    }
    drop(held);
    lb.end();
}
