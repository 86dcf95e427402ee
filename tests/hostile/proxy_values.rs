//! What a PROXY header carries besides addresses, and clients beside the proxies that send one.
//!
//! Source: the PROXY protocol, section 2.2.5 (UNIQUE_ID) and 2.2.6 (0xE0 to 0xEF).

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::Receiver;

use crate::backend::Backend;
use crate::bytes::{UNRECOGNIZED_NAME, alert, hello};
use crate::harness::{DEADLINE, Lb};
use crate::proxy_headers::{IPV4, crc32c, v2};
use crate::trial::Trial;
use crate::wire::{Close, ask, connect, read_to_close, send, wait_until_sent};

/// One listener for proxies and clients alike: 127.0.0.2 is a proxy, all others are clients.
const BOTH: &str = "proxy_protocol: { trusted: [127.0.0.2], others: plain }";
const TRUSTING: &str = "proxy_protocol: { trusted: [127.0.0.0/8] }";

fn connect_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&format!("{from}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

fn sent(mut stream: TcpStream, bytes: &[u8], arrivals: &Receiver<Vec<u8>>) -> (Vec<u8>, String) {
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    (arrivals.recv_timeout(DEADLINE).expect("it arrives"), stream.local_addr().unwrap().to_string())
}

#[test]
fn a_client_without_a_proxy_is_served_by_its_own_address_beside_one_with_a_proxy() {
    let (backend, arrivals) = Backend::recording();
    let lb = Trial::on_listener(BOTH, Lb::new().route("a.test", &backend));
    let hello = hello("a.test");
    let proxied = [&v2(0x21, 0x11, IPV4)[..], &hello].concat();
    for (from, bytes, client) in [("127.0.0.1", &hello, None), ("127.0.0.2", &proxied, Some("192.0.2.1:5"))] {
        let seen = lb.log().len();
        let (arrived, peer) = sent(connect_from(from, lb.address()), bytes, &arrivals);
        assert_eq!(arrived, hello, "{from}");
        let line = lb.wait_for_line_after(seen, |line| line["reason"].is_string());
        // The peer is shown if it is someone else.
        let other = client.map(|_| &*peer);
        assert_eq!((line["client"].as_str(), line["peer"].as_str()), (Some(client.unwrap_or(&peer)), other), "{line}");
    }
    // Only the proxy was read a header of.
    assert_eq!(lb.metric("proxy_headers_total", &[]), 1.0);
    lb.end();
}

#[test]
fn a_client_cannot_pass_for_another_by_a_header_of_its_own_nor_a_proxy_leave_its_header_out() {
    let backend = Backend::answering(b"never");
    let lb = Trial::on_listener(BOTH, Lb::new().route("*", &backend));
    for header in [&v2(0x21, 0x11, IPV4)[..], b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n"] {
        assert_eq!(ask(lb.address(), &[header, &hello("a.test")].concat()).1, Close::Fin);
    }
    lb.wait_for_closed("not_tls", 2.0);
    let line = lb.wait_for_line(|line| line["reason"] == "not_tls");
    assert_eq!((&line["peer"], &line["saw"]), (&serde_json::Value::Null, &"proxy".into()), "{line}");
    assert!(!line["client"].as_str().unwrap().starts_with("192.0.2."), "{line}");
    let mut stream = connect_from("127.0.0.2", lb.address());
    stream.write_all(&hello("a.test")).unwrap();
    lb.wait_for_closed("proxy_header", 1.0);
    assert_eq!(backend.contacts(), 0);
    lb.end();
}

#[test]
fn a_client_without_a_proxy_is_let_in_counted_and_routed_by_its_own_address() {
    let backend = Backend::answering(b"inside");
    let keys = format!("{BOTH}, deny: [127.0.0.3, 192.0.2.0/24], per_client: {{ connections: 1 }}");
    let lb = Lb::new().route("a.test", &backend).on_listener(&keys);
    let config = lb.config().replacen("{ sni: \"a.test\", pool", "{ sni: \"a.test\", source: [127.0.0.1], pool", 1);
    let lb = Trial::with(&config);
    // Before a byte is read.
    let denied = connect_from("127.0.0.3", lb.address());
    lb.wait_for_closed("denied", 1.0);
    drop(denied);
    let mut proxied = connect_from("127.0.0.2", lb.address());
    proxied.write_all(&v2(0x21, 0x11, IPV4)).unwrap();
    lb.wait_for_closed("denied", 2.0);
    let held = connect_from("127.0.0.1", lb.address());
    let second = connect_from("127.0.0.1", lb.address());
    lb.wait_for_closed("limit_client", 1.0);
    drop((held, second));
    lb.settle();
    let mut answer = [0; 6];
    send(lb.address(), &hello("a.test")).read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"inside");
    let mut elsewhere = connect_from("127.0.0.4", lb.address());
    elsewhere.write_all(&hello("a.test")).unwrap();
    assert_eq!(read_to_close(&mut elsewhere).0, alert(UNRECOGNIZED_NAME));
    lb.end();
}

fn value(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind, 0, u8::try_from(value.len()).unwrap()][..], value].concat()
}

/// A header of `values`, closed with a checksum.
fn with_checksum(addresses: &[u8], values: &[Vec<u8>]) -> Vec<u8> {
    let mut header = v2(0x21, 0x11, &[addresses, &values.concat(), &value(3, &[0; 4])].concat());
    let (sum, at) = (crc32c(&header), header.len() - 4);
    header[at..].copy_from_slice(&sum.to_be_bytes());
    header
}

#[test]
fn values_are_passed_on_and_added_and_the_endpoint_is_logged() {
    let (backend, arrivals) = Backend::recording();
    let keys = "send_proxy_protocol: { version: v2, relay: [0xea, 5], add: { 0xe4: \"edge-1\" } }";
    let lb = Trial::on_listener(TRUSTING, Lb::new().route_with("a.test", &backend, keys));
    let vpc = value(0xea, b"\x01vpce-08d2bf15fac5001c9");
    let given = [
        value(2, b"not.passed.on"),
        vpc.clone(),
        value(5, b"their id"),
        value(0xe4, b"not relayed"),
        value(0xee, &[1, 7, 0, 0, 0]),
        value(0xe0, &[0x80, 0, 0, 0, 0, 0, 0, 1]),
    ];
    let header = with_checksum(IPV4, &given);
    let expected = with_checksum(IPV4, &[value(5, b"their id"), value(0xe4, b"edge-1"), vpc, value(2, b"a.test")]);
    let hello = hello("a.test");
    // In one piece; cut within the values; a byte at a time around the end.
    for cuts in [vec![], vec![40], (header.len() - 3..header.len() + 2).collect()] {
        let seen = lb.log().len();
        let bytes = [&header[..], &hello].concat();
        let mut stream = connect(lb.address());
        let mut from = 0;
        for cut in cuts {
            stream.write_all(&bytes[from..cut]).unwrap();
            wait_until_sent(&stream);
            from = cut;
        }
        let (arrived, _) = sent(stream, &bytes[from..], &arrivals);
        assert_eq!(arrived, [&expected[..], &hello].concat());
        let line = lb.wait_for_line_after(seen, |line| line["reason"].is_string());
        assert_eq!(line["vpc_endpoint"], "vpce-08d2bf15fac5001c9", "{line}");
        assert_eq!((&line["private_link_id"], &line["psc_connection_id"]), (&7.into(), &"9223372036854775809".into()));
    }
    // Without a value to pass on, the id is our own.
    let seen = lb.log().len();
    let (arrived, _) = sent(connect(lb.address()), &[&v2(0x21, 0x11, IPV4)[..], &hello].concat(), &arrivals);
    let line = lb.wait_for_line_after(seen, |line| line["reason"].is_string());
    let id = value(5, line["id"].as_str().unwrap().as_bytes());
    let expected = with_checksum(IPV4, &[id, value(0xe4, b"edge-1"), value(2, b"a.test")]);
    assert_eq!(arrived, [&expected[..], &hello].concat());
    lb.end();
}

#[test]
fn an_endpoint_of_hostile_bytes_stays_inside_its_field() {
    let (backend, arrivals) = Backend::recording();
    let lb = Trial::on_listener(TRUSTING, Lb::new().route("a.test", &backend));
    let hostile = [&b"\x01\r\n{\"level\":\"ERROR\"}\x1b[2J\xff"[..], &[b'x'; 200]].concat();
    let header = with_checksum(IPV4, &[value(0xea, &hostile)]);
    sent(connect(lb.address()), &[&header[..], &hello("a.test")].concat(), &arrivals);
    let line = lb.wait_for_connection("a.test");
    let shown = line["vpc_endpoint"].as_str().unwrap();
    assert!(shown.starts_with("\r\n{\"level\":\"ERROR\"}\u{1b}[2J\\xffxxx") && shown.len() < 80, "{shown:?}");
    lb.end();
}
