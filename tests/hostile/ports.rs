//! A process that runs out of local ports towards a backend: in a network namespace that has few of them.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::{Lb, Reload};
use crate::namespace;
use crate::trial::Trial;
use crate::wire::{reset, send};

/// What one address can have open towards one other, at most: the listeners of the test take some of them too.
const PORTS: usize = 200;
const CROWD: usize = PORTS + 60;

/// The first bytes of a ServerHello, which two backends write differently.
const ONE: [u8; 6] = *b"\x16\x03\x03\x00\x40\x02";
const OTHER: [u8; 6] = *b"\x16\x03\x01\x00\x40\x02";

#[test]
fn out_of_ports_another_backend_or_source_is_tried() {
    namespace::run_test("echo '40000 40199' > /proc/sys/net/ipv4/ip_local_port_range", "ports::where_ports_are_few");
}

#[test]
#[ignore = "for the test above, which runs it in a namespace of its own"]
fn where_ports_are_few() {
    let (one, other) = (Backend::answering(&ONE), Backend::answering(&OTHER));
    let config = |keys: &str, backends: &[&Backend]| {
        let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
        let lb = Lb::new().route_with("a.test", addresses, keys);
        lb.config().replacen("127.0.0.1:0", "0.0.0.0:0", 1)
    };
    let alone = config("", &[&one]);
    let lb = Trial::with(&alone);

    // Nobody else to ask: counted as ours, told at once, and over as soon as there are ports again.
    let (served, refused) = crowd(&lb, &ONE);
    let (most, least) = (PORTS, PORTS - 20);
    assert!((least..=most).contains(&served.len()), "{} of {CROWD} were served", served.len());
    assert_eq!(refused, CROWD - served.len());
    lb.wait_for_closed("connect_failed", refused as f64);
    let exhausted = || lb.metric("backend_connects_total", &[("result", "exhausted")]);
    assert_eq!(exhausted(), refused as f64);
    assert_eq!(lb.metric("backend_ejections_total", &[]), 0.0, "the backend is not to blame");
    leave(&lb, served);
    let again = open(&lb, 0);
    assert_eq!(answer(again).map(|(reported, _)| reported), Some(ONE));

    // Another backend.
    assert_eq!(lb.edit(&config("balance: first", &[&one, &other])), Reload::Applied);
    let before = exhausted();
    let clients: Vec<TcpStream> = (0..CROWD).map(|number| open(&lb, number)).collect();
    let answers: Vec<([u8; 6], TcpStream)> = clients.into_iter().map(|client| answer(client).unwrap()).collect();
    let elsewhere = answers.iter().filter(|(reported, _)| *reported == OTHER).count();
    assert!(elsewhere >= CROWD - PORTS, "{elsewhere}");
    assert_eq!(exhausted() - before, elsewhere as f64);
    leave(&lb, answers.into_iter().map(|(_, client)| client).collect());

    // Another source.
    assert_eq!(lb.edit(&config("source_addresses: [127.0.0.7, 127.0.0.8]", &[&one])), Reload::Applied);
    let (served, refused) = crowd(&lb, &ONE);
    assert_eq!((served.len(), refused), (CROWD, 0));
    leave(&lb, served);
    lb.stop();
}

/// Asks as many as there are in a crowd; who was served with `wanted`, and how many were reset.
fn crowd(lb: &Trial, wanted: &[u8; 6]) -> (Vec<TcpStream>, usize) {
    let clients: Vec<TcpStream> = (0..CROWD).map(|number| open(lb, number)).collect();
    let (mut served, mut refused) = (Vec::new(), 0);
    for client in clients {
        match answer(client) {
            Some((reported, client)) => {
                assert_eq!(&reported, wanted);
                served.push(client);
            }
            None => refused += 1,
        }
    }
    (served, refused)
}

/// Clients have few ports too, for each address that they connect to.
fn open(lb: &Trial, number: usize) -> TcpStream {
    let to = Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(number % 4).unwrap());
    send(SocketAddr::from((to, lb.port())), &hello("a.test"))
}

/// `None` if the connection was reset.
fn answer(mut client: TcpStream) -> Option<([u8; 6], TcpStream)> {
    let mut reported = [0; 6];
    match client.read_exact(&mut reported) {
        Ok(()) => Some((reported, client)),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => panic!("neither an answer nor a reset: {error}"),
    }
}

fn leave(lb: &Trial, clients: Vec<TcpStream>) {
    clients.into_iter().for_each(reset);
    lb.wait_for_metric("connections_active", &[], 0.0);
}
