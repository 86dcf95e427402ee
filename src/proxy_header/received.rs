//! Keeps what a header of version 2 says about a connection besides its addresses: what is logged, and what may be
//! passed on to a backend.
//!
//! In:  a whole header that [`parse`](super::parse) has accepted; the kinds of values that may be passed on.
//! Out: [`Received`], or nothing: most headers have no such value, and then nothing is allocated.
//! Source: the PROXY protocol, section 2.2.5 (UNIQUE_ID) and 2.2.6 (0xE0 to 0xEF are the applications' own).

use super::{Command, Header};
use super::{TYPE_AWS, TYPE_AZURE, TYPE_GCP, TYPE_UNIQUE_ID, V2_FIXED_BYTES, Version, address_bytes, take_value};

/// A set of the kinds of values that can be passed on: 0xE0 to 0xEF, and UNIQUE_ID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u32);

impl Kinds {
    /// Adds `kind`. Others than those that can be passed on are not added.
    pub fn insert(&mut self, kind: u8) {
        self.0 |= bit(kind);
    }

    /// The kinds of both sets.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it has `kind`.
    pub fn holds(self, kind: u8) -> bool {
        self.0 & bit(kind) != 0
    }
}

/// 0 for kinds that cannot be passed on.
fn bit(kind: u8) -> u32 {
    match kind {
        0xe0..=0xef => 1 << (kind - 0xe0),
        TYPE_UNIQUE_ID => 1 << 16,
        _ => 0,
    }
}

/// Values as received, each with its type and its length, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received(Vec<u8>);

impl Received {
    /// What `bytes`, which are `header`, hold of the kinds in `keep`, and of what is logged. Values beyond
    /// [`MOST_KEPT_BYTES`] together are left out: no header that we send has room for them.
    pub fn read(bytes: &[u8], header: &Header, keep: Kinds) -> Option<Box<Self>> {
        if header.version == Version::V1 || header.command == Command::Local {
            return None;
        }
        let mut kept = Vec::new();
        let mut rest = bytes.get(V2_FIXED_BYTES + address_bytes(*bytes.get(V2_FIXED_BYTES - 3)?)?..header.bytes)?;
        while let Ok((kind, value, after)) = take_value(rest) {
            let whole = &rest[..rest.len() - after.len()];
            if (keep.holds(kind) || is_logged(kind, value)) && kept.len() + whole.len() <= MOST_KEPT_BYTES {
                kept.extend_from_slice(whole);
            }
            rest = after;
        }
        kept.shrink_to_fit();
        (!kept.is_empty()).then(|| Box::new(Self(kept)))
    }

    /// The values of the kinds in `of`, each whole, with its type and its length.
    pub(super) fn only(&self, of: Kinds) -> impl Iterator<Item = (u8, &[u8])> {
        self.each().filter(move |(kind, ..)| of.holds(*kind)).map(|(kind, whole, _)| (kind, whole))
    }

    fn each(&self) -> impl Iterator<Item = (u8, &[u8], &[u8])> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (kind, value, after) = take_value(rest).ok()?;
            let whole = &rest[..rest.len() - after.len()];
            rest = after;
            Some((kind, whole, value))
        })
    }

    fn first<T>(&self, kind: u8, read: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        self.each().filter(|(other, ..)| *other == kind).find_map(|(.., value)| read(value))
    }

    /// The id of the VPC endpoint that the client used (AWS, 0xEA subtype 1): text such as `vpce-08d2bf15fac5001c9`,
    /// but from the network.
    pub fn vpc_endpoint(&self) -> Option<&[u8]> {
        self.each()
            .filter(|(kind, ..)| *kind == TYPE_AWS)
            .find_map(|(.., value)| value.strip_prefix(&[SUBTYPE_ENDPOINT]))
    }

    /// The LINKID of the private endpoint that the client used (Azure, 0xEE subtype 1), little-endian on the wire.
    pub fn private_link_id(&self) -> Option<u32> {
        self.first(TYPE_AZURE, |value| {
            Some(u32::from_le_bytes(value.strip_prefix(&[SUBTYPE_ENDPOINT])?.try_into().ok()?))
        })
    }

    /// The id of the Private Service Connect connection that the client used (Google Cloud, 0xE0).
    pub fn psc_connection_id(&self) -> Option<u64> {
        self.first(TYPE_GCP, |value| Some(u64::from_be_bytes(value.try_into().ok()?)))
    }
}

/// Whether the log shows the value.
fn is_logged(kind: u8, value: &[u8]) -> bool {
    match kind {
        TYPE_AWS => value.first() == Some(&SUBTYPE_ENDPOINT),
        TYPE_AZURE => value.first() == Some(&SUBTYPE_ENDPOINT) && value.len() == 5,
        TYPE_GCP => value.len() == 8,
        _ => false,
    }
}

/// PP2_SUBTYPE_AWS_VPCE_ID and PP2_SUBTYPE_AZURE_PRIVATEENDPOINT_LINKID.
const SUBTYPE_ENDPOINT: u8 = 1;
/// What a header of [`MOST_BYTES`](super::encode::MOST_BYTES) has room for beside IPv4 addresses and the checksum.
const MOST_KEPT_BYTES: usize = 501;
