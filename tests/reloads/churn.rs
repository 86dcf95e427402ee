//! Reloads while clients come and go, and while some stay: none of them may notice.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::bytes::{hello, noise};
use crate::harness::{Lb, Reload};
use crate::trial::Trial;
use crate::wire::{connect, send};

struct Plan {
    /// Half of them of a file that cannot be used.
    reloads: usize,
    /// Connections that last through all of it.
    flows: usize,
    /// At least so many short ones, evenly over the reloads.
    connections: usize,
    /// How much memory may be gained by one reload, on average.
    most_growth_bytes: u64,
}

#[test]
fn reloads_under_churn_cost_no_connection() {
    // What is allocated once and for all weighs more the fewer reloads there are.
    churn(&Plan { reloads: 24, flows: 10, connections: 1_500, most_growth_bytes: 512 << 10 });
}

/// The long form: `cargo test --release --test reloads -- --ignored --nocapture soak`, a minute or two.
#[test]
#[ignore = "takes minutes; see docs/performance.md"]
fn soak_of_two_hundred_reloads() {
    churn(&Plan { reloads: 200, flows: 50, connections: 100_000, most_growth_bytes: 16 << 10 });
}

fn churn(plan: &Plan) {
    let backend = Backend::echoing();
    // Names that come and go, and come back: their series are counted on.
    let with = |turn: usize| {
        let lb = Lb::new().route("a.test", &backend).route("b.test", &backend);
        lb.route(&format!("turn-{}.test", turn.div_ceil(2) % 2), &backend).with("log: { connections: failed }").config()
    };
    let lb = Trial::with(&with(0));
    let (over, churned, failed) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let (began, mut growth) = (Instant::now(), None);
    let kept = thread::scope(|scope| {
        let (lb, over, churned, failed) = (&lb, &over, &churned, &failed);
        let flows: Vec<_> = (0..plan.flows).map(|flow| scope.spawn(move || long_flow(lb, flow, over))).collect();
        for _ in 0..3 {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    match short_flow(lb) {
                        Ok(()) => _ = churned.fetch_add(1, Ordering::Relaxed),
                        Err(error) => failed.lock().unwrap().push(error),
                    }
                }
            });
        }
        // Ends the others also when a reload disappoints.
        let stop = Stop(over);
        for turn in 1..=plan.reloads {
            while churned.load(Ordering::Relaxed) < turn * plan.connections / plan.reloads {
                thread::sleep(Duration::from_millis(1));
            }
            let outcome = if turn % 2 == 0 { lb.edit("routes: [") } else { lb.edit(&with(turn)) };
            assert_eq!(outcome, if turn % 2 == 0 { Reload::Rejected } else { Reload::Applied }, "turn {turn}");
            if turn == plan.reloads / 4 {
                growth = Some(lb.resident_bytes());
            }
        }
        drop(stop);
        flows.into_iter().map(|flow| flow.join().unwrap()).filter(|rounds| *rounds > 0).count()
    });
    let took = began.elapsed();
    let grown = lb.resident_bytes().saturating_sub(growth.unwrap()) / (plan.reloads as u64 * 3 / 4);
    let failed = failed.into_inner().unwrap();
    println!(
        "{} reloads, {} connections, {} failed, {kept} of {} flows kept, {grown} bytes gained a reload, {took:.1?}",
        plan.reloads,
        churned.into_inner(),
        failed.len(),
        plan.flows,
    );
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(kept, plan.flows);
    assert!(grown <= plan.most_growth_bytes, "{grown} bytes are gained by each reload");
    assert_eq!(lb.metric("config_reloads_total", &[("result", "applied")]), 1.0 + (plan.reloads / 2) as f64);
    lb.end();
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One connection, whose every byte must come back.
fn short_flow(lb: &Trial) -> Result<(), String> {
    let hello = hello("b.test");
    let mut client = send(lb.address(), &hello);
    client.shutdown(Shutdown::Write).map_err(|error| error.to_string())?;
    let mut back = Vec::new();
    client.read_to_end(&mut back).map_err(|error| error.to_string())?;
    if back == hello { Ok(()) } else { Err(format!("{} bytes came back of {}", back.len(), hello.len())) }
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
        thread::sleep(Duration::from_millis(20));
    }
    rounds
}
