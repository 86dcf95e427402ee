//! Tracks which listeners, routes, pools and backends have series.
//!
//! In:  names when they are first counted; after a reload, the remaining names.
//! Out: the label to count under, with a bounded number of labels; whether a label is still in force.

use std::collections::{HashMap, HashSet};

/// The number of names with their own series is bounded; further names share [`OTHER`].
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Never removed: their counts are part of the totals.
    listeners: HashSet<String>,
    routes: HashSet<String>,
    pools: HashSet<String>,
    /// By pool.
    backends: HashMap<String, HashSet<String>>,
    ech_keys: HashSet<String>,
    /// The number of route-listener pairs so far: the cost of registering every series at once.
    pub(super) pairs: usize,
}

/// What a series is about, as far as that can be removed from the configuration.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub route: Option<Box<str>>,
    pub pool: Option<Box<str>>,
    pub backend: Option<Box<str>>,
    /// The file of a key.
    pub ech_key: Option<Box<str>>,
}

/// A label, and whether this name was new.
pub(super) struct Admitted {
    pub(super) label: String,
    pub(super) is_new: bool,
}

impl Names {
    pub(super) fn admit_listener(&mut self, name: &str) -> String {
        admit(&mut self.listeners, name, MAX_LISTENERS).label
    }

    pub(super) fn admit_route(&mut self, name: &str) -> Admitted {
        admit(&mut self.routes, name, MAX_ROUTES)
    }

    /// Whether the route has series of its own.
    pub(super) fn has_route(&self, name: &str) -> bool {
        self.routes.contains(&label_value(name))
    }

    pub(super) fn has_pool(&self, name: &str) -> bool {
        self.pools.contains(&label_value(name))
    }

    pub(super) fn has_backend(&self, pool: &str, name: &str) -> bool {
        self.backends.get(&label_value(pool)).is_some_and(|of_pool| of_pool.contains(&label_value(name)))
    }

    /// Whether the route has, or would get, series of its own.
    pub(super) fn has_or_admits_route(&self, name: &str) -> bool {
        self.routes.len() < MAX_ROUTES || self.routes.contains(&label_value(name))
    }

    pub(super) fn admit_pool(&mut self, name: &str) -> String {
        admit(&mut self.pools, name, MAX_POOLS).label
    }

    pub(super) fn admit_ech_key(&mut self, file: &str) -> String {
        admit(&mut self.ech_keys, file, MAX_ECH_KEYS).label
    }

    pub(super) fn retain_ech_keys(&mut self, files: &HashSet<&str>) {
        let labels: HashSet<String> = files.iter().map(|file| label_value(file)).collect();
        self.ech_keys.retain(|file| labels.contains(file));
    }

    pub(super) fn admit_backend(&mut self, pool: &str, backend: &str) -> (String, String) {
        let pool = self.admit_pool(pool);
        let others = self.backends();
        let of_pool = self.backends.entry(pool.clone()).or_default();
        let most = (MAX_BACKENDS + of_pool.len()).saturating_sub(others);
        let backend = admit(of_pool, backend, most).label;
        (pool, backend)
    }

    /// The number of backends with series of their own.
    pub(super) fn backends(&self) -> usize {
        self.backends.values().map(HashSet::len).sum()
    }

    pub(super) fn retire_backend(&mut self, pool: &str, backend: &str) {
        if let Some(of_pool) = self.backends.get_mut(&label_value(pool)) {
            of_pool.remove(&label_value(backend));
        }
    }

    /// Forgets the names that are no longer in the configuration.
    pub(super) fn retain(&mut self, routes: &HashSet<&str>, pools: &HashSet<&str>, backends: &HashSet<(&str, &str)>) {
        let labels = |names: &HashSet<&str>| names.iter().map(|name| label_value(name)).collect::<HashSet<_>>();
        let (routes, pools) = (labels(routes), labels(pools));
        let mut in_force: HashMap<String, HashSet<String>> = HashMap::new();
        for (pool, backend) in backends {
            in_force.entry(label_value(pool)).or_default().insert(label_value(backend));
        }
        self.routes.retain(|name| routes.contains(name));
        self.pools.retain(|name| pools.contains(name));
        self.backends.retain(|pool, of_pool| {
            let Some(in_force) = in_force.get(pool) else { return false };
            of_pool.retain(|name| in_force.contains(name));
            true
        });
    }

    /// Whether a series is in force: its route, pool and backend, as far as it has them, are not gone.
    pub(super) fn has(&self, owner: &Owner) -> bool {
        let is_shared = |label: &str| ["", OTHER, REMOVED].contains(&label);
        let is_in = |names: &HashSet<String>, label: &Option<Box<str>>| {
            label.as_deref().is_none_or(|label| is_shared(label) || names.contains(label))
        };
        let of_pool = owner.pool.as_deref().and_then(|pool| self.backends.get(pool));
        is_in(&self.routes, &owner.route)
            && is_in(&self.pools, &owner.pool)
            && is_in(&self.ech_keys, &owner.ech_key)
            && owner
                .backend
                .as_deref()
                .is_none_or(|backend| is_shared(backend) || of_pool.is_some_and(|of_pool| of_pool.contains(backend)))
    }
}

fn admit(names: &mut HashSet<String>, name: &str, most: usize) -> Admitted {
    let label = label_value(name);
    if names.contains(&label) {
        return Admitted { label, is_new: false };
    }
    if names.len() >= most {
        return Admitted { label: OTHER.to_owned(), is_new: false };
    }
    names.insert(label.clone());
    Admitted { label, is_new: true }
}

/// A name as label value. The few characters that the text format escapes become `_`, so that two spellings cannot
/// collide after escaping and nothing needs escaping.
pub(super) fn label_value(name: &str) -> String {
    name.chars().map(|c| if matches!(c, '"' | '\\') || c.is_control() { '_' } else { c }).collect()
}

const MAX_ECH_KEYS: usize = 256;
/// The shared label of names without their own series, used beyond the limit.
pub(super) const OTHER: &str = "(other)";
/// The label that keeps counting the closed connections of removed routes.
pub(super) const REMOVED: &str = "(removed)";

const MAX_LISTENERS: usize = 1024;
const MAX_ROUTES: usize = 4096;
const MAX_POOLS: usize = 1024;
const MAX_BACKENDS: usize = 16_384;
