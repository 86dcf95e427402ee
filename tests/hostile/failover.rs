//! Backends that take a hello and do not do what a backend should: the client is served by another.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::backend::Backend;
use crate::bytes::{INTERNAL_ERROR, REFUSED_OFFER, SERVER_HELLO, hello};
use crate::harness::{DEADLINE, Lb};
use crate::trial::Trial;
use crate::wire::{self, Close, ask, read_to_close, send};

/// Takes the hello, then does what is asked of it.
fn after_the_hello(then: impl Fn(TcpStream) + Send + Sync + 'static) -> Backend {
    Backend::that(move |mut stream| {
        if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
            then(stream);
        }
    })
}

/// Says nothing until the other side has enough.
fn hold(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

fn ssh() -> Backend {
    Backend::that(|mut stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n");
        hold(stream);
    })
}

/// A hello of the client with number `client`, in a PROXY header, for a listener with [`PROXIED`].
fn hello_of(client: usize, name: &str) -> Vec<u8> {
    [format!("PROXY TCP4 192.0.2.{client} 192.0.2.250 1000 443\r\n").as_bytes(), &hello(name)].concat()
}

/// So many clients ask one after the other; every one gets the good backend's answer.
#[track_caller]
fn all_are_served(lb: &Trial, connections: usize) {
    for client in 0..connections {
        let mut client = send(lb.address(), &hello_of(client, "a.test"));
        let mut answer = [0; SERVER_HELLO.len()];
        client.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, SERVER_HELLO);
        client.shutdown(Shutdown::Write).unwrap();
        read_to_close(&mut client);
    }
}

const PROXIED: &str = "proxy_protocol: { trusted: [127.0.0.0/8] }";

/// The bad one is asked first, until three clients in a row have met its failure.
#[track_caller]
fn is_passed_over_and_ejected(bad: SocketAddr, result: &str, keys: &str) {
    let good = Backend::answering(SERVER_HELLO);
    let keys = format!("balance: first\nejection: {{ base: 1h, max: 1h }}\n{keys}");
    let lb = Trial::on_listener(PROXIED, Lb::new().route_with("a.test", [bad, good.address], &keys));
    all_are_served(&lb, 6);
    let failed = [("backend", bad.to_string()), ("result", result.to_owned())];
    let failed: Vec<(&str, &str)> = failed.iter().map(|(label, value)| (*label, value.as_str())).collect();
    assert_eq!(lb.metric("backend_connects_total", &failed), 3.0);
    assert_eq!(lb.metric("backend_connects_total", &[("backend", &good.address.to_string()), ("result", "ok")]), 6.0);
    assert_eq!(lb.metric("backend_ejections_total", &[("backend", &bad.to_string())]), 1.0);
    assert_eq!(lb.metric("backend_state", &[("backend", &bad.to_string()), ("state", "ejected")]), 1.0);
    assert_eq!(lb.metric("backend_up", &[("backend", &good.address.to_string())]), 1.0);
    let line = lb.wait_for_connection("a.test");
    assert_eq!((line["attempts"].as_u64(), line["reason"].as_str()), (Some(2), Some("ok")), "{line}");
    assert_eq!(line["backend"].as_str(), Some(&*good.address.to_string()), "{line}");
    lb.end();
}

#[test]
fn one_that_says_nothing_is_passed_over() {
    let bad = after_the_hello(hold);
    is_passed_over_and_ejected(bad.address, "silent", "connect: { first_byte: 200ms }");
}

#[test]
fn one_that_closes_is_passed_over() {
    let bad = after_the_hello(drop);
    is_passed_over_and_ejected(bad.address, "closed", "");
}

#[test]
fn one_that_resets_is_passed_over() {
    let bad = after_the_hello(wire::reset);
    is_passed_over_and_ejected(bad.address, "reset", "");
}

#[test]
fn one_that_speaks_first_is_passed_over() {
    is_passed_over_and_ejected(ssh().address, "not_tls", "");
}

#[test]
fn where_there_is_no_other_the_client_sees_what_the_backend_does() {
    let lb = Lb::new().route("ssh.test", &ssh()).route("close.test", &after_the_hello(drop));
    let lb = Trial::of(lb.route("reset.test", &after_the_hello(wire::reset)));
    let mut client = send(lb.address(), &hello("ssh.test"));
    let mut banner = [0; 21];
    client.read_exact(&mut banner).expect("the banner");
    assert_eq!(&banner, b"SSH-2.0-OpenSSH_9.6\r\n");
    drop(client);
    let mut client = send(lb.address(), &hello("close.test"));
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
    assert_eq!(ask(lb.address(), &hello("reset.test")), (vec![], Close::Reset));
    lb.end();
}

#[test]
fn a_client_that_has_closed_its_side_is_served_all_the_same() {
    let (bad, good) = (after_the_hello(drop), Backend::answering(SERVER_HELLO));
    let lb = Lb::new().route_with("a.test", [bad.address, good.address], "balance: first\nejection: off");
    let lb = Trial::of(lb);
    for _ in 0..5 {
        let mut client = send(lb.address(), &hello("a.test"));
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_close(&mut client), (SERVER_HELLO.to_vec(), Close::Fin));
    }
    lb.end();
}

/// RFC 8446 §8: what is behind the hello may be a request, which must not be made twice.
#[test]
fn early_data_is_never_reported_to_two_backends() {
    let (bad, good) = (after_the_hello(drop), Backend::answering(SERVER_HELLO));
    let keys = "balance: first\nejection: off";
    let lb = Trial::of(Lb::new().route_with("a.test", [bad.address, good.address], keys));
    let early = [hello("a.test"), b"\x17\x03\x03\x00\x04data".to_vec()].concat();
    for _ in 0..5 {
        let mut client = send(lb.address(), &early);
        let _ = client.shutdown(Shutdown::Write);
        assert_eq!(read_to_close(&mut client).0, b"");
    }
    assert_eq!((bad.contacts(), good.contacts()), (5, 0));
    lb.end();
}

#[test]
fn backends_that_are_merely_slow_still_serve() {
    let slow = || {
        Backend::that(|mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            std::thread::sleep(Duration::from_millis(400));
            let _ = stream.write_all(SERVER_HELLO);
            hold(stream);
        })
    };
    let (one, two, three) = (slow(), slow(), slow());
    let keys = "connect: { first_byte: 100ms, total: 150ms, attempts: 3 }\nejection: off";
    let lb = Lb::new().route_with("a.test", [one.address, two.address, three.address], keys);
    let lb = Trial::on_listener(PROXIED, lb);
    all_are_served(&lb, 3);
    lb.end();
}

#[test]
fn a_client_that_goes_away_while_an_answer_is_waited_for_is_the_client_s_doing() {
    let (bad, good) = (after_the_hello(hold), Backend::answering(SERVER_HELLO));
    let keys = "balance: first\nconnect: { first_byte: 1m, total: 2m }";
    let lb = Trial::of(Lb::new().route_with("a.test", [bad.address, good.address], keys));
    for (count, closes_its_side_first) in [(1.0, false), (2.0, true)] {
        let client = send(lb.address(), &hello("a.test"));
        lb.wait_for_metric("connections_active", &[("state", "connecting")], 1.0);
        if closes_its_side_first {
            client.shutdown(Shutdown::Write).unwrap();
            // In the meantime the FIN is seen.
            lb.scrape();
        }
        wire::reset(client);
        // Long before the minute is over.
        lb.wait_for_closed("client_reset", count);
        assert_eq!(lb.metric("backend_connects_total", &[("result", "ok")]), count);
    }
    assert_eq!(good.contacts(), 0);
    lb.end();
}

#[test]
fn alerts_that_blame_the_backend_eject_it_and_others_do_not() {
    let (broken, good) = (Backend::answering(INTERNAL_ERROR), Backend::answering(SERVER_HELLO));
    let picky = Backend::answering(REFUSED_OFFER);
    let keys = "balance: first\nejection: { base: 1h, max: 1h }";
    let lb = Lb::new().route_with("broken.test", [broken.address, good.address], keys);
    let lb = Trial::on_listener(PROXIED, lb.route_with("picky.test", [picky.address, good.address], keys));
    for name in ["broken.test", "picky.test"] {
        for client in 0..8 {
            let mut client = send(lb.address(), &hello_of(client, name));
            client.shutdown(Shutdown::Write).unwrap();
            read_to_close(&mut client);
        }
    }
    assert_eq!((broken.contacts(), picky.contacts()), (3, 8));
    let alerts = |backend: &Backend| {
        lb.metric("backend_first_record_total", &[("backend", &backend.address.to_string()), ("kind", "alert")])
    };
    assert_eq!((alerts(&broken), alerts(&picky)), (3.0, 8.0));
    assert_eq!(lb.metric("backend_first_record_total", &[("kind", "server_hello")]), 5.0);
    lb.end();
}

/// Takes every name but those that begin with `bad`, on which it does what is asked.
fn serves_all_but_bad(then: impl Fn(TcpStream) + Send + Sync + 'static) -> Backend {
    Backend::that(move |mut stream| {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap_or(0);
        if bytes[..count].windows(3).any(|three| three == b"bad") {
            return then(stream);
        }
        let _ = stream.write_all(SERVER_HELLO);
        hold(stream);
    })
}

/// What one client does costs no other client its backend.
#[track_caller]
fn refused_by_all(lb: &Trial, client: usize) {
    let mut stream = send(lb.address(), &hello_of(client, "bad.a.test"));
    let _ = stream.shutdown(Shutdown::Write);
    read_to_close(&mut stream);
}

#[test]
fn one_client_cannot_eject_backends_with_a_name_that_they_do_not_serve() {
    let alert = |mut stream: TcpStream| stream.write_all(INTERNAL_ERROR).unwrap();
    for then in [alert, drop as fn(TcpStream), wire::reset] {
        let backends: [Backend; 3] = std::array::from_fn(|_| serves_all_but_bad(then));
        let addresses = backends.each_ref().map(|backend| backend.address);
        let lb = Trial::on_listener(PROXIED, Lb::new().route("*.a.test", addresses));
        (0..30).for_each(|_| refused_by_all(&lb, 1));
        assert_eq!(lb.metric("backend_ejections_total", &[]), 0.0);
        // Ten failovers at once, a fifth of the connections, and one per second.
        let contacts: usize = backends.iter().map(Backend::contacts).sum();
        assert!((30..=30 + 10 + 6 + 10).contains(&contacts), "{contacts}");
        lb.end();
    }
}

#[test]
fn a_hello_that_every_backend_closes_counts_against_none() {
    let backends: [Backend; 3] = std::array::from_fn(|_| serves_all_but_bad(drop));
    let addresses = backends.each_ref().map(|backend| backend.address);
    let lb = Trial::on_listener(PROXIED, Lb::new().route("*.a.test", addresses));
    (0..5).for_each(|client| refused_by_all(&lb, client));
    assert_eq!(backends.each_ref().map(Backend::contacts), [5; 3]);
    assert_eq!(lb.metric("backend_ejections_total", &[]), 0.0);
    lb.end();
}

#[test]
fn one_that_fails_a_single_client_is_passed_over_and_stays() {
    let (bad, good) = (after_the_hello(drop), Backend::answering(SERVER_HELLO));
    let lb = Lb::new().route_with("a.test", [bad.address, good.address], "balance: first");
    let lb = Trial::on_listener(PROXIED, lb);
    for _ in 0..6 {
        let mut client = send(lb.address(), &hello_of(1, "a.test"));
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_close(&mut client).0, SERVER_HELLO);
    }
    assert_eq!((bad.contacts(), good.contacts()), (6, 6));
    assert_eq!(lb.metric("backend_ejections_total", &[]), 0.0);
    lb.end();
}

/// Two backends: when the second has the hello, the first does what is asked, then the second.
fn one_after_the_other(
    first: impl Fn(TcpStream) + Send + Sync + 'static,
    second: impl Fn(TcpStream) + Send + Sync + 'static,
) -> [Backend; 2] {
    let ((second_has_it, is_asked), (first_is_done, is_done)) = (channel(), channel());
    let (is_asked, is_done) = (Mutex::new(is_asked), Mutex::new(is_done));
    let one = after_the_hello(move |stream| {
        is_asked.lock().unwrap().recv_timeout(DEADLINE).expect("the second backend is asked as well");
        first(stream);
        let _ = first_is_done.send(());
    });
    let two = after_the_hello(move |stream| {
        let _ = second_has_it.send(());
        is_done.lock().unwrap().recv_timeout(DEADLINE).expect("the first backend is done");
        second(stream);
    });
    [one, two]
}

fn answer(stream: TcpStream) {
    let _ = (&stream).write_all(SERVER_HELLO);
    hold(stream);
}

#[test]
fn a_slow_backend_keeps_its_connection_and_the_first_answer_wins() {
    let [slow, unneeded] = one_after_the_other(|mut stream| stream.write_all(SERVER_HELLO).unwrap(), hold);
    let keys = "balance: first\nconnect: { first_byte: 50ms }";
    let lb = Trial::of(Lb::new().route_with("a.test", [slow.address, unneeded.address], keys));
    let mut client = send(lb.address(), &hello("a.test"));
    assert_eq!(read_to_end_of(&mut client), SERVER_HELLO);
    let result = |backend: &Backend, result| {
        lb.metric("backend_connects_total", &[("backend", &backend.address.to_string()), ("result", result)])
    };
    assert_eq!((result(&slow, "ok"), result(&unneeded, "overtaken")), (1.0, 1.0));
    assert_eq!((slow.contacts(), unneeded.contacts()), (1, 1));
    let line = lb.wait_for_connection("a.test");
    assert_eq!((line["attempts"].as_u64(), line["reason"].as_str()), (Some(2), Some("ok")), "{line}");
    assert_eq!(line["backend"].as_str(), Some(&*slow.address.to_string()), "{line}");
    assert!(line["first_byte_ms"].as_f64() >= Some(50.0), "from its own connect: {line}");
    lb.end();
}

/// Reads to the end and closes.
fn read_to_end_of(client: &mut TcpStream) -> Vec<u8> {
    client.shutdown(Shutdown::Write).unwrap();
    read_to_close(client).0
}

#[test]
fn a_slow_backend_that_closes_leaves_the_client_to_the_other() {
    for then in [drop as fn(TcpStream), wire::reset, |mut stream| stream.write_all(b"HTTP/1.1 400\r\n\r\n").unwrap()] {
        let [slow, other] = one_after_the_other(then, answer);
        let keys = "balance: first\nejection: off\nconnect: { first_byte: 50ms }";
        let lb = Trial::of(Lb::new().route_with("a.test", [slow.address, other.address], keys));
        let mut client = send(lb.address(), &hello("a.test"));
        assert_eq!(read_to_end_of(&mut client), SERVER_HELLO);
        assert_eq!(lb.metric("backend_connects_total", &[("result", "ok")]), 1.0);
        lb.end();
    }
}

#[test]
fn a_client_that_goes_away_while_two_backends_are_slow_is_noticed() {
    let slow = [after_the_hello(hold), after_the_hello(hold)];
    let keys = "connect: { first_byte: 50ms }";
    let lb = Trial::of(Lb::new().route_with("a.test", slow.each_ref().map(|backend| backend.address), keys));
    let mut client = send(lb.address(), &hello("a.test"));
    lb.wait_for_metric("backend_connections_active", &[], 2.0);
    // What it sends in the meantime goes to the one that answers.
    client.write_all(b"more").unwrap();
    lb.scrape();
    wire::reset(client);
    lb.wait_for_closed("client_reset", 1.0);
    assert_eq!(lb.metric("backend_ejections_total", &[]), 0.0);
    lb.end();
}

#[test]
fn without_first_byte_only_a_failure_brings_in_another_backend() {
    let slow = after_the_hello(|stream| {
        std::thread::sleep(Duration::from_millis(300));
        answer(stream);
    });
    let (closing, good) = (after_the_hello(drop), Backend::answering(SERVER_HELLO));
    let keys = "balance: first\nejection: off\nconnect: { first_byte: off }";
    let lb = Lb::new().route_with("slow.test", [slow.address, good.address], keys);
    let lb = Trial::of(lb.route_with("closing.test", [closing.address, good.address], keys));
    for (name, asked) in [("slow.test", 0), ("closing.test", 1)] {
        let mut client = send(lb.address(), &hello(name));
        assert_eq!(read_to_end_of(&mut client), SERVER_HELLO);
        assert_eq!(good.contacts(), asked);
    }
    lb.end();
}
