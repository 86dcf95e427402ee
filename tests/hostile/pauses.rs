//! Ends that pause for longer than `tcp.user_timeout`, and ends that vanish: the first live, the second are found.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{SockFilter, SockRef};

use crate::backend::Backend;
use crate::bytes::{hello, noise};
use crate::harness::{DEADLINE, Lb};
use crate::trial::Trial;
use crate::wire::{Close, fill, read_to_close, send};

const USER_TIMEOUT: Duration = Duration::from_secs(1);
/// The kernel itself would give up at the first probe after [`USER_TIMEOUT`].
const PAUSE: Duration = Duration::from_millis(4500);
/// More than the kernel holds on the way.
const MUCH: usize = 24 << 20;

#[test]
fn an_end_that_pauses_and_answers_probes_gets_every_byte() {
    let data = &*noise(MUCH);
    thread::scope(|scope| {
        for engine in ["auto", "off"] {
            scope.spawn(move || {
                let (lb, streams) = lb(engine);
                let (mut client, behind) = pair(&lb, &streams);
                let (other_client, mut other_behind) = pair(&lb, &streams);
                for mut sender in [behind, other_client] {
                    sender.set_write_timeout(None).unwrap();
                    scope.spawn(move || sender.write_all(data).unwrap());
                }
                thread::sleep(PAUSE);
                for paused in [&mut client, &mut other_behind] {
                    paused.shutdown(Shutdown::Write).unwrap();
                    let (came, close) = read_to_close(paused);
                    assert!(came == data && close == Close::Fin, "{engine}: {} bytes, {close:?}", came.len());
                }
                lb.wait_for_closed("ok", 1.0);
                // The backend that was sent everything has not answered.
                lb.wait_for_closed("no_answer", 1.0);
                lb.end();
            });
        }
    });
}

#[test]
fn an_end_that_vanishes_is_found_in_time() {
    thread::scope(|scope| {
        for engine in ["auto", "off"] {
            scope.spawn(move || {
                let (lb, streams) = lb(engine);
                let started = Instant::now();
                // Both in the middle of a pause, when only probes are left to go unanswered, and without one.
                for paused in [true, false] {
                    for client_vanishes in [true, false] {
                        let (client, behind) = pair(&lb, &streams);
                        let (gone, mut other) = if client_vanishes { (client, behind) } else { (behind, client) };
                        if paused {
                            fill(&other);
                        }
                        vanish(&gone);
                        other.write_all(b"are you there?").unwrap_or_default();
                        thread::spawn(move || (read_to_close(&mut other), gone));
                    }
                }
                lb.wait_for_closed("peer_dead", 4.0);
                assert!(started.elapsed() < 8 * USER_TIMEOUT, "{engine}: {:?}", started.elapsed());
                lb.end();
            });
        }
    });
}

/// One whose earlier messages were answered, and one that says nothing for long: neither is taken for dead.
#[test]
fn an_end_that_answers_now_and_then_lives() {
    let (lb, streams) = lb("auto");
    let (mut client, mut behind) = pair(&lb, &streams);
    for pause in [0, 100, 1500, 300, 1100] {
        thread::sleep(Duration::from_millis(pause));
        behind.write_all(b"there?").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
    }
    drop(client);
    drop(behind);
    lb.wait_for_closed("ok", 1.0);
    lb.end();
}

fn lb(engine: &str) -> (Trial, Receiver<TcpStream>) {
    let (backend, streams) = Backend::handing_over();
    let keys = format!("tcp: {{ user_timeout: {}s }}\nrelay: {{ splice: {engine} }}", USER_TIMEOUT.as_secs());
    (Trial::of(Lb::new().route("a.test", &backend).with(&keys)), streams)
}

/// Both ends of a connection whose hello has arrived.
fn pair(lb: &Trial, streams: &Receiver<TcpStream>) -> (TcpStream, TcpStream) {
    let client = send(lb.address(), &hello("a.test"));
    let mut behind = streams.recv_timeout(DEADLINE).unwrap();
    behind.read_exact(&mut vec![0; hello("a.test").len()]).unwrap();
    (client, behind)
}

/// Loses every segment that arrives from now on, as a cable that is cut does.
fn vanish(stream: &TcpStream) {
    SockRef::from(stream).attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).unwrap();
}
