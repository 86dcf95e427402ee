//! Limits on how many connections are open: on one listener, and in all.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::{Lb, Reload};
use crate::long_lived::{backends, config, served as served_as};
use crate::trial::Trial;
use crate::wire::{Close, ask, connect, read_to_close, send};

#[test]
fn above_a_listeners_limit_a_client_is_reset() {
    let backend = Backend::answering(b"served");
    let lb = Trial::on_listener("max_connections: 3", Lb::new().route("a.test", &backend));
    let held: Vec<TcpStream> = (0..3).map(|_| served(&lb)).collect();
    for _ in 0..5 {
        assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
    }
    lb.wait_for_closed("limit_listener", 5.0);
    lb.wait_for_metric("limit_rejections_total", &[("scope", "listener")], 5.0);
    drop(held);
    lb.wait_for_metric("connections_active", &[], 0.0);
    drop(served(&lb));
    lb.end();
}

#[test]
fn at_the_global_limit_clients_wait_and_are_served_in_the_end() {
    let backend = Backend::answering(b"served");
    let lb = Lb::new().route("a.test", &backend).with("limits: { max_connections: 3 }\nruntime: { workers: 1 }");
    let lb = Trial::of(lb);
    let held: Vec<TcpStream> = (0..3).map(|_| served(&lb)).collect();
    let mut waiting: Vec<TcpStream> = (0..3).map(|_| send(lb.address(), &hello("a.test"))).collect();
    lb.wait_for_metric("accept_paused", &[], 1.0);
    // Longer than any look at whether the limit has changed: it holds as long as nobody leaves.
    for _ in 0..25 {
        thread::sleep(Duration::from_millis(100));
        assert!(lb.metric("connections_active", &[]) <= 3.0, "the limit leaks");
    }
    drop(held);
    for client in &mut waiting {
        let mut answer = [0; 6];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"served");
    }
    drop(waiting);
    lb.wait_for_metric("connections_closed_total", &[], 6.0);
    lb.wait_for_metric("accept_paused", &[], 0.0);
    lb.end();
}

#[test]
fn a_reload_that_raises_the_limit_lets_the_waiting_in() {
    let backend = Backend::answering(b"served");
    let with = |most: u32| {
        let lb = Lb::new().route("a.test", &backend).with("runtime: { workers: 1 }");
        lb.with(&format!("limits: {{ max_connections: {most} }}"))
    };
    let lb = Trial::of(with(1));
    let held = served(&lb);
    let mut waiting = send(lb.address(), &hello("a.test"));
    lb.wait_for_metric("accept_paused", &[], 1.0);
    assert_eq!(lb.edit(&with(2).config()), Reload::Applied);
    waiting.read_exact(&mut [0; 6]).unwrap();
    drop((held, waiting));
    lb.end();
}

/// What a client waits for at the limit must not keep the process from ending.
#[test]
fn the_paused_stop_with_the_rest() {
    let lb = Lb::new().with("limits: { max_connections: 1 }\nruntime: { workers: 1 }\ntimeouts: { drain: 300ms }");
    let mut lb = Trial::of(lb);
    let held = connect(lb.address());
    lb.wait_for_metric("connections_active", &[], 1.0);
    lb.signal(rustix::process::Signal::TERM);
    assert!(lb.wait_for_exit().success());
    assert_eq!(read_to_close(&mut held.try_clone().unwrap()).1, Close::Reset);
}

fn served(lb: &Trial) -> TcpStream {
    let mut client = connect(lb.address());
    client.write_all(&hello("a.test")).unwrap();
    client.read_exact(&mut [0; 6]).unwrap();
    client
}

/// The count belongs to the name of the route: it survives reloads, also those that take the limit away for a while.
#[test]
fn above_a_routes_limit_a_client_is_reset_whatever_is_reloaded_meanwhile() {
    let backend = Backend::answering(b"served");
    let with = |limit: &str, more: &str| {
        let routes = [format!("name: r, sni: a.test{limit}"), "sni: b.test".to_owned()];
        let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
        config(&routes, &backends(&[&backend]), &format!("runtime: {{ workers: 2 }}\n{more}"))
    };
    let lb = Trial::with(&with(", max_connections: 2", ""));
    let ask_a = || ask(lb.address(), &hello("a.test"));
    let mut held: Vec<TcpStream> = (0..2).map(|_| served_as(&lb, "a.test")).collect();
    assert_eq!(ask_a(), (vec![], Close::Reset));
    drop(served_as(&lb, "b.test"));
    let line = lb.wait_for_line(|line| line["reason"] == "limit_route");
    assert_eq!((&line["route"], &line["pool"]), (&"r".into(), &"p".into()), "{line}");

    assert_eq!(lb.edit(&with(", max_connections: 2", "timeouts: { idle: 10m }")), Reload::Applied);
    assert_eq!(ask_a(), (vec![], Close::Reset));
    assert_eq!(lb.edit(&with(", max_connections: 3", "")), Reload::Applied);
    held.push(served_as(&lb, "a.test"));
    assert_eq!(ask_a(), (vec![], Close::Reset));
    assert_eq!(lb.edit(&with("", "")), Reload::Applied);
    held.push(served_as(&lb, "a.test"));
    assert_eq!(lb.edit(&with(", max_connections: 4", "")), Reload::Applied);
    assert_eq!(ask_a(), (vec![], Close::Reset));
    lb.wait_for_closed("limit_route", 4.0);
    lb.wait_for_metric("limit_rejections_total", &[("scope", "route"), ("enforced", "true")], 4.0);
    // A place that is given back can be taken.
    let gone = held.pop();
    drop(gone);
    lb.wait_for_metric("connections_active", &[], 3.0);
    held.push(served_as(&lb, "a.test"));
    drop(held);
    lb.end();
}
