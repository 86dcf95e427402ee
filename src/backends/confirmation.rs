//! Finds out whether a backend accepts the inner hellos of Encrypted ClientHello, by sending it one.
//!
//! In:  a connected stream; the server name and the ALPN protocols to offer.
//! Out: [`Confirmation`], or why there was no answer.
//! Source: RFC 9849 §7 (backend server), RFC 8446 §4.1.2 (ClientHello).
//!
//! The handshake is not completed: the backend's first message is enough. rustls cannot send such a hello, so it is put
//! together here. It offers what current clients offer, and has a key share of random bytes, which is a valid one of X25519.

use std::io;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::client_hello::in_records;
use crate::ech::{Awaited, Confirmation};

/// Asks over `stream`. There is no timeout here: the caller sets the deadline.
///
/// # Errors
/// The stream failed, or ended before the first message was complete.
pub(crate) async fn ask<S>(mut stream: S, name: Option<&str>, alpn: &[Vec<u8>]) -> io::Result<Confirmation>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let hello = inner_hello(name, alpn)?;
    let mut awaited = Awaited::new(&hello).expect("a hello has a random");
    stream.write_all(&in_records(&hello, RECORD_VERSION)).await?;
    let mut bytes = [0; 2048];
    loop {
        match stream.read(&mut bytes).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                if let Some(confirmation) = awaited.read(&bytes[..count]) {
                    return Ok(confirmation);
                }
            }
        }
    }
}

/// A whole ClientHello message, marked as an inner one.
fn inner_hello(name: Option<&str>, alpn: &[Vec<u8>]) -> io::Result<Vec<u8>> {
    let mut random = [0; 32 + 32 + 32];
    SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("no randomness"))?;
    let (random, rest) = random.split_at(32);
    let (session_id, share) = rest.split_at(32);
    let mut extensions = Vec::with_capacity(512);
    if let Some(name) = name {
        let host = [&[HOST_NAME][..], &u16_prefixed(name.as_bytes())].concat();
        extension(&mut extensions, SERVER_NAME, &u16_prefixed(&host));
    }
    extension(&mut extensions, SUPPORTED_GROUPS, &u16_prefixed(&bytes_of(GROUPS)));
    extension(&mut extensions, SIGNATURE_ALGORITHMS, &u16_prefixed(&bytes_of(SIGNATURES)));
    if !alpn.is_empty() {
        let names: Vec<u8> = alpn.iter().flat_map(|name| u8_prefixed(name)).collect();
        extension(&mut extensions, ALPN, &u16_prefixed(&names));
    }
    extension(&mut extensions, SUPPORTED_VERSIONS, &u8_prefixed(&bytes_of(&[TLS13])));
    extension(&mut extensions, PSK_KEY_EXCHANGE_MODES, &u8_prefixed(&[PSK_DHE_KE]));
    extension(&mut extensions, KEY_SHARE, &u16_prefixed(&[&bytes_of(&[X25519])[..], &u16_prefixed(share)].concat()));
    extension(&mut extensions, ENCRYPTED_CLIENT_HELLO, &[INNER]);
    let fields: [&[u8]; 6] = [
        &bytes_of(&[LEGACY_VERSION]),
        random,
        &u8_prefixed(session_id),
        &u16_prefixed(&bytes_of(CIPHER_SUITES)),
        // No compression.
        &u8_prefixed(&[0]),
        &u16_prefixed(&extensions),
    ];
    let body = fields.concat();
    let [_, high, middle, low] = u32::try_from(body.len()).expect("less than 64 KiB").to_be_bytes();
    Ok([&[CLIENT_HELLO, high, middle, low][..], &body].concat())
}

fn extension(extensions: &mut Vec<u8>, kind: u16, data: &[u8]) {
    extensions.extend_from_slice(&kind.to_be_bytes());
    extensions.extend_from_slice(&u16_prefixed(data));
}

fn bytes_of(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// With a length of two bytes. The names and lists here are short: ALPN is bounded by the routing file.
fn u16_prefixed(data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("less than 64 KiB");
    [&length.to_be_bytes()[..], data].concat()
}

/// With a length of one byte.
fn u8_prefixed(data: &[u8]) -> Vec<u8> {
    let length = u8::try_from(data.len()).expect("at most 255 bytes");
    [&[length][..], data].concat()
}

/// Of the first record of a connection (RFC 8446 §5.1).
const RECORD_VERSION: [u8; 2] = [3, 1];
const CLIENT_HELLO: u8 = 1;
const LEGACY_VERSION: u16 = 0x0303;
const TLS13: u16 = 0x0304;
/// AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305.
const CIPHER_SUITES: &[u16] = &[0x1301, 0x1302, 0x1303];
/// X25519, then the NIST curves: a backend without X25519 asks for one of these.
const GROUPS: &[u16] = &[X25519, 0x0017, 0x0018];
const X25519: u16 = 0x001d;
/// ECDSA, EdDSA, RSA-PSS and, for certificates, RSA PKCS#1.
const SIGNATURES: &[u16] = &[0x0403, 0x0503, 0x0603, 0x0807, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601];
const PSK_DHE_KE: u8 = 1;
const HOST_NAME: u8 = 0;
const INNER: u8 = 1;
/// <https://www.iana.org/assignments/tls-extensiontype-values>
const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const PSK_KEY_EXCHANGE_MODES: u16 = 45;
const KEY_SHARE: u16 = 51;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_hello::{self, Hello};

    #[test]
    fn what_is_sent_is_a_hello_marked_as_an_inner_one() {
        for (name, alpn) in [(Some("a.example"), vec![b"h2".to_vec(), b"http/1.1".to_vec()]), (None, vec![])] {
            let wire = in_records(&inner_hello(name, &alpn).expect("randomness"), RECORD_VERSION);
            let Ok(Hello::Whole(hello)) = client_hello::parse(&wire, 4096) else { panic!("not a hello: {wire:?}") };
            assert_eq!((hello.name_or_literal(), hello.wire_bytes), (name, wire.len()));
            assert_eq!(hello.alpn.protocols().collect::<Vec<_>>(), alpn);
            assert!(hello.offers.ech && hello.offers.tls13());
            assert!(wire.ends_with(&[0xfe, 0x0d, 0, 1, 1]));
        }
    }

    #[tokio::test]
    async fn a_backend_that_knows_no_inner_hellos_is_found_out_by_its_first_message() {
        let certified = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
        let key = certified.signing_key.serialize_der().try_into().expect("a key");
        let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .expect("a configuration");
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let (answer, _) = tokio::join!(ask(ours, Some("a.example"), &[]), acceptor.accept(theirs));
        assert_eq!(answer.expect("an answer"), Confirmation::Unconfirmed);

        for (answer, expected) in [
            (&b"\x15\x03\x03\x00\x02\x02\x28"[..], Ok(Confirmation::Unknown)),
            (b"SSH-2.0-x\r\n", Ok(Confirmation::Unknown)),
            (b"\x16\x03\x03", Err(io::ErrorKind::UnexpectedEof)),
            (b"", Err(io::ErrorKind::UnexpectedEof)),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(1 << 16);
            let answers = async {
                theirs.write_all(answer).await.expect("written");
                theirs.shutdown().await.expect("open");
                theirs
            };
            let (answer, _kept) = tokio::join!(ask(ours, None, &[]), answers);
            assert_eq!(answer.map_err(|error| error.kind()), expected);
        }
    }
}
