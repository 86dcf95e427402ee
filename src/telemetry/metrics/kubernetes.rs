//! The metrics of the source of Kubernetes objects.
//!
//! In:  calls of that source.
//! Out: series.
//! Source: docs/metrics.md.

use std::time::{Duration, SystemTime};

use super::instruments::{Counter, Gauge, Histogram};
use super::registry::Registry;
use super::{table, unix_seconds};
use crate::telemetry::{KubernetesKind, WriteResult, each};

/// Counts what happens with the objects of a cluster.
pub struct KubernetesMetrics {
    objects: Vec<Gauge>,
    synced: Gauge,
    away: Gauge,
    errors: Vec<Counter>,
    apply: Histogram,
    writes: Vec<Vec<Counter>>,
    leader: Gauge,
}

impl KubernetesMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            objects: each(KubernetesKind::ALL, |kind| registry.gauge(&table::KUBERNETES_OBJECTS, &[kind.as_str()])),
            synced: registry.gauge(&table::KUBERNETES_SYNCED, &[]),
            away: registry.gauge(&table::KUBERNETES_AWAY, &[]),
            errors: each(KubernetesKind::ALL, |kind| registry.counter(&table::KUBERNETES_ERRORS, &[kind.as_str()])),
            apply: registry.histogram(&table::KUBERNETES_APPLY, &[]),
            writes: each(KubernetesKind::ALL, |kind| {
                each(WriteResult::ALL, |result| {
                    registry.counter(&table::KUBERNETES_WRITES, &[kind.as_str(), result.as_str()])
                })
            }),
            leader: registry.gauge(&table::KUBERNETES_LEADER, &[]),
        }
    }

    /// How many objects of a kind there are.
    pub fn objects(&self, kind: KubernetesKind, count: usize) {
        self.objects[kind as usize].set(count as f64);
    }

    /// Whether all kinds are known and followed; since when not, if they were before.
    pub fn synced(&self, is_synced: bool, away: Option<SystemTime>) {
        self.synced.set(if is_synced { 1.0 } else { 0.0 });
        self.away.set(away.map_or(0.0, unix_seconds));
    }

    /// Objects of a kind could not be listed or watched.
    pub fn failed(&self, kind: KubernetesKind) {
        self.errors[kind as usize].increment(1);
    }

    /// A change is in force, so long after its first event.
    pub fn applied(&self, after: Duration) {
        self.apply.record(after.as_secs_f64());
    }

    /// A status was written, or could not be.
    pub fn wrote(&self, kind: KubernetesKind, result: WriteResult) {
        self.writes[kind as usize][result as usize].increment(1);
    }

    /// Whether this process writes.
    pub fn leads(&self, leads: bool) {
        self.leader.set(if leads { 1.0 } else { 0.0 });
    }
}
