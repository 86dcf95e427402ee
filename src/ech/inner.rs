//! Puts the inner hello together from what was sealed and from the outer hello.
//!
//! In:  the `EncodedClientHelloInner`, and the fields of the outer hello.
//! Out: a whole ClientHello message, or what is wrong with it; in time proportional to both.
//! Source: RFC 9849 §5.1 (encoding, ech_outer_extensions), §7.1 (what must be in it), §10.12.4 (linear time).

use super::walk::{Extensions, Fields, u8_prefixed};
use super::{ENCRYPTED_CLIENT_HELLO, OUTER_EXTENSIONS, SUPPORTED_VERSIONS};

/// Expands `encoded`. Each extension of the outer hello is taken at most once, so that the result is not longer than
/// both together.
///
/// # Errors
/// What is wrong with it: the alert is illegal_parameter in every case.
pub(super) fn expand(encoded: &[u8], outer: &Fields<'_>) -> Result<Vec<u8>, &'static str> {
    let inner = Fields::read(encoded).ok_or("its fields do not fit")?;
    if inner.rest.iter().any(|&byte| byte != 0) {
        return Err("padding that is not zero");
    }
    if !inner.session_id.is_empty() {
        return Err("a session id of its own");
    }
    let mut extensions = Vec::with_capacity(inner.extensions.len());
    let mut expanded = false;
    for extension in Extensions::of(inner.extensions) {
        let extension = extension.ok_or("an extension longer than its list")?;
        if extension.kind != OUTER_EXTENSIONS {
            extensions.extend_from_slice(extension.whole);
        } else if std::mem::replace(&mut expanded, true) {
            return Err("ech_outer_extensions twice");
        } else {
            take_from_outer(extension.data, outer, &mut extensions)?;
        }
    }
    check(&extensions)?;
    message(&inner, outer, &extensions).ok_or("more extensions than a hello can have")
}

/// Appends the extensions of the outer hello that `data` lists. One walk finds them all, since they are in their order
/// there; one that is missing, repeated or out of order is not found.
fn take_from_outer(data: &[u8], outer: &Fields<'_>, extensions: &mut Vec<u8>) -> Result<(), &'static str> {
    let list = u8_prefixed(data)
        .filter(|(list, rest)| rest.is_empty() && (2..=254).contains(&list.len()) && list.len().is_multiple_of(2));
    let (list, _) = list.ok_or("a malformed ech_outer_extensions")?;
    let mut from = Extensions::of(outer.extensions).flatten();
    for kind in list.chunks_exact(2).map(|kind| u16::from_be_bytes([kind[0], kind[1]])) {
        if matches!(kind, ENCRYPTED_CLIENT_HELLO | OUTER_EXTENSIONS) {
            return Err("ech_outer_extensions with a type that may not be in it");
        }
        let found = from.find(|extension| extension.kind == kind);
        let found = found.ok_or("ech_outer_extensions with a type that is missing, repeated or out of order")?;
        extensions.extend_from_slice(found.whole);
    }
    Ok(())
}

/// RFC 9849 §7.1: it is marked as an inner hello, and offers TLS 1.3 and nothing below.
fn check(extensions: &[u8]) -> Result<(), &'static str> {
    let (mut marked, mut versions) = (false, None);
    for extension in Extensions::of(extensions).flatten() {
        match extension.kind {
            ENCRYPTED_CLIENT_HELLO => marked = extension.data == INNER_MARK,
            SUPPORTED_VERSIONS => versions = Some(extension.data),
            _ => {}
        }
    }
    if !marked {
        return Err("no encrypted_client_hello of type inner");
    }
    let (versions, rest) = u8_prefixed(versions.unwrap_or_default()).ok_or("no supported_versions")?;
    if !rest.is_empty() || !versions.len().is_multiple_of(2) {
        return Err("a malformed supported_versions");
    }
    let mut versions = versions.chunks_exact(2).map(|version| u16::from_be_bytes([version[0], version[1]]));
    let (mut tls13, mut older) = (false, false);
    versions.by_ref().for_each(|version| {
        tls13 |= version == TLS13;
        older |= version < TLS13 && !is_grease(version);
    });
    match (tls13, older) {
        (_, true) => Err("it offers a version below TLS 1.3"),
        (false, _) => Err("it does not offer TLS 1.3"),
        (true, false) => Ok(()),
    }
}

/// The whole message; `None` if the extensions are too long for their length field.
fn message(inner: &Fields<'_>, outer: &Fields<'_>, extensions: &[u8]) -> Option<Vec<u8>> {
    let extensions_bytes = u16::try_from(extensions.len()).ok()?;
    let id_bytes = u8::try_from(outer.session_id.len()).ok()?;
    let body_bytes = inner.version_and_random.len() + 1 + outer.session_id.len() + inner.suites.len() + 2;
    let length = u32::try_from(body_bytes + extensions.len()).ok().filter(|&length| length < 1 << 24)?;
    let mut message = Vec::with_capacity(4 + body_bytes + extensions.len());
    message.extend_from_slice(&(u32::from(CLIENT_HELLO) << 24 | length).to_be_bytes());
    message.extend_from_slice(inner.version_and_random);
    message.push(id_bytes);
    message.extend_from_slice(outer.session_id);
    message.extend_from_slice(inner.suites);
    message.extend_from_slice(&extensions_bytes.to_be_bytes());
    message.extend_from_slice(extensions);
    Some(message)
}

/// RFC 8701 §2.
fn is_grease(version: u16) -> bool {
    let [high, low] = version.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

const CLIENT_HELLO: u8 = 1;
const INNER_MARK: &[u8] = &[1];
const TLS13: u16 = 0x0304;
