//! Reads the encrypted_client_hello extension of an outer hello.
//!
//! In:  the content of the extension.
//! Out: [`Sealed`]: for which key and suite, and what was sealed; or what is wrong with it.
//! Source: RFC 9849 §5 (`ECHClientHello`), §5.2 (what is authenticated).

use std::ops::Range;

use super::config::Suite;
use super::walk::{u16_of, u16_prefixed};

/// An `ECHClientHello` of type outer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sealed<'a> {
    pub suite: Suite,
    pub config_id: u8,
    /// The encapsulated key; empty in the second hello.
    pub enc: &'a [u8],
    pub payload: &'a [u8],
    /// Where that stands in the body of the hello.
    at: Range<usize>,
}

impl<'a> Sealed<'a> {
    /// Reads the `data` of an extension that ends after `end` bytes of its hello.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(data: &'a [u8], end: usize) -> Result<Self, &'static str> {
        let (&kind, fields) = data.split_first().ok_or("empty")?;
        match kind {
            OUTER => Self::fields(fields, end).ok_or("its lengths do not fit"),
            INNER => Err("type inner, which only a client-facing server may send"),
            _ => Err("neither type outer nor type inner"),
        }
    }

    fn fields(fields: &'a [u8], end: usize) -> Option<Self> {
        let (kdf, rest) = u16_of(fields)?;
        let (aead, rest) = u16_of(rest)?;
        let (&config_id, rest) = rest.split_first()?;
        let (enc, rest) = u16_prefixed(rest)?;
        let (payload, rest) = u16_prefixed(rest)?;
        let whole = rest.is_empty() && !payload.is_empty();
        // The payload is the last field.
        whole.then(|| Self { suite: Suite { kdf, aead }, config_id, enc, payload, at: end - payload.len()..end })
    }

    /// The hello with zeros in place of the payload: what the client has authenticated with it.
    pub(super) fn authenticated(&self, body: &[u8]) -> Vec<u8> {
        let mut authenticated = body.to_vec();
        authenticated[self.at.clone()].fill(0);
        authenticated
    }
}

const OUTER: u8 = 0;
const INNER: u8 = 1;
