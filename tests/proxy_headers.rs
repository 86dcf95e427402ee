//! A PROXY header that we write is read by two other implementations as it was meant, whatever a client may send.
//!
//! The oracles are the crates `ppp` and `proxy-header`. Programs read it in `tests/foreign`.

use std::net::SocketAddr;

use proptest::prelude::*;
use proxy_header::{ParseConfig, ProxyHeader};
use snigate::internals::ConnectionId;
use snigate::internals::proxy_header::{Addresses, Values, Version, encode, local};

proptest! {
    #[test]
    fn others_read_the_addresses_and_the_values(
        addresses in addresses(),
        id in any::<Option<u64>>(),
        name in proptest::option::of("[A-Za-z0-9.-]{1,254}"),
        protocol in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..=195)),
    ) {
        let values = Values { unique_id: id.map(ConnectionId), authority: name.as_deref().map(str::as_bytes), alpn: protocol.as_deref() };
        let bytes = encode(Version::V2, addresses, &values);
        prop_assert!(bytes.len() <= 536);
        let id = id.map(|id| format!("{id:016x}"));

        let (theirs, length) = ProxyHeader::parse(&bytes, ParseConfig::default()).unwrap();
        prop_assert_eq!(length, bytes.len());
        prop_assert_eq!(of_proxy_header(&theirs), Some(addresses));
        prop_assert_eq!(theirs.authority(), name.as_deref());
        prop_assert_eq!(theirs.unique_id(), id.as_deref().map(str::as_bytes));
        prop_assert_eq!(theirs.alpn(), protocol.as_deref());

        let theirs = ppp::v2::Header::try_from(&bytes[..]).unwrap();
        let reported: Vec<_> = theirs.tlvs().map(Result::unwrap).map(|value| (value.kind, value.value.to_vec())).collect();
        let mut given = Vec::new();
        given.extend(id.map(|id| (5, id.into_bytes())));
        given.extend(name.map(|name| (2, name.into_bytes())));
        given.extend(protocol.map(|protocol| (1, protocol)));
        prop_assert_eq!(&reported[..reported.len() - 1], given);
        prop_assert_eq!(reported.last().map(|(kind, value)| (*kind, value.len())), Some((3, 4)));
    }

    #[test]
    fn others_read_the_addresses_of_version_1(addresses in addresses(), id in any::<Option<u64>>()) {
        let bytes = encode(Version::V1, addresses, &Values { unique_id: id.map(ConnectionId), ..Values::default() });
        let (theirs, length) = ProxyHeader::parse(&bytes, ParseConfig::default()).unwrap();
        prop_assert_eq!((of_proxy_header(&theirs), length), (Some(addresses), bytes.len()));
        prop_assert_eq!(ppp::v1::Header::try_from(&bytes[..]).unwrap().header.len(), bytes.len());
    }
}

#[test]
fn others_read_that_a_connection_is_our_own() {
    for version in [Version::V1, Version::V2] {
        let ours = local(version, None);
        let (theirs, length) = ProxyHeader::parse(&ours, ParseConfig::default()).unwrap();
        assert_eq!((theirs.proxied_address(), length), (None, ours.len()), "{version:?}");
    }
    let ours = local(Version::V2, None);
    let theirs = ppp::v2::Header::try_from(&*ours).unwrap();
    assert_eq!(theirs.command, ppp::v2::Command::Local);
    let ours = local(Version::V1, None);
    let theirs = ppp::v1::Header::try_from(&*ours).unwrap();
    assert_eq!(theirs.addresses, ppp::v1::Addresses::Unknown);
}

/// Two of one family, neither of them an IPv4-mapped one, which would be written as IPv4.
fn addresses() -> impl Strategy<Value = Addresses> {
    let pair = any::<(SocketAddr, SocketAddr)>();
    pair.prop_filter_map("of two families", |(client, local)| {
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (client, local) = (plain(client), plain(local));
        (client.is_ipv4() == local.is_ipv4()).then_some(Addresses { client, local })
    })
}

fn of_proxy_header(theirs: &ProxyHeader) -> Option<Addresses> {
    let address = theirs.proxied_address()?;
    Some(Addresses { client: address.source, local: address.destination })
}
