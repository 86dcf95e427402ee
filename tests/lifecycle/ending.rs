//! The end of the process: a while of grace, a reload under way, a hang-up, a second signal.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::churn::Churn;
use crate::harness::{Lb, Running, poll};
use crate::wire::{Close, connect, read_to_close, send};

#[test]
fn before_the_drain_it_is_not_ready_and_still_accepts() {
    let backend = Backend::answering(b"served");
    let lb = Lb::new().route("a.test", &backend).with("timeouts: { pre_stop: 2s, drain: 10s }");
    let mut running = Running::start(&lb.config());
    let asked = Instant::now();
    running.signal(Signal::TERM);
    running.wait_for_line(|line| line["event"] == "pre_stop");
    assert_eq!(running.admin_get("/readyz"), (503, "draining\n".to_owned()));
    // A hang-up meanwhile does nothing, whatever the file says.
    fs::write(running.config_file(), "listeners: []").unwrap();
    running.signal(Signal::HUP);
    let is_over = || running.log().iter().any(|line| line["event"] == "draining");
    let mut served = 0;
    while !is_over() {
        let Ok(mut client) = TcpStream::connect(running.address()) else { break };
        let answer = client.write_all(&hello("a.test")).and_then(|()| client.read_exact(&mut [0; 6]));
        assert!(answer.is_ok() || is_over(), "accepted, but not served: {answer:?}");
        served += usize::from(answer.is_ok());
    }
    assert!(served > 0, "nobody was served");
    poll(|| TcpStream::connect(running.address()).map_or(Ok(()), Err)).expect("nobody new is accepted in the end");
    assert!(running.wait_for_exit().success());
    assert!(asked.elapsed() >= Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(!running.log().iter().any(|line| line["event"].as_str().is_some_and(|event| event.starts_with("reload_"))));
}

#[test]
fn a_second_signal_ends_the_while_of_grace_too() {
    let lb = Lb::new().with("timeouts: { pre_stop: 1m, drain: 1m, hello: 1m }");
    let mut running = Running::start(&lb.config());
    let mut held = connect(running.address());
    running.wait_for_metric("connections_active", &[], 1.0);
    running.signal(Signal::TERM);
    running.wait_for_line(|line| line["event"] == "pre_stop");
    running.signal(Signal::INT);
    // Long before the minute is over.
    assert!(running.wait_for_exit().success());
    assert_eq!(read_to_close(&mut held).1, Close::Reset);
    running.wait_for_line(|line| line["reason"] == "killed");
}

#[test]
fn what_outlives_the_deadline_is_drained() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("timeouts: { drain: 1s, pre_stop: 200ms }");
    let mut running = Running::start(&lb.config());
    let hello = hello("a.test");
    let mut held = send(running.address(), &hello);
    held.read_exact(&mut vec![0; hello.len()]).unwrap();
    let asked = Instant::now();
    running.signal(Signal::TERM);
    assert!(running.wait_for_exit().success());
    assert!(asked.elapsed() >= Duration::from_millis(1150), "{:?}", asked.elapsed());
    assert_eq!(read_to_close(&mut held).1, Close::Reset);
    running.wait_for_line(|line| line["reason"] == "drained");
}

/// Reading a large file takes a while, in which the end may be asked for.
#[test]
fn the_end_may_be_asked_for_inside_a_reload() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("log: { connections: off }");
    let mut running = Running::start(&lb.config());
    let many: String = (0..20_000).map(|number| format!("  - {{ sni: n{number}.test, pool: pool-0 }}\n")).collect();
    let large = lb.config().replace("routes:\n", &format!("routes:\n{many}")).replace("name: https", "name: other");
    let mut held = send(running.address(), &hello("a.test"));
    held.read_exact(&mut [0; 6]).unwrap();
    fs::write(running.config_file(), large).unwrap();
    running.signal(Signal::HUP);
    running.signal(Signal::TERM);
    running.wait_for_line(|line| line["event"] == "draining");
    drop(held);
    assert!(running.wait_for_exit().success());
    let renamed = |line: &serde_json::Value| line["event"] == "listener_renamed";
    assert!(!running.log().iter().any(renamed), "a reload went on into the drain");
}

/// Nobody who is connected when the end begins is lost; who comes later is refused, never cut.
#[test]
fn under_churn_it_ends_without_a_cut() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("timeouts: { drain: 20s }\nlog: { connections: failed }");
    let mut running = Running::start(&lb.config());
    let churn = Churn::at(running.address());
    churn.go_on_for(50);
    running.signal(Signal::TERM);
    assert!(running.wait_for_exit().success());
    let cut: Vec<String> = churn.lost().into_iter().filter(|lost| !lost.contains("refused")).collect();
    assert!(cut.is_empty(), "{cut:?}");
}
