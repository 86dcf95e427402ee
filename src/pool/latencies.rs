//! Counts how long a backend took, for the quantiles of the status.
//!
//! In:  the duration of each connect, and of each wait for the first byte.
//! Out: counts in buckets that grow by about 41 %, so that a quantile is off by a fifth at most.
//!
//! The metrics have histograms of a pool only: for each backend these would be too many series.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Connect,
    FirstByte,
}

/// The counts of one backend, allocated at its first connection.
#[derive(Debug, Default)]
pub struct Latencies(OnceLock<Box<[[AtomicU32; BUCKETS]; 2]>>);

/// The counts of one stage; they wrap.
pub(crate) type Counts = [u32; BUCKETS];

impl Latencies {
    pub fn record(&self, wait: Wait, took: Duration) {
        let stages = self.0.get_or_init(|| Box::new([const { [const { AtomicU32::new(0) }; BUCKETS] }; 2]));
        stages[wait as usize][bucket(took)].fetch_add(1, Relaxed);
    }

    /// `None`: there was no connection yet.
    pub fn counts(&self, wait: Wait) -> Option<Counts> {
        self.0.get().map(|stages| std::array::from_fn(|at| stages[wait as usize][at].load(Relaxed)))
    }
}

fn bucket(took: Duration) -> usize {
    // Half octaves of 16 µs: the highest bit of the square counts those of the duration.
    let units = (took.as_micros() >> 4).min(u128::from(u32::MAX)) as u64;
    let squared = units * units;
    let halves = u64::BITS - squared.leading_zeros();
    (halves as usize).min(BUCKETS - 1)
}

/// The upper bound of a bucket, in milliseconds.
pub(crate) fn upper_ms(bucket: usize) -> f64 {
    0.016 * 2_f64.powf(bucket as f64 / 2.0)
}

/// The last one begins at about 95 s.
pub(crate) const BUCKETS: usize = 46;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_below_the_upper_bound_of_its_bucket_and_not_far() {
        for micros in (0..200).chain([250, 999, 1000, 5_000, 31_000, 999_999, 10_000_000, 90_000_000]) {
            let took = Duration::from_micros(micros);
            let (at, ms) = (bucket(took), micros as f64 / 1000.0);
            assert!(ms < upper_ms(at) + 0.016, "{micros} in {at}");
            assert!(at == 0 || ms >= upper_ms(at - 1) - 0.016, "{micros} in {at}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn stages_are_counted_apart() {
        let latencies = Latencies::default();
        assert_eq!(latencies.counts(Wait::Connect), None);
        latencies.record(Wait::FirstByte, Duration::from_millis(1));
        let sum = |wait| latencies.counts(wait).map(|counts| counts.iter().sum::<u32>());
        assert_eq!((sum(Wait::Connect), sum(Wait::FirstByte)), (Some(0), Some(1)));
    }
}
