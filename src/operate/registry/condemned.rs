//! Tells which connections end because a reload took their route or their backend away.
//!
//! In:  the snapshot before and the one after.
//! Out: [`Fates`]: who ends at once and who at the end of the drain; [`Condemned::takes`] knows a connection that is meant.
//!
//! A route is its name, a backend its pool and its name in the configuration. A route that is renamed is gone, whatever
//! its patterns; one whose patterns or pool change is not. What becomes of a connection is what its route says in the
//! new configuration or, where that has none of the name, in the one before.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Entry;
use crate::config::OnRemoved;
use crate::pool::Pool;
use crate::snapshot::Snapshot;

/// Connections that are to end, among those that older snapshots serve.
#[derive(Debug)]
pub struct Condemned {
    /// Connections of this generation and later ones are not meant.
    generation: u64,
    /// Routes that are gone.
    routes: HashSet<Arc<str>>,
    /// Backends that are gone, by their pool.
    backends: HashMap<Arc<str>, HashSet<Arc<str>>>,
    /// Routes whose connections end with their backend.
    strict: HashSet<Arc<str>>,
}

/// What a reload means for those who are connected.
#[derive(Debug)]
pub(crate) struct Fates {
    /// `on_removed: close`
    pub now: Arc<Condemned>,
    /// `on_removed: drain`
    pub later: Condemned,
}

impl Fates {
    /// `None`, and at little cost, where no route says other than `keep`, or nothing is gone.
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
        let condemned = |fate: OnRemoved| Condemned {
            generation: after.generation,
            routes: gone.iter().filter(|route| strict[**route] == fate).map(|route| Arc::clone(route)).collect(),
            backends: backends.clone(),
            strict: strict.iter().filter(|(_, is)| **is == fate).map(|(route, _)| Arc::clone(route)).collect(),
        };
        Some(Self { now: Arc::new(condemned(OnRemoved::Close)), later: condemned(OnRemoved::Drain) })
    }
}

impl Condemned {
    /// Whether `entry`, which has a route and a backend, is meant.
    pub fn takes(&self, entry: &Entry) -> bool {
        let (Some(route), Some(pool), Some(backend)) = (&entry.route, &entry.pool, &entry.backend) else {
            return false;
        };
        let is_gone = |route| {
            self.routes.contains(route)
                || self.strict.contains(route)
                    && self.backends.get(pool).is_some_and(|backends| backends.contains(backend))
        };
        entry.terms.generation < self.generation && is_gone(route)
    }

    /// Spares what is back in `now`: its routes and backends were taken away and given back.
    pub fn spare(&mut self, now: &Snapshot) {
        now.routes.iter().for_each(|route| _ = self.routes.remove(&route.name));
        for pool in &now.pools {
            if let Some(gone) = self.backends.get_mut(&pool.name) {
                backend_names(pool).for_each(|name| _ = gone.remove(&name));
            }
        }
    }

    /// Whether nobody can be meant.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && (self.strict.is_empty() || self.backends.values().all(HashSet::is_empty))
    }
}

/// The routes that do not keep their connections, those of `after` before those of `before`.
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

/// Of a DNS name, the addresses that it has now.
fn backend_names(pool: &Pool) -> impl Iterator<Item = Arc<str>> {
    pool.list().into_iter().map(|member| Arc::clone(&member.backend.name))
}
