//! One hello, cut, split, blown up or lying: it reaches the backend of its name, or none.

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::bytes::{DECODE_ERROR, RECORD_OVERFLOW, alert, hello, message, noise, padded, records, usual};
use crate::harness::{DEADLINE, Lb};
use crate::trial::Trial;
use crate::wire::{Close, ask, connect, read_to_close, wait_until_sent};

#[test]
fn a_hello_cut_at_any_byte_reaches_the_backend_of_its_name() {
    let (backend, arrivals) = Backend::recording();
    let lb = Trial::of(Lb::new().route("cut.test", &backend));
    let hello = hello("cut.test");
    for at in (1..hello.len()).step_by(3) {
        let mut client = connect(lb.address());
        client.write_all(&hello[..at]).unwrap();
        wait_until_sent(&client);
        client.write_all(&hello[at..]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(arrivals.recv_timeout(DEADLINE).unwrap(), hello, "cut at {at}");
        assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
    }
    lb.wait_for_closed("ok", backend.contacts() as f64);
    lb.end();
}

#[test]
fn a_hello_in_records_of_any_size_reaches_the_backend_of_its_name() {
    let (backend, arrivals) = Backend::recording();
    let lb = Trial::of(Lb::new().route("split.test", &backend));
    for fragment_bytes in [1, 2, 4, 16, 100] {
        let hello = records(&message(&usual("split.test")), fragment_bytes);
        let mut client = connect(lb.address());
        // The framing of a record apart from its fragment, and fragments apart from each other.
        for piece in hello.chunks(3) {
            client.write_all(piece).unwrap();
        }
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(arrivals.recv_timeout(DEADLINE).unwrap(), hello, "records of {fragment_bytes}");
        drop(client);
    }
    let line = lb.wait_for_line(|line| line["hello_records"].as_u64() > Some(100));
    assert_eq!(line["sni"], "split.test", "{line}");
    lb.end();
}

#[test]
fn large_hellos_are_routed_up_to_the_cap_and_no_further() {
    let (backend, arrivals) = Backend::recording();
    let lb = Trial::of(Lb::new().route("*", &backend).unmatched(&backend));
    let cap = 64 << 10;
    for bytes in [1800, 17_000, 40_000, 60_000, cap] {
        let hello = padded("large.test", bytes);
        let mut client = connect(lb.address());
        client.write_all(&hello).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(arrivals.recv_timeout(DEADLINE).unwrap() == hello, "{bytes} bytes");
        assert_eq!(read_to_close(&mut client), (vec![], Close::Fin), "{bytes} bytes");
    }
    let contacts = backend.contacts();
    let started = Instant::now();
    assert_eq!(ask(lb.address(), &padded("large.test", cap + 1)), (alert(RECORD_OVERFLOW), Close::Fin));
    // Its beginning is enough: the message says how long it will be.
    assert_eq!(ask(lb.address(), &padded("large.test", cap + 1)[..100]), (alert(RECORD_OVERFLOW), Close::Fin));
    assert!(started.elapsed() < HELLO_TIMEOUT / 2, "{:?}", started.elapsed());
    lb.wait_for_closed("hello_too_large", 2.0);
    assert_eq!(backend.contacts(), contacts);
    lb.end();
}

#[test]
fn a_hello_in_too_many_records_is_too_large() {
    let backend = Backend::answering(b"never");
    let lb = Trial::of(Lb::new().route("*", &backend).unmatched(&backend));
    let hello = records(&message(&[usual("many.test"), crate::bytes::extension(21, &[0; 5000])].concat()), 1);
    let (answer, _) = ask(lb.address(), &hello);
    assert_eq!(answer, alert(RECORD_OVERFLOW));
    lb.wait_for_closed("hello_too_large", 1.0);
    assert_eq!(backend.contacts(), 0);
    lb.end();
}

/// Where the lengths of [`hello`] stand, and how wide they are.
const LENGTHS: [(&str, usize, usize); 11] = [
    ("record", 3, 2),
    ("message", 6, 3),
    ("session id", 43, 1),
    ("cipher suites", 48, 2),
    ("compression", 54, 1),
    ("extensions", 56, 2),
    ("the server_name extension", 60, 2),
    ("the server name list", 62, 2),
    ("the server name", 65, 2),
    // After "lie.test".
    ("the ALPN extension", 77, 2),
    ("the protocol list", 79, 2),
];

#[test]
fn a_length_that_lies_is_refused_at_once_and_never_by_default_routed() {
    let backend = Backend::answering(b"never");
    let everywhere = Lb::new().route("*", &backend).unmatched(&backend).no_sni(&backend).not_tls(&backend);
    let lb = Trial::of(everywhere);
    let honest = hello("lie.test");
    let started = Instant::now();
    let mut reported = 0;
    for (name, at, width) in LENGTHS {
        let value = honest[at..at + width].iter().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
        let most = u32::MAX >> (32 - 8 * width);
        for lie in [value - 1, value + 1, 0, most] {
            let mut hello = honest.clone();
            hello[at..at + width].copy_from_slice(&lie.to_be_bytes()[4 - width..]);
            let (answer, close) = ask(lb.address(), &hello);
            let known = [alert(DECODE_ERROR), alert(crate::bytes::ILLEGAL_PARAMETER), alert(RECORD_OVERFLOW)];
            assert!(known.contains(&answer) && close == Close::Fin, "{name} says {lie}: {answer:?} {close:?}");
            reported += 1;
        }
    }
    assert!(started.elapsed() < HELLO_TIMEOUT, "{:?}", started.elapsed());
    let closed = |reason| lb.closed(reason);
    lb.wait_for_metric("connections_closed_total", &[], f64::from(reported));
    assert_eq!(closed("bad_hello") + closed("invalid_sni") + closed("hello_too_large"), f64::from(reported));
    assert_eq!(backend.contacts(), 0);
    lb.end();
}

#[test]
fn what_comes_with_the_hello_arrives_once_and_in_order() {
    let (backend, arrivals) = Backend::recording();
    let lb = Trial::of(Lb::new().route("early.test", &backend));
    for extra in [1, 100, 16 << 10, 64 << 10, 3 << 20] {
        let sent = [hello("early.test"), noise(extra)].concat();
        let mut client = connect(lb.address());
        client.write_all(&sent).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let came = arrivals.recv_timeout(DEADLINE).unwrap();
        assert!(came == sent, "{extra} bytes behind the hello: {} of {} came", came.len(), sent.len());
        let line = lb.wait_for_line(|line| line["bytes_to_backend"] == sent.len());
        assert_eq!(line["reason"], "ok", "{line}");
    }
    lb.end();
}

/// The default of `timeouts.hello`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
