//! Counters, gauges and histograms: what an event costs is an atomic add or two, without a look-up or a lock.
//!
//! In:  events.
//! Out: values, which are read at each rendering.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::ConnectionId;

/// A counter. Clones count in the same series.
#[derive(Clone, Default)]
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

    pub(super) fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// How many of something there are now. Clones count the same.
#[derive(Clone, Default)]
pub(crate) struct Level(Arc<AtomicU64>);

impl Level {
    pub(crate) fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        // What one thread has added another may take away before the first is seen.
        (self.0.load(Ordering::Relaxed) as i64).max(0) as u64
    }

    pub(super) fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// A value that is set. Clones show the same value.
#[derive(Clone)]
pub(crate) struct Gauge(Arc<AtomicU64>);

impl Gauge {
    pub(super) fn new(value: Option<f64>) -> Self {
        Self(Arc::new(AtomicU64::new(value.unwrap_or(ABSENT).to_bits())))
    }

    pub(crate) fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// `None` while its series is absent.
    pub(crate) fn get(&self) -> Option<f64> {
        Some(f64::from_bits(self.0.load(Ordering::Relaxed))).filter(|value| !value.is_nan())
    }

    pub(super) fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// Sorts values into buckets as they come, so that it needs no upkeep however rarely it is read. Clones record in the
/// same series.
#[derive(Clone)]
pub(crate) struct Histogram(Arc<Buckets>);

struct Buckets {
    bounds: &'static [f64],
    /// One per bound, and one for values above the last.
    buckets: Box<[Bucket]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
}

/// A count and, in the same cache line, the last connection that was counted here.
#[derive(Default)]
struct Bucket {
    count: AtomicU64,
    /// Its id; 0: none yet.
    id: AtomicU64,
    /// The bits of its value, and its id mixed into them.
    value: AtomicU64,
}

/// What a histogram holds.
pub(super) struct Distribution {
    pub bounds: &'static [f64],
    /// One per bound, and one for values above the last.
    pub counts: Vec<u64>,
    pub exemplars: Vec<Option<Exemplar>>,
    pub sum: f64,
}

/// A connection as an example of those that a bucket counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Exemplar {
    pub id: ConnectionId,
    pub value: f64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| Bucket::default()).collect();
        Self(Arc::new(Buckets { bounds, buckets, sum: AtomicU64::default() }))
    }

    pub(crate) fn record(&self, value: f64) {
        self.0.add(value);
    }

    /// Keeps the connection as the example of its bucket: two stores beside the count, which is in this thread's cache
    /// already.
    pub(crate) fn record_of(&self, value: f64, id: ConnectionId) {
        let bucket = self.0.add(value);
        bucket.id.store(id.0, Ordering::Relaxed);
        bucket.value.store(value.to_bits() ^ mixed(id), Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Distribution {
        let Buckets { bounds, buckets, sum } = &*self.0;
        let lowest = [f64::NEG_INFINITY].into_iter().chain(bounds.iter().copied());
        let highest = bounds.iter().copied().chain([f64::INFINITY]);
        Distribution {
            bounds,
            counts: buckets.iter().map(|bucket| bucket.count.load(Ordering::Relaxed)).collect(),
            exemplars: (buckets.iter().zip(lowest.zip(highest)))
                .map(|(bucket, (above, most))| bucket.exemplar().filter(|it| above < it.value && it.value <= most))
                .collect(),
            sum: f64::from_bits(sum.load(Ordering::Relaxed)),
        }
    }

    pub(super) fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Buckets {
    fn add(&self, value: f64) -> &Bucket {
        let bucket = &self.buckets[self.bounds.partition_point(|bound| *bound < value)];
        bucket.count.fetch_add(1, Ordering::Relaxed);
        let mut sum = self.sum.load(Ordering::Relaxed);
        loop {
            let more = (f64::from_bits(sum) + value).to_bits();
            match self.sum.compare_exchange_weak(sum, more, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return bucket,
                Err(now) => sum = now,
            }
        }
    }
}

impl Bucket {
    /// If another thread has stored one half of it, the value makes no sense, and nearly always is in another bucket.
    fn exemplar(&self) -> Option<Exemplar> {
        let id = ConnectionId(self.id.load(Ordering::Relaxed));
        let value = f64::from_bits(self.value.load(Ordering::Relaxed) ^ mixed(id));
        (id.0 != 0).then_some(Exemplar { id, value })
    }
}

/// Spreads an id over all bits of a value.
fn mixed(ConnectionId(id): ConnectionId) -> u64 {
    // The multiplier of Fibonacci hashing: 2⁶⁴ by the golden ratio.
    id.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

const ABSENT: f64 = f64::NAN;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_connection_of_a_bucket_is_its_exemplar() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        histogram.record(0.1);
        histogram.record_of(0.7, ConnectionId(7));
        histogram.record_of(0.8, ConnectionId(8));
        histogram.record_of(3600.0, ConnectionId(u64::MAX));
        let read = histogram.read();
        assert_eq!((&*read.counts, read.sum), (&[1, 2, 1][..], 3601.6));
        let of = |id, value| Some(Exemplar { id: ConnectionId(id), value });
        assert_eq!(read.exemplars, [None, of(8, 0.8), of(u64::MAX, 3600.0)]);
    }

    #[test]
    fn half_an_exemplar_is_none() {
        let mut shown = 0;
        for id in 1..10_000 {
            let histogram = Histogram::new(&[0.5, 1.0]);
            histogram.record_of(0.7, ConnectionId(id));
            histogram.0.buckets[1].id.store(id + 1, Ordering::Relaxed);
            shown += usize::from(histogram.read().exemplars[1].is_some());
        }
        assert!(shown < 100, "{shown}");
    }

    #[test]
    fn a_gauge_may_have_no_value_yet() {
        let gauge = Gauge::new(None);
        assert_eq!(gauge.get(), None);
        gauge.set(0.0);
        assert_eq!(gauge.get(), Some(0.0));
    }

    #[test]
    fn a_level_that_is_read_too_early_is_not_negative() {
        let level = Level::default();
        level.decrement();
        assert_eq!(level.get(), 0);
        (0..3).for_each(|_| level.increment());
        assert_eq!(level.get(), 2);
    }
}
