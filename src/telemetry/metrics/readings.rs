//! Figures that others keep, read for each rendering: limits, and what is in use of them.
//!
//! In:  values, one function for each thing that has figures.
//! Out: samples by metric. What is not read has no series: a limit that is not set is absent.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::names::{Names, label_value};
use super::table::{self, Metric};

/// The figures of one rendering.
pub(crate) struct Readings<'n> {
    samples: Samples,
    names: &'n Mutex<Names>,
}

/// By metric, then by rendered labels.
pub(super) type Samples = BTreeMap<&'static str, BTreeMap<String, f64>>;

/// What one worker does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct WorkerReading {
    pub number: usize,
    pub accepted: u64,
    pub active: u64,
    /// CPU time of its thread in seconds; `None`: the system does not tell.
    pub busy_s: Option<f64>,
}

/// The kernel's queue of the clients that a listener has not accepted yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AcceptQueueReading {
    pub length: u64,
    pub limit: u64,
    /// Attempts to connect that the kernel has dropped, since the start.
    pub dropped: u64,
}

/// The pipes of the relays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PipesReading {
    /// They hold bytes in transit.
    pub in_use: usize,
    pub idle: usize,
    pub limit: usize,
}

impl<'n> Readings<'n> {
    pub(super) fn new(names: &'n Mutex<Names>) -> Self {
        Self { samples: Samples::new(), names }
    }

    pub(super) fn into_samples(self) -> Samples {
        self.samples
    }

    pub(crate) fn worker(&mut self, worker: WorkerReading) {
        let WorkerReading { number, accepted, active, busy_s } = worker;
        let labels = || format!("worker=\"{number}\"");
        self.add(&table::WORKER_ACCEPTED, labels(), accepted as f64);
        self.add(&table::WORKER_ACTIVE, labels(), active as f64);
        busy_s.into_iter().for_each(|busy_s| self.add(&table::WORKER_BUSY, labels(), busy_s));
    }

    pub(crate) fn accept_queue(&mut self, listener: &str, queue: AcceptQueueReading) {
        let labels = || rendered(&[("listener", listener)]);
        self.add(&table::ACCEPT_QUEUE, labels(), queue.length as f64);
        self.add(&table::ACCEPT_QUEUE_LIMIT, labels(), queue.limit as f64);
        self.add(&table::ACCEPT_QUEUE_DROPS, labels(), queue.dropped as f64);
    }

    pub(crate) fn pipes(&mut self, pipes: PipesReading) {
        self.add(&table::PIPES, "state=\"in_use\"".to_owned(), pipes.in_use as f64);
        self.add(&table::PIPES, "state=\"idle\"".to_owned(), pipes.idle as f64);
        self.add(&table::PIPES_LIMIT, String::new(), pipes.limit as f64);
    }

    /// The memory of the hellos that are not complete, and its limit.
    pub(crate) fn hello_memory(&mut self, bytes: usize, limit: usize) {
        self.add(&table::HELLO_MEMORY, String::new(), bytes as f64);
        self.add(&table::HELLO_MEMORY_LIMIT, String::new(), limit as f64);
    }

    pub(crate) fn connections_limit(&mut self, most: usize) {
        self.add(&table::CONNECTIONS_LIMIT, String::new(), most as f64);
    }

    pub(crate) fn listener_limit(&mut self, listener: &str, most: usize) {
        self.add(&table::LISTENER_LIMIT, rendered(&[("listener", listener)]), most as f64);
    }

    /// Left out of a route that has no series of its own.
    pub(crate) fn route_limit(&mut self, route: &str, most: usize) {
        if self.names().has_route(route) {
            self.add(&table::ROUTE_LIMIT, rendered(&[("route", route)]), most as f64);
        }
    }

    /// Left out of a backend that has no series of its own.
    pub(crate) fn backend_limit(&mut self, pool: &str, backend: &str, most: usize) {
        if self.names().has_backend(pool, backend) {
            self.add(&table::BACKEND_LIMIT, rendered(&[("pool", pool), ("backend", backend)]), most as f64);
        }
    }

    pub(crate) fn queue(&mut self, pool: &str, length: usize, limit: usize) {
        if self.names().has_pool(pool) {
            self.add(&table::QUEUE_LENGTH, rendered(&[("pool", pool)]), length as f64);
            self.add(&table::QUEUE_LIMIT, rendered(&[("pool", pool)]), limit as f64);
        }
    }

    pub(super) fn route(&mut self, route: &str, connections: u64, active: u64) {
        self.add(&table::ROUTED, rendered(&[("route", route)]), connections as f64);
        self.add(&table::ROUTE_ACTIVE, rendered(&[("route", route)]), active as f64);
    }

    pub(super) fn config(&mut self, hash: &str) {
        self.add(&table::CONFIG_INFO, rendered(&[("hash", hash)]), 1.0);
    }

    pub(super) fn process(&mut self, metric: &'static Metric, value: f64) {
        self.add(metric, String::new(), value);
    }

    fn names(&self) -> MutexGuard<'n, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names that look the same as labels share a sample.
    fn add(&mut self, metric: &Metric, labels: String, value: f64) {
        *self.samples.entry(metric.name).or_default().entry(labels).or_default() += value;
    }
}

fn rendered(labels: &[(&str, &str)]) -> String {
    let pairs = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", label_value(value)));
    pairs.collect::<Vec<_>>().join(",")
}
