//! Everything at once, at random: the accounts must still be exact, and nothing may be left behind or run hot.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::bytes::{hello, noise, padded};
use crate::dice::Dice;
use crate::harness::recorder::ClosedPort;
use crate::harness::{DEADLINE, Lb, Reload};
use crate::namespace;
use crate::trial::{Trial, soak_minutes, soaking};
use crate::wire::{abort, connect, fill, reset, send};

/// `SNIGATE_SOAK=1` churns for ten minutes, or for `SNIGATE_SOAK_MINUTES`; `SNIGATE_SEED` repeats one run's choices.
///
/// After each minute (each second of the short form) all must be as it was before the first client.
#[test]
fn a_mix_of_faults_leaves_exact_accounts() {
    namespace::run_test("true", "churn::a_mix_of_faults");
}

#[test]
#[ignore = "for the test above, which runs it in a namespace of its own"]
fn a_mix_of_faults() {
    let (seed, length) = (Dice::seed(), soak_minutes(10));
    let round = if soaking() { Duration::from_secs(60) } else { length / 3 };
    println!("SNIGATE_SEED={seed}");
    let (echo, closed) = (Backend::echoing(), ClosedPort::new());
    let abrupt = Backend::that(|mut stream| {
        let _ = stream.read(&mut [0; 100]);
        let _ = stream.write_all(&[1; 50_000]);
        reset(stream);
    });
    let config = |turn: u32| {
        let lb = Lb::new().route("echo.test", [echo.address, closed.address]).route("abrupt.test", &abrupt);
        let lb = if turn.is_multiple_of(2) { lb } else { lb.route("sometimes.test", &echo) };
        let lb = lb.route("closed.test", closed.address).not_tls(&echo);
        lb.with("timeouts: { hello: 500ms, idle: 2s, half_closed: 500ms }\nlog: { connections: off }")
    };
    let lb = Trial::of(config(0));
    let mut dice: Vec<_> = (0..6).map(|thread| Dice::new(seed, thread)).collect();
    let (mut turn, mut resident) = (0, vec![]);
    for _ in 0..length.div_duration_f64(round).round() as u32 {
        let started = Instant::now();
        thread::scope(|scope| {
            for dice in &mut dice {
                let address = lb.address();
                scope.spawn(move || {
                    while started.elapsed() < round {
                        misbehave(address, dice);
                    }
                });
            }
            while started.elapsed() < round {
                turn += 1;
                assert_eq!(lb.edit(&config(turn).config()), Reload::Applied);
                thread::sleep(Duration::from_millis(if soaking() { 3000 } else { 300 }));
            }
        });
        lb.settle();
        resident.push(lb.resident_bytes());
    }
    let accepted = lb.metric("connections_accepted_total", &[]);
    assert!(accepted > 100.0, "{accepted} connections");
    assert_eq!(lb.closed("panic"), 0.0);
    let steady = &resident[resident.len() / 6..];
    println!("{accepted} connections; resident after each round: {resident:?}");
    let grown = steady[steady.len() - 1].saturating_sub(steady[0]);
    assert!(grown < 24 << 20, "{grown} bytes more than after a sixth of the time");
    // Over a shorter time it is the noise of single pages that is measured.
    if resident.len() >= 60 {
        let slope = slope(steady) * 60.0 / f64::from(1 << 20);
        println!("it grows by {slope:.3} MiB an hour");
        assert!(slope < 1.0, "it grows by {slope:.3} MiB an hour");
    }
    lb.end();
}

/// By how much the values grow from one to the next: the least squares line through them.
fn slope(values: &[u64]) -> f64 {
    let mean_at = (values.len() - 1) as f64 / 2.0;
    let mean = values.iter().sum::<u64>() as f64 / values.len() as f64;
    let deviations = || values.iter().enumerate().map(|(at, value)| (at as f64 - mean_at, *value as f64 - mean));
    let spread: f64 = deviations().map(|(at, _)| at * at).sum();
    if spread == 0.0 { 0.0 } else { deviations().map(|(at, value)| at * value).sum::<f64>() / spread }
}

fn misbehave(to: SocketAddr, dice: &mut Dice) {
    let names = ["echo.test", "abrupt.test", "sometimes.test", "closed.test", "nowhere.test", "in valid"];
    let mut bytes = match dice.of(12) {
        0 => noise(1 + dice.of(2000)),
        1 => padded("echo.test", 2000 + dice.of(63_000)),
        _ => hello(names[dice.of(names.len())]),
    };
    match dice.of(8) {
        0 => bytes.truncate(dice.of(bytes.len())),
        1 => {
            let at = dice.of(bytes.len());
            bytes[at] = bytes[at].wrapping_add(1);
        }
        2 | 3 => bytes.extend(noise(dice.of(300_000))),
        _ => {}
    }
    let mut client = connect(to);
    client.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    client.set_write_timeout(Some(Duration::from_millis(700))).unwrap();
    let (begin, rest) = bytes.split_at(dice.of(bytes.len() + 1));
    let sent = client.write_all(begin).and_then(|()| client.write_all(rest));
    if sent.is_ok() && dice.of(2) == 0 {
        let _ = client.read(&mut vec![0; 1 + dice.of(100_000)]);
    }
    match dice.of(6) {
        0 => abort(&client),
        1 => reset(client),
        2 | 3 => {
            let _ = client.shutdown(Shutdown::Write);
            let _ = client.read_to_end(&mut Vec::new());
        }
        4 => drop(client.read_to_end(&mut Vec::new())),
        _ => drop(client),
    }
}

/// In none of its states may a relay ask to be polled again and again.
#[test]
fn no_state_of_a_relay_runs_hot() {
    let (backend, streams) = Backend::handing_over();
    let lb = Trial::of(Lb::new().route("a.test", &backend).with("timeouts: { half_closed: 1m }"));
    let pair = || (send(lb.address(), &hello("a.test")), streams.recv_timeout(DEADLINE).unwrap());
    let idle = pair();
    let after_bulk = pair();
    (&after_bulk.1).write_all(&noise(1 << 20)).unwrap();
    (&after_bulk.0).read_exact(&mut vec![0; 1 << 20]).unwrap();
    let client_closed = pair();
    client_closed.0.shutdown(Shutdown::Write).unwrap();
    let backend_closed = pair();
    backend_closed.1.shutdown(Shutdown::Write).unwrap();
    let stalled = pair();
    fill(&stalled.0);
    fill(&stalled.1);
    let stalled_and_closed = pair();
    fill(&stalled_and_closed.0);
    stalled_and_closed.0.shutdown(Shutdown::Write).unwrap();
    let stalled_and_reset = pair();
    fill(&stalled_and_reset.0);
    abort(&stalled_and_reset.0);
    // Refused, and neither reading nor closing.
    let refused = send(lb.address(), &hello("nowhere.test"));
    let (cpu, length) = (lb.cpu(), Duration::from_millis(700));
    thread::sleep(length);
    let cpu = lb.cpu().saturating_sub(cpu);
    assert!(cpu < length / 4, "{cpu:?} of CPU in {length:?} of silence");
    drop(refused);
    for (client, behind) in
        [idle, after_bulk, client_closed, backend_closed, stalled, stalled_and_closed, stalled_and_reset]
    {
        reset(client);
        reset(behind);
    }
    lb.wait_for_metric("connections_closed_total", &[], 8.0);
    lb.end();
}
