//! Whoever routes by one name what the backend serves under another has a hole: rustls reads the same hello.
//!
//! Laws, for one input taken as the bytes on the wire, as an extension list and as a server name:
//! 1. Where rustls gives a name, we give the same or refuse; where it gives none, we give none or refuse.
//! 2. The same for ALPN.
//! 3. rustls may refuse what we route only for one of these reasons, since a passthrough proxy does not judge what it
//!    does not read:
//!    - an extension other than server_name and ALPN is not to its liking, or one that it needs (signature_algorithms)
//!      is missing: without the others, it takes the hello and agrees with us;
//!    - the null compression method is not offered;
//!    - the name is empty, which we treat as no name, as OpenSSL does;
//!    - the name is outside its alphabet (letters, digits, `-`, `_`; no `-` at the edge of a label, no last label of
//!      digits alone), or it is an address in a spelling of our own (`[::1]`, `fe80::1%eth0`, `192.0.2.7.`), which we
//!      treat as no name.
//! 4. Neither waits for bytes that the other does not need.

#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use rustls::pki_types::DnsName;
use rustls::server::Acceptor;
use rustls::{Error, PeerIncompatible, PeerMisbehaved};
use snigate::internals::{ClientHello, Hello, Sni, parse};
use snigate_fuzz::{MAX_MESSAGE_BYTES, gathered, message, message_with_extensions, records, server_name};

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    for list in [Some(bytes.to_vec()), server_name(bytes)].into_iter().flatten() {
        // Without it, rustls refuses before it has told the name.
        for list in [&list[..], &[&list[..], SIGNATURE_ALGORITHMS].concat()] {
            if let Some(message) = message_with_extensions(list) {
                check(&records(&message, || 1 << 14));
            }
        }
    }
});

fn check(bytes: &[u8]) {
    let ours = parse(bytes, MAX_MESSAGE_BYTES);
    match &ours {
        Ok(Hello::Whole(hello)) => {
            let wire = &bytes[..hello.wire_bytes];
            match theirs(wire) {
                Theirs::Hello { name, alpn } => agree(hello, name.as_deref(), &alpn),
                Theirs::Refused(error) => check_refusal(hello, wire, &error),
                Theirs::Needs => panic!("rustls waits for more of {hello:?}"),
            }
        }
        Ok(Hello::Needs(more)) => {
            let theirs = theirs(bytes);
            assert!(!matches!(theirs, Theirs::Hello { .. }), "we wait for {more} bytes more of {theirs:?}");
        }
        // Stricter is as right; that we agree where both accept is what counts.
        Err(_) => {}
    }
}

#[derive(Debug)]
enum Theirs {
    Hello { name: Option<String>, alpn: Vec<Vec<u8>> },
    Needs,
    Refused(Error),
}

fn theirs(mut bytes: &[u8]) -> Theirs {
    let mut acceptor = Acceptor::default();
    loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let alpn = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
                return Theirs::Hello { name: hello.server_name().map(str::to_owned), alpn };
            }
            Ok(None) if bytes.is_empty() => return Theirs::Needs,
            Ok(None) => {}
            Err((error, _)) => return Theirs::Refused(error),
        }
        let read = acceptor.read_tls(&mut bytes as &mut dyn io::Read);
        read.expect("what is read is looked at before there is more");
    }
}

fn agree(ours: &ClientHello, name: Option<&str>, alpn: &[Vec<u8>]) {
    let folded = name.map(|name| name.strip_suffix('.').unwrap_or(name));
    match &ours.server_name {
        Some(Sni::Name(ours)) => assert_eq!(Some(ours.as_str()), folded),
        Some(Sni::IpLiteral(_)) | None => assert_eq!(None, folded),
    }
    assert!(ours.alpn.protocols().eq(alpn.iter().map(Vec::as_slice)), "{ours:?}, {alpn:?}");
}

fn check_refusal(ours: &ClientHello, wire: &[u8], why: &Error) {
    let reduced = reduced(&gathered(wire));
    match theirs(&records(&reduced, || 1 << 14)) {
        Theirs::Hello { name, alpn } => {
            let is_about_the_rest = matches!(
                why,
                Error::InvalidMessage(_)
                    | Error::PeerIncompatible(
                        PeerIncompatible::SignatureAlgorithmsExtensionRequired
                            | PeerIncompatible::NullCompressionRequired
                    )
            );
            assert!(is_about_the_rest, "{why:?}: {ours:?}");
            agree(ours, name.as_deref(), &alpn);
        }
        Theirs::Refused(Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName)) => {
            match &ours.server_name {
                Some(Sni::Name(name)) => assert!(DnsName::try_from(name.as_str()).is_err(), "{ours:?}"),
                Some(Sni::IpLiteral(_)) => {}
                None => panic!("rustls refuses the name of {ours:?}"),
            }
        }
        Theirs::Refused(Error::InvalidMessage(_))
            if ours.server_name.is_none() && reduced.windows(EMPTY_NAME.len()).any(|bytes| bytes == EMPTY_NAME) => {}
        other => panic!("{other:?}, at first {why:?}: {ours:?}"),
    }
}

/// `message` with server_name and ALPN alone, the null compression and the signature algorithms that rustls wants.
fn reduced(whole: &[u8]) -> Vec<u8> {
    let u16_at = |at: usize| usize::from(u16::from_be_bytes([whole[at], whole[at + 1]]));
    let suites_at = 4 + 2 + 32 + 1 + usize::from(whole[4 + 2 + 32]);
    let compression_at = suites_at + 2 + u16_at(suites_at);
    let mut at = compression_at + 1 + usize::from(whole[compression_at]) + 2;
    let mut list = SIGNATURE_ALGORITHMS.to_vec();
    while at < whole.len() {
        let end = at + 4 + u16_at(at + 2);
        if matches!(u16_at(at), 0 | 16) {
            list.extend(&whole[at..end]);
        }
        at = end;
    }
    let length = u16::try_from(list.len()).expect("hardly more than there was").to_be_bytes();
    message(&[&whole[4..compression_at], &[1, 0], &length, &list].concat()).expect("hardly more than there was")
}

/// A `ServerNameList` with one empty `host_name`.
const EMPTY_NAME: &[u8] = &[0, 3, 0, 0, 0];
/// ecdsa_secp256r1_sha256, RFC 8446 §4.2.3.
const SIGNATURE_ALGORITHMS: &[u8] = &[0, 13, 0, 4, 0, 2, 4, 3];
