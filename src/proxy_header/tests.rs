use proptest::prelude::*;

use super::encode::{MOST_BYTES, same_family};
use super::*;
use crate::ids::ConnectionId;

fn pair(client: &str, local: &str) -> Addresses {
    Addresses { client: client.parse().expect("an address"), local: local.parse().expect("an address") }
}

fn whole(bytes: &[u8]) -> Header {
    match parse(bytes) {
        Ok(Parsed::Whole(header)) => header,
        other => panic!("not whole: {other:?}"),
    }
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short").to_be_bytes();
    [V2_SIGNATURE, &[V2_VERSION | command, family], &length, body].concat()
}

const VALUES: Values<'static> = Values {
    unique_id: Some(ConnectionId(0xa11ce)),
    added: &[],
    relayed: None,
    authority: Some(b"Shop.A."),
    alpn: Some(b"h2"),
};
const BODY4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0x01, 0xbb];

#[test]
fn what_is_written_is_read_back() {
    for addresses in [
        pair("192.0.2.1:12345", "198.51.100.2:443"),
        pair("[2001:db8::1]:1", "[2001:db8::2]:65535"),
        pair("192.0.2.1:12345", "[2001:db8::2]:443"),
    ] {
        for version in [Version::V1, Version::V2] {
            let mut bytes = encode(version, addresses, &VALUES);
            let length = bytes.len();
            bytes.extend(b"\x16\x03\x01");
            let header = whole(&bytes);
            assert_eq!((header.version, header.bytes), (version, length));
            assert_eq!(header.addresses, Some(same_family(addresses)));
            for end in 0..length {
                match parse(&bytes[..end]) {
                    Ok(Parsed::Needs(more)) => assert!(more.get() <= length - end),
                    other => panic!("{end}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn version_2_tells_who_the_client_asked_for_and_what_it_is_called_here() {
    let bytes = encode(Version::V2, pair("192.0.2.1:12345", "198.51.100.2:443"), &VALUES);
    let values = [
        &[TYPE_UNIQUE_ID, 0, 16][..],
        b"00000000000a11ce",
        &[TYPE_AUTHORITY, 0, 7],
        b"Shop.A.",
        &[TYPE_ALPN, 0, 2],
        b"h2",
        &[TYPE_CRC32C, 0, 4],
    ];
    let body = [&BODY4[..], &values.concat(), &[0; 4]].concat();
    let expected = v2(COMMAND_PROXY, TCP_OVER_IPV4, &body);
    let (sum, before) = (crc32c(expected.iter().copied()), expected.len() - 4);
    assert_eq!(bytes, [&expected[..before], &sum.to_be_bytes()].concat());

    let bytes = encode(Version::V2, pair("192.0.2.1:12345", "198.51.100.2:443"), &Values::default());
    assert_eq!((bytes.len(), &bytes[28..32]), (16 + 12 + 7, &[TYPE_CRC32C, 0, 4, bytes[31]][..]));
}

#[test]
fn what_a_client_makes_long_never_makes_the_header_longer_than_a_segment() {
    let addresses = pair("[2001:db8::1]:1", "[2001:db8::2]:2");
    let long = [b'x'; 70_000];
    for (name_bytes, protocol_bytes, expected) in [
        (255, 197, MOST_BYTES),
        // Without the protocol: the name leaves no space for it.
        (255, 198, 16 + 36 + 19 + 258 + 7),
        // Without the name: it is longer than receivers accept.
        (256, 255, 16 + 36 + 19 + 258 + 7),
        (70_000, 70_000, 16 + 36 + 19 + 7),
    ] {
        let values = Values { authority: Some(&long[..name_bytes]), alpn: Some(&long[..protocol_bytes]), ..VALUES };
        let bytes = encode(Version::V2, addresses, &values);
        assert_eq!(bytes.len(), expected, "{name_bytes} and {protocol_bytes} bytes");
        assert_eq!(whole(&bytes).addresses, Some(addresses));
    }
}

#[test]
fn our_own_connections_speak_for_no_client() {
    // Version 1 has no LOCAL.
    for (version, command) in [(Version::V1, Command::Proxy), (Version::V2, Command::Local)] {
        let header = local(version, None);
        assert_eq!(whole(&header), Header { version, bytes: header.len(), command, addresses: None });
    }
    // Version 1 has no word for that which every receiver takes.
    let [client, local_address] = ["[::ffff:192.0.2.1]:5", "198.51.100.2:443"].map(|text| text.parse().unwrap());
    let own = Some(Addresses { client, local: local_address });
    assert_eq!(*local(Version::V1, own), *b"PROXY TCP4 192.0.2.1 198.51.100.2 5 443\r\n");
    assert_eq!(local(Version::V2, own), local(Version::V2, None));
}

#[test]
fn the_shortest_header_is_asked_for_no_byte_too_many() {
    let header = b"PROXY UNKNOWN\r\n";
    for end in 0..header.len() {
        match parse(&header[..end]) {
            Ok(Parsed::Needs(more)) => assert!(end + more.get() <= header.len(), "{end} bytes"),
            other => panic!("{end}: {other:?}"),
        }
    }
    assert_eq!(whole(header).bytes, header.len());
}

#[test]
fn mapped_addresses_are_written_as_ipv4() {
    let bytes = encode(Version::V1, pair("[::ffff:192.0.2.1]:5", "[::ffff:192.0.2.2]:6"), &VALUES);
    assert_eq!(bytes, b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n");
}

#[test]
fn unknown_local_and_other_families_carry_no_address() {
    assert_eq!(whole(b"PROXY UNKNOWN ffff::1 whatever\r\n").addresses, None);
    assert_eq!(whole(b"PROXY UNKNOWN\r\n").addresses, None);
    assert_eq!(whole(&v2(COMMAND_LOCAL, 0, b"")).addresses, None);
    assert_eq!(whole(&v2(COMMAND_LOCAL, TCP_OVER_IPV4, b"xyz")).addresses, None);
    assert_eq!(whole(&v2(COMMAND_PROXY, 0x00, b"")).addresses, None);
    assert_eq!(whole(&v2(COMMAND_PROXY, 0x31, &[0; 216])).addresses, None);
}

#[test]
fn type_length_values_are_walked_and_the_checksum_verified() {
    let mut body = BODY4.to_vec();
    body.extend([0x02, 0, 3, b'a', b'.', b'b', TYPE_CRC32C, 0, 4, 0, 0, 0, 0]);
    let mut bytes = v2(COMMAND_PROXY, TCP_OVER_IPV4, &body);
    let crc = crc32c(bytes.iter().copied());
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(whole(&bytes).addresses, Some(pair("192.0.2.1:12345", "198.51.100.2:443")));
    bytes[at] ^= 1;
    assert_eq!(parse(&bytes), Err(Malformed("a wrong checksum")));
}

fn value(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).expect("short").to_be_bytes(), value].concat()
}

fn with_values(values: &[Vec<u8>]) -> Vec<u8> {
    v2(COMMAND_PROXY, TCP_OVER_IPV4, &[&BODY4[..], &values.concat()].concat())
}

/// As long as the header is not whole, nothing is said about values that overrun it; then it is refused.
#[test]
fn a_value_that_overruns_what_is_around_it_is_malformed_in_every_cut() {
    let ssl = |inside: &[u8]| value(TYPE_SSL, &[&[1, 0, 0, 0, 0], inside].concat());
    for right in [value(TYPE_UNIQUE_ID, &[7; 128]), ssl(b""), ssl(&value(0x21, b"TLSv1.3")), value(TYPE_AWS, b"")] {
        whole(&with_values(&[right]));
    }
    for wrong in [
        vec![TYPE_AWS],
        vec![TYPE_AWS, 0],
        vec![TYPE_AWS, 0, 1],
        vec![TYPE_AWS, 0xff, 0xff, 1],
        [value(TYPE_GCP, &[0; 8]), vec![TYPE_AZURE, 0, 6, 1, 2, 3, 4, 5]].concat(),
        value(TYPE_UNIQUE_ID, &[7; 129]),
        value(TYPE_SSL, &[1, 0, 0, 0]),
        ssl(&[0x21]),
        ssl(&[0x21, 0, 8, b'T', b'L', b'S', b'v', b'1', b'.', b'3']),
        ssl(&[value(0x21, b"TLSv1.3"), vec![0x22, 0xff, 0xff]].concat()),
        value(TYPE_CRC32C, &[0; 5]),
    ] {
        let bytes = with_values(&[wrong]);
        for end in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..end]), Ok(Parsed::Needs(_))), "{end} bytes of {}", bytes.escape_ascii());
        }
        assert!(parse(&bytes).is_err(), "{}", bytes.escape_ascii());
        assert!(parse(&[&bytes[..], b"\x16\x03\x01"].concat()).is_err(), "{}", bytes.escape_ascii());
    }
}

fn received(bytes: &[u8], keep: Kinds) -> Option<Box<Received>> {
    Received::read(bytes, &whole(bytes), keep)
}

fn kinds(of: &[u8]) -> Kinds {
    let mut kinds = Kinds::default();
    of.iter().for_each(|kind| kinds.insert(*kind));
    kinds
}

#[test]
fn endpoints_are_read_whatever_is_passed_on_and_other_values_only_for_that() {
    let link = [&[1][..], &0x0102_0304_u32.to_le_bytes()].concat();
    let all = [
        value(TYPE_AUTHORITY, b"a.test"),
        value(TYPE_AWS, b"\x02other"),
        value(TYPE_AWS, b"\x01vpce-08d2bf15fac5001c9"),
        value(TYPE_AZURE, &link),
        value(TYPE_GCP, &0x0102_0304_0506_0708_u64.to_be_bytes()),
        value(0xe4, b"mine"),
    ];
    let bytes = [&with_values(&all)[..], b"more"].concat();
    let kept = received(&bytes, Kinds::default()).expect("three endpoints");
    assert_eq!(kept.vpc_endpoint(), Some(&b"vpce-08d2bf15fac5001c9"[..]));
    assert_eq!(kept.private_link_id(), Some(0x0102_0304));
    assert_eq!(kept.psc_connection_id(), Some(0x0102_0304_0506_0708));
    let names =
        |received: &Received| received.only(kinds(&[0xe0, 0xe4, 0xea, 0xee])).map(|(kind, _)| kind).collect::<Vec<_>>();
    assert_eq!(names(&kept), [TYPE_AWS, TYPE_AZURE, TYPE_GCP]);
    let kept = received(&bytes, kinds(&[0xe4, 0xea])).expect("more of them");
    assert_eq!(names(&kept), [TYPE_AWS, TYPE_AWS, TYPE_AZURE, TYPE_GCP, 0xe4]);

    // Nothing is kept, and nothing allocated, of what has another form or nobody needs.
    let others = [
        value(0xe4, b"mine"),
        value(TYPE_UNIQUE_ID, b"id"),
        value(TYPE_GCP, b"7"),
        value(TYPE_AZURE, b"\x01"),
        value(TYPE_AWS, b""),
    ];
    assert_eq!(received(&with_values(&others), Kinds::default()), None);
    assert_eq!(received(&with_values(&[]), kinds(&[0xe4])), None);
    assert_eq!(received(&v2(COMMAND_LOCAL, 0, &value(0xe4, b"mine")), kinds(&[0xe4])), None);
    assert_eq!(received(b"PROXY UNKNOWN\r\n", kinds(&[0xe4])), None);
    // A header may hold 64 KiB.
    let large = [value(0xe4, &[0; 30_000]), value(0xe4, b"small"), value(0xe4, &[0; 30_000])];
    let kept = received(&with_values(&large), kinds(&[0xe4])).expect("the small one");
    assert_eq!(kept.only(kinds(&[0xe4])).map(|(_, whole)| whole.len()).collect::<Vec<_>>(), [8]);
}

#[test]
fn what_is_passed_on_and_added_precedes_what_the_client_says_and_replaces_the_id() {
    let from = with_values(&[value(0xe4, b"mine"), value(TYPE_UNIQUE_ID, b"theirs"), value(TYPE_AWS, b"\x01vpce-1")]);
    let of = kinds(&[TYPE_UNIQUE_ID, TYPE_AWS]);
    let kept = received(&from, of).expect("two values");
    let added = [Added { kind: 0xe5, value: "edge-1".into() }];
    let addresses = pair("192.0.2.1:12345", "198.51.100.2:443");
    let values = Values { added: &added, relayed: Some((&kept, of)), ..VALUES };
    let bytes = encode(Version::V2, addresses, &values);
    let expected = [
        value(TYPE_UNIQUE_ID, b"theirs"),
        value(0xe5, b"edge-1"),
        value(TYPE_AWS, b"\x01vpce-1"),
        value(TYPE_AUTHORITY, b"Shop.A."),
        value(TYPE_ALPN, b"h2"),
    ]
    .concat();
    assert_eq!(bytes[28..28 + expected.len()], expected);
    assert_eq!(bytes.len(), 28 + expected.len() + 7);
    whole(&bytes);
    // A pool that passes nothing on: a value that is kept for another pool, or for the log, stays here.
    let plain = encode(Version::V2, addresses, &Values { relayed: Some((&kept, Kinds::default())), ..VALUES });
    assert_eq!(plain, encode(Version::V2, addresses, &VALUES));
}

#[test]
fn a_client_cannot_displace_what_the_proxy_says_about_it() {
    let name = [b'x'; 255];
    let of = kinds(&[TYPE_UNIQUE_ID, TYPE_AWS, 0xe4]);
    let from = with_values(&[value(TYPE_UNIQUE_ID, &[7; 128]), value(TYPE_AWS, &[1; 100]), value(0xe4, &[2; 100])]);
    let kept = received(&from, of).expect("three values");
    let added: Vec<Added> = [0xe5, 0xe6].map(|kind| Added { kind, value: "x".repeat(97).into() }).into();
    assert_eq!(added.iter().map(|added| added.value.len() + 3).sum::<usize>(), encode::MOST_ADDED_BYTES);
    let values = Values { added: &added, relayed: Some((&kept, of)), authority: Some(&name), ..VALUES };
    let bytes = encode(Version::V2, pair("[2001:db8::1]:1", "[2001:db8::2]:2"), &values);
    assert!(bytes.len() <= MOST_BYTES);
    let kept = received(&bytes, kinds(&[TYPE_UNIQUE_ID, TYPE_AWS, 0xe4, 0xe5, 0xe6])).expect("all but one");
    let passed: Vec<u8> =
        kept.only(kinds(&[TYPE_UNIQUE_ID, TYPE_AWS, 0xe4, 0xe5, 0xe6])).map(|(kind, _)| kind).collect();
    // The last one has no room, and neither has the name.
    assert_eq!(passed, [TYPE_UNIQUE_ID, 0xe5, 0xe6, TYPE_AWS]);
    // As much as an operator may add leaves room for our id and the longest name.
    let bytes = encode(
        Version::V2,
        pair("[2001:db8::1]:1", "[2001:db8::2]:2"),
        &Values { added: &added, authority: Some(&name), alpn: None, ..VALUES },
    );
    assert_eq!(bytes.len(), MOST_BYTES);
}

#[test]
fn what_breaks_the_format_is_malformed() {
    let long = [&b"PROXY TCP4 "[..], &[b'1'; 100]].concat();
    for bytes in [
        &b"\x16\x03\x01"[..],
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6 7\r\n",
        b"PROXY TCP4 ::1 ::2 5 6\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 05 6\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5 65536\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.2 5 6\r\n",
        &long,
        &v2(COMMAND_PROXY, TCP_OVER_IPV4, &BODY4[..11]),
        &v2(COMMAND_PROXY, TCP_OVER_IPV4, &[&BODY4[..], &[4, 0, 1]].concat()),
        &v2(2, TCP_OVER_IPV4, &BODY4),
        &v2(COMMAND_PROXY, 0x41, &BODY4),
    ] {
        assert!(parse(bytes).is_err(), "{}", bytes.escape_ascii());
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic_nor_ask_past_the_limit(tail in proptest::collection::vec(any::<u8>(), 0..200), v2: bool) {
        let bytes = [if v2 { V2_SIGNATURE } else { V1_SIGNATURE }, &tail].concat();
        if let Ok(Parsed::Needs(more)) = parse(&bytes) {
            prop_assert!(bytes.len() + more.get() <= V2_FIXED_BYTES + usize::from(u16::MAX));
        }
    }
}
