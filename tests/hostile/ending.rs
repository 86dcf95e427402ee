//! The end of the process: asked for politely, insisted on, and by force.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::backend::Backend;
use crate::bytes::{hello, noise};
use crate::descriptors::allow_files;
use crate::harness::{DEADLINE, Lb, poll};
use crate::trial::Trial;
use crate::wire::{Close, connect, read_to_close, reset, send};

#[test]
fn an_idle_process_ends_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut lb = Trial::of(Lb::new());
        let started = Instant::now();
        lb.signal(signal);
        assert!(lb.wait_for_exit().success());
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}

#[test]
fn what_is_under_way_is_finished_and_nobody_new_is_taken() {
    let answer = noise(8 << 20);
    let expected = answer.clone();
    let backend = Backend::that(move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        for part in answer.chunks(1 << 20) {
            stream.write_all(part).unwrap();
            thread::sleep(Duration::from_millis(60));
        }
    });
    let mut lb = Trial::of(Lb::new().route("a.test", &backend).with("timeouts: { drain: 20s }"));
    let mut transfer = send(lb.address(), &hello("a.test"));
    let mut first = [0; 1000];
    transfer.read_exact(&mut first).unwrap();
    let mut begun = send(lb.address(), &hello("a.test")[..30]);
    lb.wait_for_metric("connections_active", &[], 2.0);
    lb.signal(Signal::TERM);
    lb.wait_for_line(|line| line["event"] == "draining");
    let (status, _) = lb.admin_get("/readyz");
    assert_eq!(status, 503);
    poll(|| TcpStream::connect(lb.address()).map_or(Ok(()), Err)).expect("nobody new is accepted");
    // One that was accepted in the middle of its hello is served like the other.
    begun.write_all(&hello("a.test")[30..]).unwrap();
    for (mut client, first) in [(transfer, &first[..]), (begun, &[])] {
        client.shutdown(Shutdown::Write).unwrap();
        let (rest, close) = read_to_close(&mut client);
        assert!([first, &rest].concat() == expected && close == Close::Fin, "{} bytes, {close:?}", rest.len());
    }
    assert!(lb.wait_for_exit().success());
    // The look at whether anybody is still accepted may have been accepted itself.
    let reasons: Vec<_> = reasons(&lb).into_iter().filter(|reason| reason != "probe").collect();
    assert_eq!(reasons, ["ok", "ok"]);
}

#[test]
fn what_is_left_at_the_deadline_is_reset_and_counted_as_drained() {
    let (backend, streams) = Backend::handing_over();
    let mut lb = Trial::of(Lb::new().route("a.test", &backend).with("timeouts: { drain: 500ms, hello: 1m }"));
    let mut silent = connect(lb.address());
    let mut begun = send(lb.address(), &hello("a.test")[..30]);
    let mut relayed = send(lb.address(), &hello("a.test"));
    let mut behind = streams.recv_timeout(DEADLINE).unwrap();
    lb.wait_for_metric("connections_active", &[], 3.0);
    let started = Instant::now();
    lb.signal(Signal::TERM);
    assert!(lb.wait_for_exit().success());
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(480) && waited < Duration::from_secs(5), "{waited:?}");
    for client in [&mut silent, &mut begun, &mut relayed, &mut behind] {
        assert_eq!(read_to_close(client).1, Close::Reset);
    }
    assert_eq!(reasons(&lb), ["drained"; 3]);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut lb = Trial::of(Lb::new().with("timeouts: { drain: 1m, hello: 1m }"));
    let mut held = connect(lb.address());
    lb.wait_for_metric("connections_active", &[], 1.0);
    lb.signal(Signal::TERM);
    lb.wait_for_line(|line| line["event"] == "draining");
    // A reload meanwhile is no second signal.
    lb.signal(Signal::HUP);
    lb.signal(Signal::TERM);
    assert!(lb.wait_for_exit().success());
    assert_eq!(read_to_close(&mut held).1, Close::Reset);
    assert_eq!(reasons(&lb), ["killed"]);
}

/// Whoever the kernel had accepted before the end was asked for is a client like any other.
#[test]
fn who_was_queued_when_the_end_was_asked_for_is_served() {
    for clients in [1, 20, 400] {
        let backend = Backend::answering(b"served");
        let mut lb = Trial::of(Lb::new().route("a.test", &backend).with("log: { connections: off }"));
        // Frozen, so that all of them are in the queue when it sees the signal.
        lb.signal(Signal::STOP);
        let queued: Vec<TcpStream> = (0..clients).map(|_| send(lb.address(), &hello("a.test"))).collect();
        lb.signal(Signal::TERM);
        lb.signal(Signal::CONT);
        let mut lost = 0;
        for mut client in queued {
            let mut answer = [0; 6];
            lost += usize::from(client.read_exact(&mut answer).is_err());
        }
        assert_eq!(lost, 0, "of {clients} that were queued");
        assert!(lb.wait_for_exit().success());
    }
}

/// As above, with a queue that nobody was looking at when the end was asked for, and nobody else to wait for.
#[test]
fn who_was_queued_while_accepting_was_paused_is_served() {
    let backend = Backend::answering(b"served");
    let mut lb = Trial::of(Lb::new().route("a.test", &backend).with("runtime: { workers: 1 }"));
    allow_files(&lb, 3);
    let queued: Vec<TcpStream> = (0..10).map(|_| send(lb.address(), &hello("a.test"))).collect();
    allow_files(&lb, 20_000);
    lb.signal(Signal::TERM);
    let lost = queued.into_iter().filter(|client| (&mut &*client).read_exact(&mut [0; 6]).is_err()).count();
    assert_eq!(lost, 0, "of 10 that were queued");
    assert!(lb.wait_for_exit().success());
}

/// More than tokio gives a task in one turn.
#[test]
fn a_long_queue_is_served_to_its_end() {
    let backend = Backend::answering(b"served");
    let lb = Lb::new().route("a.test", &backend).with("limits: { max_connections: 1 }\nruntime: { workers: 1 }");
    let mut lb = Trial::of(lb);
    let held = connect(lb.address());
    lb.wait_for_metric("connections_active", &[], 1.0);
    let queued: Vec<TcpStream> = (0..500).map(|_| send(lb.address(), &hello("a.test"))).collect();
    lb.signal(Signal::TERM);
    let lost = queued.into_iter().filter(|client| (&mut &*client).read_exact(&mut [0; 6]).is_err()).count();
    assert_eq!(lost, 0, "of 500 that were queued");
    drop(held);
    assert!(lb.wait_for_exit().success());
}

#[test]
fn after_a_kill_the_next_process_binds_at_once() {
    let backend = Backend::answering(b"served");
    let config = Lb::new().route("a.test", &backend).config();
    let mut first = Trial::with(&config);
    let address = first.address();
    let mut clients: Vec<TcpStream> = (0..50).map(|_| send(address, &hello("a.test"))).collect();
    for client in &mut clients {
        client.read_exact(&mut [0; 6]).unwrap();
    }
    first.signal(Signal::KILL);
    assert!(!first.wait_for_exit().success());
    let second = Trial::with(&config.replacen("127.0.0.1:0", &address.to_string(), 1));
    assert_eq!(second.address(), address);
    assert_eq!(second.metric("connections_accepted_total", &[]), 0.0);
    let mut client = send(address, &hello("a.test"));
    client.read_exact(&mut [0; 6]).unwrap();
    clients.into_iter().for_each(reset);
    drop(client);
    second.end();
}

/// Why each connection ended, by the log, since there are no metrics any more.
fn reasons(lb: &Trial) -> Vec<String> {
    lb.wait_for_line(|line| line["event"] == "ended");
    lb.log().iter().filter_map(|line| Some(line["reason"].as_str()?.to_owned())).collect()
}
