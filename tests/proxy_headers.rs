//! A PROXY header that we write is read by two other implementations as it was meant, whatever a client may send.
//!
//! The oracles are the crates `ppp` and `proxy-header`. Programs read it in `tests/foreign`.

use std::net::SocketAddr;

use proptest::prelude::*;
use proxy_header::{ParseConfig, ProxyHeader};
use snigate::internals::ConnectionId;
use snigate::internals::proxy_header::{
    Added, Addresses, Kinds, Parsed, Received, Values, Version, encode, local, parse,
};

proptest! {
    #[test]
    fn others_read_the_addresses_and_the_values(
        addresses in addresses(),
        id in any::<Option<u64>>(),
        name in proptest::option::of("[A-Za-z0-9.-]{1,254}"),
        protocol in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..=195)),
    ) {
        let values = Values { unique_id: id.map(ConnectionId), authority: name.as_deref().map(str::as_bytes), alpn: protocol.as_deref(), ..Values::default() };
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

    /// What a header from a proxy in front holds of the kinds that are passed on arrives, and what is added does.
    #[test]
    fn others_read_what_is_passed_on_and_added(
        addresses in addresses(),
        values in proptest::collection::btree_map(prop_oneof![0xe0_u8..=0xe7, Just(5)], proptest::collection::vec(any::<u8>(), 0..=40), 0..4),
        relayed in proptest::collection::btree_set(prop_oneof![0xe0_u8..=0xe7, Just(5)], 0..4),
        added in proptest::option::of("[ -~]{1,100}"),
    ) {
        let mut front = ppp::v2::Builder::with_addresses(0x21, ppp::v2::Protocol::Stream, (addresses.client, addresses.local));
        for (kind, value) in &values {
            front = front.write_tlv(*kind, value).unwrap();
        }
        let front = front.build().unwrap();
        let Ok(Parsed::Whole(header)) = parse(&front) else { panic!("{front:?}") };
        let mut kinds = Kinds::default();
        relayed.iter().for_each(|kind| kinds.insert(*kind));
        let received = Received::read(&front, &header, kinds);
        let added: Vec<Added> = added.map(|value| Added { kind: 0xef, value: value.into() }).into_iter().collect();
        let values_sent = Values { added: &added, relayed: received.as_deref().map(|received| (received, kinds)), ..Values::default() };
        let bytes = encode(Version::V2, addresses, &values_sent);

        let mut expected: Vec<(u8, Vec<u8>)> = values.into_iter().filter(|(kind, _)| relayed.contains(kind)).collect();
        expected.extend(added.iter().map(|added| (added.kind, added.value.as_bytes().to_vec())));
        let theirs = ppp::v2::Header::try_from(&bytes[..]).unwrap();
        let reported = theirs.tlvs().map(Result::unwrap).map(|value| (value.kind, value.value.to_vec()));
        let mut reported: Vec<_> = reported.filter(|(kind, _)| *kind != 3).collect();
        reported.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(reported, expected);
        let (theirs, length) = ProxyHeader::parse(&bytes, ParseConfig::default()).unwrap();
        prop_assert_eq!((of_proxy_header(&theirs), length), (Some(addresses), bytes.len()));
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
