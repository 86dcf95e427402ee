//! The metric handles used on the connection path. An event costs only atomic adds: no look-up, no lock, no formatting.
//!
//! In:  events, one function each.
//! Out: counts in the series that were registered when the handle was created.

use std::array;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::Histogram;

use super::ends::{Ends, ListenerCounts, RouteCounts};
use super::registry::{Counter, Gauge, Registry};
use super::table;
use crate::ids::ListenerIndex;
use crate::telemetry::{
    AcceptError, BackendState, CheckResult, ConnectResult, DnsResult, Feature, FirstRecord, HelloResult, Match, Paused,
    ProxyHeaderResult, Reason, State, each,
};
use crate::way::Way;

/// Series of one listener.
pub struct ListenerMetrics {
    accepted: Counter,
    active: Arc<[Gauge; State::ALL.len()]>,
    unrouted: Vec<Counter>,
    hellos: Vec<Counter>,
    hello_duration: Histogram,
    hello_bytes: Histogram,
    hello_records: Histogram,
    selected: Vec<Counter>,
    accept_errors: Vec<Counter>,
    accept_paused: Gauge,
    proxy_headers: Vec<Counter>,
    counts: Arc<ListenerCounts>,
}

impl ListenerMetrics {
    pub(super) fn register(registry: &Registry, name: &str, counts: Arc<ListenerCounts>) -> Self {
        Self {
            counts,
            accepted: registry.counter(&table::ACCEPTED, &[name]),
            active: Arc::new(array::from_fn(|at| registry.gauge(&table::ACTIVE, &[name, State::ALL[at].as_str()]))),
            unrouted: each(Reason::ALL, |reason| {
                registry.counter(&table::CLOSED, &[name, "", reason.as_str(), reason.fault().as_str()])
            }),
            hellos: each(HelloResult::ALL, |result| registry.counter(&table::HELLOS, &[name, result.as_str()])),
            hello_duration: registry.histogram(&table::HELLO_DURATION, &[]),
            hello_bytes: registry.histogram(&table::HELLO_BYTES, &[]),
            hello_records: registry.histogram(&table::HELLO_RECORDS, &[]),
            selected: each(Match::ALL, |how| registry.counter(&table::SELECTED, &[name, how.as_str()])),
            accept_errors: each(AcceptError::ALL, |kind| {
                registry.counter(&table::ACCEPT_ERRORS, &[name, kind.as_str()])
            }),
            accept_paused: registry.gauge(&table::ACCEPT_PAUSED, &[name]),
            proxy_headers: each(ProxyHeaderResult::ALL, |result| {
                registry.counter(&table::PROXY_HEADERS, &[name, result.as_str()])
            }),
        }
    }

    /// Counts a connection as open, in state hello, until the guard is dropped.
    pub fn accepted(&self) -> Active {
        self.accepted.increment(1);
        self.active[State::Hello as usize].increment(1.0);
        Active { states: self.active.clone(), now: State::Hello }
    }

    /// A connection ended, with a route or without.
    pub fn ended(&self, reason: Reason) {
        self.counts.ends.add(reason);
    }

    /// Its clients and their backends sent `bytes` since the last call.
    pub fn carried(&self, way: Way, bytes: u64) {
        self.counts.carried.add(way, bytes);
    }

    /// The bytes of its connections since the start, by [`Way`].
    pub(crate) fn total_bytes(&self) -> [u64; Way::ALL.len()] {
        self.counts.carried.read()
    }

    /// How its connections ended that were somebody's fault.
    pub(crate) fn ends(&self) -> &Ends {
        &self.counts.ends
    }

    /// Since the start.
    pub fn total_accepted(&self) -> u64 {
        self.accepted.get()
    }

    /// Open now.
    pub fn active(&self) -> u64 {
        self.active.iter().map(Gauge::get).sum::<f64>() as u64
    }

    pub fn is_accept_paused(&self) -> bool {
        self.accept_paused.get() > 0.0
    }

    /// A connection ended before a route was chosen.
    pub fn closed_unrouted(&self, reason: Reason) {
        self.unrouted[reason as usize].increment(1);
    }

    /// The figures describe the hello, so they are used only if it is complete.
    pub fn hello(&self, result: HelloResult, after: Duration, bytes: usize, records: usize) {
        self.hellos[result as usize].increment(1);
        if result == HelloResult::Whole {
            self.hello_duration.record(after);
            self.hello_bytes.record(bytes as f64);
            self.hello_records.record(records as f64);
        }
    }

    pub fn selected(&self, how: Match) {
        self.selected[how as usize].increment(1);
    }

    pub fn accept_error(&self, kind: AcceptError) {
        self.accept_errors[kind as usize].increment(1);
    }

    pub fn accept_paused(&self, paused: Paused) {
        self.accept_paused.set(if paused == Paused::Yes { 1.0 } else { 0.0 });
    }

    pub fn proxy_header(&self, result: ProxyHeaderResult) {
        self.proxy_headers[result as usize].increment(1);
    }
}

/// An open connection; dropping this ends it.
#[must_use]
pub struct Active {
    states: Arc<[Gauge; State::ALL.len()]>,
    now: State,
}

impl Active {
    pub fn enter(&mut self, state: State) {
        self.states[state as usize].increment(1.0);
        self.states[self.now as usize].decrement(1.0);
        self.now = state;
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.states[self.now as usize].decrement(1.0);
    }
}

/// The series of one route. Each is registered when first used, or all at once while there are few.
pub struct RouteMetrics {
    registry: Arc<Registry>,
    route: String,
    pool: String,
    listeners: Vec<ClosedOnListener>,
    counts: Arc<RouteCounts>,
    lived: OnceLock<Histogram>,
    bytes: [OnceLock<Counter>; Way::ALL.len()],
    offers: [OnceLock<Counter>; Feature::ALL.len()],
}

/// `connections_closed_total` of one route on one listener.
struct ClosedOnListener {
    listener: String,
    /// Boxed when first used: the row of counters is a hundred times the size of an unused route's handle.
    by_reason: OnceLock<Box<[OnceLock<Counter>; Reason::ALL.len()]>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Registering {
    AtOnce,
    OnFirstUse,
}

impl RouteMetrics {
    pub(super) fn new(
        registry: Arc<Registry>,
        route: String,
        pool: String,
        listeners: Vec<String>,
        registering: Registering,
        counts: Arc<RouteCounts>,
    ) -> Self {
        let listeners =
            listeners.into_iter().map(|listener| ClosedOnListener { listener, by_reason: OnceLock::new() }).collect();
        let this = Self {
            registry,
            route,
            pool,
            listeners,
            counts,
            lived: OnceLock::new(),
            bytes: Default::default(),
            offers: Default::default(),
        };
        if registering == Registering::AtOnce {
            this.register_all();
        }
        this
    }

    /// A connection was routed here.
    pub fn routed(&self) {
        self.counts.routed();
    }

    /// A connection routed here ended; `listener` is an index into the listeners passed to `Metrics::route`.
    pub fn closed(&self, listener: ListenerIndex, reason: Reason, lived: Duration) {
        self.closed_counter(listener, reason).increment(1);
        self.counts.closed(reason);
        self.lived().record(lived);
    }

    /// Call it while the connection is open, with the bytes since the last call.
    pub fn bytes(&self, way: Way, n: u64) {
        self.bytes_counter(way).increment(n);
        self.counts.carried(way, n);
    }

    pub fn offers(&self, feature: Feature) {
        self.offers_counter(feature).increment(1);
    }

    fn register_all(&self) {
        self.lived();
        Way::ALL.iter().for_each(|way| _ = self.bytes_counter(*way));
        Feature::ALL.iter().for_each(|feature| _ = self.offers_counter(*feature));
        for listener in (0..self.listeners.len()).map(ListenerIndex) {
            for reason in Reason::ALL.iter().filter(|reason| ends_routed(**reason)) {
                self.closed_counter(listener, *reason);
            }
        }
    }

    fn closed_counter(&self, ListenerIndex(listener): ListenerIndex, reason: Reason) -> &Counter {
        let on = &self.listeners[listener];
        let by_reason = on.by_reason.get_or_init(|| Box::new([const { OnceLock::new() }; Reason::ALL.len()]));
        by_reason[reason as usize].get_or_init(|| {
            let labels = [&on.listener, &self.route, reason.as_str(), reason.fault().as_str()];
            self.registry.counter(&table::CLOSED, &labels)
        })
    }

    fn lived(&self) -> &Histogram {
        self.lived.get_or_init(|| self.registry.histogram(&table::DURATION, &[&self.route]))
    }

    fn bytes_counter(&self, way: Way) -> &Counter {
        self.bytes[way as usize]
            .get_or_init(|| self.registry.counter(&table::BYTES, &[&self.route, &self.pool, way.as_str()]))
    }

    fn offers_counter(&self, feature: Feature) -> &Counter {
        self.offers[feature as usize]
            .get_or_init(|| self.registry.counter(&table::OFFERS, &[&self.route, feature.as_str()]))
    }
}

/// Whether a routed connection can end with this reason. The others need no series per route.
const fn ends_routed(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::NoRoute
            | Reason::NoSni
            | Reason::NotTls
            | Reason::BadHello
            | Reason::InvalidSni
            | Reason::HelloTooLarge
            | Reason::HelloTimeout
            | Reason::Memory
            | Reason::Probe
            | Reason::ProxyHeader
            | Reason::ProxyUntrusted
            | Reason::LimitListener
    )
}

/// Series of one pool.
pub struct PoolMetrics {
    connected: Histogram,
    first_byte: Histogram,
    check: Histogram,
}

impl PoolMetrics {
    pub(super) fn register(registry: &Registry, pool: &str) -> Self {
        Self {
            connected: registry.histogram(&table::CONNECT_DURATION, &[pool]),
            first_byte: registry.histogram(&table::FIRST_BYTE, &[pool]),
            check: registry.histogram(&table::CHECK_DURATION, &[pool]),
        }
    }

    pub fn connected(&self, after: Duration) {
        self.connected.record(after);
    }

    pub fn first_byte(&self, after: Duration) {
        self.first_byte.record(after);
    }

    pub fn checked(&self, took: Duration) {
        self.check.record(took);
    }
}

/// Series of the queue of one pool.
pub struct QueueMetrics {
    length: Gauge,
    wait: Histogram,
    timeouts: Counter,
}

impl QueueMetrics {
    pub(super) fn register(registry: &Registry, pool: &str) -> Self {
        Self {
            length: registry.gauge(&table::QUEUE_LENGTH, &[pool]),
            wait: registry.histogram(&table::QUEUE_WAIT, &[pool]),
            timeouts: registry.counter(&table::QUEUE_TIMEOUTS, &[pool]),
        }
    }

    /// The current length; call it before each rendering.
    pub fn length(&self, length: usize) {
        self.length.set(length as f64);
    }

    /// A client got its place.
    pub fn waited(&self, for_how_long: Duration) {
        self.wait.record(for_how_long);
    }

    pub fn timed_out(&self) {
        self.timeouts.increment(1);
    }
}

/// Series of the DNS names of one pool.
pub struct DnsMetrics {
    lookups: Vec<Counter>,
}

impl DnsMetrics {
    pub(super) fn register(registry: &Registry, pool: &str) -> Self {
        let lookups = each(DnsResult::ALL, |result| registry.counter(&table::DNS_LOOKUPS, &[pool, result.as_str()]));
        Self { lookups }
    }

    pub fn looked_up(&self, result: DnsResult) {
        self.lookups[result as usize].increment(1);
    }
}

/// Series of one backend.
pub struct BackendMetrics {
    connects: Vec<Counter>,
    first_records: Vec<Counter>,
    active: Gauge,
    up: Gauge,
    states: Vec<Gauge>,
    ejections: Counter,
    weight: Gauge,
    checks: Vec<Counter>,
    certificate_expiry: Gauge,
}

impl BackendMetrics {
    pub(super) fn register(registry: &Registry, pool: &str, backend: &str) -> Self {
        Self {
            connects: each(ConnectResult::ALL, |result| {
                registry.counter(&table::CONNECTS, &[pool, backend, result.as_str()])
            }),
            first_records: each(FirstRecord::ALL, |kind| {
                registry.counter(&table::FIRST_RECORD, &[pool, backend, kind.as_str()])
            }),
            active: registry.gauge(&table::BACKEND_ACTIVE, &[pool, backend]),
            up: registry.gauge(&table::BACKEND_UP, &[pool, backend]),
            states: each(BackendState::ALL, |state| {
                registry.gauge(&table::BACKEND_STATE, &[pool, backend, state.as_str()])
            }),
            ejections: registry.counter(&table::EJECTIONS, &[pool, backend]),
            weight: registry.gauge(&table::BACKEND_WEIGHT, &[pool, backend]),
            checks: each(CheckResult::ALL, |result| {
                registry.counter(&table::CHECKS, &[pool, backend, result.as_str()])
            }),
            certificate_expiry: registry.gauge(&table::CERTIFICATE_EXPIRY, &[pool, backend]),
        }
    }

    pub fn connect(&self, result: ConnectResult) {
        self.connects[result as usize].increment(1);
    }

    /// Attempts to connect since the start, and how many of them failed.
    pub fn attempts(&self) -> (u64, u64) {
        let counts = ConnectResult::ALL.iter().zip(&self.connects).map(|(result, count)| (*result, count.get()));
        counts.fold((0, 0), |(all, failed), (result, count)| match result {
            ConnectResult::Ok | ConnectResult::Overtaken => (all + count, failed),
            _ => (all + count, failed + count),
        })
    }

    pub fn first_record(&self, kind: FirstRecord) {
        self.first_records[kind as usize].increment(1);
    }

    pub fn ejected(&self) {
        self.ejections.increment(1);
    }

    pub fn checked(&self, result: CheckResult) {
        self.checks[result as usize].increment(1);
    }

    /// In seconds since 1970.
    pub fn certificate_expires(&self, at: i64) {
        self.certificate_expiry.set(at as f64);
    }

    /// The weight in force; call it before each rendering.
    pub fn weight(&self, weight: u32) {
        self.weight.set(f64::from(weight));
    }

    /// The current state; call it before each rendering, so that the connection path updates no gauge.
    pub fn standing(&self, state: BackendState, active: usize) {
        let is_up = matches!(state, BackendState::Up | BackendState::Unchecked);
        self.up.set(if is_up { 1.0 } else { 0.0 });
        for (label, gauge) in BackendState::ALL.iter().zip(&self.states) {
            gauge.set(if *label == state { 1.0 } else { 0.0 });
        }
        self.active.set(active as f64);
    }
}

impl std::fmt::Debug for PoolMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolMetrics").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for BackendMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendMetrics").finish_non_exhaustive()
    }
}
