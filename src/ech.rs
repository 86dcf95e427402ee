//! Opens the inner hello of Encrypted ClientHello, as the client-facing server of split mode does.
//!
//! In:  a whole ClientHello as it came, and the keys.
//! Out: [`Opened`]: no such extension, not for these keys, or the inner hello in records of its own; or [`Illegal`].
//!      No I/O, no clock.
//! Source: RFC 9849 §4 (configurations), §5 (the extension, encoding of the inner hello), §7.1 (client-facing server),
//!         RFC 9180 §5 (HPKE), RFC 9934 (key files).
//!
//! ```text
//! hello ─ no extension, no TLS 1.3 ─► Absent
//!   └ type outer ─ no key fits, or none opens it ─► NotForUs        GREASE, or a key that is gone: no error
//!           └ opened ─► expanded from the outer hello ─► framed ─► read as any hello ─► Inner
//!                          └ against the rules ─► Illegal             └ bad names, limits ─► Illegal
//! ```

mod config;
mod confirmation;
mod hpke;
mod inner;
mod keys;
mod sealed;
mod walk;

use std::sync::Arc;

use self::config::Suite;
pub(crate) use self::config::encode_list;
pub use self::confirmation::{Awaited, Confirmation};
use self::hpke::Context;
pub use self::keys::{Key, KeyFileError, Keys, generate, read_key_file};
use self::sealed::Sealed;
use self::walk::{Extensions, Fields};
use crate::client_hello::{self, ClientHello, Hello, NotHello};

/// What a hello is for the holder of the keys.
#[derive(Debug)]
pub enum Opened {
    /// No encrypted_client_hello extension, or one in a hello that does not offer TLS 1.3.
    Absent,
    /// No key opens it: GREASE, or sealed for a key that is gone. The outer hello is the one to serve.
    NotForUs,
    /// The hello to serve.
    Inner(Box<Inner>),
}

/// An inner hello, as its client would have sent it in the clear.
#[derive(Debug)]
pub struct Inner {
    /// As it was read from `prefix`.
    pub hello: ClientHello,
    /// The inner hello in records, then what followed the outer one. This is what the backend reads first.
    pub prefix: Vec<u8>,
    /// What opened it.
    pub key: Arc<Key>,
    /// Opens the hello that follows a HelloRetryRequest.
    pub second: Second,
}

/// What opens the hello that follows a HelloRetryRequest (RFC 9849 §7.1.1).
#[derive(Debug)]
pub struct Second {
    context: Context,
    config_id: u8,
    suite: Suite,
}

/// Why a hello must be refused (RFC 9849 §5.1, §7, §7.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Illegal {
    /// The extension in the outer hello; the text says what about it.
    Extension(&'static str),
    /// The inner hello that was sealed in it.
    Inner(&'static str),
    /// The second hello has no such extension.
    Missing,
    /// What is sealed in the second hello cannot be opened.
    Sealed,
    /// The outer hello does not have the public name of the key that opened it.
    PublicName,
    /// The inner hello, by the rules of every hello.
    Hello(NotHello),
}

/// Opens what is sealed in `hello`, which was read from the beginning of `wire`.
///
/// Each key whose id fits costs one HPKE open, which is the only expensive step. All others take time in proportion to
/// the bytes of the hello.
///
/// # Errors
/// [`Illegal`]; also for an inner hello of more than `max_hello_bytes`.
pub fn open(wire: &[u8], hello: &ClientHello, keys: &Keys, max_hello_bytes: usize) -> Result<Opened, Illegal> {
    if !hello.offers.ech || !hello.offers.tls13() {
        return Ok(Opened::Absent);
    }
    let outer_bytes = hello.wire_bytes;
    let message = hello.message(wire);
    let body = message.get(HEADER_BYTES..).unwrap_or_default();
    let outer = Fields::read(body).ok_or(Illegal::Extension("not in a well-formed hello"))?;
    let sealed = find(body, &outer).ok_or(Illegal::Extension("not found"))??;
    let mut candidates = keys.candidates(&sealed).peekable();
    if candidates.peek().is_none() {
        return Ok(Opened::NotForUs);
    }
    let authenticated = sealed.authenticated(body);
    let Some((key, context, encoded)) = candidates.find_map(|key| {
        let mut context = key.context(&sealed)?;
        let encoded = context.open(&authenticated, sealed.payload)?;
        Some((key, context, encoded))
    }) else {
        return Ok(Opened::NotForUs);
    };
    if !keys.takes_public_name(key, hello.name()) {
        return Err(Illegal::PublicName);
    }
    let (hello, prefix) = expanded(&encoded, &outer, wire, outer_bytes, max_hello_bytes)?;
    let second = Second { context, config_id: sealed.config_id, suite: sealed.suite };
    Ok(Opened::Inner(Box::new(Inner { hello, prefix, key: Arc::clone(key), second })))
}

/// Opens the hello that follows a HelloRetryRequest, which was read from the beginning of `wire`. Returns the inner one, and
/// its records with what followed the outer one.
///
/// # Errors
/// [`Illegal`]
pub fn open_second(
    wire: &[u8],
    hello: &ClientHello,
    second: &mut Second,
    max_hello_bytes: usize,
) -> Result<(ClientHello, Vec<u8>), Illegal> {
    let message = hello.message(wire);
    let body = message.get(HEADER_BYTES..).unwrap_or_default();
    let outer = Fields::read(body).ok_or(Illegal::Missing)?;
    let sealed = find(body, &outer).ok_or(Illegal::Missing)??;
    if sealed.config_id != second.config_id || sealed.suite != second.suite {
        return Err(Illegal::Extension("another config_id or suite than in the first hello"));
    }
    if !sealed.enc.is_empty() {
        return Err(Illegal::Extension("an encapsulated key in the second hello"));
    }
    let encoded = second.context.open(&sealed.authenticated(body), sealed.payload).ok_or(Illegal::Sealed)?;
    expanded(&encoded, &outer, wire, hello.wire_bytes, max_hello_bytes)
}

/// The inner hello, and its records with what follows the `outer_bytes` of the outer one.
fn expanded(
    encoded: &[u8],
    outer: &Fields<'_>,
    wire: &[u8],
    outer_bytes: usize,
    max_hello_bytes: usize,
) -> Result<(ClientHello, Vec<u8>), Illegal> {
    let message = inner::expand(encoded, outer).map_err(Illegal::Inner)?;
    let version = wire.get(1..3).and_then(|version| version.try_into().ok()).unwrap_or(RECORD_VERSION);
    let mut prefix = client_hello::in_records(&message, version);
    let hello = match client_hello::parse(&prefix, max_hello_bytes).map_err(Illegal::Hello)? {
        Hello::Whole(hello) => hello,
        Hello::Needs(_) => return Err(Illegal::Inner("its length does not fit")),
    };
    prefix.extend_from_slice(wire.get(outer_bytes..).unwrap_or_default());
    Ok((hello, prefix))
}

/// The extension of the outer hello, which occurs once, as every extension of a hello that was read.
fn find<'a>(body: &[u8], outer: &Fields<'a>) -> Option<Result<Sealed<'a>, Illegal>> {
    let mut list = Extensions::of(outer.extensions);
    let extension = list.by_ref().flatten().find(|extension| extension.kind == ENCRYPTED_CLIENT_HELLO)?;
    let end = body.len() - list.rest().len();
    Some(Sealed::read(extension.data, end).map_err(Illegal::Extension))
}

impl std::fmt::Display for Illegal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Extension(what) => write!(f, "the encrypted_client_hello extension: {what}"),
            Self::Inner(what) => write!(f, "the inner hello: {what}"),
            Self::Missing => f.write_str("the second ClientHello has no encrypted_client_hello extension"),
            Self::Sealed => f.write_str("what is sealed in the second ClientHello cannot be opened"),
            Self::PublicName => f.write_str("the outer server name is not the public name of the key"),
            Self::Hello(error) => write!(f, "the inner hello: {error}"),
        }
    }
}

impl std::error::Error for Illegal {}

/// <https://www.iana.org/assignments/tls-extensiontype-values>
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const OUTER_EXTENSIONS: u16 = 0xfd00;
const SUPPORTED_VERSIONS: u16 = 43;
const HEADER_BYTES: usize = 4;
const RECORD_VERSION: [u8; 2] = [3, 1];
