//! A HelloRetryRequest is no way around the routing: the hello that follows keeps the name and ALPN of the first.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use crate::backend::Backend;
use crate::bytes::{
    DECODE_ERROR, HELLO_RETRY, ILLEGAL_PARAMETER, MOST_IN_RECORD, SERVER_HELLO, alert, alpn, groups, hello, message,
    records, server_name, versions,
};
use crate::harness::{DEADLINE, Lb};
use crate::trial::Trial;
use crate::wire::{Close, read_to_close, send};

const CHANGE_CIPHER_SPEC: &[u8] = &[20, 3, 3, 0, 1, 1];

/// Asks for another hello, and hands over what came after the first, once that is the end.
fn retrying() -> (Backend, Receiver<Vec<u8>>) {
    let (to, arrivals) = channel();
    let backend = Backend::that(move |mut stream| {
        let mut first = vec![0; hello("a.test").len()];
        if stream.read_exact(&mut first).is_ok() {
            stream.write_all(HELLO_RETRY).unwrap();
            let mut second = Vec::new();
            let _ = stream.read_to_end(&mut second);
            let _ = to.send(second);
        }
    });
    (backend, arrivals)
}

fn asked_again(lb: &Trial) -> TcpStream {
    let mut client = send(lb.address(), &hello("a.test"));
    let mut answer = vec![0; HELLO_RETRY.len()];
    client.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, HELLO_RETRY);
    client
}

/// One backend, for which the relay hears the answer, and two, for which connect does.
fn trials() -> [(Trial, Receiver<Vec<u8>>); 2] {
    let ((alone, from_it), (first, from_first)) = (retrying(), retrying());
    let spare = Backend::answering(SERVER_HELLO);
    let both = Lb::new().route_with("a.test", [first.address, spare.address], "balance: first");
    [(Trial::of(Lb::new().route("a.test", &alone)), from_it), (Trial::of(both), from_first)]
}

fn with_alpn(protocols: &[&str]) -> Vec<u8> {
    let extensions = [server_name(b"a.test"), alpn(protocols), groups(), versions()].concat();
    records(&message(&extensions), MOST_IN_RECORD)
}

#[test]
fn one_with_another_name_or_alpn_is_refused_and_reaches_no_backend() {
    let nameless = records(&message(&versions()), MOST_IN_RECORD);
    let early_data = [&[23, 3, 3, 0, 4][..], b"\x16\x03\x01\0"].concat();
    let table = [
        hello("b.test"),
        [CHANGE_CIPHER_SPEC, &hello("b.test")].concat(),
        [&early_data[..], CHANGE_CIPHER_SPEC, &hello("b.test")].concat(),
        records(&message(&crate::bytes::usual("b.test")), 9),
        nameless,
        with_alpn(&["http/1.1"]),
        with_alpn(&["h2", "http/1.1", "acme-tls/1"]),
        records(&message(&[server_name(b"a.test"), groups(), versions()].concat()), MOST_IN_RECORD),
    ];
    for (lb, arrivals) in trials() {
        for (count, second) in (1..).zip(&table) {
            let mut client = asked_again(&lb);
            client.write_all(second).unwrap();
            assert_eq!(read_to_close(&mut client), (alert(ILLEGAL_PARAMETER), Close::Fin));
            drop(client);
            lb.wait_for_closed("name_changed", f64::from(count));
            let reached = arrivals.recv_timeout(DEADLINE).unwrap();
            assert!(second.starts_with(&reached) && !reached.contains(&22), "{}", reached.escape_ascii());
        }
        let line = lb.wait_for_connection("a.test");
        assert_eq!(line["reason"], "name_changed", "{line}");
        lb.end();
    }
}

#[test]
fn one_with_the_same_name_is_passed_on_as_it_is_wherever_it_is_cut() {
    for (lb, arrivals) in trials() {
        let second = [CHANGE_CIPHER_SPEC, &records(&message(&crate::bytes::usual("A.test")), 100)].concat();
        let all = [&second[..], CHANGE_CIPHER_SPEC, b"\x17\x03\x03\0\x02xy", &[22, 3, 3, 0, 1, 16]].concat();
        for cut in [1, 4, 5, 6, 8, 11, 12, 60, second.len() - 1, second.len(), all.len() - 1] {
            let mut client = asked_again(&lb);
            client.set_nodelay(true).unwrap();
            client.write_all(&all[..cut]).unwrap();
            crate::wire::wait_until_sent(&client);
            client.write_all(&all[cut..]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(arrivals.recv_timeout(DEADLINE).unwrap(), all, "{cut}");
            assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
        }
        lb.end();
    }
}

#[test]
fn a_malformed_one_is_refused_as_the_first_would_be() {
    let [(lb, _), _] = trials();
    let mut client = asked_again(&lb);
    let mut broken = hello("a.test");
    broken[43] = 33;
    client.write_all(&broken).unwrap();
    assert_eq!(read_to_close(&mut client), (alert(DECODE_ERROR), Close::Fin));
    drop(client);
    lb.wait_for_closed("bad_hello", 1.0);
    lb.end();
}

/// A client that knows what the backend will ask need not wait for it.
#[test]
fn one_that_does_not_wait_to_be_asked_is_read_too() {
    let (backend, arrivals) = Backend::handing_over();
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    let early_data = b"\x17\x03\x03\0\x05early";
    // In one write with the first, the backend is not even contacted.
    let mut client = send(lb.address(), &[&hello("a.test")[..], early_data, &hello("b.test")].concat());
    assert_eq!(read_to_close(&mut client), (alert(ILLEGAL_PARAMETER), Close::Fin));
    assert_eq!(backend.contacts(), 0);
    // Later, it reads what is no hello, and no more.
    let mut client = send(lb.address(), &hello("a.test"));
    let mut served = arrivals.recv_timeout(DEADLINE).unwrap();
    client.write_all(&[&early_data[..], &hello("b.test")].concat()).unwrap();
    assert_eq!(read_to_close(&mut client), (alert(ILLEGAL_PARAMETER), Close::Fin));
    let mut reached = Vec::new();
    let _ = served.read_to_end(&mut reached);
    assert!([&hello("a.test")[..], early_data].concat().starts_with(&reached), "{}", reached.escape_ascii());
    lb.wait_for_closed("name_changed", 2.0);
    lb.end();
}

#[test]
fn early_data_and_what_follows_an_answer_are_nobody_s_business() {
    let (backend, arrivals) = Backend::handing_over();
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    let early_data = [b"\x17\x03\x03\0\x05early", CHANGE_CIPHER_SPEC].concat();
    // A handshake message of TLS 1.2, cut in its header.
    let after = [22, 3, 3, 0, 2, 16, 0];
    let mut client = send(lb.address(), &[&hello("a.test")[..], &early_data].concat());
    let mut served = arrivals.recv_timeout(DEADLINE).unwrap();
    let mut reached = vec![0; hello("a.test").len() + early_data.len()];
    served.read_exact(&mut reached).unwrap();
    assert_eq!(reached, [&hello("a.test")[..], &early_data].concat());
    served.write_all(SERVER_HELLO).unwrap();
    client.read_exact(&mut [0; SERVER_HELLO.len()]).unwrap();
    for byte in after {
        client.write_all(&[byte]).unwrap();
        let mut reached = [0];
        served.read_exact(&mut reached).unwrap();
        assert_eq!(reached, [byte]);
    }
    drop(served);
    read_to_close(&mut client);
    drop(client);
    lb.end();
}

/// The relay keeps no more of a list than the log shows.
#[test]
fn a_long_alpn_must_not_change_at_its_end_either() {
    let (backend, arrivals) = Backend::handing_over();
    let lb = Trial::of(Lb::new().route("a.test", &backend));
    let junk = ["junk"; 100];
    let first = with_alpn(&[&junk[..], &["x1"]].concat());
    for (second, is_refused) in [(first.clone(), false), (with_alpn(&[&junk[..], &["h2"]].concat()), true)] {
        let mut client = send(lb.address(), &first);
        let mut served = arrivals.recv_timeout(DEADLINE).unwrap();
        served.write_all(HELLO_RETRY).unwrap();
        client.read_exact(&mut [0; HELLO_RETRY.len()]).unwrap();
        client.write_all(&second).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut reached = Vec::new();
        let _ = served.read_to_end(&mut reached);
        assert_eq!(reached == [&first[..], &second].concat(), !is_refused);
        drop(served);
        let answer = if is_refused { alert(ILLEGAL_PARAMETER).to_vec() } else { Vec::new() };
        assert_eq!(read_to_close(&mut client).0, answer);
    }
    lb.wait_for_closed("name_changed", 1.0);
    lb.end();
}

/// RFC 6066 §3 forbids an address there, and routing takes it for no name, but a backend may route by it.
#[test]
fn an_address_is_another_name_than_none() {
    let backend = Backend::answering(HELLO_RETRY);
    let lb = Trial::of(Lb::new().no_sni(&backend));
    let nameless = records(&message(&versions()), MOST_IN_RECORD);
    let mut client = send(lb.address(), &nameless);
    client.read_exact(&mut [0; HELLO_RETRY.len()]).unwrap();
    let address = records(&message(&[server_name(b"10.0.0.1"), versions()].concat()), MOST_IN_RECORD);
    client.write_all(&address).unwrap();
    assert_eq!(read_to_close(&mut client), (alert(ILLEGAL_PARAMETER), Close::Fin));
    drop(client);
    lb.wait_for_closed("name_changed", 1.0);
    lb.end();
}

#[test]
fn a_request_for_one_is_understood_wherever_it_is_cut() {
    for cut in [1, 5, 6, 11, 12, HELLO_RETRY.len() - 1] {
        let asking = || {
            Backend::that(move |mut stream| {
                let mut first = vec![0; hello("a.test").len()];
                if stream.read_exact(&mut first).is_ok() {
                    stream.set_nodelay(true).unwrap();
                    stream.write_all(&HELLO_RETRY[..cut]).unwrap();
                    crate::wire::wait_until_sent(&stream);
                    stream.write_all(&HELLO_RETRY[cut..]).unwrap();
                    let _ = stream.read_to_end(&mut Vec::new());
                }
            })
        };
        let (alone, first, spare) = (asking(), asking(), Backend::answering(SERVER_HELLO));
        let both = Lb::new().route_with("a.test", [first.address, spare.address], "balance: first");
        for lb in [Trial::of(Lb::new().route("a.test", &alone)), Trial::of(both)] {
            let mut client = asked_again(&lb);
            client.write_all(&hello("b.test")).unwrap();
            assert_eq!(read_to_close(&mut client), (alert(ILLEGAL_PARAMETER), Close::Fin), "{cut}");
            drop(client);
            lb.wait_for_closed("name_changed", 1.0);
            assert_eq!(lb.wait_for_connection("a.test")["answer"], "hello_retry");
            lb.end();
        }
    }
}

#[test]
fn an_unfinished_one_has_the_time_of_a_first_one() {
    let (backend, _arrivals) = Backend::handing_over();
    let lb = Trial::of(Lb::new().route("a.test", &backend).with("timeouts: { hello: 200ms }"));
    let second = hello("a.test");
    let half = [&hello("a.test")[..], &second[..second.len() - 1]].concat();
    let mut client = send(lb.address(), &half);
    assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
    drop(client);
    lb.wait_for_closed("hello_timeout", 1.0);
    lb.end();
}

#[test]
fn unfinished_ones_are_in_the_budget_of_all_hellos() {
    let (backend, arrivals) = Backend::handing_over();
    let keys = "limits: { hello_memory: 2MiB }\ntimeouts: { hello: 1m }\nlog: { connections: off }";
    let lb = Trial::of(Lb::new().route("a.test", &backend).with(keys));
    let large = crate::bytes::padded("a.test", 64 << 10);
    let half = [&hello("a.test")[..], &large[..large.len() - 1]].concat();
    let stalled: Vec<TcpStream> = (0..100).map(|_| send(lb.address(), &half)).collect();
    // They are held once: the rest fits exactly.
    let refused = (100 - (2 << 20) / large.len()) as f64;
    crate::harness::poll(|| if lb.closed("memory") >= refused { Ok(()) } else { Err(lb.closed("memory")) }).unwrap();
    // A small one passes.
    let mut client = send(lb.address(), &hello("a.test"));
    client.write_all(&hello("a.test")).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    drop(arrivals);
    read_to_close(&mut client);
    drop(client);
    stalled.into_iter().for_each(crate::wire::reset);
    lb.end();
}
