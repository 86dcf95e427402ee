//! Reloads while clients come and go, and while some stay: none of them may notice.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::backend::Backend;
use crate::bytes::{hello, noise};
use crate::harness::{Lb, Reload};
use crate::trial::Trial;
use crate::wire::{connect, send};

#[test]
fn reloads_under_churn_cost_no_connection() {
    let backend = Backend::echoing();
    let with = |turn: usize| {
        let lb = Lb::new().route("a.test", &backend).route("b.test", &backend);
        lb.route(&format!("turn-{turn}.test"), &backend).with("log: { connections: failed }").config()
    };
    let lb = Trial::with(&with(0));
    let (over, failed, churned) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        let flows: Vec<_> = (0..10)
            .map(|flow| {
                scope.spawn({
                    let (lb, over) = (&lb, &over);
                    move || long_flow(lb, flow, over)
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let hello = hello("b.test");
                    let mut client = send(lb.address(), &hello);
                    client.shutdown(Shutdown::Write).unwrap();
                    let mut back = Vec::new();
                    let came = client.read_to_end(&mut back).is_ok() && back == hello;
                    (if came { &churned } else { &failed }).fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for turn in 1..=20 {
            let outcome = if turn % 2 == 0 { lb.edit("routes: [") } else { lb.edit(&with(turn)) };
            assert_eq!(outcome, if turn % 2 == 0 { Reload::Rejected } else { Reload::Applied });
        }
        over.store(true, Ordering::Relaxed);
        for flow in flows {
            assert!(flow.join().unwrap() > 0);
        }
    });
    assert_eq!(failed.into_inner(), 0);
    assert!(churned.into_inner() > 20);
    lb.end();
}

/// Echoes blocks until it is over; how many came back as they went.
fn long_flow(lb: &Trial, flow: usize, over: &AtomicBool) -> usize {
    let hello = hello("a.test");
    let mut client = connect(lb.address());
    client.write_all(&hello).unwrap();
    client.read_exact(&mut vec![0; hello.len()]).unwrap();
    let (block, mut rounds) = (noise(20_000 + 1000 * flow), 0);
    let mut back = vec![0; block.len()];
    while !over.load(Ordering::Relaxed) {
        client.write_all(&block).unwrap();
        client.read_exact(&mut back).unwrap();
        assert!(back == block, "flow {flow}, round {rounds}");
        rounds += 1;
        thread::sleep(Duration::from_millis(5));
    }
    rounds
}
