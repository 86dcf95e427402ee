//! Registers the metrics of the table, and removes those of routes, pools and backends that are gone.
//!
//! In:  a [`Metric`] and its label values.
//! Out: a handle for which an event is an atomic add; all series with their values.
//! Source: metrics-util's registry, with storage that sorts a histogram's samples into buckets as they arrive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{GaugeFn, Histogram, HistogramFn, Key, Label};
use metrics_util::registry::{self, Storage};

use super::names::{Names, REMOVED, label, label_value};
use super::table::{ALL, CLOSED, Kind, Metric};

/// The series of one process, or of one test.
pub(super) struct Registry(registry::Registry<Key, Atomics>);

impl Registry {
    pub(super) fn new() -> Self {
        Self(registry::Registry::new(Atomics))
    }

    /// The same labels return the same counter.
    pub(super) fn counter(&self, metric: &Metric, values: &[&str]) -> Counter {
        debug_assert!(matches!(metric.kind, Kind::Counter));
        self.0.get_or_create_counter(&key(metric, values), |counter| Counter(Arc::clone(counter)))
    }

    pub(super) fn gauge(&self, metric: &Metric, values: &[&str]) -> Gauge {
        debug_assert!(matches!(metric.kind, Kind::Gauge));
        self.0.get_or_create_gauge(&key(metric, values), |gauge| Gauge(Arc::clone(gauge)))
    }

    pub(super) fn histogram(&self, metric: &Metric, values: &[&str]) -> Histogram {
        debug_assert!(matches!(metric.kind, Kind::Histogram(_)));
        self.0.get_or_create_histogram(&key(metric, values), |buckets| Histogram::from_arc(Arc::clone(buckets)))
    }

    /// Drops the series of names that are gone once nothing can count there any more. Their closed connections move to
    /// the route [`REMOVED`].
    pub(super) fn purge(&self, names: &Names) {
        let mut closed = Removed::new();
        self.0.retain_counters(|key, counter| {
            let stays = names.has(key) || Arc::strong_count(counter) > 1;
            if !stays && key.name() == CLOSED.name {
                *closed.entry(without_route(key)).or_default() += counter.load(Ordering::Relaxed);
            }
            stays
        });
        for ([listener, reason, fault], count) in closed {
            self.counter(&CLOSED, &[&listener, REMOVED, &reason, &fault]).increment(count);
        }
        self.0.retain_gauges(|key, gauge| names.has(key) || Arc::strong_count(gauge) > 1);
        self.0.retain_histograms(|key, buckets| names.has(key) || Arc::strong_count(buckets) > 1);
    }

    /// The series in force, by the name of the metric. Closed connections of routes that are gone are added to
    /// [`REMOVED`].
    pub(super) fn samples(&self, names: &Names) -> Samples {
        let mut samples = Samples::new();
        let mut add = |key: &Key, value| {
            samples.entry(key.name().to_owned()).or_default().insert(labels(key.labels()), value);
        };
        let mut closed = Removed::new();
        self.0.visit_counters(|key, counter| {
            let count = counter.load(Ordering::Relaxed);
            if key.name() == CLOSED.name && (!names.has(key) || is_removed(key)) {
                *closed.entry(without_route(key)).or_default() += count;
            } else if names.has(key) {
                add(key, Sample::Count(count));
            }
        });
        for ([listener, reason, fault], count) in closed.into_iter().filter(|(_, count)| *count > 0) {
            add(&key(&CLOSED, &[&listener, REMOVED, &reason, &fault]), Sample::Count(count));
        }
        self.0.visit_gauges(|key, gauge| {
            if names.has(key) {
                add(key, Sample::Value(f64::from_bits(gauge.load(Ordering::Relaxed))));
            }
        });
        self.0.visit_histograms(|key, buckets| {
            if names.has(key) {
                add(key, Sample::Histogram(buckets.read()));
            }
        });
        samples
    }
}

/// A counter. Clones count in the same series.
#[derive(Clone)]
pub(crate) struct Counter(Arc<AtomicU64>);

impl Counter {
    pub(crate) fn increment(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// Sets it to a count that is kept elsewhere; never lowers it.
    pub(crate) fn absolute(&self, count: u64) {
        self.0.fetch_max(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A gauge. Clones show the same value.
#[derive(Clone)]
pub(crate) struct Gauge(Arc<AtomicU64>);

impl Gauge {
    pub(crate) fn set(&self, value: f64) {
        GaugeFn::set(&*self.0, value);
    }

    pub(crate) fn increment(&self, by: f64) {
        GaugeFn::increment(&*self.0, by);
    }

    pub(crate) fn decrement(&self, by: f64) {
        GaugeFn::decrement(&*self.0, by);
    }

    pub(crate) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// By the name of the metric, then by the rendered labels.
pub(super) type Samples = BTreeMap<String, BTreeMap<String, Sample>>;

/// The value of a series at one moment.
pub(super) enum Sample {
    Count(u64),
    Value(f64),
    Histogram(Distribution),
}

/// What a histogram holds.
pub(super) struct Distribution {
    pub bounds: &'static [f64],
    /// One per bound, and one for samples above the last.
    pub counts: Vec<u64>,
    pub sum: f64,
}

/// Closed connections by listener, reason and fault.
type Removed = BTreeMap<[String; 3], u64>;

fn without_route(key: &Key) -> [String; 3] {
    ["listener", "reason", "fault"].map(|name| label(key, name).unwrap_or_default().to_owned())
}

fn is_removed(key: &Key) -> bool {
    label(key, "route") == Some(REMOVED)
}

/// `a="b",c="d"`. [`label_value`] has replaced what would need escaping.
fn labels<'l>(labels: impl Iterator<Item = &'l Label>) -> String {
    labels.map(|label| format!("{}=\"{}\"", label.key(), label.value())).collect::<Vec<_>>().join(",")
}

fn key(metric: &Metric, values: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let labels = metric.labels.iter().zip(values).map(|(name, value)| Label::new(*name, label_value(value)));
    Key::from_parts(metric.name, labels.collect::<Vec<_>>())
}

struct Atomics;

impl Storage<Key> for Atomics {
    type Counter = Arc<AtomicU64>;
    type Gauge = Arc<AtomicU64>;
    type Histogram = Arc<Buckets>;

    fn counter(&self, _: &Key) -> Self::Counter {
        Arc::default()
    }

    fn gauge(&self, _: &Key) -> Self::Gauge {
        Arc::default()
    }

    fn histogram(&self, key: &Key) -> Self::Histogram {
        let metric = ALL.iter().find(|metric| metric.name == key.name());
        let bounds = match metric.map(|metric| metric.kind) {
            Some(Kind::Histogram(bounds)) => bounds,
            _ => &[],
        };
        Arc::new(Buckets {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::default(),
        })
    }
}

/// A histogram of fixed size, so that it needs no upkeep however rarely it is read.
struct Buckets {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        GaugeFn::increment(&self.sum, value);
    }
}

impl Buckets {
    fn read(&self) -> Distribution {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Distribution { bounds: self.bounds, counts, sum: f64::from_bits(self.sum.load(Ordering::Relaxed)) }
    }
}
