//! Tracks which routes, pools and backends have series, and which of them were removed from the configuration.
//!
//! In:  names when they are first counted; after a reload, the remaining names.
//! Out: the label to count under, with a bounded number of labels; whether a label is still in force.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use super::registry::label_value;

/// A recorder cannot remove a series, so the number of names with their own is bounded; further names share [`OTHER`].
/// A name that comes back continues its old count.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Never removed: their counts are part of the totals.
    listeners: HashSet<String>,
    routes: HashMap<String, Standing>,
    pools: HashMap<String, Standing>,
    backends: HashMap<(String, String), Standing>,
    /// The number of route-listener pairs so far: the cost of registering every series at once.
    pub(super) pairs: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    InForce,
    Gone,
}

/// A label, and whether this name was new.
pub(super) struct Admitted<L> {
    pub(super) label: L,
    pub(super) is_new: bool,
}

impl Names {
    pub(super) fn admit_listener(&mut self, name: &str) -> String {
        let label = label_value(name);
        if self.listeners.len() >= MAX_LISTENERS && !self.listeners.contains(&label) {
            return OTHER.to_owned();
        }
        self.listeners.insert(label.clone());
        label
    }

    pub(super) fn admit_route(&mut self, name: &str) -> Admitted<String> {
        admit(&mut self.routes, label_value(name), OTHER.to_owned(), MAX_ROUTES)
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
        if let Some(standing) = self.backends.get_mut(&(label_value(pool), label_value(backend))) {
            *standing = Standing::Gone;
        }
    }

    /// Marks names that are no longer in the configuration as gone, and the others as in force.
    pub(super) fn retain(&mut self, routes: &HashSet<&str>, pools: &HashSet<&str>, backends: &HashSet<(&str, &str)>) {
        let routes: HashSet<String> = routes.iter().map(|name| label_value(name)).collect();
        mark(&mut self.routes, |name| routes.contains(name));
        let pools: HashSet<String> = pools.iter().map(|name| label_value(name)).collect();
        mark(&mut self.pools, |name| pools.contains(name));
        let backends: HashSet<(String, String)> =
            backends.iter().map(|(pool, backend)| (label_value(pool), label_value(backend))).collect();
        mark(&mut self.backends, |both| backends.contains(both));
    }

    /// A copy of what is gone now, so that the lock is not held while a long text is processed.
    pub(super) fn gone(&self) -> Gone {
        Gone { routes: gone(&self.routes), pools: gone(&self.pools), backends: gone(&self.backends) }
    }
}

/// Labels of names that were removed from the configuration.
#[derive(Debug)]
pub(super) struct Gone {
    routes: HashSet<String>,
    pools: HashSet<String>,
    backends: HashSet<(String, String)>,
}

impl Gone {
    pub(super) fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.pools.is_empty() && self.backends.is_empty()
    }

    pub(super) fn has_route(&self, label: &str) -> bool {
        self.routes.contains(label)
    }

    pub(super) fn has_pool(&self, label: &str) -> bool {
        self.pools.contains(label)
    }

    pub(super) fn has_backend(&self, pool: &str, backend: &str) -> bool {
        !self.backends.is_empty() && self.backends.contains(&(pool.to_owned(), backend.to_owned()))
    }
}

fn admit<L: Clone + Eq + Hash>(names: &mut HashMap<L, Standing>, label: L, other: L, most: usize) -> Admitted<L> {
    if let Some(standing) = names.get_mut(&label) {
        *standing = Standing::InForce;
        return Admitted { label, is_new: false };
    }
    if names.len() >= most {
        return Admitted { label: other, is_new: false };
    }
    names.insert(label.clone(), Standing::InForce);
    Admitted { label, is_new: true }
}

fn mark<L>(names: &mut HashMap<L, Standing>, is_in_force: impl Fn(&L) -> bool) {
    for (label, standing) in names {
        *standing = if is_in_force(label) { Standing::InForce } else { Standing::Gone };
    }
}

fn gone<L: Clone + Eq + Hash>(names: &HashMap<L, Standing>) -> HashSet<L> {
    names.iter().filter(|(_, standing)| **standing == Standing::Gone).map(|(label, _)| label.clone()).collect()
}

/// The shared label of names without their own series, used beyond the limit.
pub(super) const OTHER: &str = "(other)";
/// The label that keeps counting the closed connections of removed routes.
pub(super) const REMOVED: &str = "(removed)";

const MAX_LISTENERS: usize = 1024;
const MAX_ROUTES: usize = 4096;
const MAX_POOLS: usize = 1024;
const MAX_BACKENDS: usize = 8192;
