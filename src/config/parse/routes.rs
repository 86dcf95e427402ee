//! Checks routes and the fallbacks after them.
//!
//! In:  the tops of all files; the names of listeners and pools.
//! Out: [`Route`]s in the order of the files, and the index of each in its own file.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::names::{self, Named};
use super::settings::{AGES, MILLISECOND, WEEK, within};
use super::{Cursor, Names, lists, per_client};
use crate::config::problem::{Place, Problem};
use crate::config::{Conditions, Destination, Route, Share, file};
use crate::settings::{Access, Origin, PerClient, Refuse};

/// The routes of all files.
pub(super) struct Routes {
    pub parsed: Vec<Route>,
    /// The index of each in the `routes` of its file.
    pub indices: Vec<usize>,
}

pub(super) fn parse(tops: &[Cursor<'_>], listeners: &Names, pools: &Names, limits: Option<&PerClient>) -> Routes {
    let mut routes = Routes { parsed: Vec::new(), indices: Vec::new() };
    let mut taken = TakenNames::default();
    for top in tops {
        let Some(list) = top.key("routes").filter(Cursor::is_a_list) else { continue };
        for (index, cursor) in list.items().enumerate() {
            let Some(mut read) = cursor.read::<file::Route>() else { continue };
            per_client::complete(&mut read.per_client, &cursor, limits);
            for route in route(read, &cursor, listeners, pools, &mut taken) {
                routes.parsed.push(route);
                routes.indices.push(index);
            }
        }
    }
    taken.name_the_unnamed(&mut routes.parsed);
    routes
}

fn route(
    mut route: file::Route,
    cursor: &Cursor<'_>,
    listeners: &Names,
    pools: &Names,
    taken: &mut TakenNames,
) -> Vec<Route> {
    let file::Route { pool, split, refuse, .. } = &route;
    let to = destination(pool.as_deref(), split.as_deref(), *refuse, cursor, pools);
    if let Some(idle) = route.idle_timeout {
        within(cursor, "idle_timeout", idle, MILLISECOND..=WEEK);
    }
    if let Some(max_age) = route.max_age.and_then(|max_age| *max_age) {
        within(cursor, "max_age", max_age, AGES);
    }
    if route.refuse.is_some() {
        let set = [("max_age", route.max_age.is_some()), ("max_connections", route.max_connections.is_some())];
        for (key, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
            cursor.warning_at(key, "this has no effect on a route that refuses");
        }
    }
    for key in ["alpn", "source", "listeners"] {
        if cursor.key(key).is_some_and(|list| list.is_empty_list()) {
            cursor.error_at(key, "an empty list can never match; remove the key to drop the condition");
        }
    }
    let conditions = Conditions {
        alpn: route.alpn.into_iter().map(|protocol| protocol.0).collect(),
        source: route.source.into_iter().map(|network| network.0).collect(),
        listeners: through(&route.listeners, cursor, listeners),
        ech: route.ech,
    };
    lists::access(&mut route.allow, &mut route.deny, cursor);
    let name = route.name.inspect(|name| taken.give(name, cursor)).unwrap_or_default();
    let Some(Named { patterns, listed, with_pools }) = names::named(route.sni, to.as_ref(), cursor, pools) else {
        return Vec::new();
    };
    // Without a destination the file is rejected; the patterns are still checked first.
    let to = to.unwrap_or(Destination::Refuse(Refuse::Alert));
    // An empty name is filled in once all names are known.
    let route = Route {
        name,
        patterns,
        conditions,
        to,
        idle_timeout: route.idle_timeout,
        max_age: route.max_age,
        max_connections: route.max_connections,
        on_removed: route.on_removed,
        access: Access::new(route.allow, route.deny),
        per_client: route.per_client.and_then(|limits| limits.0).map(Box::new),
        origin: Origin::File,
        listed,
    };
    let of_pools: Vec<Route> = with_pools.into_iter().map(|with_pool| with_pool.route(&route)).collect();
    std::iter::once(route).chain(of_pools).collect()
}

/// The numbers of the listeners that a condition names.
fn through(names: &[String], cursor: &Cursor<'_>, listeners: &Names) -> Vec<usize> {
    let Some(list) = cursor.key("listeners") else { return Vec::new() };
    let found = |(name, cursor): (&String, Cursor<'_>)| {
        listeners.find(name, "listener").map_err(|dangling| cursor.error(dangling)).ok()
    };
    names.iter().zip(list.items()).filter_map(found).collect()
}

/// Parses one of the three fallbacks.
pub(super) fn fallback(top: &Cursor<'_>, key: &str, default: Refuse, pools: &Names) -> Destination {
    let parsed = top.key(key).and_then(|cursor| {
        let file::Fallback { pool, split, refuse } = cursor.read()?;
        destination(pool.as_deref(), split.as_deref(), refuse, &cursor, pools)
    });
    parsed.unwrap_or(Destination::Refuse(default))
}

fn destination(
    pool: Option<&str>,
    split: Option<&[file::Share]>,
    refuse: Option<Refuse>,
    cursor: &Cursor<'_>,
    pools: &Names,
) -> Option<Destination> {
    match (pool, split, refuse) {
        (None, None, None) => {
            if !TARGETS.iter().any(|key| cursor.holds(key)) {
                cursor.error("the route has no target; add `pool`, `split` or `refuse`");
            }
            None
        }
        (Some(name), None, None) => pool_named(name, cursor, pools).map(Destination::Pool),
        (None, Some(shares), None) => self::split(shares, cursor, pools).map(Destination::Split),
        (None, None, Some(refuse)) => Some(Destination::Refuse(refuse)),
        _ => {
            let set = [pool.is_some(), split.is_some(), refuse.is_some()];
            let set = TARGETS.into_iter().zip(set).filter_map(|(key, is_set)| is_set.then_some(key));
            match *set.collect::<Vec<_>>() {
                [one, other] => {
                    let message = format_args!("`{one}` and `{other}` cannot be used together; remove one");
                    cursor.error_at(other, message);
                }
                _ => cursor.error_at("refuse", "`pool`, `split` and `refuse` cannot be used together; keep one"),
            }
            None
        }
    }
}

/// The shares of a split, if all of them can be used.
fn split(shares: &[file::Share], cursor: &Cursor<'_>, pools: &Names) -> Option<Arc<[Share]>> {
    let list = cursor.key("split")?;
    if list.is_empty_list() {
        list.error("a split needs at least one share: `{ pool: NAME, weight: NUMBER }`");
    }
    if shares.len() > MOST_SHARES {
        list.error(format_args!("a split has at most {MOST_SHARES} shares; this one has {}", shares.len()));
    }
    let mut parsed = Vec::with_capacity(shares.len());
    let mut first: HashMap<usize, Place> = HashMap::new();
    let mut are_weights_valid = true;
    for (share, cursor) in shares.iter().zip(list.items()) {
        if share.weight > MAX_SHARE_WEIGHT {
            cursor.error_at("weight", "the weight of a share is 0 to 1000000");
            are_weights_valid = false;
        }
        let Some(pool) = pool_named(&share.pool, &cursor, pools) else { continue };
        if let Some(first) = first.insert(pool, cursor.at("pool").place()) {
            let message = format_args!(
                "pool `{}` is already in this split, at {first}; add the weights up in one share",
                share.pool
            );
            cursor.error_at("pool", message);
        }
        parsed.push(Share { pool, weight: share.weight });
    }
    if !shares.is_empty() && are_weights_valid && shares.iter().all(|share| share.weight == 0) {
        list.error("all weights are 0, so no pool gets a connection; raise one, or write `refuse` instead of `split`");
        return None;
    }
    (!shares.is_empty() && parsed.len() == shares.len()).then(|| parsed.into())
}

/// The number of the pool that `pool` names.
fn pool_named(name: &str, cursor: &Cursor<'_>, pools: &Names) -> Option<usize> {
    // A misspelt top-level key is one problem; do not report each route as well.
    let misspelt = |problem: &Problem| problem.message.ends_with("did you mean `pools`?");
    if pools.is_empty() && cursor.reading.problems.borrow().iter().any(misspelt) {
        return None;
    }
    pools.find(name, "pool").map_err(|dangling| cursor.error_at("pool", dangling)).ok()
}

/// The names of routes, which must be unique.
#[derive(Default)]
struct TakenNames {
    given: HashMap<Arc<str>, Place>,
}

impl TakenNames {
    /// Takes a name given in the file.
    fn give(&mut self, name: &Arc<str>, route: &Cursor<'_>) {
        if let Some(first) = self.given.insert(Arc::clone(name), route.at("name").place()) {
            route.error_at("name", format_args!("a route named `{name}` is already defined, at {first}"));
        }
    }

    /// Names each unnamed route after its first pattern: `a.test`, then `a.test#2` for the next with that pattern; or
    /// after its file of names.
    fn name_the_unnamed(self, routes: &mut [Route]) {
        let mut taken: HashSet<Arc<str>, RandomState> = self.given.into_keys().collect();
        let mut next: HashMap<Arc<str>, usize> = HashMap::new();
        let mut of_the_file: Arc<str> = Arc::default();
        for route in routes {
            if route.name.is_empty() {
                let Some(plain) = names::name(route, &of_the_file) else { continue };
                let mut name = Arc::clone(&plain);
                while taken.contains(&name) {
                    let number = next.entry(Arc::clone(&plain)).and_modify(|number| *number += 1).or_insert(2);
                    name = format!("{plain}#{number}").into();
                }
                taken.insert(Arc::clone(&name));
                route.name = name;
            }
            if route.listed.as_ref().is_none_or(|listed| listed.pool.is_none()) {
                of_the_file = Arc::clone(&route.name);
            }
        }
    }
}

const TARGETS: [&str; 3] = ["pool", "split", "refuse"];
const MOST_SHARES: usize = 64;
/// As in the Gateway API, whose weights can so be taken over as they are.
const MAX_SHARE_WEIGHT: u32 = 1_000_000;
