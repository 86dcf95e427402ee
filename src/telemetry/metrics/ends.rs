//! Counts for the status what the metrics count in more detail: adding their series up every second takes too long.
//!
//! In:  connections that are routed, that carry bytes and that end.
//! Out: of each listener, how its connections ended that were somebody's fault; of each route, how many it has had, how
//!      many of them are closed and how many failed; the bytes of both. They survive reloads.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::{Fault, Reason};
use crate::way::Way;

/// What is counted of one listener.
#[derive(Default)]
pub(crate) struct ListenerCounts {
    pub(super) ends: Ends,
    pub(super) carried: Carried,
}

pub(crate) struct Ends([AtomicU64; Reason::ALL.len()]);

impl Default for Ends {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Reason::ALL.len()])
    }
}

impl Ends {
    pub(super) fn add(&self, reason: Reason) {
        if reason.fault() != Fault::None {
            self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The reasons that have occurred.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Reason, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Reason::ALL.iter().copied().zip(counts).filter(|(_, count)| *count > 0)
    }
}

/// The connections of one route.
#[derive(Debug, Default)]
pub(crate) struct RouteCounts {
    connections: AtomicU64,
    closed: AtomicU64,
    errors: AtomicU64,
    carried: Carried,
}

/// [`RouteCounts`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteFigures {
    pub connections: u64,
    pub active: u64,
    /// Those ended by a fault of a backend or of snigate, or because of a limit of the route or its pool.
    pub errors: u64,
    /// By [`Way`].
    pub bytes: [u64; Way::ALL.len()],
}

impl RouteCounts {
    pub(super) fn routed(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn carried(&self, way: Way, bytes: u64) {
        self.carried.add(way, bytes);
    }

    pub(super) fn closed(&self, reason: Reason) {
        self.closed.fetch_add(1, Ordering::Relaxed);
        if matches!(reason.fault(), Fault::Backend | Fault::Proxy) || reason.is_limit() {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self) -> RouteFigures {
        // First, so that those closed meanwhile do not make it too small.
        let closed = self.closed.load(Ordering::Relaxed);
        let connections = self.connections.load(Ordering::Relaxed);
        let errors = self.errors.load(Ordering::Relaxed);
        let bytes = self.carried.read();
        RouteFigures { connections, active: connections.saturating_sub(closed), errors, bytes }
    }
}

/// The bytes relayed either way.
#[derive(Debug, Default)]
pub(super) struct Carried([AtomicU64; Way::ALL.len()]);

impl Carried {
    pub(super) fn add(&self, way: Way, bytes: u64) {
        self.0[way as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> [u64; Way::ALL.len()] {
        self.0.each_ref().map(|bytes| bytes.load(Ordering::Relaxed))
    }
}
