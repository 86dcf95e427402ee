//! Queues of pools: who waits, who is served next, who leaves, and what ends the wait.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use rustix::process::Signal;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::{Reload, poll};
use crate::long_lived::{config, served};
use crate::trial::Trial;
use crate::wire::{Close, ask, read_to_close, reset, send};

/// A pool whose one backend has so many places.
fn pool(backend: &Backend, places: usize, queue: &str) -> String {
    let address = backend.address;
    format!("backends: [{{ address: \"{address}\", max_connections: {places} }}], queue: {queue}")
}

fn with(backend: &Backend, places: usize, queue: &str) -> String {
    config(&["name: r, sni: a.test"], &pool(backend, places, queue), "runtime: { workers: 2 }")
}

/// A client that waits, once it does.
#[track_caller]
fn waits(lb: &Trial, before: usize) -> TcpStream {
    let client = send(lb.address(), &hello("a.test"));
    wait_for_length(lb, before + 1);
    client
}

#[track_caller]
fn wait_for_length(lb: &Trial, length: usize) {
    lb.wait_for_metric("pool_queue_length", &[("pool", "p")], length as f64);
}

/// Whether the client has been served, and nothing else has come.
#[track_caller]
fn is_served(client: &mut TcpStream) {
    let mut answer = [0; 6];
    client.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"served");
}

#[track_caller]
fn is_not_served(client: &TcpStream) {
    client.set_nonblocking(true).unwrap();
    let nothing = client.peek(&mut [0; 1]).expect_err("nothing has come");
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    client.set_nonblocking(false).unwrap();
}

#[test]
fn who_waits_is_served_in_turn_and_one_too_many_is_reset() {
    let backend = Backend::answering(b"served");
    let lb = Trial::with(&with(&backend, 1, "{ size: 3, timeout: 1m }"));
    let mut held = served(&lb, "a.test");
    // They come to both workers.
    let mut waiting: Vec<TcpStream> = (0..3).map(|number| waits(&lb, number)).collect();
    assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
    let line = lb.wait_for_line(|line| line["reason"] == "limit_pool");
    assert!(line["phase"] == "queued" || line["phase"] == "refusing", "{line}");
    assert!(line["error"].as_str().is_some_and(|error| error.contains("3 clients wait already")), "{line}");
    lb.wait_for_metric("limit_rejections_total", &[("scope", "pool"), ("enforced", "true")], 1.0);
    lb.wait_for_metric("connections_active", &[("state", "queued")], 3.0);
    let queue = &lb.status()["pools"][0]["queue"];
    assert_eq!(*queue, serde_json::json!({ "waiting": 3, "size": 3, "timeout_ms": 60_000 }));
    while !waiting.is_empty() {
        waiting.iter().for_each(is_not_served);
        drop(held);
        held = waiting.remove(0);
        is_served(&mut held);
    }
    assert_eq!(backend.contacts(), 4);
    drop(held);
    lb.wait_for_metric("pool_queue_wait_seconds_count", &[("pool", "p")], 3.0);
    wait_for_length(&lb, 0);
    // Nobody waits any more.
    drop(served(&lb, "a.test"));
    lb.end();
}

#[test]
fn who_waits_too_long_is_reset() {
    let backend = Backend::answering(b"served");
    let lb = Trial::with(&with(&backend, 1, "{ size: 3, timeout: 200ms }"));
    let held = served(&lb, "a.test");
    assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
    let line = lb.wait_for_line(|line| line["reason"] == "queue_timeout");
    assert!(line["duration_ms"].as_f64().unwrap() >= 200.0 && line["route"] == "r", "{line}");
    lb.wait_for_metric("pool_queue_timeouts_total", &[("pool", "p")], 1.0);
    drop(held);
    lb.end();
}

#[test]
fn who_leaves_makes_room_at_once() {
    let backend = Backend::answering(b"served");
    let lb = Trial::with(&with(&backend, 1, "{ size: 1, timeout: 1m }"));
    let held = served(&lb, "a.test");
    drop(waits(&lb, 0));
    lb.wait_for_closed("client_gone", 1.0);
    reset(waits(&lb, 0));
    lb.wait_for_closed("client_reset", 1.0);
    // Behind bytes that nobody has read.
    let mut busy = waits(&lb, 0);
    busy.write_all(b"more").unwrap();
    busy.shutdown(Shutdown::Write).unwrap();
    lb.wait_for_closed("client_gone", 2.0);
    let mut next = waits(&lb, 0);
    drop(held);
    is_served(&mut next);
    drop((busy, next));
    lb.end();
}

#[test]
fn a_reload_that_adds_places_serves_those_who_wait_and_one_that_ends_the_queue_ends_them() {
    let backend = Backend::answering(b"served");
    let queue = "{ size: 9, timeout: 1m }";
    let lb = Trial::with(&with(&backend, 1, queue));
    let mut held = vec![served(&lb, "a.test")];
    let mut waiting: Vec<TcpStream> = (0..4).map(|number| waits(&lb, number)).collect();
    assert_eq!(lb.edit(&with(&backend, 3, queue)), Reload::Applied);
    for mut client in waiting.drain(..2) {
        is_served(&mut client);
        held.push(client);
    }
    waiting.iter().for_each(is_not_served);
    wait_for_length(&lb, 2);
    assert_eq!(lb.edit(&with(&backend, 3, "{ size: 0 }")), Reload::Applied);
    for client in &mut waiting {
        assert_eq!(read_to_close(client), (vec![], Close::Reset));
    }
    lb.wait_for_closed("limit_backend", 2.0);
    wait_for_length(&lb, 0);
    drop((held, waiting));
    lb.end();
}

#[test]
fn a_backend_that_an_operator_puts_back_serves_those_who_wait() {
    let (one, other) = (Backend::answering(b"served"), Backend::answering(b"served"));
    let address = |backend: &Backend| format!("{{ address: \"{}\", max_connections: 1 }}", backend.address);
    let pool = format!("backends: [{}, {}], queue: {{ size: 9, timeout: 1m }}", address(&one), address(&other));
    let lb = Trial::with(&config(&["sni: a.test"], &pool, ""));
    let set = |state: &str| {
        let path = format!("/api/v1/pools/p/backends/{}/state", other.address);
        assert_eq!(lb.admin_send("PUT", &path, state).0, 200);
    };
    set("drain");
    let held = served(&lb, "a.test");
    let mut waiting = waits(&lb, 0);
    set("ready");
    is_served(&mut waiting);
    assert_eq!(other.contacts(), 1);
    drop((held, waiting));
    lb.end();
}

#[test]
fn who_waits_for_a_route_that_goes_is_reset_with_it() {
    let backend = Backend::answering(b"served");
    let queue = pool(&backend, 1, "{ size: 9, timeout: 1m }");
    let lb = Trial::with(&config(&["name: r, sni: a.test, on_removed: close"], &queue, ""));
    let mut held = served(&lb, "a.test");
    let mut waiting = waits(&lb, 0);
    assert_eq!(lb.edit(&config(&["name: other, sni: b.test"], &queue, "")), Reload::Applied);
    for client in [&mut waiting, &mut held] {
        assert_eq!(read_to_close(client), (vec![], Close::Reset));
    }
    lb.wait_for_closed("route_removed", 2.0);
    drop((held, waiting));
    lb.end();
}

#[test]
fn who_waits_when_the_process_stops_is_served_or_ends_with_the_rest() {
    let backend = Backend::answering(b"served");
    let text = with(&backend, 1, "{ size: 9, timeout: 1m }") + "timeouts: { drain: 2s }\n";
    let mut lb = Trial::with(&text);
    let held = served(&lb, "a.test");
    let mut waiting = waits(&lb, 0);
    let mut last = waits(&lb, 1);
    lb.signal(Signal::TERM);
    lb.wait_for_line(|line| line["event"] == "draining");
    drop(held);
    is_served(&mut waiting);
    assert_eq!(read_to_close(&mut last), (vec![], Close::Reset));
    assert!(lb.wait_for_exit().success());
    let reasons: Vec<_> = lb.log().iter().filter_map(|line| Some(line["reason"].as_str()?.to_owned())).collect();
    assert_eq!(reasons.iter().filter(|reason| *reason == "drained").count(), 2, "{reasons:?}");
}

/// Many more clients than places, some of whom do not wait for theirs.
#[test]
fn a_crowd_is_served_one_after_another_and_nobody_is_forgotten() {
    let [one, other] = std::array::from_fn(|_| Backend::answering(b"served"));
    let address = |backend: &Backend| format!("{{ address: \"{}\", max_connections: 2 }}", backend.address);
    let pool = format!("backends: [{}, {}], queue: {{ size: 1000, timeout: 1m }}", address(&one), address(&other));
    let lb = Trial::with(&config(&["sni: a.test"], &pool, "runtime: { workers: 2 }"));
    let client = |number: usize| {
        let to = lb.address();
        thread::spawn(move || {
            for round in 0..ROUNDS {
                let mut client = send(to, &hello("a.test"));
                match (number + round) % 5 {
                    0 => drop(client),
                    1 => reset(client),
                    _ => is_served(&mut client),
                }
            }
        })
    };
    let clients: Vec<_> = (0..CLIENTS).map(client).collect();
    clients.into_iter().for_each(|client| client.join().expect("every client that stays is served"));
    wait_for_length(&lb, 0);
    let ended = poll(|| match lb.metric("connections_closed_total", &[]) as usize {
        ended if ended == CLIENTS * ROUNDS => Ok(()),
        ended => Err(ended),
    });
    ended.expect("all have ended");
    for reason in ["queue_timeout", "limit_pool", "limit_backend", "no_backend"] {
        assert_eq!(lb.closed(reason), 0.0, "{reason}");
    }
    lb.end();
}

const CLIENTS: usize = 30;
const ROUNDS: usize = 20;
