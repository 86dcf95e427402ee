//! Keys change and strangers send garbage while others connect.

use std::fs;
use std::io::Read;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use snigate::internals::ech::Key;

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello};
use crate::harness::{Lb, poll};
use crate::routing::{Fleet, add_key};
use crate::sealing::{Client, INNER, PUBLIC, encoded, outer_with, u16_prefixed, usual};
use crate::wire::send;

/// Sends a hello, and returns whether it was answered like TLS.
fn is_answered(address: std::net::SocketAddr, wire: &[u8]) -> bool {
    let mut client = send(address, wire);
    let mut answer = vec![0; SERVER_HELLO.len()];
    let is_answered = client.read_exact(&mut answer).is_ok() && answer == SERVER_HELLO;
    let _ = client.shutdown(Shutdown::Write);
    let _ = client.read_to_end(&mut answer);
    is_answered
}

#[test]
fn keys_are_changed_under_load_without_a_lost_connection() {
    let backend = Backend::answering(SERVER_HELLO);
    // A hello that is not opened has no route.
    let fleet = Fleet::start(&Lb::new().route(INNER, &backend), "");
    let in_use: Mutex<Arc<Key>> = Mutex::new(Arc::clone(&fleet.key));
    let (stop, asked, answered) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let more = |count: usize| {
        let wanted = answered.load(SeqCst) + count;
        poll(|| match answered.load(SeqCst) {
            enough if enough >= wanted => Ok(()),
            so_far => Err(format!("{so_far} of {wanted}")),
        })
        .expect("they go on");
    };
    let changed = |change: &dyn Fn()| {
        let seen = fleet.lb.lines().len();
        change();
        fleet.lb.wait_for_reload_after(seen);
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let key = Arc::clone(&in_use.lock().expect("held for a moment"));
                    asked.fetch_add(1, SeqCst);
                    if is_answered(fleet.lb.address(), &Client::of(&key).seal(&encoded(&usual()))) {
                        answered.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        let mut old = "1.pem".to_owned();
        for number in 2..5_u8 {
            more(20);
            let new = format!("{number}.pem");
            let mut key = None;
            changed(&|| drop(add_key(&fleet.directory, &new, 7 + number)));
            let pem = fs::read(fleet.directory.path().join(&new)).expect("read");
            key.get_or_insert_with(|| {
                snigate::internals::ech::read_key_file(&new, &pem).expect("usable").keys.remove(0)
            });
            *in_use.lock().expect("held for a moment") = key.expect("just read");
            // Those that have taken the old key are through.
            more(20);
            let wait = asked.load(SeqCst);
            poll(|| if asked.load(SeqCst) >= wait + 8 { Ok(()) } else { Err("they go on") }).expect("new ones begin");
            changed(&|| fs::remove_file(fleet.directory.path().join(&old)).expect("removed"));
            old = new;
        }
        more(20);
        stop.store(true, SeqCst);
    });
    let total = asked.load(SeqCst);
    assert_eq!(answered.load(SeqCst), total);
    assert_eq!((fleet.counted("accepted"), fleet.counted("not_for_us")), (total as f64, 0.0));
    fleet.lb.stop();
}

/// Each costs an open and no more, and nobody else waits for it.
#[test]
fn hellos_that_no_key_opens_do_not_hold_up_others() {
    let backend = Backend::answering(SERVER_HELLO);
    let fleet = Fleet::start(&Lb::new().route(PUBLIC, &backend), "");
    let content = [&[0, 0, 1, 0, 1, 7][..], &u16_prefixed(&[9; 32]), &u16_prefixed(&[5; 200])].concat();
    let garbage = outer_with(&content);
    let stop = AtomicBool::new(false);
    let slowest = thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    assert!(is_answered(fleet.lb.address(), &garbage));
                }
            });
        }
        poll(|| if fleet.counted("not_for_us") >= 50.0 { Ok(()) } else { Err("they begin") }).expect("garbage");
        let times = (0..50).map(|_| {
            let began = Instant::now();
            assert!(is_answered(fleet.lb.address(), &hello(PUBLIC)));
            began.elapsed()
        });
        let slowest = times.max().expect("fifty");
        stop.store(true, SeqCst);
        slowest
    });
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert_eq!((fleet.counted("accepted"), fleet.counted("illegal")), (0.0, 0.0));
    fleet.lb.stop();
}

/// A client beyond its rate costs no open.
#[test]
fn the_rate_of_a_client_is_checked_before_its_hello_is_opened() {
    let backend = Backend::answering(SERVER_HELLO);
    let limits = "limits: { per_client: { rate: 1/m, burst: 2 } }";
    let fleet = Fleet::start(&Lb::new().route(INNER, &backend).with(limits), "");
    let sealed = Client::of(&fleet.key).seal(&encoded(&usual()));
    let answered = (0..6).filter(|_| is_refused_or_answered(&fleet, &sealed)).count();
    assert_eq!(answered as f64, fleet.counted("accepted"));
    assert!((1..6).contains(&answered), "{answered}");
    assert_eq!(fleet.lb.metric("ech_open_seconds_count", &[]), answered as f64);
    fleet.lb.stop();
}

fn is_refused_or_answered(fleet: &Fleet, wire: &[u8]) -> bool {
    use std::io::Write;
    let Ok(mut client) = std::net::TcpStream::connect(fleet.lb.address()) else { return false };
    let mut answer = vec![0; SERVER_HELLO.len()];
    let is_answered = client.write_all(wire).is_ok() && client.read_exact(&mut answer).is_ok();
    let _ = client.shutdown(Shutdown::Write);
    is_answered && answer == SERVER_HELLO
}
