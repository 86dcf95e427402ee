//! The series of one pool, of its queue and of its DNS names.
//!
//! In:  events, one function each.
//! Out: counts in the series that were registered when the handle was created.

use std::time::Duration;

use crate::ids::ConnectionId;
use crate::telemetry::metrics::instruments::{Counter, Histogram};
use crate::telemetry::metrics::registry::Registry;
use crate::telemetry::metrics::table;
use crate::telemetry::{DnsResult, each};

/// Series of one pool.
pub struct PoolMetrics {
    connected: Histogram,
    first_byte: Histogram,
    check: Histogram,
}

impl PoolMetrics {
    pub(in crate::telemetry::metrics) fn register(registry: &Registry, pool: &str) -> Self {
        Self {
            connected: registry.histogram(&table::CONNECT_DURATION, &[pool]),
            first_byte: registry.histogram(&table::FIRST_BYTE, &[pool]),
            check: registry.histogram(&table::CHECK_DURATION, &[pool]),
        }
    }

    pub fn connected(&self, after: Duration, id: ConnectionId) {
        self.connected.record_of(after.as_secs_f64(), id);
    }

    pub fn first_byte(&self, after: Duration, id: ConnectionId) {
        self.first_byte.record_of(after.as_secs_f64(), id);
    }

    pub fn checked(&self, took: Duration) {
        self.check.record(took.as_secs_f64());
    }
}

/// Series of the queue of one pool.
pub struct QueueMetrics {
    wait: Histogram,
    timeouts: Counter,
}

impl QueueMetrics {
    pub(in crate::telemetry::metrics) fn register(registry: &Registry, pool: &str) -> Self {
        Self {
            wait: registry.histogram(&table::QUEUE_WAIT, &[pool]),
            timeouts: registry.counter(&table::QUEUE_TIMEOUTS, &[pool]),
        }
    }

    /// A client got its place.
    pub fn waited(&self, for_how_long: Duration) {
        self.wait.record(for_how_long.as_secs_f64());
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
    pub(in crate::telemetry::metrics) fn register(registry: &Registry, pool: &str) -> Self {
        let lookups = each(DnsResult::ALL, |result| registry.counter(&table::DNS_LOOKUPS, &[pool, result.as_str()]));
        Self { lookups }
    }

    pub fn looked_up(&self, result: DnsResult) {
        self.lookups[result as usize].increment(1);
    }
}

impl std::fmt::Debug for PoolMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolMetrics").finish_non_exhaustive()
    }
}
