//! Decides which connections end because a reload removed their route or their backend.
//!
//! In:  the snapshot before and the one after.
//! Out: [`Removals`]: which connections end at once and which at the end of the drain; [`Removal::matches`] matches a
//!      connection.
//!
//! A route is identified by its name, a backend by its pool and its name in the configuration. A renamed route counts
//! as removed, whatever its patterns; one whose patterns or pool change does not. What happens to a connection is set
//! by its route in the new configuration or, if that has no route of the name, in the old one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::LiveConnection;
use crate::pool::Pool;
use crate::settings::OnRemoved;
use crate::snapshot::Snapshot;

/// The connections of older snapshots that are to end.
#[derive(Debug)]
pub struct Removal {
    /// Connections of this generation and later ones do not match.
    generation: u64,
    /// Removed routes.
    routes: HashSet<Arc<str>>,
    /// Removed backends, by pool.
    backends: HashMap<Arc<str>, HashSet<Arc<str>>>,
    /// Routes whose connections end when their backend is removed.
    strict: HashSet<Arc<str>>,
}

/// The connections a reload ends, by when they end.
#[derive(Debug)]
pub(crate) struct Removals {
    /// `on_removed: close`
    pub now: Arc<Removal>,
    /// `on_removed: drain`
    pub later: Removal,
}

impl Removals {
    /// `None`, found cheaply, if every route says `keep` or nothing was removed.
    pub(crate) fn of(before: &Snapshot, after: &Snapshot) -> Option<Self> {
        let strict = strict(before, after);
        if strict.is_empty() {
            return None;
        }
        let mut gone: HashSet<&Arc<str>> = strict.keys().copied().collect();
        after.routes.iter().for_each(|route| _ = gone.remove(&route.name));
        let backends = gone_backends(before, after);
        if gone.is_empty() && backends.is_empty() {
            return None;
        }
        let removal = |fate: OnRemoved| Removal {
            generation: after.generation,
            routes: gone.iter().filter(|route| strict[**route] == fate).map(|route| Arc::clone(route)).collect(),
            backends: backends.clone(),
            strict: strict.iter().filter(|(_, is)| **is == fate).map(|(route, _)| Arc::clone(route)).collect(),
        };
        Some(Self { now: Arc::new(removal(OnRemoved::Close)), later: removal(OnRemoved::Drain) })
    }
}

impl Removal {
    /// Whether `entry` matches. One that does not have a route and a backend yet never does.
    pub fn matches(&self, entry: &LiveConnection) -> bool {
        let (Some(route), Some(pool), Some(backend)) = (&entry.route, &entry.pool, &entry.backend) else {
            return false;
        };
        let is_gone = |route| {
            self.routes.contains(route)
                || self.strict.contains(route)
                    && self.backends.get(pool).is_some_and(|backends| backends.contains(&backend.name))
        };
        entry.terms.generation < self.generation && is_gone(route)
    }

    /// Whether the route of `entry`, which needs no backend for that, is gone.
    pub fn takes_route(&self, entry: &LiveConnection) -> bool {
        let is_gone = entry.route.as_ref().is_some_and(|route| self.routes.contains(route));
        is_gone && entry.terms.generation < self.generation
    }

    /// Drops routes and backends that exist in `now`: they were removed and have been added back.
    pub fn restore(&mut self, now: &Snapshot) {
        now.routes.iter().for_each(|route| _ = self.routes.remove(&route.name));
        for pool in &now.pools {
            if let Some(gone) = self.backends.get_mut(&pool.name) {
                backend_names(pool).for_each(|name| _ = gone.remove(&name));
            }
        }
    }

    /// Whether no connection can match.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && (self.strict.is_empty() || self.backends.values().all(HashSet::is_empty))
    }
}

/// The routes that do not keep their connections; settings in `after` override those in `before`.
fn strict<'s>(before: &'s Snapshot, after: &'s Snapshot) -> HashMap<&'s Arc<str>, OnRemoved> {
    let mut strict: HashMap<&Arc<str>, OnRemoved> = HashMap::new();
    for route in before.routes.iter().filter(|route| route.on_removed != OnRemoved::Keep) {
        strict.insert(&route.name, route.on_removed);
    }
    for route in &after.routes {
        match route.on_removed {
            OnRemoved::Keep => _ = strict.remove(&route.name),
            fate => _ = strict.insert(&route.name, fate),
        }
    }
    strict
}

fn gone_backends(before: &Snapshot, after: &Snapshot) -> HashMap<Arc<str>, HashSet<Arc<str>>> {
    let remaining: HashSet<(&Arc<str>, Arc<str>)> =
        after.pools.iter().flat_map(|pool| backend_names(pool).map(|name| (&pool.name, name))).collect();
    let mut gone: HashMap<Arc<str>, HashSet<Arc<str>>> = HashMap::new();
    for pool in &before.pools {
        for name in backend_names(pool) {
            let backend = (&pool.name, name);
            if !remaining.contains(&backend) {
                gone.entry(Arc::clone(&pool.name)).or_default().insert(backend.1);
            }
        }
    }
    gone
}

/// For a DNS name, the addresses it currently has.
fn backend_names(pool: &Pool) -> impl Iterator<Item = Arc<str>> {
    pool.list().into_iter().map(|member| Arc::clone(&member.backend.name))
}
