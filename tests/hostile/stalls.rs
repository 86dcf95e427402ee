//! Clients that stop half-way: one deadline ends them, whatever they sent and however slowly.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::backend::Backend;
use crate::bytes::{UNRECOGNIZED_NAME, alert, hello, message, records, usual};
use crate::harness::Lb;
use crate::trial::{Trial, soaking};
use crate::wire::{Close, connect, read_to_close, send};

#[test]
fn a_stall_before_the_route_ends_at_the_deadline() {
    let backend = Backend::answering(b"never");
    let lb = Trial::of(Lb::new().route("*", &backend).unmatched(&backend).with("timeouts: { hello: 300ms }"));
    let hello = hello("stalled.test");
    let started = Instant::now();
    let begun = [0, 1, 3, 5, 6, 9, 20, 70, hello.len() - 1].map(|bytes| send(lb.address(), &hello[..bytes]));
    let split = records(&message(&usual("stalled.test")), 16);
    let fragmented = [21, 22, 26, split.len() - 1].map(|bytes| send(lb.address(), &split[..bytes]));
    let stalled = begun.len() + fragmented.len();
    for mut client in begun.into_iter().chain(fragmented) {
        assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
        assert!(started.elapsed() >= Duration::from_millis(290), "after {:?}", started.elapsed());
    }
    assert!(started.elapsed() < Duration::from_secs(5), "after {:?}", started.elapsed());
    lb.wait_for_closed("hello_timeout", stalled as f64 - 1.0);
    lb.wait_for_closed("probe", 1.0);
    assert_eq!(backend.contacts(), 0);
    lb.end();
}

#[test]
fn a_stall_inside_a_proxy_header_ends_at_the_deadline() {
    let backend = Backend::answering(b"never");
    let lb = Lb::new().route("*", &backend).unmatched(&backend).with("timeouts: { hello: 300ms }");
    let lb = Trial::on_listener("proxy_protocol: { trusted: [127.0.0.0/8] }", lb);
    let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n";
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\x05\0\x06";
    let hello = hello("stalled.test");
    let begun: [&[u8]; 7] = [b"P", &v1[..20], &v2[..1], &v2[..13], &v2[..20], &[&v1[..], &hello[..30]].concat(), b""];
    let clients = begun.map(|bytes| send(lb.address(), bytes));
    for mut client in clients {
        assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
    }
    lb.wait_for_closed("hello_timeout", 6.0);
    lb.wait_for_closed("probe", 1.0);
    assert_eq!(backend.contacts(), 0);
    lb.end();
}

#[test]
fn a_client_that_drips_gains_no_time() {
    let lb = Trial::of(Lb::new().with("timeouts: { hello: 500ms }"));
    let started = Instant::now();
    let mut client = connect(lb.address());
    for byte in hello("drip.test") {
        if client.write_all(&[byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(50));
        assert!(started.elapsed() < Duration::from_secs(5), "the deadline moves with the bytes");
    }
    lb.wait_for_closed("hello_timeout", 1.0);
    lb.end();
}

#[test]
fn a_crowd_that_stalls_costs_honest_clients_nothing() {
    let crowd = if soaking() { 8_000 } else { 1000 };
    let backend = Backend::answering(b"served");
    let lb = Lb::new()
        .route("honest.test", &backend)
        .with("timeouts: { hello: 4s }\nlog: { connections: off }\nlimits: { max_connections: 9000 }");
    let lb = Trial::of(lb);
    let begun = hello("stalled.test");
    let mut crowds = 0;
    let mut stall = || {
        crowds += 1;
        let stalled: Vec<TcpStream> =
            (0..crowd).map(|i| send(lb.address(), &begun[..1 + i % (begun.len() - 1)])).collect();
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            let started = Instant::now();
            let mut client = send(lb.address(), &hello("honest.test"));
            let mut answer = [0; 6];
            std::io::Read::read_exact(&mut client, &mut answer).unwrap();
            assert_eq!(&answer, b"served");
            slowest = slowest.max(started.elapsed());
        }
        assert!(slowest < Duration::from_secs(1), "an honest client waited {slowest:?}");
        for mut client in stalled {
            assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
        }
        lb.wait_for_closed("hello_timeout", (crowds * crowd) as f64);
        lb.wait_for_metric("connections_active", &[], 0.0);
    };
    stall();
    lb.some_round_leaves_less_than(crowd as u64 * 256, stall);
    lb.end();
}

/// A process that was stopped finds its deadline passed and the bytes there; of more clients than one question to the
/// kernel is answered about.
#[test]
fn a_hello_that_became_whole_during_a_freeze_is_answered() {
    let lb = Trial::of(Lb::new().with("timeouts: { hello: 4s }"));
    let (hello, clients) = (hello("a.test"), 2_500);
    let mut waiting: Vec<_> = (0..clients).map(|_| send(lb.address(), &hello[..9])).collect();
    lb.wait_for_metric("connections_active", &[], f64::from(clients));
    lb.signal(Signal::STOP);
    for client in &mut waiting {
        client.write_all(&hello[9..]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    // It is the clock of the stopped process that has to pass the deadline.
    thread::sleep(Duration::from_millis(4300));
    lb.signal(Signal::CONT);
    for client in &mut waiting {
        assert_eq!(read_to_close(client), (alert(UNRECOGNIZED_NAME), Close::Fin));
    }
    lb.wait_for_closed("no_route", f64::from(clients));
    lb.end();
}

/// Each holds all of its hello but the last byte: the largest and oldest are refused, honest clients are not.
#[test]
fn unfinished_hellos_have_a_budget_together() {
    let large = crate::bytes::padded("a.test", 64 << 10);
    // Held once, without the last byte, in a buffer for all of it.
    stall_within(2 << 20, 300, &large[..large.len() - 1], large.len());
}

/// An attacker whose hellos are as small as an honest client's fills no more than the budget either.
#[test]
fn small_unfinished_hellos_are_in_the_budget_too() {
    let small = crate::bytes::padded("a.test", 4000);
    stall_within(128 << 10, 300, &small[..small.len() - 1], small.len() - 1);
}

/// `clients` stall, of which as many stay as fit into the budget with `held` bytes each. Then an honest client passes.
fn stall_within(budget: usize, clients: usize, sent: &[u8], held: usize) {
    let backend = Backend::answering(b"served");
    let keys = format!("limits: {{ hello_memory: {budget}B }}\ntimeouts: {{ hello: 1m }}\nlog: {{ connections: off }}");
    let lb = Trial::of(Lb::new().route("a.test", &backend).with(&keys));
    let before = lb.resident_bytes();
    let stalled: Vec<TcpStream> = (0..clients).map(|_| send(lb.address(), sent)).collect();
    let refused = (clients - budget / held) as f64;
    crate::harness::poll(|| if lb.closed("memory") >= refused { Ok(()) } else { Err(lb.closed("memory")) }).unwrap();
    // In buffers for all of it, or at least for what came.
    let counted = || lb.metric("hello_memory_bytes", &[]) as usize;
    let most = budget / held * held;
    let all = || if (most - clients..=most).contains(&counted()) { Ok(()) } else { Err((counted(), most)) };
    crate::harness::poll(all).unwrap();
    let grown = lb.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes");
    let honest = hello("a.test");
    let mut client = send(lb.address(), &honest[..100]);
    crate::wire::wait_until_sent(&client);
    client.write_all(&honest[100..]).unwrap();
    std::io::Read::read_exact(&mut client, &mut [0; 6]).unwrap();
    drop(client);
    assert!(lb.closed("memory") <= refused + 1.0, "{} were refused", lb.closed("memory"));
    stalled.into_iter().for_each(crate::wire::reset);
    lb.end();
}
