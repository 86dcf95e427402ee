use proptest::prelude::*;

use super::reader::MAX_FRAGMENT_BYTES;
use super::*;

const LIMIT: usize = 64 * 1024;

/// A hello as OpenSSL would shape it: `extensions` is the list without its length.
fn message(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([2, 0xaa, 0xbb, 0, 4, 0x13, 1, 0x13, 2, 1, 0]);
    body.extend(u16::try_from(extensions.len()).expect("short").to_be_bytes());
    body.extend_from_slice(extensions);
    let mut message = vec![1];
    message.extend(&u32::try_from(body.len()).expect("short").to_be_bytes()[1..]);
    message.extend(body);
    message
}

fn records(message: &[u8], fragment_bytes: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for fragment in message.chunks(fragment_bytes) {
        wire.extend([0x16, 3, 1]);
        wire.extend(u16::try_from(fragment.len()).expect("short").to_be_bytes());
        wire.extend_from_slice(fragment);
    }
    wire
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut out = kind.to_be_bytes().to_vec();
    out.extend(prefixed(data));
    out
}

fn prefixed(data: &[u8]) -> Vec<u8> {
    [&u16::try_from(data.len()).expect("short").to_be_bytes()[..], data].concat()
}

fn host_name(name: &[u8]) -> Vec<u8> {
    [&[0][..], &prefixed(name)].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(SERVER_NAME, &prefixed(&host_name(name)))
}

fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
    extension(ALPN, &prefixed(&Alpn::of(protocols).0))
}

fn usual() -> Vec<u8> {
    [sni(b"Shop.Example.com"), usual_but_name()].concat()
}

fn usual_but_name() -> Vec<u8> {
    let groups = extension(SUPPORTED_GROUPS, &prefixed(&[0x11, 0xec, 0, 0x1d]));
    let versions = extension(SUPPORTED_VERSIONS, &[6, 0x1a, 0x1a, 3, 4, 3, 3]);
    [alpn(&[b"h2", b"http/1.1"]), groups, versions, extension(0x4469, b"x")].concat()
}

fn whole(wire: &[u8]) -> ClientHello {
    match parse(wire, LIMIT) {
        Ok(Hello::Whole(hello)) => hello,
        other => panic!("not whole: {other:?}"),
    }
}

fn refusal(extensions: &[u8]) -> NotHello {
    parse(&records(&message(extensions), 16_384), LIMIT).expect_err("refused")
}

#[test]
fn a_long_list_of_protocols_is_shortened_and_what_it_offered_is_still_known() {
    let mut protocols = vec![&[b'n'; 255][..]; 230];
    protocols.extend([&b"h2"[..], b"http/1.1", b"acme-tls/1"]);
    let mut hello = whole(&records(&message(&alpn(&protocols)), 16_384));
    assert!(hello.alpn.as_wire().len() > 58_000 && hello.alpn.offers(b"acme-tls/1"));
    let offers = hello.offers;
    assert!(offers.h2 && offers.http11 && offers.acme_tls);

    hello.alpn.shorten(8, 32);
    assert_eq!(hello.alpn, Alpn::of(&[[b'n'; 32]; 8]));
    let mut usual = Alpn::of(&["h2", "http/1.1"]);
    usual.shorten(8, 32);
    assert_eq!(usual, Alpn::of(&["h2", "http/1.1"]));
    let mut absent = Alpn::default();
    absent.shorten(8, 32);
    assert_eq!(absent, Alpn::default());
}

#[test]
fn a_usual_hello_is_read() {
    let wire = records(&message(&usual()), 16_384);
    let hello = whole(&wire);
    assert_eq!(hello.server_name, Some(Sni::Name("shop.example.com".parse().expect("a name"))));
    assert_eq!(hello.alpn.protocols().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
    assert_eq!(
        hello.offers,
        Offers { version: TLS13, x25519mlkem768: true, h2: true, http11: true, ..Offers::default() }
    );
    assert_eq!((hello.wire_bytes, hello.records), (wire.len(), 1));
}

#[test]
fn a_client_may_go_on_with_an_earlier_session() {
    let session = |extensions: &[Vec<u8>]| whole(&records(&message(&extensions.concat()), 16_384)).offers.session;
    let (ticket, no_ticket) = (extension(SESSION_TICKET, b"ticket"), extension(SESSION_TICKET, b""));
    let (pre_shared, early) = (extension(PRE_SHARED_KEY, b"psk"), extension(EARLY_DATA, b""));
    let tls13 = extension(SUPPORTED_VERSIONS, &[2, 3, 4]);
    assert_eq!(session(&[tls13.clone(), no_ticket]), Session::New);
    assert_eq!(session(&[tls13.clone(), ticket]), Session::Resumed);
    assert_eq!(session(&[tls13.clone(), pre_shared.clone()]), Session::Resumed);
    assert_eq!(session(&[tls13.clone(), early, pre_shared]), Session::EarlyData);

    // Before TLS 1.3 a session id, which `message` has, is enough.
    assert_eq!(session(&[sni(b"a.test"), tls13]), Session::New);
    assert_eq!(session(&[sni(b"a.test")]), Session::Resumed);
    let mut without_id = message(&sni(b"a.test"));
    let id_at = MESSAGE_HEADER_BYTES + 2 + 32;
    without_id.splice(id_at..id_at + 3, [0]);
    without_id[3] -= 2;
    assert_eq!(whole(&records(&without_id, 16_384)).offers.session, Session::New);
}

#[test]
fn the_name_as_it_was_sent_can_be_had() {
    for name in [&b"Shop.Example.com."[..], b"192.0.2.7", b"a"] {
        let first_last = [[sni(name), usual_but_name()].concat(), [usual_but_name(), sni(name)].concat()];
        for extensions in first_last {
            let wire = records(&message(&extensions), 16_384);
            let hello = whole(&wire);
            let sent = hello.server_name_as_sent(&wire);
            assert!(matches!(sent, Some(Cow::Borrowed(sent)) if sent == name), "{sent:?}");
        }
    }
    let wire = records(&message(&usual_but_name()), 16_384);
    assert_eq!(whole(&wire).server_name_as_sent(&wire), None);
}

#[test]
fn a_protocol_is_the_only_one_when_no_other_is_offered() {
    assert_eq!(Alpn::of(&["h2"]).only(), Some(&b"h2"[..]));
    assert_eq!(Alpn::of(&["h2", "http/1.1"]).only(), None);
    assert_eq!(Alpn::default().only(), None);
}

#[test]
fn a_hello_is_the_same_however_it_is_cut() {
    let message = message(&usual());
    let expected = whole(&records(&message, 16_384));
    for fragment_bytes in 1..=message.len() {
        let wire = records(&message, fragment_bytes);
        let mut longer = wire.clone();
        longer.extend(b"early data");
        let hello = whole(&longer);
        assert_eq!((hello.server_name, hello.alpn), (expected.server_name.clone(), expected.alpn.clone()));
        assert_eq!(hello.wire_bytes, wire.len());
    }
}

#[test]
fn every_prefix_needs_no_more_than_is_missing() {
    let message = message(&usual());
    for fragment_bytes in [1, 2, 3, 5, 16, 100, 16_384] {
        let wire = records(&message, fragment_bytes);
        let mut reader = Reader::new(LIMIT);
        for end in 0..wire.len() {
            for answer in [parse(&wire[..end], LIMIT), reader.read(&wire[..end])] {
                match answer {
                    Ok(Hello::Needs(bytes)) => {
                        assert!(bytes.get() <= wire.len() - end, "{fragment_bytes} {end} {bytes}")
                    }
                    other => panic!("{fragment_bytes}, {end} bytes: {other:?}"),
                }
            }
        }
        assert!(matches!(reader.read(&wire), Ok(Hello::Whole(_))));
    }
}

#[test]
fn following_needs_takes_few_looks() {
    let message = message(&extension(21, &[0; 2000]));
    let wire = records(&message, 1);
    let (mut reader, mut end, mut looks) = (Reader::new(LIMIT), 0, 0);
    while let Hello::Needs(bytes) = reader.read(&wire[..end]).expect("a hello") {
        end += bytes.get();
        looks += 1;
    }
    assert!(looks < 100, "{looks} looks at {} bytes", wire.len());
}

#[test]
fn what_is_no_handshake_is_not_tls() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x", b"\x80\x2e\x01\x00\x02", b"\x15\x03\x01\x00\x02", b"\x16\x16\x16"]
    {
        assert_eq!(parse(bytes, LIMIT).expect_err("no TLS"), NotHello::NotTls);
        assert_eq!(parse(&bytes[..3], LIMIT).expect_err("no TLS"), NotHello::NotTls);
    }
}

/// Every length field of a usual hello, with its offset on the wire and its width.
fn length_fields() -> Vec<(&'static str, usize, usize)> {
    let start = 5 + 4 + 2 + 32;
    let extensions = start + 3 + 2 + 4 + 1 + 1 + 2;
    let alpn = extensions + sni(b"Shop.Example.com").len();
    let groups = alpn + super::tests::alpn(&[b"h2", b"http/1.1"]).len();
    vec![
        ("record", 3, 2),
        ("message", 6, 3),
        ("session id", start, 1),
        ("cipher suites", start + 3, 2),
        ("compression", start + 9, 1),
        ("extensions", start + 11, 2),
        ("server_name extension", extensions + 2, 2),
        ("server name list", extensions + 4, 2),
        ("server name", extensions + 7, 2),
        ("ALPN extension", alpn + 2, 2),
        ("ALPN list", alpn + 4, 2),
        ("ALPN protocol", alpn + 6, 1),
        ("groups extension", groups + 2, 2),
        ("groups list", groups + 4, 2),
        ("versions extension", groups + 12, 2),
        ("versions list", groups + 14, 1),
    ]
}

#[test]
fn a_length_that_lies_is_refused_at_once() {
    let wire = records(&message(&usual()), 16_384);
    for (field, at, width) in length_fields() {
        let honest = wire[at..at + width].iter().fold(0_u32, |sum, &byte| sum << 8 | u32::from(byte));
        for lie in [honest - 1, honest + 1, 0, (1 << (8 * width)) - 1] {
            let mut wire = wire.clone();
            wire[at..at + width].copy_from_slice(&lie.to_be_bytes()[4 - width..]);
            match parse(&wire, LIMIT) {
                Err(NotHello::Malformed(_) | NotHello::Name { .. } | NotHello::TooLong { .. }) => {}
                other => panic!("{field} {honest} said {lie}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_lying_message_length_is_refused_before_its_end() {
    let mut wire = records(&message(&usual()), 16_384);
    wire[8] += 1;
    wire[4] += 1;
    assert!(matches!(parse(&wire, LIMIT), Err(NotHello::Malformed(_))));
    wire[6] = 0xff;
    assert!(matches!(parse(&wire[..9], LIMIT), Err(NotHello::Malformed(_) | NotHello::TooLong { .. })));
}

#[test]
fn what_a_refused_client_is_reported_does_not_depend_on_how_its_bytes_come() {
    // Too long, and broken further on.
    let mut wire = records(&message(&usual()), 16_384);
    wire[6] = 0xff;
    let too_long = NotHello::TooLong { bytes: message_bytes(&wire[5..]).expect("a header") };
    for end in 9..=wire.len() {
        assert_eq!(parse(&wire[..end], LIMIT).expect_err("too long"), too_long, "{end} bytes");
    }
}

#[test]
fn the_limit_is_the_message_however_it_is_cut() {
    let message = message(&extension(21, &[0; 3000]));
    for fragment_bytes in [100, 16_384] {
        let wire = records(&message, fragment_bytes);
        assert!(matches!(parse(&wire, message.len()), Ok(Hello::Whole(_))));
        assert_eq!(
            parse(&wire[..200], message.len() - 1).expect_err("too long"),
            NotHello::TooLong { bytes: message.len() }
        );
    }
}

#[test]
fn nothing_is_asked_for_beyond_a_length_that_is_not_known_yet() {
    let wire = records(&message(&usual()), 16_384);
    for end in 5..9 {
        assert!(matches!(parse(&wire[..end], 64), Ok(Hello::Needs(bytes)) if bytes.get() == 9 - end), "{end}");
    }
    assert!(matches!(parse(&wire[..9], 64), Err(NotHello::TooLong { .. })));
}

#[test]
fn more_records_than_any_client_has_reason_to_are_too_many() {
    let message = message(&extension(21, &vec![0; MAX_RECORDS]));
    assert_eq!(parse(&records(&message, 1), LIMIT).expect_err("too many"), NotHello::TooManyRecords);
}

/// Found by fuzzing.
#[test]
fn a_long_message_of_another_kind_is_refused_alike_however_it_comes() {
    let mut message = message(&extension(21, &[0; 700]));
    message[0] = 2;
    let wire = records(&message, 16_384);
    for end in [6, 9, 100, wire.len()] {
        assert!(matches!(parse(&wire[..end], 600), Err(NotHello::Malformed(_))), "{end}");
    }
}

#[test]
fn two_names_are_refused() {
    assert_eq!(refusal(&[sni(b"a.test"), sni(b"a.test")].concat()), NotHello::TwoNames);
    let list = [host_name(b"a.test"), host_name(b"b.test")].concat();
    assert_eq!(refusal(&extension(SERVER_NAME, &prefixed(&list))), NotHello::TwoNames);
}

#[test]
fn an_empty_server_name_is_none() {
    let read = whole(&records(&message(&sni(b"")), 16_384));
    assert_eq!(read.server_name, None);
    assert_eq!(read.server_name_as_sent(&records(&message(&sni(b"")), 16_384)), None);
}

#[test]
fn a_broken_server_name_is_refused() {
    for data in [&b""[..], b"\0\0", b"\0\x01\0", b"\0\x04\x01\0\x01a"] {
        assert!(matches!(refusal(&extension(SERVER_NAME, data)), NotHello::Malformed(_)), "{data:?}");
    }
    let sent = Box::from(*b"a\0.test");
    assert_eq!(refusal(&sni(b"a\0.test")), NotHello::Name { error: InvalidName::Byte(0), sent });
}

#[test]
fn an_extension_may_come_once() {
    for kind in [23, 0x4469] {
        let twice = [extension(kind, b""), extension(kind, b"")].concat();
        assert!(matches!(refusal(&twice), NotHello::Malformed(_)), "{kind}");
    }
    let many: Vec<u8> = (100..5000).flat_map(|kind| extension(kind, b"")).collect();
    let wire = |list: &[u8]| records(&message(list), 16_384);
    assert!(matches!(parse(&wire(&many), LIMIT), Ok(Hello::Whole(_))));
    assert!(parse(&wire(&[many, extension(4000, b"")].concat()), LIMIT).is_err());
}

#[test]
fn a_hello_without_extensions_is_whole() {
    let mut old = message(&[]);
    old.truncate(old.len() - 2);
    let length = u32::try_from(old.len() - 4).expect("short").to_be_bytes();
    old[1..4].copy_from_slice(&length[1..]);
    assert_eq!(whole(&records(&old, 16_384)).server_name, None);
}

#[test]
fn an_ip_literal_is_reported_from_no_name() {
    assert_eq!(
        whole(&records(&message(&sni(b"192.0.2.7")), 16_384)).server_name,
        Some(Sni::IpLiteral("192.0.2.7".into()))
    );
}

#[test]
fn the_highest_version_ignores_grease_and_drafts() {
    let list = extension(SUPPORTED_VERSIONS, &[6, 0x7a, 0x7a, 0x7f, 0x1c, 3, 3]);
    assert_eq!(whole(&records(&message(&list), 16_384)).offers.version, TLS12);
}

proptest! {
    #[test]
    fn random_bytes_never_panic_nor_ask_past_the_limit(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(Hello::Needs(more)) = parse(&bytes, 1000) {
            prop_assert!(bytes.len() + more.get() <= 6 * 1000 + MAX_FRAGMENT_BYTES);
        }
    }

    #[test]
    fn a_flipped_byte_never_panics_and_never_adds_a_name(at in 0_usize..200, to in any::<u8>()) {
        let mut wire = records(&message(&usual()), 16_384);
        let at = at % wire.len();
        wire[at] = to;
        let _ = parse(&wire, LIMIT);
    }

    #[test]
    fn any_cut_into_records_gives_the_same_hello(cuts in proptest::collection::vec(1_usize..60, 1..40)) {
        let message = message(&usual());
        let (mut wire, mut rest) = (Vec::new(), &message[..]);
        for cut in cuts.into_iter().cycle() {
            if rest.is_empty() { break }
            let (fragment, after) = rest.split_at(cut.min(rest.len()));
            wire.extend(records(fragment, 16_384));
            rest = after;
        }
        let hello = whole(&wire);
        prop_assert_eq!(&hello.server_name, &whole(&records(&message, 16_384)).server_name);
        wire.extend(b"what follows");
        let sent = hello.server_name_as_sent(&wire);
        prop_assert_eq!(sent.as_deref(), Some(&b"Shop.Example.com"[..]));
    }
}
