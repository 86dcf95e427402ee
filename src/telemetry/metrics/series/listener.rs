//! The series of one listener.
//!
//! In:  events, one function each.
//! Out: counts in the series that were registered when the handle was created.

use std::array;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::ConnectionId;
use crate::telemetry::metrics::ends::{Ends, ListenerCounts};
use crate::telemetry::metrics::instruments::{Counter, Gauge, Histogram, Level};
use crate::telemetry::metrics::registry::Registry;
use crate::telemetry::metrics::table;
use crate::telemetry::{AcceptError, EchResult, HelloResult, Match, Paused, ProxyHeaderResult, Reason, State, each};
use crate::way::Way;

/// Series of one listener.
pub struct ListenerMetrics {
    accepted: Counter,
    active: Arc<[Level; State::ALL.len()]>,
    unrouted: Vec<Counter>,
    hellos: Vec<Counter>,
    hello_duration: Histogram,
    hello_bytes: Histogram,
    hello_records: Histogram,
    selected: Vec<Counter>,
    accept_errors: Vec<Counter>,
    accept_paused: Gauge,
    proxy_headers: Vec<Counter>,
    ech: Vec<Counter>,
    ech_open: Histogram,
    counts: Arc<ListenerCounts>,
}

impl ListenerMetrics {
    pub(in crate::telemetry::metrics) fn register(
        registry: &Registry,
        name: &str,
        counts: Arc<ListenerCounts>,
    ) -> Self {
        Self {
            counts,
            accepted: registry.counter(&table::ACCEPTED, &[name]),
            active: Arc::new(array::from_fn(|at| registry.level(&table::ACTIVE, &[name, State::ALL[at].as_str()]))),
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
            ech: each(EchResult::ALL, |result| registry.counter(&table::ECH_HELLOS, &[name, result.as_str()])),
            ech_open: registry.histogram(&table::ECH_OPEN, &[]),
        }
    }

    /// Counts a connection as open, in state hello, until the guard is dropped.
    pub fn accepted(&self) -> Active {
        self.accepted.increment(1);
        self.active[State::Hello as usize].increment();
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
        self.active.iter().map(Level::get).sum()
    }

    pub fn is_accept_paused(&self) -> bool {
        self.accept_paused.get() == Some(1.0)
    }

    /// A connection ended before a route was chosen.
    pub fn closed_unrouted(&self, reason: Reason) {
        self.unrouted[reason as usize].increment(1);
    }

    /// A connection has sent a whole hello, `after` it was accepted.
    pub fn whole_hello(&self, id: ConnectionId, after: Duration, bytes: usize, records: usize) {
        self.hellos[HelloResult::Whole as usize].increment(1);
        self.hello_duration.record_of(after.as_secs_f64(), id);
        self.hello_bytes.record(bytes as f64);
        self.hello_records.record(records as f64);
    }

    /// There is no whole hello.
    pub fn no_hello(&self, result: HelloResult) {
        self.hellos[result as usize].increment(1);
    }

    pub fn ech(&self, result: EchResult) {
        self.ech[result as usize].increment(1);
    }

    /// An inner hello was opened, which took so long.
    pub fn ech_opened(&self, took: Duration) {
        self.ech_open.record(took.as_secs_f64());
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
    states: Arc<[Level; State::ALL.len()]>,
    now: State,
}

impl Active {
    pub fn enter(&mut self, state: State) {
        self.states[state as usize].increment();
        self.states[self.now as usize].decrement();
        self.now = state;
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.states[self.now as usize].decrement();
    }
}
