//! Computes when a name is looked up next. Time and randomness are arguments.
//!
//! In:  the results of look-ups, and when they ended.
//! Out: the time of the next look-up.

use std::time::Duration;

use tokio::time::Instant;

pub(super) struct Schedule {
    min_ttl: Duration,
    max_ttl: Duration,
    /// When the last look-up began.
    begun: Instant,
    next: Instant,
    /// Consecutive failures.
    failures: u32,
}

impl Schedule {
    /// The first look-up is due `now`.
    pub(super) fn new(min_ttl: Duration, max_ttl: Duration, now: Instant) -> Self {
        Self { min_ttl, max_ttl: max_ttl.max(min_ttl), begun: now, next: now, failures: 0 }
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Schedules the next look-up for when the TTL expires; returns the clamped TTL. `spread` is 0 to 1.
    pub(super) fn succeeded(&mut self, ttl: Duration, begun: Instant, now: Instant, spread: f64) -> Duration {
        let ttl = ttl.clamp(self.min_ttl, self.max_ttl);
        self.begun = begun;
        self.failures = 0;
        self.next = now + jittered(ttl, spread);
        ttl
    }

    /// Schedules the next look-up with a back-off that grows with each consecutive failure.
    pub(super) fn failed(&mut self, begun: Instant, now: Instant, spread: f64) {
        let doubled = FIRST_RETRY.min(self.min_ttl).saturating_mul(1 << self.failures.min(16));
        self.begun = begun;
        self.failures = self.failures.saturating_add(1);
        self.next = now + jittered(doubled.min(LAST_RETRY).min(self.max_ttl), spread);
    }

    /// Brings the next look-up forward, but not within `min_ttl` of the previous one.
    pub(super) fn hasten(&mut self, now: Instant) {
        self.next = self.next.min(now.max(self.begun + self.min_ttl));
    }
}

/// ±5 %.
fn jittered(wait: Duration, spread: f64) -> Duration {
    wait.mul_f64(0.95 + 0.1 * spread.clamp(0.0, 1.0))
}

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_secs(5);
    const MAX: Duration = Duration::from_secs(300);
    const MIDDLE: f64 = 0.5;

    fn after(schedule: &Schedule, now: Instant) -> f64 {
        (schedule.next() - now).as_secs_f64()
    }

    #[test]
    fn a_ttl_is_clamped() {
        let now = Instant::now();
        let mut schedule = Schedule::new(MIN, MAX, now);
        for (ttl, clamped) in [(0, 5), (5, 5), (60, 60), (300, 300), (i32::MAX as u64, 300)] {
            assert_eq!(schedule.succeeded(Duration::from_secs(ttl), now, now, MIDDLE).as_secs(), clamped);
            assert!((after(&schedule, now) - clamped as f64).abs() < 1e-6, "{ttl}");
        }
    }

    #[test]
    fn chance_moves_it_by_a_twentieth_at_most() {
        let now = Instant::now();
        let mut schedule = Schedule::new(MIN, MAX, now);
        for (spread, wanted) in [(0.0, 95.0), (1.0, 105.0), (7.0, 105.0)] {
            schedule.succeeded(Duration::from_secs(100), now, now, spread);
            assert!((after(&schedule, now) - wanted).abs() < 1e-6);
        }
    }

    #[test]
    fn failures_in_a_row_wait_longer_and_a_success_starts_anew() {
        let now = Instant::now();
        let mut schedule = Schedule::new(MIN, MAX, now);
        for wanted in [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            schedule.failed(now, now, MIDDLE);
            assert!((after(&schedule, now) - wanted).abs() < 1e-6, "{wanted}");
        }
        schedule.succeeded(MIN, now, now, MIDDLE);
        schedule.failed(now, now, MIDDLE);
        assert!((after(&schedule, now) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn retries_stay_within_what_a_ttl_may_be() {
        let now = Instant::now();
        let mut schedule = Schedule::new(MIN / 50, MIN, now);
        for wanted in [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0] {
            schedule.failed(now, now, MIDDLE);
            assert!((after(&schedule, now) - wanted).abs() < 1e-6, "{wanted}");
        }
    }

    #[test]
    fn a_kick_brings_it_forward_but_not_within_the_least_ttl() {
        let begun = Instant::now();
        let mut schedule = Schedule::new(MIN, MAX, begun);
        schedule.succeeded(Duration::from_secs(60), begun, begun, MIDDLE);
        schedule.hasten(begun + Duration::from_secs(1));
        assert_eq!(schedule.next(), begun + MIN);

        schedule.succeeded(Duration::from_secs(60), begun, begun, MIDDLE);
        let late = begun + Duration::from_secs(20);
        schedule.hasten(late);
        assert_eq!(schedule.next(), late);
        schedule.hasten(late + Duration::from_secs(1));
        assert_eq!(schedule.next(), late, "a second kick puts nothing off");
    }

    #[test]
    fn a_kick_does_not_put_off_a_retry() {
        let now = Instant::now();
        let mut schedule = Schedule::new(MIN, MAX, now);
        schedule.failed(now, now, MIDDLE);
        schedule.hasten(now);
        assert!((after(&schedule, now) - 1.0).abs() < 1e-6);
    }
}
