//! A PROXY header gives the addresses that two other readers give, and comes back as it was written.
//!
//! The oracles are the crates `ppp` and `proxy-header`. Where we accept, each gives the same length and addresses, or
//! refuses for one of these reasons:
//! - LOCAL with a body that its address family would not allow: the receiver must skip it (section 2.2);
//! - an address family other than TCP: we skip it, as section 2.2 asks;
//! - version 1: `ppp` splits at every CR and reads UNKNOWN word by word; `proxy-header` wants 15 bytes, which the
//!   shortest header has.
//!
//! Where we refuse, they may accept: neither looks at the type-length-values, the checksum, or a sign before a port.
//! Values that are passed on arrive as they came, in a header that `ppp` reads.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use proxy_header::{ParseConfig, ProxyHeader};
use snigate::internals::ConnectionId;
use snigate::internals::proxy_header::{
    Addresses, Header, Kinds, Malformed, Parsed, Received, Values, Version, encode, parse,
};

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&[b"PROXY ", bytes].concat());
    check(&[b"\r\n\r\n\0\r\nQUIT\n", bytes].concat());
    if let Some((addresses, rest)) = addresses(bytes) {
        check_round_trip(addresses, values(rest));
    }
});

fn check(bytes: &[u8]) {
    let all = parse(bytes);
    let (seen, in_pieces) = in_pieces(bytes);
    match (all, in_pieces) {
        (Ok(Parsed::Whole(header)), Ok(Parsed::Whole(same))) => {
            assert_eq!(header, same);
            assert_eq!(seen, header.bytes, "more was asked for than the header holds");
            assert_eq!(parse(&bytes[..header.bytes]), all, "what follows the header changes it");
            check_header(&header, &bytes[..header.bytes]);
        }
        (Ok(Parsed::Needs(more)), Ok(Parsed::Needs(same))) => {
            assert_eq!(more, same);
            assert!(bytes.len() + more.get() <= 16 + usize::from(u16::MAX), "asks past the limit");
        }
        (Err(_), Err(_)) => assert!(parse(&[bytes, b" \r\n"].concat()).is_err(), "more bytes mend a broken header"),
        (all, pieces) => panic!("{all:?}, in pieces {pieces:?}"),
    }
}

/// Reads as much as was asked for, and no more.
fn in_pieces(bytes: &[u8]) -> (usize, Result<Parsed, Malformed>) {
    let mut end = 0;
    loop {
        match parse(&bytes[..end]) {
            Ok(Parsed::Needs(more)) if end < bytes.len() => end = bytes.len().min(end + more.get()),
            other => return (end, other),
        }
    }
}

fn check_header(ours: &Header, bytes: &[u8]) {
    match ours.version {
        Version::V1 => {
            assert!(ours.bytes <= 107 && bytes.ends_with(b"\r\n"));
            if let Ok(theirs) = ppp::v1::Header::try_from(bytes) {
                assert_eq!(theirs.header.len(), ours.bytes);
                assert_eq!(of_v1(&theirs.addresses), ours.addresses);
            } else {
                assert!(ours.addresses.is_none(), "ppp refuses {ours:?}");
            }
        }
        Version::V2 => {
            let (is_local, is_tcp) = (bytes[12] & 0x0f == 0, matches!(bytes[13], 0x11 | 0x21));
            assert_eq!(ours.addresses.is_some(), is_tcp && !is_local);
            match ppp::v2::Header::try_from(bytes) {
                Ok(theirs) => {
                    assert_eq!(theirs.as_bytes().len(), ours.bytes);
                    assert!(ours.addresses.is_none() || of_v2(&theirs.addresses) == ours.addresses, "{theirs:?}");
                }
                Err(error) => assert!(is_local || !is_tcp, "ppp refuses {ours:?}: {error}"),
            }
            check_received(ours, bytes);
        }
    }
    match ProxyHeader::parse(bytes, ParseConfig::default()) {
        Ok((theirs, length)) => {
            assert_eq!(length, ours.bytes);
            let theirs = theirs.proxied_address().filter(|address| address.protocol == proxy_header::Protocol::Stream);
            let theirs = theirs.map(|address| Addresses { client: address.source, local: address.destination });
            assert_eq!(theirs, ours.addresses);
        }
        Err(error) => assert!(ours.addresses.is_none(), "proxy-header refuses {ours:?}: {error}"),
    }
}

/// What is kept of a header is bounded, and is passed on as it was; nothing of it is in a header that passes nothing on.
fn check_received(ours: &Header, bytes: &[u8]) {
    let mut all = Kinds::default();
    (0..=u8::MAX).for_each(|kind| all.insert(kind));
    let Some(received) = Received::read(bytes, ours, all) else { return };
    let _ = (received.vpc_endpoint(), received.private_link_id(), received.psc_connection_id());
    let addresses = ours.addresses.unwrap_or(pair([192, 0, 2, 1], 1, [192, 0, 2, 2], 2));
    let sent = encode(Version::V2, addresses, &Values { relayed: Some((&received, all)), ..Values::default() });
    assert!(sent.len() <= 536, "longer than a segment may be");
    let theirs = ppp::v2::Header::try_from(&sent[..]).expect("ppp reads it");
    for value in theirs.tlvs().map(|value| value.expect("ppp reads it")).filter(|value| value.kind != 3) {
        assert!(all.holds(value.kind), "{value:?} is of another kind");
        let whole =
            [&[value.kind][..], &u16::try_from(value.value.len()).expect("short").to_be_bytes(), &value.value].concat();
        assert!(bytes.windows(whole.len()).any(|window| window == whole), "{value:?} was not received");
    }
    let none = Values { relayed: Some((&received, Kinds::default())), ..Values::default() };
    assert_eq!(encode(Version::V2, addresses, &none), encode(Version::V2, addresses, &Values::default()));
}

fn of_v1(theirs: &ppp::v1::Addresses) -> Option<Addresses> {
    match *theirs {
        ppp::v1::Addresses::Unknown => None,
        ppp::v1::Addresses::Tcp4(of) => {
            Some(pair(of.source_address, of.source_port, of.destination_address, of.destination_port))
        }
        ppp::v1::Addresses::Tcp6(of) => {
            Some(pair(of.source_address, of.source_port, of.destination_address, of.destination_port))
        }
    }
}

fn of_v2(theirs: &ppp::v2::Addresses) -> Option<Addresses> {
    match *theirs {
        ppp::v2::Addresses::Unspecified | ppp::v2::Addresses::Unix(_) => None,
        ppp::v2::Addresses::IPv4(of) => {
            Some(pair(of.source_address, of.source_port, of.destination_address, of.destination_port))
        }
        ppp::v2::Addresses::IPv6(of) => {
            Some(pair(of.source_address, of.source_port, of.destination_address, of.destination_port))
        }
    }
}

fn pair(client: impl Into<IpAddr>, client_port: u16, local: impl Into<IpAddr>, local_port: u16) -> Addresses {
    Addresses { client: SocketAddr::new(client.into(), client_port), local: SocketAddr::new(local.into(), local_port) }
}

/// What is written is read again, by us and by the others; an IPv4 address beside an IPv6 one as a mapped one.
fn check_round_trip(addresses: Addresses, values: Values) {
    for version in [Version::V1, Version::V2] {
        let bytes = encode(version, addresses, &values);
        match parse(&bytes) {
            Ok(Parsed::Whole(header)) => {
                check_header(&header, &bytes);
                assert_eq!((header.version, header.bytes), (version, bytes.len()));
                let read = header.addresses.expect("we wrote addresses");
                for (read, written) in [(read.client, addresses.client), (read.local, addresses.local)] {
                    assert_eq!(read.ip().to_canonical(), written.ip().to_canonical());
                    assert_eq!(read.port(), written.port());
                }
            }
            other => panic!("{other:?}: {}", bytes.escape_ascii()),
        }
        if version == Version::V2 {
            check_values(&bytes, values);
        }
    }
}

/// The values come back as they were given, as far as the header has room, and the checksum last.
fn check_values(bytes: &[u8], values: Values) {
    assert!(bytes.len() <= 536, "longer than a segment may be");
    let id = values.unique_id.map(|id| format!("{:016x}", id.0));
    let asked = [(5, id.as_deref().map(str::as_bytes)), (2, values.authority), (1, values.alpn)];
    let mut asked = asked.into_iter().filter_map(|(kind, value)| Some((kind, value?)));
    let theirs = ppp::v2::Header::try_from(bytes).expect("ppp reads it");
    let mut reported: Vec<_> = theirs.tlvs().map(|value| value.expect("ppp reads it")).collect();
    let checksum = reported.pop().expect("a checksum");
    assert_eq!((checksum.kind, checksum.value.len()), (3, 4));
    for value in &reported {
        assert!(asked.any(|(kind, asked)| kind == value.kind && asked == &*value.value), "{value:?} was not given");
    }
    let short =
        values.authority.is_none_or(|name| name.len() <= 255) && values.alpn.is_none_or(|name| name.len() < 198);
    let given = [values.unique_id.is_some(), values.authority.is_some(), values.alpn.is_some()];
    assert!(!short || reported.len() == given.into_iter().filter(|given| *given).count(), "a value is missing");
}

fn addresses(bytes: &[u8]) -> Option<(Addresses, &[u8])> {
    let (&kinds, bytes) = bytes.split_first()?;
    let (ports, bytes) = bytes.split_first_chunk::<4>()?;
    let (one, bytes) = bytes.split_first_chunk::<16>()?;
    let (two, rest) = bytes.split_first_chunk::<16>()?;
    let ip = |octets: &[u8; 16], is_v4: bool| match octets {
        [a, b, c, d, ..] if is_v4 => IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d)),
        octets => IpAddr::V6(Ipv6Addr::from(*octets)),
    };
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some((pair(ip(one, kinds & 1 == 0), port(0), ip(two, kinds & 2 == 0), port(2)), rest))
}

/// Any of the values may be missing, and either of the client's may be long.
fn values(bytes: &[u8]) -> Values<'_> {
    let Some((&[kinds, at], rest)) = bytes.split_first_chunk() else { return Values::default() };
    let (authority, alpn) = rest.split_at(usize::from(at).min(rest.len()));
    Values {
        unique_id: (kinds & 1 == 0).then_some(ConnectionId(u64::from(kinds) << 32 | u64::from(at))),
        authority: (kinds & 2 == 0).then_some(authority),
        alpn: (kinds & 4 == 0).then_some(alpn),
        ..Values::default()
    }
}
