//! The set of clients for which a condition of HAProxy holds.
//!
//! In:  tests that hold together (AND).
//! Out: [`Clients`].

use ipnet::IpNet;

use super::super::model::Origin;
use super::super::names::common;
use crate::server_name::Pattern;

/// Clients by what they send, and by their address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clients {
    /// The names that they ask for. Each has the line that it is from.
    pub names: Vec<(Pattern, Option<Origin>)>,
    /// Whether clients without a server name belong to it.
    pub unnamed: bool,
    /// Whether clients that do not speak TLS belong to it.
    pub not_tls: bool,
    /// Only these; empty: everybody.
    pub source: Vec<IpNet>,
}

impl Clients {
    /// Everybody.
    pub(super) fn all() -> Self {
        Self { names: vec![(Pattern::Any, None)], unnamed: true, not_tls: true, source: Vec::new() }
    }

    pub(super) fn nobody() -> Self {
        Self { names: Vec::new(), unnamed: false, not_tls: false, source: Vec::new() }
    }

    /// Those who belong to both; `None` if that depends on two lists of networks.
    pub(super) fn and(self, other: &Self) -> Option<Self> {
        let source = match (self.source.is_empty(), other.source.is_empty()) {
            (_, true) => self.source,
            (true, false) => other.source.clone(),
            (false, false) => return None,
        };
        let pairs = self.names.iter().flat_map(|a| other.names.iter().map(move |b| (a, b)));
        let names = pairs.filter_map(|((a, from_a), (b, from_b))| {
            let both = common(a, b)?;
            let origin = if both == b { from_b.as_ref().or(from_a.as_ref()) } else { from_a.as_ref() };
            Some((both.clone(), origin.cloned()))
        });
        let names = names.collect();
        Some(Self { names, unnamed: self.unnamed && other.unnamed, not_tls: self.not_tls && other.not_tls, source })
    }

    pub(super) fn has_every_name(&self) -> bool {
        self.source.is_empty() && self.names.iter().any(|(pattern, _)| *pattern == Pattern::Any)
    }
}
