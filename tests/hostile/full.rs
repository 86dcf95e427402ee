//! At `limits.max_connections`: what is reported, and who makes room for whom.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Instant;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::{DEADLINE, Lb, poll};
use crate::trial::Trial;
use crate::wire::{connect, send};

fn reported(lb: &Trial, event: &str) -> usize {
    lb.log().iter().filter(|line| line["event"] == event).count()
}

/// Half a hello, a byte of it, or nothing.
fn attack(to: SocketAddr, number: usize) -> TcpStream {
    let hello = hello("a.test");
    let mut client = connect(to);
    client.write_all(&hello[..[hello.len() / 2, 1, 0][number % 3]]).unwrap();
    client
}

#[test]
fn clients_without_a_hello_make_room_for_others_on_all_listeners_and_workers_and_relays_stay() {
    const PLACES: usize = 24;
    let backend = Backend::answering(b"served");
    let lb = Lb::new().route("a.test", &backend).with(&format!(
        "limits: {{ max_connections: {PLACES} }}\nruntime: {{ workers: 2 }}\ntimeouts: {{ hello: 1m, drain: 1s }}"
    ));
    let second = "\n  - { name: second, bind: \"127.0.0.1:0\" }\nroutes:";
    let lb = Trial::with(&lb.config().replacen("\nroutes:", second, 1));
    let addresses = lb.addresses().to_vec();
    let mut relayed = send(addresses[0], &hello("a.test"));
    relayed.read_exact(&mut [0; 6]).unwrap();
    let attackers: Vec<_> = (0..PLACES + 40).map(|number| attack(addresses[number % 2], number)).collect();
    lb.wait_for_line(|line| line["event"] == "accept_paused");

    let clients: Vec<_> = (0..6)
        .map(|number| {
            let address = addresses[number % 2];
            thread::spawn(move || send(address, &hello("a.test")).read_exact(&mut [0; 6]))
        })
        .collect();
    for client in clients {
        client.join().unwrap().expect("an honest client is served");
    }
    // Those in front of them in the queues, too.
    poll(|| Some(lb.metric("hellos_ended_early_total", &[])).filter(|ended| *ended >= 7.0).ok_or(())).unwrap();
    let ended = lb.wait_for_line(|line| line["reason"] == "hello_timeout");
    assert!((1000.0..30_000.0).contains(&ended["duration_ms"].as_f64().unwrap()), "{ended}");
    assert_eq!((reported(&lb, "accept_paused"), reported(&lb, "accept_resumed")), (1, 0));

    drop(attackers);
    let resumed = lb.wait_for_line(|line| line["event"] == "accept_resumed");
    assert_eq!(resumed["level"], "WARN", "{resumed}");
    assert_eq!((reported(&lb, "accept_paused"), reported(&lb, "accept_resumed")), (1, 1));
    lb.wait_for_metric("connection_limit_reached", &[], 0.0);
    // The one that has been relayed all along still is.
    assert_eq!(lb.metric("connections_active", &[("state", "relaying")]), 1.0);
    drop(relayed);
    lb.end();
}

#[test]
fn the_longest_without_a_hello_goes_first_and_only_for_somebody() {
    let backend = Backend::answering(b"served");
    let lb = Lb::new().route("a.test", &backend);
    // With a second worker, its accept loop might take one more client than the limit.
    let lb = lb.with("limits: { max_connections: 3 }\nruntime: { workers: 1 }\ntimeouts: { hello: 1m, drain: 1s }");
    let lb = Trial::of(lb);
    let mut held: Vec<TcpStream> = Vec::new();
    for number in 0..3 {
        held.push(attack(lb.address(), number));
        lb.wait_for_metric("connections_active", &[], (number + 1) as f64);
    }
    // Nobody wants a place: nobody is ended, however long it takes.
    let began = Instant::now();
    while began.elapsed().as_millis() < 1500 {
        assert_eq!(lb.metric("connections_active", &[]), 3.0);
        thread::yield_now();
    }
    let mut client = send(lb.address(), &hello("a.test"));
    client.read_exact(&mut [0; 6]).unwrap();
    lb.wait_for_metric("hellos_ended_early_total", &[], 1.0);
    let first = held[0].local_addr().unwrap().to_string();
    assert_eq!(lb.wait_for_line(|line| line["reason"] == "hello_timeout")["client"], first);
    drop((held, client));
    lb.end();
}

#[test]
fn readyz_and_the_status_say_that_nobody_gets_in_for_long() {
    let backend = Backend::answering(b"served");
    let lb = Lb::new().route("a.test", &backend).with("limits: { max_connections: 2 }\nruntime: { workers: 2 }");
    let lb = Trial::of(lb);
    let serve = || {
        let mut client = send(lb.address(), &hello("a.test"));
        client.read_exact(&mut [0; 6]).unwrap();
        client
    };
    let held = [serve(), serve()];
    let waiting = connect(lb.address());
    let began = Instant::now();
    lb.wait_for_metric("connection_limit_reached", &[], 1.0);
    // Not at once: a moment at the limit is nothing that others should know.
    assert_eq!(lb.admin_get("/readyz"), (200, "ready\n".to_owned()));
    poll(|| match lb.admin_get("/readyz") {
        (503, body) if body.starts_with("full: limits.max_connections is reached, nobody accepted for ") => Ok(()),
        other => Err(other),
    })
    .unwrap_or_else(|other| panic!("{other:?}"));
    assert!(began.elapsed() < DEADLINE);
    let status = lb.status();
    assert!(status["accept_paused_since"].is_string() && status["ready"] == false, "{status}");
    assert_eq!(status["stage"], "ready");
    drop((held, waiting));
    lb.wait_for_metric("connection_limit_reached", &[], 0.0);
    assert_eq!(lb.admin_get("/readyz"), (200, "ready\n".to_owned()));
    assert!(lb.status()["accept_paused_since"].is_null());
    lb.end();
}
