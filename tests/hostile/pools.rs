//! Pools: who gets a connection, who is full, who stands by, and backends behind unix sockets.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixListener;
use std::thread;

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello};
use crate::harness::Lb;
use crate::harness::recorder::ClosedPort;
use crate::trial::Trial;
use crate::wire::{Close, ask, read_to_close, send};

/// A client whose connection was answered and is still open.
#[track_caller]
fn open(lb: &Trial, name: &str) -> TcpStream {
    let mut client = send(lb.address(), &hello(name));
    client.read_exact(&mut [0; SERVER_HELLO.len()]).expect("an answer");
    client
}

#[track_caller]
fn close(mut client: TcpStream) {
    client.shutdown(Shutdown::Write).unwrap();
    read_to_close(&mut client);
}

fn backends<const N: usize>() -> [Backend; N] {
    std::array::from_fn(|_| Backend::answering(SERVER_HELLO))
}

#[test]
fn weights_are_kept() {
    let [light, heavy] = backends();
    let config = Lb::new().route("a.test", [light.address, heavy.address]).config();
    let listed = format!("\"{}\"", heavy.address);
    let lb = Trial::with(&config.replace(&listed, &format!("{{ address: {listed}, weight: 3 }}")));
    (0..8).for_each(|_| close(open(&lb, "a.test")));
    assert_eq!((light.contacts(), heavy.contacts()), (2, 6));
    lb.end();
}

#[test]
fn the_least_busy_gets_the_next_one() {
    let [one, two, three] = backends();
    let keys = "balance: least_connections";
    let lb = Trial::of(Lb::new().route_with("a.test", [one.address, two.address, three.address], keys));
    let clients: Vec<_> = (0..6).map(|_| open(&lb, "a.test")).collect();
    assert_eq!([&one, &two, &three].map(Backend::contacts), [2, 2, 2]);
    let busy = lb.metric("backend_connections_active", &[("backend", &two.address.to_string())]);
    assert_eq!(busy, 2.0);
    clients.into_iter().for_each(close);
    lb.wait_for_metric("backend_connections_active", &[], 0.0);
    lb.end();
}

#[test]
fn a_full_pool_resets_and_says_why() {
    let [backend] = backends();
    let config = Lb::new().route("a.test", &backend).config();
    let listed = format!("\"{}\"", backend.address);
    let lb = Trial::with(&config.replace(&listed, &format!("{{ address: {listed}, max_connections: 2 }}")));
    let held = [open(&lb, "a.test"), open(&lb, "a.test")];
    assert_eq!(ask(lb.address(), &hello("a.test")), (vec![], Close::Reset));
    lb.wait_for_closed("limit_backend", 1.0);
    assert_eq!(lb.metric("limit_rejections_total", &[("scope", "backend")]), 1.0);
    held.into_iter().for_each(close);
    lb.wait_for_metric("backend_connections_active", &[], 0.0);
    close(open(&lb, "a.test"));
    assert_eq!(backend.contacts(), 3);
    lb.end();
}

#[test]
fn a_backup_stands_by() {
    let [backup] = backends();
    let [primary] = backends();
    let gone = ClosedPort::new();
    let config = Lb::new().route("a.test", [backup.address, primary.address]);
    let config = config.route("b.test", [backup.address, gone.address]).config();
    let listed = format!("\"{}\"", backup.address);
    let lb = Trial::with(&config.replace(&listed, &format!("{{ address: {listed}, backup: true }}")));
    (0..4).for_each(|_| close(open(&lb, "a.test")));
    assert_eq!((primary.contacts(), backup.contacts()), (4, 0));
    (0..4).for_each(|_| close(open(&lb, "b.test")));
    assert_eq!(backup.contacts(), 4);
    lb.end();
}

/// Clients from everywhere, by way of PROXY headers.
#[test]
fn a_client_stays_on_its_backend_and_clients_are_spread() {
    let all: [Backend; 4] = backends();
    let addresses: Vec<_> = all.iter().map(|backend| backend.address).collect();
    let lb = Lb::new().route_with("a.test", addresses, "balance: source_hash");
    let lb = Trial::on_listener("proxy_protocol: { trusted: [127.0.0.0/8] }", lb);
    let ask_as = |client: u8| {
        let header = format!("PROXY TCP4 192.0.2.{client} 192.0.2.1 1000 443\r\n");
        let mut stream = send(lb.address(), &[header.as_bytes(), &hello("a.test")].concat());
        stream.read_exact(&mut [0; SERVER_HELLO.len()]).expect("an answer");
        close(stream);
    };
    let mut homes: HashMap<u8, usize> = HashMap::new();
    for round in 0..3 {
        for client in 0..24 {
            let before: Vec<usize> = all.iter().map(Backend::contacts).collect();
            ask_as(client);
            let after: Vec<usize> = all.iter().map(Backend::contacts).collect();
            let home = (0..4).find(|&number| after[number] > before[number]).expect("one was asked");
            assert_eq!(*homes.entry(client).or_insert(home), home, "client {client}, round {round}");
        }
    }
    assert!((0..4).all(|number| homes.values().any(|home| *home == number)), "{homes:?}");
    lb.end();
}

#[test]
fn a_name_stays_on_its_backend() {
    let all: [Backend; 3] = backends();
    let addresses: Vec<_> = all.iter().map(|backend| backend.address).collect();
    let lb = Trial::of(Lb::new().route_with("*.a.test", addresses, "balance: sni_hash"));
    for number in 0..12 {
        let before: Vec<usize> = all.iter().map(Backend::contacts).collect();
        (0..3).for_each(|_| close(open(&lb, &format!("n{number}.a.test"))));
        let gained = all.iter().zip(before).filter(|(backend, before)| backend.contacts() == before + 3).count();
        assert_eq!(gained, 1, "all three went to one");
    }
    assert!(all.iter().all(|backend| backend.contacts() > 0));
    lb.end();
}

#[test]
fn the_first_with_room_is_taken() {
    let [one, two] = backends();
    let config = Lb::new().route_with("a.test", [one.address, two.address], "balance: first").config();
    let listed = format!("\"{}\"", one.address);
    let lb = Trial::with(&config.replace(&listed, &format!("{{ address: {listed}, max_connections: 1 }}")));
    let held = open(&lb, "a.test");
    (0..3).for_each(|_| close(open(&lb, "a.test")));
    assert_eq!((one.contacts(), two.contacts()), (1, 3));
    close(held);
    lb.end();
}

#[test]
fn a_backend_may_be_a_unix_socket() {
    let [inet] = backends();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shop.sock");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut back = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut &stream, &mut back);
                let _ = back.shutdown(Shutdown::Write);
            });
        }
    });
    let config = Lb::new().route("a.test", &inet).config();
    for splice in ["auto", "off"] {
        let config = config.replace(&format!("\"{}\"", inet.address), &format!("\"unix:{}\"", path.display()));
        let lb = Trial::with(&format!("{config}relay: {{ splice: {splice} }}\n"));
        let mut client = send(lb.address(), &hello("a.test"));
        let sent: Vec<u8> = [hello("a.test"), (0..5_000_000_u32).map(|n| (n / 251) as u8).collect()].concat();
        let mut writer = client.try_clone().unwrap();
        let rest = sent[hello("a.test").len()..].to_vec();
        let writing = thread::spawn(move || {
            writer.write_all(&rest).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let (back, end) = read_to_close(&mut client);
        writing.join().unwrap();
        assert!(back == sent && end == Close::Fin, "{splice}: {} bytes of {}, {end:?}", back.len(), sent.len());
        let line = lb.wait_for_connection("a.test");
        assert_eq!(line["backend"].as_str(), Some(&*format!("unix:{}", path.display())), "{line}");
        lb.end();
    }
}

#[test]
fn a_unix_socket_that_is_not_there_is_passed_over() {
    let [inet] = backends();
    let config = Lb::new().route_with("a.test", [inet.address, inet.address], "balance: first").config();
    let both = format!("\"{0}\", \"{0}\"", inet.address);
    let lb = Trial::with(&config.replace(&both, &format!("\"unix:/nonexistent/a.sock\", \"{}\"", inet.address)));
    close(open(&lb, "a.test"));
    assert_eq!(lb.metric("backend_connects_total", &[("result", "refused")]), 1.0);
    lb.end();
}
