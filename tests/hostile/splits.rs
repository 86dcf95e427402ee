//! Splits: how many connections each pool gets, and what a pool without a usable backend costs the others.

use std::io::Read;
use std::net::{Shutdown, SocketAddr};

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello};
use crate::harness::Reload;
use crate::harness::recorder::ClosedPort;
use crate::trial::Trial;
use crate::wire::{Close, read_to_close, send};

fn config(split: &str, blue: SocketAddr, green: SocketAddr) -> String {
    format!(
        "listeners: [{{ name: https, bind: \"127.0.0.1:0\" }}]\nadmin: {{ bind: \"127.0.0.1:0\" }}\n\
         runtime: {{ workers: 2 }}\nroutes:\n  - {{ name: shop, sni: a.test, {split} }}\n\
         pools: {{ blue: {{ backends: [\"{blue}\"] }}, green: {{ backends: [\"{green}\"] }} }}\n"
    )
}

fn serve(lb: &Trial, count: usize) {
    for _ in 0..count {
        let mut client = send(lb.address(), &hello("a.test"));
        client.read_exact(&mut [0; SERVER_HELLO.len()]).expect("an answer");
        client.shutdown(Shutdown::Write).unwrap();
        read_to_close(&mut client);
    }
}

#[test]
fn the_proportions_are_exact_over_workers_and_reloads() {
    let (blue, green) = (Backend::answering(SERVER_HELLO), Backend::answering(SERVER_HELLO));
    let nine_to_one = "split: [{ pool: blue, weight: 90 }, { pool: green, weight: 10 }]";
    let config = |split: &str| config(split, blue.address, green.address);
    let lb = Trial::with(&config(nine_to_one));
    serve(&lb, 7);
    // More reloads than a share of a tenth has connections: none of them begins the split again.
    for number in 0..11 {
        let text = format!("{}# {number}\n", config(nine_to_one));
        assert_eq!(lb.edit(&text), Reload::Applied);
        serve(&lb, 3);
    }
    assert_eq!((blue.contacts(), green.contacts()), (36, 4));
    let size = SERVER_HELLO.len() as f64;
    let bytes = |pool| lb.metric("bytes_total", &[("route", "shop"), ("pool", pool), ("direction", "to_client")]);
    assert_eq!((bytes("blue"), bytes("green")), (36.0 * size, 4.0 * size));
    let connects = |pool| lb.metric("backend_connects_total", &[("pool", pool), ("result", "ok")]);
    assert_eq!((connects("blue"), connects("green")), (36.0, 4.0));

    // No traffic, and all of it.
    assert_eq!(lb.edit(&config("split: [{ pool: blue, weight: 0 }, { pool: green, weight: 1 }]")), Reload::Applied);
    serve(&lb, 5);
    assert_eq!((blue.contacts(), green.contacts()), (36, 9));
    let line = lb.wait_for_line(|line| line["pool"] == "green" && line["reason"] == "ok");
    assert_eq!((&line["route"], &line["match"]), (&"shop".into(), &"exact".into()));
    lb.wait_for_metric("connections_closed_total", &[("route", "shop"), ("reason", "ok")], 45.0);
    lb.end();
}

#[test]
fn a_share_without_a_usable_backend_is_refused_and_not_moved() {
    let (blue, gone) = (Backend::answering(SERVER_HELLO), ClosedPort::new());
    let half = "split: [{ pool: blue, weight: 1 }, { pool: green, weight: 1 }]";
    let lb = Trial::with(&config(half, blue.address, gone.address));
    let mut served = 0;
    for _ in 0..10 {
        let mut client = send(lb.address(), &hello("a.test"));
        let _ = client.shutdown(Shutdown::Write);
        match read_to_close(&mut client) {
            (answer, Close::Fin) if answer == SERVER_HELLO => served += 1,
            (answer, close) => assert_eq!((answer, close), (vec![], Close::Reset)),
        }
    }
    assert_eq!((served, blue.contacts()), (5, 5));
    lb.wait_for_closed("connect_refused", 5.0);
    lb.end();
}

#[test]
fn a_fallback_may_be_split() {
    let (blue, green) = (Backend::answering(b"1"), Backend::answering(b"2"));
    let text = config("pool: blue", blue.address, green.address)
        + "unmatched: { split: [{ pool: blue, weight: 3 }, { pool: green, weight: 1 }] }\n\
           not_tls: { split: [{ pool: blue, weight: 1 }, { pool: green, weight: 1 }] }\n";
    let lb = Trial::with(&text);
    let answers = |first: &[u8], count| -> usize {
        let mut seconds = 0;
        for _ in 0..count {
            let mut client = send(lb.address(), first);
            let mut answer = [0];
            client.read_exact(&mut answer).expect("an answer");
            assert!([b"1", b"2"].contains(&&answer), "{answer:?}");
            seconds += usize::from(answer == *b"2");
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
        }
        seconds
    };
    assert_eq!(answers(&hello("other.test"), 8), 2);
    assert_eq!(answers(b"SSH-2.0-OpenSSH_9.2\r\n", 6), 3);
    lb.wait_for_metric("connections_closed_total", &[("route", "unmatched"), ("reason", "ok")], 8.0);
    lb.end();
}

#[test]
fn connections_to_a_pool_that_left_the_split_stay_as_those_of_another_pool_do() {
    let (blue, green) = (Backend::answering(b"1"), Backend::answering(b"2"));
    let config = |split: &str| config(&format!("{split}, on_removed: close"), blue.address, green.address);
    let lb = Trial::with(&config("split: [{ pool: green, weight: 1 }, { pool: blue, weight: 1 }]"));
    let open = |answer: &[u8; 1]| {
        let mut client = send(lb.address(), &hello("a.test"));
        let mut came = [0];
        client.read_exact(&mut came).unwrap();
        assert_eq!(&came, answer);
        client
    };
    let (mut kept, mut gone) = (open(b"2"), open(b"1"));
    assert_eq!(lb.edit(&config("split: [{ pool: blue, weight: 1 }]")), Reload::Applied);
    // The backend of the other one goes away with its pool.
    let text = config("pool: green").replace(&format!("blue: {{ backends: [\"{}\"] }}, ", blue.address), "");
    assert_eq!(lb.edit(&text), Reload::Applied);
    assert_eq!(read_to_close(&mut gone), (vec![], Close::Reset));
    lb.wait_for_closed("route_removed", 1.0);
    kept.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_close(&mut kept), (vec![], Close::Fin));
    lb.end();
}
