//! Reports the listeners in force.
//!
//! In:  the metrics of the listeners, their settings, the addresses that are bound.
//! Out: their status, and the sums over all of them.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use super::Memory;
use crate::operate::history::Key;
use crate::operate::status::{ListenerStatus, SeriesKind, Totals};
use crate::settings::{Listener, ListenerProtocol};
use crate::snapshot::Snapshot;
use crate::telemetry::{Fault, ListenerMetrics, Metrics};

/// The name and the metrics of each listener in force.
pub(super) type Listeners = [(Arc<str>, Arc<ListenerMetrics>)];

/// The metrics of each listener in force, in the order of the file. Looking them up in the registry takes long.
pub(super) fn find_listeners(
    snapshot: &Snapshot,
    known: &mut HashMap<Arc<str>, Arc<ListenerMetrics>>,
    metrics: &Metrics,
) -> Vec<(Arc<str>, Arc<ListenerMetrics>)> {
    let listeners = snapshot.config.listeners.iter().map(|listener| &listener.name);
    let find = |name: &Arc<str>| {
        let found = known.entry(Arc::clone(name)).or_insert_with(|| metrics.listener(name));
        (Arc::clone(name), Arc::clone(found))
    };
    let found: Vec<_> = listeners.map(find).collect();
    if known.len() > found.len() {
        known.retain(|name, _| found.iter().any(|(found, _)| found == name));
    }
    found
}

pub(super) fn listener(
    memory: &Memory,
    settings: &Listener,
    metrics: &ListenerMetrics,
    bound: &[(Arc<str>, SocketAddr)],
) -> ListenerStatus {
    let paused = memory.paused.get(&settings.name).filter(|paused| paused.state && metrics.is_accept_paused());
    let ends = BadEnds::of(metrics);
    let by_reason =
        |counts: BTreeMap<&str, u64>| counts.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect();
    let own = bound.iter().filter(|(name, _)| *name == settings.name);
    let [bytes_to_backends, bytes_to_clients] = metrics.total_bytes();
    ListenerStatus {
        name: settings.name.to_string(),
        bind: settings.bind.iter().map(|bind| bind.0.to_string()).collect(),
        addresses: own.map(|(_, address)| address.to_string()).collect(),
        protocol: match settings.protocol {
            ListenerProtocol::Http => "http",
            _ => "tls",
        }
        .into(),
        accepted: metrics.total_accepted(),
        active: metrics.active(),
        per_second: memory.tracker.rates(&Key::of(SeriesKind::Listener, &settings.name)).0,
        limit: settings.max_connections.map(|most| most as u64),
        accept_paused_since: paused.map(|paused| paused.since.into()),
        refused: by_reason(ends.refused),
        failed: by_reason(ends.failed),
        bytes_to_backends,
        bytes_to_clients,
    }
}

/// How connections ended badly, by reason.
#[derive(Default)]
pub(super) struct BadEnds {
    /// By snigate.
    refused: BTreeMap<&'static str, u64>,
    /// At backends, or by a fault of snigate.
    failed: BTreeMap<&'static str, u64>,
}

impl BadEnds {
    pub(super) fn of(metrics: &ListenerMetrics) -> Self {
        let mut ends = Self::default();
        for (reason, count) in metrics.ends().all() {
            let of = match reason.fault() {
                Fault::Backend | Fault::Proxy => &mut ends.failed,
                _ if reason.is_turned_away() => &mut ends.refused,
                _ => continue,
            };
            of.insert(reason.as_str(), count);
        }
        ends
    }

    /// Those refused, and those that failed.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.refused.values().sum(), self.failed.values().sum())
    }
}

pub(super) fn totals(memory: &Memory, listeners: &Listeners) -> Totals {
    let (per_second, errors_per_second) = memory.tracker.rates(&Key::all());
    let mut totals = Totals { per_second, errors_per_second, ..Totals::default() };
    for (_, metrics) in listeners {
        let (refused, failed) = BadEnds::of(metrics).totals();
        let [to_backends, to_clients] = metrics.total_bytes();
        totals.accepted += metrics.total_accepted();
        totals.active += metrics.active();
        totals.refused += refused;
        totals.failed += failed;
        totals.bytes_to_backends += to_backends;
        totals.bytes_to_clients += to_clients;
    }
    totals
}
