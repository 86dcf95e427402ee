//! PROXY headers from proxies in front, and towards backends behind.
//!
//! Source: the PROXY protocol, versions 1 and 2 (haproxy.org, `proxy-protocol.txt`).

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

use crate::backend::Backend;
use crate::bytes::{UNRECOGNIZED_NAME, alert, alpn, hello, message, records, server_name};
use crate::harness::recorder::ClosedPort;
use crate::harness::{DEADLINE, Lb};
use crate::trial::Trial;
use crate::wire::{Close, ask, connect, read_to_close, send, wait_until_sent};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
pub(crate) const IPV4: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 2, 0, 5, 0, 6];

pub(crate) fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, family], &u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

fn ipv6() -> Vec<u8> {
    let mut body = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]; 2].concat();
    body.extend([0, 5, 0, 6]);
    body
}

/// Headers that are right, and the client they tell; an empty one is the peer's own address.
fn right() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let crc = {
        let mut header = v2(0x21, 0x11, &[IPV4, &[3, 0, 4, 0, 0, 0, 0]].concat());
        let sum = crc32c(&header);
        let at = header.len() - 4;
        header[at..].copy_from_slice(&sum.to_be_bytes());
        header
    };
    let most = [IPV4, &[4, 0xff, 0xf0], &vec![0; 0xfff0 - 12 - 3][..]].concat();
    let most = [&most[..13], &u16::try_from(most.len() - 15).unwrap().to_be_bytes(), &most[15..]].concat();
    let most = [&most[..], &[4, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
    assert_eq!(most.len(), 0xffff);
    let unix = [0; 216];
    vec![
        ("v1 TCP4", b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n".to_vec(), "192.0.2.1:5"),
        ("v1 TCP6", b"PROXY TCP6 2001:db8::1 2001:db8::2 5 6\r\n".to_vec(), "[2001:db8::1]:5"),
        ("v1 UNKNOWN", b"PROXY UNKNOWN\r\n".to_vec(), ""),
        ("v1 UNKNOWN and more", b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(), ""),
        ("v2 IPv4", v2(0x21, 0x11, IPV4), "192.0.2.1:5"),
        ("v2 IPv6", v2(0x21, 0x21, &ipv6()), "[2001:db8::1]:5"),
        ("v2 LOCAL", v2(0x20, 0x00, &[]), ""),
        ("v2 LOCAL with addresses", v2(0x20, 0x11, IPV4), ""),
        ("v2 LOCAL with junk", v2(0x20, 0x00, &[0xff; 300]), ""),
        ("v2 UNSPEC", v2(0x21, 0x00, &[]), ""),
        ("v2 UNSPEC with a value", v2(0x21, 0x00, &[4, 0, 1, 0]), ""),
        ("v2 LOCAL over UDP", v2(0x20, 0x12, IPV4), ""),
        ("v2 unix", v2(0x21, 0x31, &unix), ""),
        ("v2 with a value", v2(0x21, 0x11, &[IPV4, &[2, 0, 6], b"a.test"].concat()), "192.0.2.1:5"),
        ("v2 with a checksum", crc, "192.0.2.1:5"),
        ("v2 of 64 KiB", v2(0x21, 0x11, &most), "192.0.2.1:5"),
    ]
}

fn wrong() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("none", vec![]),
        ("v1 without addresses", b"PROXY TCP4\r\n".to_vec()),
        ("v1 IPv6 as TCP4", b"PROXY TCP4 2001:db8::1 2001:db8::2 5 6\r\n".to_vec()),
        ("v1 IPv4 as TCP6", b"PROXY TCP6 192.0.2.1 192.0.2.2 5 6\r\n".to_vec()),
        ("v1 of two families", b"PROXY TCP4 192.0.2.1 2001:db8::2 5 6\r\n".to_vec()),
        ("v1 UDP4", b"PROXY UDP4 192.0.2.1 192.0.2.2 5 6\r\n".to_vec()),
        ("v1 in lower case", b"proxy TCP4 192.0.2.1 192.0.2.2 5 6\r\n".to_vec()),
        ("v1 with LF alone", b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\n".to_vec()),
        ("v1 with two spaces", b"PROXY TCP4  192.0.2.1 192.0.2.2 5 6\r\n".to_vec()),
        ("v1 with a port too large", b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 6\r\n".to_vec()),
        ("v1 with a signed port", b"PROXY TCP4 192.0.2.1 192.0.2.2 +5 6\r\n".to_vec()),
        ("v1 with a zero in front", b"PROXY TCP4 192.0.2.1 192.0.2.2 05 6\r\n".to_vec()),
        ("v1 with a fifth field", b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6 7\r\n".to_vec()),
        ("v1 with octal bytes", b"PROXY TCP4 192.0.02.1 192.0.2.2 5 6\r\n".to_vec()),
        ("v1 without an end", [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat()),
        ("v2 of version 1", v2(0x11, 0x11, IPV4)),
        ("v2 of version 3", v2(0x31, 0x11, IPV4)),
        ("v2 of another command", v2(0x22, 0x11, IPV4)),
        ("v2 UDP over IPv4", v2(0x21, 0x12, IPV4)),
        ("v2 UDP over IPv6", v2(0x21, 0x22, &ipv6())),
        ("v2 of unix datagrams", v2(0x21, 0x32, &[0; 216])),
        ("v2 of an unspecified family over UDP", v2(0x21, 0x02, &[])),
        ("v2 of an unknown family", v2(0x21, 0x41, IPV4)),
        ("v2 of an unknown protocol", v2(0x21, 0x13, IPV4)),
        ("v2 too short for IPv4", v2(0x21, 0x11, &IPV4[..11])),
        ("v2 too short for IPv6", v2(0x21, 0x21, IPV4)),
        ("v2 with a value cut off", v2(0x21, 0x11, &[IPV4, &[4, 0]].concat())),
        ("v2 with a value too long", v2(0x21, 0x11, &[IPV4, &[4, 0xff, 0xff, 0]].concat())),
        ("v2 with a wrong checksum", v2(0x21, 0x11, &[IPV4, &[3, 0, 4, 1, 2, 3, 4]].concat())),
        ("v2 with a short checksum", v2(0x21, 0x11, &[IPV4, &[3, 0, 2, 1, 2]].concat())),
        ("v2 with an id too long", v2(0x21, 0x11, &[IPV4, &[5, 0, 129], &[7; 129]].concat())),
        ("v2 with a short SSL value", v2(0x21, 0x11, &[IPV4, &[0x20, 0, 4, 1, 0, 0, 0]].concat())),
        (
            "v2 with a value too long in SSL",
            v2(0x21, 0x11, &[IPV4, &[0x20, 0, 9, 1, 0, 0, 0, 0, 0x21, 0, 2, b'T']].concat()),
        ),
        ("half a signature", [&SIGNATURE[..6], b"xxxxxxxxxxxx"].concat()),
    ]
}

#[test]
fn a_right_header_tells_the_client_and_nothing_of_it_reaches_the_backend() {
    let (backend, arrivals) = Backend::recording();
    let lb = Trial::on_listener(TRUSTING, Lb::new().route("a.test", &backend));
    let hello = hello("a.test");
    let table = right();
    for (what, header, client) in &table {
        // Fused with the hello; cut inside; cut behind; a byte at a time.
        let cuts: &[usize] = &[0, header.len() / 2, header.len() - 1, header.len(), header.len() + 1];
        for &cut in cuts {
            let seen = lb.log().len();
            let bytes = [&header[..], &hello].concat();
            let mut stream = connect(lb.address());
            stream.write_all(&bytes[..cut]).unwrap();
            wait_until_sent(&stream);
            stream.write_all(&bytes[cut..]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(arrivals.recv_timeout(DEADLINE).expect(what), hello, "{what} cut at {cut}");
            let line = lb.wait_for_line_after(seen, |line| line["reason"].is_string());
            let peer = stream.local_addr().unwrap().to_string();
            let client = if client.is_empty() { &peer } else { *client };
            // The peer is shown if it is someone else.
            let other = Some(&*peer).filter(|peer| *peer != client);
            assert_eq!((line["client"].as_str(), line["peer"].as_str()), (Some(client), other), "{what}: {line}");
        }
    }
    lb.end();
}

#[test]
fn a_wrong_header_is_closed_whatever_is_routed() {
    let backend = Backend::answering(b"never");
    let everywhere = Lb::new().route("*", &backend).unmatched(&backend).no_sni(&backend).not_tls(&backend);
    let lb = Trial::on_listener(TRUSTING, everywhere);
    for (what, header) in wrong() {
        assert_eq!(ask(lb.address(), &[&header[..], &hello("a.test")].concat()), (vec![], Close::Fin), "{what}");
    }
    lb.wait_for_closed("proxy_header", wrong().len() as f64);
    lb.wait_for_metric("proxy_headers_total", &[("result", "malformed")], wrong().len() as f64);
    assert_eq!(backend.contacts(), 0);
    lb.end();
}

/// The address of the proxy is not that of its client.
#[test]
fn without_an_address_no_condition_on_the_source_holds() {
    let (inside, everyone) = (Backend::answering(b"inside"), Backend::answering(b"others"));
    let lb = Lb::new().route("a.test", &inside).route("a.test", &everyone).route("b.test", &inside);
    let lb = lb.on_listener(TRUSTING.trim_start_matches(", "));
    let config =
        lb.config().replacen("{ sni: \"a.test\", pool", "{ sni: \"a.test\", source: [127.0.0.0/8, \"::/0\"], pool", 1);
    let config = config.replacen("{ sni: \"b.test\", pool", "{ sni: \"b.test\", source: [127.0.0.0/8], pool", 1);
    let lb = Trial::with(&config);
    let answer = |header: &[u8], name: &str| {
        let mut answer = [0; 6];
        send(lb.address(), &[header, &hello(name)].concat()).read_exact(&mut answer).unwrap();
        answer
    };
    for (what, header) in [
        ("v1 UNKNOWN", b"PROXY UNKNOWN\r\n".to_vec()),
        ("v1 UNKNOWN with addresses", b"PROXY UNKNOWN 127.0.0.1 127.0.0.1 1 2\r\n".to_vec()),
        ("v2 UNSPEC", v2(0x21, 0, &[])),
        ("v2 UNSPEC over stream", v2(0x21, 1, &[])),
        ("v2 UNSPEC with bytes", v2(0x21, 0, &[4, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("v2 unix", v2(0x21, 0x31, &[0; 216])),
    ] {
        assert_eq!(answer(&header, "a.test"), *b"others", "{what}");
        assert_eq!(answer(&header, "b.test"), alert(UNRECOGNIZED_NAME)[..6], "{what}");
    }
    // The proxy's own connections come from where they come from.
    for header in [v2(0x20, 0, &[]), v2(0x20, 0x11, IPV4)] {
        assert_eq!([answer(&header, "a.test"), answer(&header, "b.test")], [*b"inside"; 2]);
    }
    lb.end();
}

#[test]
fn a_mapped_client_is_one_of_ipv4() {
    let (inside, everyone) = (Backend::handing_over(), Backend::answering(b"others"));
    let (inside, held) = inside;
    let lb =
        Lb::new().route("a.test", &inside).route("a.test", &everyone).on_listener(TRUSTING.trim_start_matches(", "));
    let config = lb.config().replacen(
        "{ sni: \"a.test\", pool",
        "{ sni: \"a.test\", source: [\"::ffff:10.0.0.0/104\"], pool",
        1,
    );
    let lb = Trial::with(&config);
    let header = b"PROXY TCP6 ::ffff:10.1.2.3 ::ffff:10.0.0.2 5 6\r\n";
    let client = send(lb.address(), &[&header[..], &hello("a.test")].concat());
    let backend = held.recv_timeout(DEADLINE).expect("it goes where 10.0.0.0/8 goes");
    for filter in ["", "?client=10.1.2.3", "?client=10.0.0.0/8", "?client=::ffff:10.1.2.3"] {
        let (code, body) = lb.admin_get(&format!("/api/v1/connections{filter}"));
        assert!(code == 200 && body.contains("\"10.1.2.3:5\"") && !body.contains("ffff"), "{filter}: {code} {body}");
    }
    drop((client, backend));
    assert_eq!(lb.wait_for_connection("a.test")["client"], "10.1.2.3:5");
    lb.end();
}

#[test]
fn a_header_from_a_stranger_is_closed() {
    let backend = Backend::answering(b"never");
    let lb = Trial::on_listener("proxy_protocol: { trusted: [10.0.0.0/8] }", Lb::new().route("*", &backend));
    let header = b"PROXY TCP4 10.0.0.1 192.0.2.2 5 6\r\n";
    assert_eq!(ask(lb.address(), &[header, &hello("a.test")[..]].concat()), (vec![], Close::Fin));
    lb.wait_for_closed("proxy_untrusted", 1.0);
    assert_eq!(backend.contacts(), 0);
    lb.end();
}

#[test]
fn the_backend_is_reported_the_client_once_and_first_also_after_a_failed_attempt() {
    for version in ["v1", "v2"] {
        let (backend, arrivals) = Backend::recording();
        let closed = ClosedPort::new();
        let keys = format!("send_proxy_protocol: {version}");
        let lb = Lb::new().route_with("a.test", [closed.address, backend.address], &keys);
        let lb = Trial::of(lb);
        let message = message(&[server_name(b"A.Test."), alpn(&["h2"])].concat());
        // Round robin: one of two begins with the backend that refuses.
        for fragment_bytes in [16_384, 16_384, 7, 7] {
            let hello = records(&message, fragment_bytes);
            let seen = lb.log().len();
            let mut client = connect(lb.address());
            let sent = [&hello[..], b"and more"].concat();
            client.write_all(&sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let arrived = arrivals.recv_timeout(DEADLINE).unwrap();
            assert_eq!(read_to_close(&mut client), (vec![], Close::Fin));
            let line = lb.wait_for_line_after(seen, |line| line["reason"].is_string());
            let header = reported(version, client.local_addr().unwrap(), lb.address(), line["id"].as_str().unwrap());
            assert_eq!(arrived, [&header[..], &sent].concat(), "{version} in records of {fragment_bytes}");
            // The client's bytes, without the header, which is ours.
            assert_eq!(line["bytes_to_backend"], sent.len(), "{line}");
        }
        lb.wait_for_closed("ok", 4.0);
        assert!(lb.metric("backend_connects_total", &[("result", "refused")]) >= 2.0);
        lb.end();
    }
}

#[test]
fn what_a_proxy_in_front_reported_is_reported_on() {
    let (backend, arrivals) = Backend::recording();
    let lb = Lb::new().route_with("a.test", &backend, "send_proxy_protocol: v1");
    let lb = Trial::on_listener(TRUSTING, lb);
    let header = v2(0x21, 0x11, IPV4);
    let mut client = connect(lb.address());
    client.write_all(&[&header[..], &hello("a.test")].concat()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let expected = [b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n", &hello("a.test")[..]].concat();
    assert_eq!(arrivals.recv_timeout(DEADLINE).unwrap(), expected);
    lb.end();
}

/// The header of a connection between these two, written by hand: the client asks for `A.Test.` and offers h2.
fn reported(version: &str, client: SocketAddr, local: SocketAddr, id: &str) -> Vec<u8> {
    if version == "v1" {
        return format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", client.port(), local.port()).into_bytes();
    }
    let ports = [client.port().to_be_bytes(), local.port().to_be_bytes()].concat();
    let values =
        [&[5, 0, 16], id.as_bytes(), &[2, 0, 7], b"A.Test.", &[1, 0, 2], b"h2", &[3, 0, 4, 0, 0, 0, 0]].concat();
    let mut header = v2(0x21, 0x11, &[&[127, 0, 0, 1, 127, 0, 0, 1][..], &ports, &values].concat());
    let (sum, at) = (crc32c(&header), header.len() - 4);
    header[at..].copy_from_slice(&sum.to_be_bytes());
    header
}

/// CRC-32C by its definition (RFC 3720 appendix B.4).
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

const TRUSTING: &str = "proxy_protocol: { trusted: [127.0.0.0/8] }";
