//! The section of DNS names among the backends, those that fail first.
//!
//! In:  the names of a status.
//! Out: the template of the section; without names it is hidden.

use askama::Template;

use super::data::Data;
use super::format;
use super::query::Paged;
use super::tone::Tone;
use crate::operate::status::{At, DnsName};

#[derive(Template)]
#[template(path = "names.html")]
pub(super) struct Names<'d> {
    total: usize,
    rows: Vec<ShownName<'d>>,
    paged: Paged,
    now: &'d At,
}

struct ShownName<'d> {
    status: &'d DnsName,
    tone: Tone,
    word: &'static str,
    addresses: String,
    /// How long the last answer is valid.
    valid: String,
}

impl Names<'_> {
    fn clock(&self, at: &At) -> String {
        format::clock(at, self.now)
    }
}

pub(super) fn section(data: &Data) -> Names<'_> {
    let mut names: Vec<&DnsName> = data.status.names.iter().collect();
    // Stable: the others stay in their order.
    names.sort_by_key(|name| state(name).0);
    let from = data.query.names_from.min(names.len().saturating_sub(1));
    let rows: Vec<_> = names.iter().skip(from).take(NAMES).map(|name| shown(name)).collect();
    Names {
        total: names.len(),
        paged: Paged::new(&data.query, "names", "names_from", (from, rows.len(), names.len()), NAMES),
        rows,
        now: &data.status.at,
    }
}

fn shown(status: &DnsName) -> ShownName<'_> {
    let (tone, word) = state(status);
    let mut addresses = status.addresses.iter().take(ADDRESSES).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = status.addresses.len().saturating_sub(ADDRESSES);
    if more > 0 {
        addresses += &format!(" and {more} more");
    }
    let valid = status.ttl_s.map(|ttl| format::duration(ttl as u64)).unwrap_or_default();
    ShownName { status, tone, word, addresses, valid }
}

fn state(name: &DnsName) -> (Tone, &'static str) {
    match (&name.error, &name.answered) {
        (Some(_), _) if name.addresses.is_empty() => (Tone::Bad, "failing"),
        // The addresses of the last good answer stay in use.
        (Some(_), _) => (Tone::Warn, "failing"),
        (None, None) => (Tone::Off, "looking up"),
        (None, Some(_)) if name.addresses.is_empty() => (Tone::Bad, "no addresses"),
        (None, Some(_)) => (Tone::Ok, "resolved"),
    }
}

/// Names at once.
const NAMES: usize = 12;
/// Addresses of one name.
const ADDRESSES: usize = 6;
