//! The series of one key of Encrypted ClientHello.
//!
//! In:  the inner hellos that it opens.
//! Out: how many, and when the last.

use crate::telemetry::metrics::instruments::{Counter, Gauge};
use crate::telemetry::metrics::registry::Registry;
use crate::telemetry::metrics::table;

/// Series of one key.
#[derive(Clone)]
pub struct EchKeyMetrics {
    opened: Counter,
    last: Gauge,
}

impl EchKeyMetrics {
    pub(in crate::telemetry::metrics) fn register(registry: &Registry, key: &str) -> Self {
        let last = registry.gauge(&table::ECH_KEY_LAST, &[key]);
        if last.get().is_none() {
            last.set(0.0);
        }
        Self { opened: registry.counter(&table::ECH_KEY_OPENED, &[key]), last }
    }

    /// It opened an inner hello at that time, in seconds since 1970.
    pub fn opened(&self, at: f64) {
        self.opened.increment(1);
        self.last.set(at);
    }
}
