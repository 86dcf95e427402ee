//! What the configurations of all programs have in common: listeners, rules, pools.
//!
//! In:  what a reader finds, each value with its origin.
//! Out: [`Model`], which [`super::plan`] turns into routes.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::server_name::Pattern;

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
}

/// Everything that was taken over.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub listeners: Vec<Listener>,
    /// Those that no rule leads to are not written.
    pub pools: Vec<Pool>,
    /// Top-level keys, such as `timeouts.idle`.
    pub settings: Vec<Key>,
}

/// Addresses, and the rules for the clients that connect there.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub name: String,
    pub origin: Origin,
    /// As the routing file writes them.
    pub bind: Vec<(String, Origin)>,
    pub keys: Vec<Key>,
    /// The first that matches wins.
    pub rules: Vec<Rule>,
    /// For clients without a server name.
    pub no_sni: Option<(Target, Origin)>,
    /// For clients that do not speak TLS.
    pub not_tls: Option<(Target, Origin)>,
}

impl Listener {
    /// Without rules.
    pub(super) fn new(name: &str, origin: &Origin) -> Self {
        Self {
            name: name.to_owned(),
            origin: origin.clone(),
            bind: Vec::new(),
            keys: Vec::new(),
            rules: Vec::new(),
            no_sni: None,
            not_tls: None,
        }
    }
}

/// Names, and where their clients go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub pattern: Pattern,
    /// The client is in one of these networks; empty: any client.
    pub source: Vec<IpNet>,
    pub to: Target,
    pub origin: Origin,
    /// It is for whoever no other rule takes, and need not be reached.
    pub is_rest: bool,
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// A pool of [`Model::pools`], by its name.
    Pool(Arc<str>),
    /// Several pools with their weights.
    Split(Arc<[(Arc<str>, u32)]>),
    /// Nowhere; the client sees a close.
    Close,
}

impl Target {
    /// The names of the pools that it leads to.
    pub(super) fn pools(&self) -> impl Iterator<Item = &Arc<str>> {
        let (one, several) = match self {
            Self::Pool(pool) => (Some(pool), &[][..]),
            Self::Split(shares) => (None, &**shares),
            Self::Close => (None, &[][..]),
        };
        one.into_iter().chain(several.iter().map(|(pool, _)| pool))
    }
}

/// A named set of backends.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub name: Arc<str>,
    pub origin: Option<Origin>,
    pub keys: Vec<Key>,
    pub backends: Vec<Backend>,
}

/// One address of a pool.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub address: String,
    /// `weight`, `backup`, `max_connections`.
    pub keys: Vec<Key>,
    pub origin: Option<Origin>,
}

/// A key of the routing file: its path, such as `connect.timeout`, and its value, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub path: &'static str,
    pub value: String,
    pub origin: Option<Origin>,
}

impl Key {
    pub(super) fn new(path: &'static str, value: impl fmt::Display, origin: &Origin) -> Self {
        Self { path, value: value.to_string(), origin: Some(origin.clone()) }
    }
}

/// Sets a key; a later line of a file replaces an earlier one.
pub(super) fn set(keys: &mut Vec<Key>, key: Key) {
    match keys.iter_mut().find(|old| old.path == key.path) {
        Some(old) => *old = key,
        None => keys.push(key),
    }
}

/// A name that no pool has yet.
pub(super) fn free_name(pools: &[Pool], name: &str) -> Arc<str> {
    let is_free = |name: &str| pools.iter().all(|pool| *pool.name != *name);
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(|name| is_free(name)).expect("there are infinitely many").into()
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}
