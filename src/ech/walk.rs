//! Finds the fields of a ClientHello by a strict walk: every length must fit.
//!
//! In:  the message without its header.
//! Out: [`Fields`], which point into it; [`Extensions`], one after the other.
//! Source: RFC 8446 §4.1.2, §4.2.

/// The parts of a ClientHello that are taken apart and put together again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    pub version_and_random: &'a [u8],
    /// Without its length.
    pub session_id: &'a [u8],
    /// Cipher suites and compression methods, each with its length.
    pub suites: &'a [u8],
    /// Without their length.
    pub extensions: &'a [u8],
    /// What comes after them.
    pub rest: &'a [u8],
}

/// One extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extension<'a> {
    pub kind: u16,
    pub data: &'a [u8],
    /// With its type and length.
    pub whole: &'a [u8],
}

/// The extensions of a list in their order. `None` is the last item of a list that breaks off.
#[derive(Clone, Debug)]
pub(super) struct Extensions<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// `None`: a length does not fit, a list that may not be empty is, or there are no extensions.
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        let (version_and_random, after) = body.split_at_checked(VERSION_AND_RANDOM_BYTES)?;
        let (session_id, after) = u8_prefixed(after)?;
        let (ciphers, rest) = u16_prefixed(after)?;
        let (methods, rest) = u8_prefixed(rest)?;
        let suites = &after[..after.len() - rest.len()];
        let (extensions, rest) = u16_prefixed(rest)?;
        let fits = session_id.len() <= MAX_SESSION_ID_BYTES
            && !ciphers.is_empty()
            && ciphers.len().is_multiple_of(2)
            && !methods.is_empty();
        fits.then_some(Self { version_and_random, session_id, suites, extensions, rest })
    }
}

impl<'a> Extensions<'a> {
    pub(super) fn of(list: &'a [u8]) -> Self {
        Self(list)
    }

    /// What has not been read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Iterator for Extensions<'a> {
    type Item = Option<Extension<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let list = std::mem::take(&mut self.0);
        if list.is_empty() {
            return None;
        }
        let Some((&[high, low], after)) = list.split_first_chunk() else { return Some(None) };
        let Some((data, rest)) = u16_prefixed(after) else { return Some(None) };
        self.0 = rest;
        let whole = &list[..list.len() - rest.len()];
        Some(Some(Extension { kind: u16::from_be_bytes([high, low]), data, whole }))
    }
}

/// A vector with a length of one byte, and what follows it.
pub(super) fn u8_prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(length.into())
}

/// A vector with a length of two bytes, and what follows it.
pub(super) fn u16_prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(length).into())
}

/// A number of two bytes, and what follows it.
pub(super) fn u16_of(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (&number, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(number), rest))
}

const VERSION_AND_RANDOM_BYTES: usize = 2 + 32;
const MAX_SESSION_ID_BYTES: usize = 32;
