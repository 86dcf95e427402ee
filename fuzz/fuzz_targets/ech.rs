//! Whatever a client seals, or puts where something sealed should be, is a hello that keeps all rules, or is refused.
//!
//! The input is taken five times: as the content of the outer extension, as what is sealed, as the extension list of that,
//! as the answer of a server, and as the list of configurations in a key file.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
use rustls::crypto::hpke::{Hpke, HpkePublicKey};
use snigate::internals::ech::{Awaited, Illegal, Key, Keys, Opened, generate, open, read_key_file};
use snigate::internals::{ClientHello, Hello, parse};
use snigate_fuzz::{message, numbers, records, server_name};

const LIMIT: usize = 16 << 10;
const ID: u8 = 7;

/// The private key of a file whose list of configurations is the input.
static PEM: LazyLock<String> =
    LazyLock::new(|| generate(ID, 64, "public.example").expect("randomness").pem.to_string());
static KEY: LazyLock<Arc<Key>> = LazyLock::new(|| read_key_file("k", PEM.as_bytes()).expect("usable").keys.remove(0));
static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::new(vec![Arc::clone(&KEY)], false, false));

fuzz_target!(|bytes: &[u8]| {
    if let Some(wire) = outer(bytes) {
        match opened(&wire) {
            Some(Ok(Opened::NotForUs) | Err(Illegal::Extension(_))) | None => {}
            other => panic!("nothing was sealed: {other:?}"),
        }
    }
    check_sealed(bytes);
    check_sealed(&[&body(&[])[..], &prefixed(bytes)].concat());
    check_answer(bytes);
    check_key_file(bytes);
});

fn check_sealed(encoded: &[u8]) {
    let Some(wire) = sealed(encoded) else { return };
    match opened(&wire) {
        Some(Ok(Opened::Inner(inner))) => {
            let again = hello(&inner.prefix).expect("it was read before");
            assert_eq!(again, inner.hello);
            assert!(again.offers.tls13() && again.offers.ech, "{again:?}");
            assert_eq!(again.wire_bytes, inner.prefix.len());
            // Each extension of the outer hello is taken once at most.
            assert!(inner.prefix.len() <= encoded.len() + wire.len() + 32 + 5 * again.records);
            assert!(Awaited::new(&again.message(&inner.prefix)).is_some());
        }
        Some(Err(Illegal::Inner(_) | Illegal::Hello(_))) | None => {}
        other => panic!("it was sealed for this key: {other:?}"),
    }
}

/// However an answer is cut, it shows the same.
fn check_answer(bytes: &[u8]) {
    let hello = message(&[&body(&[1; 32])[..], &[0, 0]].concat()).expect("short");
    let awaited = || Awaited::new(&hello).expect("it has a random");
    let whole = awaited().read(bytes);
    let (mut random, mut in_pieces, mut rest) = (numbers(bytes), awaited(), bytes);
    let mut shown = in_pieces.read(&[]);
    while shown.is_none() && !rest.is_empty() {
        let (part, later) = rest.split_at((1 + random() % 100).min(rest.len()));
        (shown, rest) = (in_pieces.read(part), later);
    }
    assert_eq!(shown, whole);
}

fn check_key_file(list: &[u8]) {
    let (private, _) = PEM.split_once("-----BEGIN ECHCONFIG").expect("two sections");
    let digits = data_encoding::BASE64.encode(list);
    let pem = format!("{private}-----BEGIN ECHCONFIG-----\n{digits}\n-----END ECHCONFIG-----\n");
    let Ok(read) = read_key_file("k", pem.as_bytes()) else { return };
    for key in &read.keys {
        assert_eq!(key.config.public_key, KEY.config.public_key);
        assert!(list.windows(key.config.bytes.len()).any(|part| *part == *key.config.bytes));
    }
}

/// With `content` as encrypted_client_hello extension.
fn outer(content: &[u8]) -> Option<Vec<u8>> {
    let mut extensions = server_name(b"public.example")?;
    // TLS 1.3; groups; a key share; then some that can be taken over.
    extensions.extend(b"\0\x2b\0\x05\x04\x03\x04\x03\x03\0\x0a\0\x04\0\x02\0\x1d\0\x33\0\x02\0\0");
    (0x3000_u16..0x3008).for_each(|kind| extensions.extend([&kind.to_be_bytes()[..], &[0, 2, 9, 9]].concat()));
    extensions.extend(b"\xfe\x0d");
    extensions.extend(u16::try_from(content.len()).ok()?.to_be_bytes());
    extensions.extend(content);
    let length = u16::try_from(extensions.len()).ok()?.to_be_bytes();
    Some(records(&message(&[&body(&[7; 32])[..], &length, &extensions].concat())?, || 1 << 14))
}

fn sealed(encoded: &[u8]) -> Option<Vec<u8>> {
    let info = [b"tls ech\0", &*KEY.config.bytes].concat();
    let public = HpkePublicKey(KEY.config.public_key.to_vec());
    let (enc, mut sealer) = DH_KEM_X25519_HKDF_SHA256_AES_128.setup_sealer(&info, &public).expect("a key");
    let content = |payload: &[u8]| [&[0, 0, 1, 0, 1, ID][..], &prefixed(&enc.0), &prefixed(payload)].concat();
    let zeros = outer(&content(&vec![0; encoded.len() + 16]))?;
    let aad = hello(&zeros)?.message(&zeros)[4..].to_vec();
    outer(&content(&sealer.seal(&aad, encoded).expect("sealed")))
}

fn opened(wire: &[u8]) -> Option<Result<Opened, Illegal>> {
    Some(open(wire, &hello(wire)?, &KEYS, LIMIT))
}

fn hello(wire: &[u8]) -> Option<ClientHello> {
    match parse(wire, 1 << 20) {
        Ok(Hello::Whole(hello)) => Some(hello),
        _ => None,
    }
}

/// Up to the extensions.
fn body(session_id: &[u8]) -> Vec<u8> {
    [&[3, 3][..], &[5; 32], &[session_id.len() as u8], session_id, &[0, 2, 0x13, 1, 1, 0]].concat()
}

/// Cut, if it is too long for its length.
fn prefixed(data: &[u8]) -> Vec<u8> {
    let data = &data[..data.len().min(0xffff)];
    [&(data.len() as u16).to_be_bytes()[..], data].concat()
}
