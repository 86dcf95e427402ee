//! What is opened, by which key, and what the backend gets.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use rustls::client::{EchConfig, EchMode};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{EchConfigListBytes, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use snigate::internals::NotHello;
use snigate::internals::ech::{Illegal, Keys, Opened, open, read_key_file};

use crate::sealing::{
    Client, INNER, LIMIT, PUBLIC, accepted, encoded, extension, key, keys, mark, message, outer_extensions, outer_with,
    read, record, records, sni, u16_prefixed, usual, versions,
};

fn not_for_us(wire: &[u8], keys: &Keys) -> bool {
    matches!(open(wire, &read(wire), keys, LIMIT), Ok(Opened::NotForUs))
}

#[test]
fn hellos_of_other_programs_are_opened() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ech");
    let keys = read_key_file("key.pem", &fs::read(directory.join("key.pem")).expect("a key")).expect("usable").keys;
    let keys = Keys::new(keys, false, true);
    for file in ["boringssl.bin", "aes-128-gcm.bin", "aes-256-gcm.bin", "chacha20-poly1305.bin"] {
        let wire = fs::read(directory.join(file)).expect("a hello");
        let outer = read(&wire);
        assert_eq!(outer.name(), Some("public.captured.test"), "{file}");
        let inner = accepted(&wire, &keys);
        assert_eq!(inner.hello.name(), Some("inner.captured.test"), "{file}");
        assert_eq!(inner.hello.wire_bytes, inner.prefix.len(), "{file}");
        // The session id is the one that the client expects back.
        let id = |wire: &[u8]| wire[43..][..33].to_vec();
        assert_eq!(id(&inner.prefix), id(&wire), "{file}");
        assert_eq!((&*inner.key.file, inner.key.config.id), ("key.pem", 42), "{file}");
    }
}

#[test]
fn hellos_of_rustls_are_opened() {
    let key = key(3);
    let list = EchConfigListBytes::from(u16_prefixed(&key.config.bytes));
    let config = EchConfig::new(list, aws_lc_rs::hpke::ALL_SUPPORTED_SUITES).expect("a suite that both have");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_ech(EchMode::Enable(config))
        .expect("TLS 1.3")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(INNER).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut wire = Vec::new();
    client.write_tls(&mut wire).expect("a hello");
    assert_eq!(read(&wire).name(), Some(PUBLIC));
    assert_eq!(accepted(&wire, &keys(&[&key])).hello.name(), Some(INNER));
}

#[test]
fn the_inner_hello_is_put_together_to_the_byte() {
    let key = key(1);
    let wire = Client::of(&key).seal(&[encoded(&usual()), vec![0; 40]].concat());
    let inner = accepted(&[&wire[..], b"\x14\x03\x03\x00\x01\x01"].concat(), &keys(&[&key]));
    let taken = [extension(10, &[0, 2, 0, 0x1d]), extension(51, &u16_prefixed(&[9; 36]))].concat();
    let extensions = [sni(INNER), taken, versions(&[0x1a1a, 0x0304]), mark()].concat();
    let expected = record(&message(&crate::sealing::body(&[7; 32], &extensions)));
    assert_eq!(inner.prefix, [&expected[..], b"\x14\x03\x03\x00\x01\x01"].concat());
    assert_eq!(inner.hello, read(&expected));
}

#[test]
fn a_hello_in_small_records_is_opened_and_its_record_version_is_kept() {
    let key = key(1);
    let wire = Client::of(&key).seal(&encoded(&usual()));
    let mut split = records(&wire[5..], 50);
    split[2] = 3;
    let inner = accepted(&split, &keys(&[&key]));
    assert_eq!((inner.hello.name(), &inner.prefix[..3]), (Some(INNER), &[0x16, 3, 3][..]));
}

#[test]
fn a_large_inner_hello_is_cut_into_records() {
    let key = key(1);
    let large = [usual(), extension(0x5555, &[b'x'; 20_000])].concat();
    let inner = accepted(&Client::of(&key).seal(&encoded(&large)), &keys(&[&key]));
    assert_eq!((inner.hello.name(), inner.hello.records), (Some(INNER), 2));
    assert_eq!(inner.prefix[3..5], [0x40, 0]);
}

#[test]
fn each_suite_opens_and_one_that_the_key_does_not_offer_does_not() {
    let key = key(1);
    for aead in [1, 2, 3] {
        let client = Client { aead, ..Client::of(&key) };
        assert_eq!(accepted(&client.seal(&encoded(&usual())), &keys(&[&key])).hello.name(), Some(INNER));
    }
    for unknown in [0, 4, 0xffff] {
        let client = Client { aead: unknown, ..Client::of(&key) };
        assert!(not_for_us(&client.seal(&encoded(&usual())), &keys(&[&key])));
    }
}

#[test]
fn without_the_extension_or_tls_1_3_nothing_is_opened() {
    let key = key(1);
    let plain = record(&message(&crate::sealing::body(&[], &sni(PUBLIC))));
    let mut client = Client::of(&key);
    client.outer = [sni(PUBLIC), versions(&[0x0303])].concat();
    let old = client.seal(&encoded(&usual()));
    for wire in [plain, old] {
        assert!(matches!(open(&wire, &read(&wire), &keys(&[&key]), LIMIT), Ok(Opened::Absent)));
    }
}

#[test]
fn what_no_key_opens_is_not_for_us() {
    let (ours, theirs) = (key(1), key(2));
    let sealed = Client::of(&theirs).seal(&encoded(&usual()));
    assert!(not_for_us(&sealed, &keys(&[])), "no key at all");
    assert!(not_for_us(&sealed, &keys(&[&ours])), "another id");
    let same_id = Client { id: 1, ..Client::of(&theirs) };
    assert!(not_for_us(&same_id.seal(&encoded(&usual())), &keys(&[&ours])), "GREASE with a known id");
    let grease = |enc: &[u8], payload: &[u8]| {
        outer_with(&[&[0, 0, 1, 0, 1, 1][..], &u16_prefixed(enc), &u16_prefixed(payload)].concat())
    };
    for (enc, payload) in [
        (&[0; 32][..], &[7; 200][..]),
        (&[9; 32], &[1]),
        (&[], &[1; 100]),
        (&[9; 31], &[1; 100]),
        (&[9; 33], &[1; 100]),
    ] {
        assert!(not_for_us(&grease(enc, payload), &keys(&[&ours])), "{enc:?}");
    }
    // A hello that was changed on its way.
    let mut changed = Client::of(&ours).seal(&encoded(&usual()));
    let last = changed.len() - 1;
    changed[last] ^= 1;
    assert!(not_for_us(&changed, &keys(&[&ours])));
}

#[test]
fn of_two_keys_with_one_id_the_right_one_opens() {
    let (first, second) = (key(9), key(9));
    for owner in [&first, &second] {
        let inner = accepted(&Client::of(owner).seal(&encoded(&usual())), &keys(&[&first, &second]));
        assert_eq!(inner.key.config, owner.config);
    }
}

#[test]
fn every_key_is_tried_only_if_that_is_asked_for() {
    let (first, second) = (key(1), key(2));
    let wire = Client { id: 77, ..Client::of(&second) }.seal(&encoded(&usual()));
    assert!(not_for_us(&wire, &keys(&[&first, &second])));
    let all = Keys::new(vec![first, Arc::clone(&second)], true, false);
    assert_eq!(accepted(&wire, &all).key.config, second.config);
}

#[test]
fn the_public_name_is_compared_only_if_that_is_asked_for() {
    let key = key(1);
    let mut client = Client::of(&key);
    client.outer = [sni("other.example"), versions(&[0x0304]), crate::sealing::shared()].concat();
    let wire = client.seal(&encoded(&usual()));
    assert_eq!(accepted(&wire, &keys(&[&key])).hello.name(), Some(INNER));
    let strict = Keys::new(vec![Arc::clone(&key)], false, true);
    assert_eq!(open(&wire, &read(&wire), &strict, LIMIT).expect_err("refused"), Illegal::PublicName);
    accepted(&Client::of(&key).seal(&encoded(&usual())), &strict);
}

#[test]
fn the_limit_of_a_hello_holds_for_the_inner_one() {
    let key = key(1);
    let mut client = Client::of(&key);
    let kinds: Vec<u16> = (0x3000..0x3010).collect();
    client.outer.extend(kinds.iter().flat_map(|&kind| extension(kind, &[b'x'; 1000])));
    let extensions = [sni(INNER), outer_extensions(&kinds), versions(&[0x0304]), mark()].concat();
    let wire = client.seal(&encoded(&[extensions, extension(0x4000, &[b'y'; 4000])].concat()));
    assert!(read(&wire).wire_bytes < 21_000);
    let refused = open(&wire, &read(&wire), &keys(&[&key]), 20_000).expect_err("refused");
    assert!(matches!(refused, Illegal::Hello(NotHello::TooLong { bytes }) if bytes > 20_000), "{refused:?}");
    accepted(&wire, &keys(&[&key]));
}

/// Of this thread, so that other processes count for nothing.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("not negative")
}

/// The extensions that are taken over stand at the end of a list of thousands, which is walked once.
#[test]
fn opening_takes_linear_time() {
    let key = key(1);
    let time = |fillers: u16| {
        let mut client = Client::of(&key);
        client.outer.extend((0x1000..0x1000 + fillers).flat_map(|kind| extension(kind, &[])));
        let kinds: Vec<u16> = (0x1000 + fillers - 127..0x1000 + fillers).collect();
        let wire = client.seal(&encoded(&[sni(INNER), outer_extensions(&kinds), versions(&[0x0304]), mark()].concat()));
        let (hello, keys) = (read(&wire), keys(&[&key]));
        let fastest = (0..40).map(|_| {
            let begun = cpu_time();
            assert!(matches!(open(&wire, &hello, &keys, LIMIT), Ok(Opened::Inner(_))));
            cpu_time() - begun
        });
        fastest.min().expect("forty runs")
    };
    let (small, large) = (time(3_900), time(15_600));
    assert!(large <= small * 8 + Duration::from_micros(200), "16 KiB: {small:?}, 64 KiB: {large:?}");
}
