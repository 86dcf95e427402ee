//! Tracks which listeners, routes, pools and backends have series.
//!
//! In:  names when they are first counted; after a reload, the remaining names.
//! Out: the label to count under, with a bounded number of labels; whether a label is still in force.

use std::collections::HashSet;
use std::hash::Hash;

use metrics::{Key, Label};

/// The number of names with their own series is bounded; further names share [`OTHER`].
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Never removed: their counts are part of the totals.
    listeners: HashSet<String>,
    routes: HashSet<String>,
    pools: HashSet<String>,
    backends: HashSet<(String, String)>,
    /// The number of route-listener pairs so far: the cost of registering every series at once.
    pub(super) pairs: usize,
}

/// A label, and whether this name was new.
pub(super) struct Admitted<L> {
    pub(super) label: L,
    pub(super) is_new: bool,
}

impl Names {
    pub(super) fn admit_listener(&mut self, name: &str) -> String {
        admit(&mut self.listeners, label_value(name), OTHER.to_owned(), MAX_LISTENERS).label
    }

    pub(super) fn admit_route(&mut self, name: &str) -> Admitted<String> {
        admit(&mut self.routes, label_value(name), OTHER.to_owned(), MAX_ROUTES)
    }

    /// Whether the route has, or would get, series of its own.
    pub(super) fn has_or_admits_route(&self, name: &str) -> bool {
        self.routes.len() < MAX_ROUTES || self.routes.contains(&label_value(name))
    }

    pub(super) fn admit_pool(&mut self, name: &str) -> String {
        admit(&mut self.pools, label_value(name), OTHER.to_owned(), MAX_POOLS).label
    }

    pub(super) fn admit_backend(&mut self, pool: &str, backend: &str) -> (String, String) {
        let pool = self.admit_pool(pool);
        let other = (pool.clone(), OTHER.to_owned());
        admit(&mut self.backends, (pool, label_value(backend)), other, MAX_BACKENDS).label
    }

    pub(super) fn retire_backend(&mut self, pool: &str, backend: &str) {
        self.backends.remove(&(label_value(pool), label_value(backend)));
    }

    /// Forgets the names that are no longer in the configuration.
    pub(super) fn retain(&mut self, routes: &HashSet<&str>, pools: &HashSet<&str>, backends: &HashSet<(&str, &str)>) {
        let labels = |names: &HashSet<&str>| names.iter().map(|name| label_value(name)).collect::<HashSet<_>>();
        let (routes, pools) = (labels(routes), labels(pools));
        let backends: HashSet<(String, String)> =
            backends.iter().map(|(pool, backend)| (label_value(pool), label_value(backend))).collect();
        self.routes.retain(|name| routes.contains(name));
        self.pools.retain(|name| pools.contains(name));
        self.backends.retain(|both| backends.contains(both));
    }

    /// Whether a series is in force: its route, pool and backend, as far as it has them, are not gone.
    pub(super) fn has(&self, key: &Key) -> bool {
        let is_shared = |label: &str| ["", OTHER, REMOVED].contains(&label);
        let (pool, backend) = (label(key, "pool"), label(key, "backend"));
        label(key, "route").is_none_or(|route| is_shared(route) || self.routes.contains(route))
            && pool.is_none_or(|pool| is_shared(pool) || self.pools.contains(pool))
            && backend.is_none_or(|backend| {
                let pool = pool.unwrap_or_default();
                is_shared(backend) || self.backends.contains(&(pool.to_owned(), backend.to_owned()))
            })
    }
}

fn admit<L: Clone + Eq + Hash>(names: &mut HashSet<L>, label: L, other: L, most: usize) -> Admitted<L> {
    let is_new = !names.contains(&label);
    if is_new && names.len() >= most {
        return Admitted { label: other, is_new: false };
    }
    if is_new {
        names.insert(label.clone());
    }
    Admitted { label, is_new }
}

/// The value of one label.
pub(super) fn label<'k>(key: &'k Key, name: &str) -> Option<&'k str> {
    key.labels().find(|label| label.key() == name).map(Label::value)
}

/// A name as label value. The few characters that the text format escapes become `_`, so that two spellings cannot
/// collide after escaping and nothing needs escaping.
pub(super) fn label_value(name: &str) -> String {
    name.chars().map(|c| if matches!(c, '"' | '\\') || c.is_control() { '_' } else { c }).collect()
}

/// The shared label of names without their own series, used beyond the limit.
pub(super) const OTHER: &str = "(other)";
/// The label that keeps counting the closed connections of removed routes.
pub(super) const REMOVED: &str = "(removed)";

const MAX_LISTENERS: usize = 1024;
const MAX_ROUTES: usize = 4096;
const MAX_POOLS: usize = 1024;
const MAX_BACKENDS: usize = 8192;
