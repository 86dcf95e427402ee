//! Everything at once, at random: the accounts must still be exact, and nothing may be left behind or run hot.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::bytes::{hello, noise, padded};
use crate::harness::recorder::ClosedPort;
use crate::harness::{DEADLINE, Lb, Reload};
use crate::trial::{Trial, soaking};
use crate::wire::{abort, connect, fill, reset, send};

/// `SNIGATE_SOAK=1` churns for ten minutes; `SNIGATE_SEED` repeats one run's choices.
#[test]
fn a_mix_of_faults_leaves_exact_accounts() {
    let length = Duration::from_secs(if soaking() { 600 } else { 3 });
    let seed = std::env::var("SNIGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 8 | 1);
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
    let started = Instant::now();
    let mut resident = None;
    thread::scope(|scope| {
        for thread in 0..6 {
            let address = lb.address();
            scope.spawn(move || {
                let mut dice = Dice(seed.wrapping_mul(2 * thread + 1));
                while started.elapsed() < length {
                    misbehave(address, &mut dice);
                }
            });
        }
        let mut turn = 0;
        while started.elapsed() < length {
            turn += 1;
            assert_eq!(lb.edit(&config(turn).config()), Reload::Applied);
            thread::sleep(Duration::from_millis(if soaking() { 3000 } else { 300 }));
            if resident.is_none() && started.elapsed() > length / 5 {
                resident = Some(lb.resident_bytes());
            }
        }
    });
    let accepted = lb.metric("connections_accepted_total", &[]);
    assert!(accepted > 100.0, "{accepted} connections");
    assert_eq!(lb.closed("panic"), 0.0);
    lb.settle();
    let grown = lb.resident_bytes().saturating_sub(resident.unwrap_or_default());
    assert!(grown < 24 << 20, "{grown} bytes more than after a fifth of the time");
    println!("{accepted} connections; {} KiB grown", grown >> 10);
    lb.end();
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

/// xorshift64: enough to choose by, and to choose the same again.
struct Dice(u64);

impl Dice {
    fn of(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}
