//! Reports the routes in force.
//!
//! In:  the snapshot; the figures of the routes that have been used.
//! Out: a page of routes, or the busiest. Never all: there may be a million.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Memory;
use crate::ids::RouteIndex;
use crate::operate::admin::{RouteOrder, RouteUse, RoutesQuery};
use crate::operate::history::Key;
use crate::operate::status::{RouteStatus, RoutesPage, RoutesSummary, SeriesKind};
use crate::route::By;
use crate::snapshot::{Route, Snapshot};
use crate::telemetry::{Metrics, RouteFigures};

/// What does not change about routes, until the next reload.
#[derive(Default)]
pub(super) struct Described {
    generation: u64,
    routes: HashMap<Arc<str>, RouteStatus>,
}

/// The routes in a few figures.
pub(super) fn summary(snapshot: &Snapshot, memory: &mut Memory, metrics: &Metrics) -> RoutesSummary {
    let mut used: Vec<(Arc<str>, RouteFigures, f64)> = metrics
        .route_figures()
        .into_iter()
        .filter(|(name, figures)| figures.connections > 0 && !is_fallback(snapshot, name))
        .map(|(name, figures)| {
            let per_second = memory.tracker.rates(&Key::of(SeriesKind::Route, &name)).0;
            (name, figures, per_second)
        })
        .collect();
    let never_matched = snapshot.routes.len().saturating_sub(used.len());
    used.sort_by(|a, b| b.2.total_cmp(&a.2).then(b.1.connections.cmp(&a.1.connections)).then_with(|| a.0.cmp(&b.0)));
    used.truncate(MOST_BUSY);
    let Described { generation, routes } = &mut memory.routes;
    if *generation != snapshot.generation || routes.len() > MOST_DESCRIBED {
        (*generation, *routes) = (snapshot.generation, HashMap::new());
    }
    if used.iter().any(|(name, ..)| !routes.contains_key(name)) {
        let wanted: HashSet<&str> = used.iter().map(|(name, ..)| &**name).collect();
        let indexes = (0..).map(RouteIndex).zip(&snapshot.routes).filter(|(_, route)| wanted.contains(&*route.name));
        let indexes: Vec<RouteIndex> = indexes.map(|(index, _)| index).take(MOST_DESCRIBED).collect();
        for row in describe(snapshot, &indexes) {
            routes.entry(row.name.as_str().into()).or_insert(row);
        }
    }
    let row = |(name, figures, per_second): (Arc<str>, RouteFigures, f64)| {
        Some(with_figures(routes.get(&name)?.clone(), figures, per_second))
    };
    RoutesSummary { total: snapshot.routes.len(), never_matched, busiest: used.into_iter().filter_map(row).collect() }
}

/// Whether the name is that of a fallback, which no route in the file may have.
fn is_fallback(snapshot: &Snapshot, name: &str) -> bool {
    let own = [&snapshot.no_sni, &snapshot.unmatched, &snapshot.not_tls];
    own.iter().any(|route| *route.name == *name) || ["silent", "otherwise"].contains(&name)
}

/// One page.
pub(super) fn page(
    snapshot: &Snapshot,
    metrics: &Metrics,
    query: &RoutesQuery,
    per_second: impl Fn(&Key) -> f64,
) -> RoutesPage {
    let figures = metrics.route_figures();
    let of = |route: &Route| figures.get(&route.name).copied().unwrap_or_default();
    let by_pattern = query.q.as_deref().map(|part| matching(snapshot, &part.to_ascii_lowercase()));
    let part = query.q.as_ref().map(|part| part.to_lowercase());
    let is_wanted = |(index, route): &(RouteIndex, &Route)| {
        let is_used = of(route).connections > 0;
        let has = |name: &str| part.as_ref().is_none_or(|part| name.to_lowercase().contains(&**part));
        (match query.state {
            RouteUse::All => true,
            RouteUse::Used => is_used,
            RouteUse::Unused => !is_used,
        }) && (by_pattern.as_ref().is_none_or(|by_pattern| by_pattern.contains(index))
            || has(&route.name)
            || route.to.pools().any(|pool| has(&pool.name)))
    };
    let mut wanted: Vec<(RouteIndex, &Route)> = (0..).map(RouteIndex).zip(&snapshot.routes).filter(is_wanted).collect();
    let rate = |route: &Route| per_second(&Key::of(SeriesKind::Route, &route.name));
    match query.sort {
        RouteOrder::File => {}
        RouteOrder::Name => wanted.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name)),
        RouteOrder::Connections => wanted.sort_by_cached_key(|(_, route)| Reverse(of(route).connections)),
        RouteOrder::Active => wanted.sort_by_cached_key(|(_, route)| Reverse(of(route).active)),
        RouteOrder::Errors => wanted.sort_by_cached_key(|(_, route)| Reverse(of(route).errors)),
        RouteOrder::PerSecond => {
            // To the hundredth, since floating point numbers have no order.
            wanted.sort_by_cached_key(|(_, route)| Reverse((rate(route) * 100.0) as u64));
        }
    }
    let matching = wanted.len();
    let indexes: Vec<RouteIndex> =
        wanted.iter().skip(query.offset as usize).take(query.limit).map(|(index, _)| *index).collect();
    let rows = describe(snapshot, &indexes).into_iter().zip(&indexes).map(|(mut row, index)| {
        let route = snapshot.route(*index);
        row.is_counted_alone = figures.contains_key(&route.name) || metrics.counts_route_alone(&route.name);
        with_figures(row, of(route), rate(route))
    });
    RoutesPage { routes: rows.collect(), total: snapshot.routes.len(), matching, offset: query.offset as usize }
}

fn with_figures(row: RouteStatus, figures: RouteFigures, per_second: f64) -> RouteStatus {
    let RouteFigures { connections, active, errors, bytes: [bytes_to_backends, bytes_to_clients] } = figures;
    RouteStatus { connections, active, errors, bytes_to_backends, bytes_to_clients, per_second, ..row }
}

/// The routes with a pattern that contains `part`.
fn matching(snapshot: &Snapshot, part: &str) -> HashSet<RouteIndex> {
    // The table has the names without their wildcards.
    let (wildcard, name) = match part.strip_prefix("**.").map(|rest| (Some(By::ManyLabels), rest)) {
        Some(found) => found,
        None => part.strip_prefix("*.").map_or((None, part), |rest| (Some(By::OneLabel), rest)),
    };
    let mut found = HashSet::new();
    let mut see = |by, has: &[u8], route| {
        let contains = match wildcard {
            Some(wildcard) => by == wildcard && has.starts_with(name.as_bytes()),
            None if by == By::Any => part == "*",
            None => has.windows(name.len().max(1)).any(|window| window == name.as_bytes()) || name.is_empty(),
        };
        if contains {
            found.insert(route);
        }
    };
    snapshot.tables().for_each(|table| table.each(|by, has, route, _, _| see(by, has, route)));
    found.remove(&RouteIndex::NOWHERE);
    found
}

/// The routes with these indexes, without figures, in this order.
fn describe(snapshot: &Snapshot, indexes: &[RouteIndex]) -> Vec<RouteStatus> {
    let mut patterns: HashMap<RouteIndex, Vec<(u32, String)>> =
        indexes.iter().map(|index| (*index, Vec::new())).collect();
    let mut add = |by, name: &[u8], route, number| {
        if let Some(patterns) = patterns.get_mut(&route) {
            let name = String::from_utf8_lossy(name);
            let pattern = match by {
                By::Exact => name.into_owned(),
                By::OneLabel => format!("*.{name}"),
                By::ManyLabels => format!("**.{name}"),
                By::Any => "*".to_owned(),
            };
            patterns.push((number, pattern));
        }
    };
    snapshot.tables().for_each(|table| table.each(|by, name, route, _, number| add(by, name, route, number)));
    let row = |index: &RouteIndex| {
        let route = snapshot.route(*index);
        let mut patterns = patterns.remove(index).unwrap_or_default();
        patterns.sort_unstable();
        // Each listener with routes of its own has them.
        patterns.dedup();
        let more_patterns = patterns.len().saturating_sub(MOST_PATTERNS);
        RouteStatus {
            name: route.name.to_string(),
            patterns: patterns.into_iter().take(MOST_PATTERNS).map(|(_, pattern)| pattern).collect(),
            more_patterns,
            pools: route.to.pools().map(|pool| pool.name.to_string()).collect(),
            connections: 0,
            per_second: 0.0,
            active: 0,
            errors: 0,
            bytes_to_backends: 0,
            bytes_to_clients: 0,
            is_counted_alone: true,
        }
    };
    indexes.iter().map(row).collect()
}

const MOST_BUSY: usize = 20;
const MOST_DESCRIBED: usize = 1000;
const MOST_PATTERNS: usize = 10;
