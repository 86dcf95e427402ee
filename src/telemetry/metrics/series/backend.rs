//! The series of one backend.
//!
//! In:  events, one function each; its state, before each rendering.
//! Out: counts. While there are few backends, their counters are registered when the handle is created; with many, each
//!      when it is first used, since most stay at zero.

use std::sync::{Arc, OnceLock};

use super::Registering;
use crate::alert::Alert;
use crate::telemetry::metrics::alerts::{PLACES, label, place};
use crate::telemetry::metrics::instruments::{Counter, Gauge};
use crate::telemetry::metrics::registry::Registry;
use crate::telemetry::metrics::table::{self, Metric};
use crate::telemetry::{BackendState, CheckResult, ConnectResult, FirstRecord, each};

/// Series of one backend.
pub struct BackendMetrics {
    registry: Arc<Registry>,
    pool: String,
    backend: String,
    connects: [OnceLock<Counter>; ConnectResult::ALL.len()],
    first_records: [OnceLock<Counter>; FirstRecord::ALL.len()],
    checks: [OnceLock<Counter>; CheckResult::ALL.len()],
    ejections: OnceLock<Counter>,
    /// Boxed when first used: most backends send none.
    alerts: OnceLock<Box<[OnceLock<Counter>; PLACES]>>,
    active: Gauge,
    up: Gauge,
    states: Vec<Gauge>,
    weight: Gauge,
    certificate_expiry: Gauge,
}

impl BackendMetrics {
    pub(in crate::telemetry::metrics) fn new(
        registry: Arc<Registry>,
        pool: String,
        backend: String,
        registering: Registering,
    ) -> Self {
        let gauge = |metric: &Metric| registry.gauge(metric, &[&pool, &backend]);
        let this = Self {
            connects: Default::default(),
            first_records: Default::default(),
            checks: Default::default(),
            ejections: OnceLock::new(),
            alerts: OnceLock::new(),
            active: gauge(&table::BACKEND_ACTIVE),
            up: gauge(&table::BACKEND_UP),
            states: each(BackendState::ALL, |state| {
                registry.gauge(&table::BACKEND_STATE, &[&pool, &backend, state.as_str()])
            }),
            weight: gauge(&table::BACKEND_WEIGHT),
            certificate_expiry: gauge(&table::CERTIFICATE_EXPIRY),
            registry,
            pool,
            backend,
        };
        if registering == Registering::AtOnce {
            ConnectResult::ALL.iter().for_each(|result| _ = this.connects_counter(*result));
            FirstRecord::ALL.iter().for_each(|kind| _ = this.first_records_counter(*kind));
            CheckResult::ALL.iter().for_each(|result| _ = this.checks_counter(*result));
            this.ejections_counter();
        }
        this
    }

    pub fn connect(&self, result: ConnectResult) {
        self.connects_counter(result).increment(1);
    }

    /// Attempts to connect since the start, and how many of them failed.
    pub fn attempts(&self) -> (u64, u64) {
        let count = |counter: &OnceLock<Counter>| counter.get().map_or(0, Counter::get);
        let counts = ConnectResult::ALL.iter().zip(&self.connects).map(|(result, counter)| (*result, count(counter)));
        counts.fold((0, 0), |(all, failed), (result, count)| match result {
            ConnectResult::Ok | ConnectResult::Overtaken => (all + count, failed),
            _ => (all + count, failed + count),
        })
    }

    pub fn first_record(&self, kind: FirstRecord) {
        self.first_records_counter(kind).increment(1);
    }

    /// The first record was this alert.
    pub fn alert(&self, alert: Alert) {
        let alerts = self.alerts.get_or_init(|| Box::new([const { OnceLock::new() }; PLACES]));
        let register = || self.counter(&table::BACKEND_ALERTS, label(alert));
        alerts[place(alert)].get_or_init(register).increment(1);
    }

    pub fn ejected(&self) {
        self.ejections_counter().increment(1);
    }

    pub fn checked(&self, result: CheckResult) {
        self.checks_counter(result).increment(1);
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

    fn connects_counter(&self, result: ConnectResult) -> &Counter {
        self.connects[result as usize].get_or_init(|| self.counter(&table::CONNECTS, result.as_str()))
    }

    fn first_records_counter(&self, kind: FirstRecord) -> &Counter {
        self.first_records[kind as usize].get_or_init(|| self.counter(&table::FIRST_RECORD, kind.as_str()))
    }

    fn checks_counter(&self, result: CheckResult) -> &Counter {
        self.checks[result as usize].get_or_init(|| self.counter(&table::CHECKS, result.as_str()))
    }

    fn ejections_counter(&self) -> &Counter {
        self.ejections.get_or_init(|| self.registry.counter(&table::EJECTIONS, &[&self.pool, &self.backend]))
    }

    fn counter(&self, metric: &Metric, label: &str) -> Counter {
        self.registry.counter(metric, &[&self.pool, &self.backend, label])
    }
}

impl std::fmt::Debug for BackendMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendMetrics").finish_non_exhaustive()
    }
}
