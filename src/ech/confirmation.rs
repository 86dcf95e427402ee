//! Finds out whether a server has accepted an inner hello, from the beginning of its answer.
//!
//! In:  the inner hello, then what the server sends.
//! Out: [`Confirmation`], as soon as its first message is complete. No I/O.
//! Source: RFC 9849 §7.2 (ServerHello), §7.2.1 (HelloRetryRequest); RFC 8446 §4.4.1 (transcript), §7.1 (HKDF-Expand-Label).
//!
//! A server that accepts an inner hello puts eight bytes into its answer that depend on the whole handshake so far. One
//! that does not know Encrypted ClientHello sends random bytes there, and its client gives up.

use aws_lc_rs::digest::{Context, SHA256, SHA384, digest};
use aws_lc_rs::hkdf::{self, HKDF_SHA256, HKDF_SHA384, KeyType, Salt};

use super::ENCRYPTED_CLIENT_HELLO;
use super::walk::{Extensions, u8_prefixed, u16_of, u16_prefixed};

/// What the answer to an inner hello shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// The server has accepted it.
    Confirmed,
    /// The server has answered, but ignores that the hello is an inner one.
    Unconfirmed,
    /// It answered with something else, such as an alert.
    Unknown,
}

/// An inner hello that waits for its answer. Of a fixed size, however long the hello is.
pub struct Awaited {
    random: [u8; RANDOM_BYTES],
    /// The transcript so far. Which of them counts is decided by the cipher suite of the answer.
    sha256: Context,
    sha384: Context,
    /// The answer, as far as it has been read.
    answer: Vec<u8>,
}

impl Awaited {
    /// `message` is the inner hello without record headers. `None`: it is cut short.
    pub fn new(message: &[u8]) -> Option<Self> {
        let random = *message.get(RANDOM_AT..)?.first_chunk()?;
        let transcript = |algorithm| {
            let mut context = Context::new(algorithm);
            context.update(message);
            context
        };
        Some(Self { random, sha256: transcript(&SHA256), sha384: transcript(&SHA384), answer: Vec::new() })
    }

    /// Reads the next bytes of the answer, which begins with record headers. `None`: more are needed. Keeps at most
    /// 8 KiB.
    pub fn read(&mut self, bytes: &[u8]) -> Option<Confirmation> {
        let room = MAX_ANSWER_BYTES - self.answer.len();
        self.answer.extend_from_slice(&bytes[..bytes.len().min(room)]);
        match first_message(&self.answer) {
            First::Message(message) => Some(self.judge(&message)),
            First::Needs if self.answer.len() < MAX_ANSWER_BYTES => None,
            First::Needs | First::Other => Some(Confirmation::Unknown),
        }
    }

    fn judge(&self, message: &[u8]) -> Confirmation {
        let Some(answer) = ServerHello::read(message) else { return Confirmation::Unknown };
        let (context, kdf) = match answer.suite {
            AES_128_GCM_SHA256 | CHACHA20_POLY1305_SHA256 | AES_128_CCM_SHA256 | AES_128_CCM_8_SHA256 => {
                (&self.sha256, HKDF_SHA256)
            }
            AES_256_GCM_SHA384 => (&self.sha384, HKDF_SHA384),
            // A later version of TLS may have others.
            TLS13_SUITES.. if answer.suite <= LAST_TLS13_SUITE => return Confirmation::Unknown,
            // One of TLS 1.2, which an inner hello does not offer.
            _ => return Confirmation::Unconfirmed,
        };
        let (context, label, at) = if answer.is_retry {
            // Without the extension, it is not confirmed.
            let Some(at) = answer.confirmation_at else { return Confirmation::Unconfirmed };
            (after_retry(context), &b"hrr ech accept confirmation"[..], at)
        } else {
            (context.clone(), &b"ech accept confirmation"[..], RANDOM_AT + RANDOM_BYTES - CONFIRMATION_BYTES)
        };
        match expected(&self.random, kdf, label, context, message, at) {
            Some(expected) if message[at..].starts_with(&expected) => Confirmation::Confirmed,
            _ => Confirmation::Unconfirmed,
        }
    }
}

/// The transcript whose first hello is replaced by its hash (RFC 8446 §4.4.1).
fn after_retry(first: &Context) -> Context {
    let hash = first.clone().finish();
    let mut context = Context::new(first.algorithm());
    let length = u8::try_from(hash.as_ref().len()).expect("at most 48 bytes");
    context.update(&[MESSAGE_HASH, 0, 0, length]);
    context.update(hash.as_ref());
    context
}

/// The bytes that must stand at `at` in `message`.
fn expected(
    random: &[u8; RANDOM_BYTES],
    kdf: hkdf::Algorithm,
    label: &[u8],
    mut transcript: Context,
    message: &[u8],
    at: usize,
) -> Option<[u8; CONFIRMATION_BYTES]> {
    transcript.update(&message[..at]);
    transcript.update(&[0; CONFIRMATION_BYTES]);
    transcript.update(&message[at + CONFIRMATION_BYTES..]);
    let hash = transcript.finish();
    // Without a salt, HKDF uses zeros.
    let secret = Salt::new(kdf, &[]).extract(random);
    let (prefix, length) = (&b"tls13 "[..], [0, CONFIRMATION_BYTES as u8]);
    let label_bytes = [u8::try_from(prefix.len() + label.len()).ok()?];
    let hash_bytes = [u8::try_from(hash.as_ref().len()).ok()?];
    let info: [&[u8]; 6] = [&length, &label_bytes, prefix, label, &hash_bytes, hash.as_ref()];
    let mut expected = [0; CONFIRMATION_BYTES];
    secret.expand(&info, EightBytes).ok()?.fill(&mut expected).ok()?;
    Some(expected)
}

/// The length of what is derived.
struct EightBytes;

impl KeyType for EightBytes {
    fn len(&self) -> usize {
        CONFIRMATION_BYTES
    }
}

/// What a confirmation depends on.
struct ServerHello {
    suite: u16,
    is_retry: bool,
    /// Where the message has the confirmation of a HelloRetryRequest.
    confirmation_at: Option<usize>,
}

impl ServerHello {
    /// Reads a whole message. `None`: it is another one, or malformed.
    fn read(message: &[u8]) -> Option<Self> {
        if *message.first()? != SERVER_HELLO {
            return None;
        }
        let (random, rest) = message.get(RANDOM_AT..)?.split_first_chunk::<RANDOM_BYTES>()?;
        let (_, rest) = u8_prefixed(rest)?;
        let (suite, rest) = u16_of(rest)?;
        let (_, rest) = rest.split_first()?;
        // A ServerHello of TLS 1.2 may have none.
        let extensions = if rest.is_empty() { rest } else { u16_prefixed(rest).filter(|(_, rest)| rest.is_empty())?.0 };
        let mut list = Extensions::of(extensions);
        let mut confirmation_at = None;
        while let Some(extension) = list.next() {
            let extension = extension?;
            if extension.kind == ENCRYPTED_CLIENT_HELLO && extension.data.len() == CONFIRMATION_BYTES {
                confirmation_at = Some(message.len() - list.rest().len() - CONFIRMATION_BYTES);
            }
        }
        let is_retry = digest(&SHA256, b"HelloRetryRequest").as_ref() == random;
        Some(Self { suite, is_retry, confirmation_at })
    }
}

enum First {
    /// Put together from its records.
    Message(Vec<u8>),
    Needs,
    /// No message of the handshake, or one that is too long to be a ServerHello.
    Other,
}

/// The first handshake message in `bytes`.
fn first_message(mut bytes: &[u8]) -> First {
    let mut message = Vec::new();
    loop {
        let length = match *message {
            [_, high, middle, low, ..] => 4 + u32::from_be_bytes([0, high, middle, low]) as usize,
            _ => 4,
        };
        if length > MAX_MESSAGE_BYTES {
            return First::Other;
        }
        if message.len() >= length {
            message.truncate(length);
            return First::Message(message);
        }
        let (record, fragment_bytes) = match *bytes {
            [HANDSHAKE, _, _, high, low, ref rest @ ..] => (rest, usize::from(u16::from_be_bytes([high, low]))),
            [] | [HANDSHAKE, ..] => return First::Needs,
            _ => return First::Other,
        };
        // RFC 8446 §5.1.
        if fragment_bytes == 0 {
            return First::Other;
        }
        let fragment = &record[..fragment_bytes.min(record.len())];
        message.extend_from_slice(fragment);
        bytes = &record[fragment.len()..];
    }
}

impl std::fmt::Debug for Awaited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Awaited").field("answer_bytes", &self.answer.len()).finish_non_exhaustive()
    }
}

const RANDOM_BYTES: usize = 32;
/// After the header of the message and the version, in either hello.
const RANDOM_AT: usize = 4 + 2;
const CONFIRMATION_BYTES: usize = 8;
/// One with a share of X25519MLKEM768 has 1,200.
const MAX_MESSAGE_BYTES: usize = 4 << 10;
/// Enough for such a message in records of a few bytes.
const MAX_ANSWER_BYTES: usize = 8 << 10;
const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;
const MESSAGE_HASH: u8 = 254;
const AES_128_GCM_SHA256: u16 = 0x1301;
const AES_256_GCM_SHA384: u16 = 0x1302;
const CHACHA20_POLY1305_SHA256: u16 = 0x1303;
const AES_128_CCM_SHA256: u16 = 0x1304;
const AES_128_CCM_8_SHA256: u16 = 0x1305;
const TLS13_SUITES: u16 = 0x1306;
const LAST_TLS13_SUITE: u16 = 0x13ff;

#[cfg(test)]
mod tests;
