//! Judges one backend, from what the operator, the checks and its own connections say of it.
//!
//! In:  verdicts, each with its time.
//! Out: a [`Grade`] for the pick, a [`BackendState`](State) for people.
//!
//! All of it is atomics that are read on the path: a few relaxed loads a pick. What happens at the same time on two
//! workers may be counted in either order; nothing here needs more.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::BackendState as State;

/// What is thought of a backend.
#[derive(Debug)]
pub struct Standing {
    /// Times are kept as milliseconds since then, from 1 up; 0 is never.
    origin: Instant,
    operator: AtomicU8,
    health: AtomicU8,
    /// Connections that failed in a row.
    failures: AtomicU32,
    /// Ejections in a row; each is twice as long as the one before.
    ejections: AtomicU32,
    ejected_until: AtomicU64,
    /// When it came, or came back, for the slow start.
    back_since: AtomicU64,
}

/// What an operator wants of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Ready,
    /// No new connections; those that are open run on.
    Drain,
    /// No new connections and no checks.
    Down,
}

/// What the active checks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// None has ended yet, or there are none.
    Unchecked,
    Up,
    Down,
}

/// How eagerly a backend is picked; the first that there is any of is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    Usable,
    /// Left out for a while, yet better than nobody.
    Ejected,
    /// Its checks fail.
    Failing,
    /// Never picked: so the operator wants it.
    Closed,
}

/// When a backend whose connections fail is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ejection {
    /// In a row.
    pub failures: u32,
    /// For so long the first time, twice as long each time after.
    pub base: Duration,
    pub max: Duration,
}

impl Standing {
    pub fn new(now: Instant) -> Self {
        Self {
            origin: now,
            operator: AtomicU8::new(Operator::Ready as u8),
            health: AtomicU8::new(Health::Unchecked as u8),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            back_since: AtomicU64::new(0),
        }
    }

    pub fn grade(&self, now: Instant) -> Grade {
        if self.operator.load(Relaxed) != Operator::Ready as u8 {
            Grade::Closed
        } else if self.health.load(Relaxed) == Health::Down as u8 {
            Grade::Failing
        } else if self.is_ejected(now) {
            Grade::Ejected
        } else {
            Grade::Usable
        }
    }

    pub fn state(&self, now: Instant) -> State {
        match (self.operator(), self.grade(now)) {
            (Operator::Drain, _) => State::Drain,
            (Operator::Down, _) => State::Down,
            (Operator::Ready, Grade::Failing) => State::Failing,
            (Operator::Ready, Grade::Ejected) => State::Ejected,
            (Operator::Ready, Grade::Usable | Grade::Closed) => State::Up,
        }
    }

    /// How much of its share a backend gets that is back since a while, 0.1 to 1.
    pub fn share(&self, slow_start: Duration, now: Instant) -> f32 {
        if slow_start.is_zero() {
            return 1.0;
        }
        let ended = self.ejected_until.load(Relaxed);
        match self.back_since.load(Relaxed).max(ended) {
            0 => 1.0,
            since => {
                let back_ms = self.millis(now).saturating_sub(since);
                (back_ms as f32 / slow_start.as_millis() as f32).clamp(LEAST_SHARE, 1.0)
            }
        }
    }

    /// A connection failed: its connect, or what the backend did before it said anything sensible. Returns for how long
    /// the backend is left out, if that was one failure too many; `spare` tells whether the pool can do without it.
    pub fn failed(&self, ejection: Option<&Ejection>, now: Instant, spare: impl FnOnce() -> bool) -> Option<Duration> {
        let Ejection { failures, base, max } = ejection?;
        let in_a_row = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        let until = self.ejected_until.load(Relaxed);
        if in_a_row < *failures || until > self.millis(now) || !spare() {
            return None;
        }
        let doublings = self.ejections.load(Relaxed).min(MOST_DOUBLINGS);
        let length = base.saturating_mul(1 << doublings).min(*max);
        let end = self.millis(now + length);
        // Of two workers that see the last failure at once, one ejects.
        self.ejected_until.compare_exchange(until, end, Relaxed, Relaxed).ok()?;
        self.ejections.fetch_add(1, Relaxed);
        // When it is back, one more failure is enough.
        self.failures.store(failures - 1, Relaxed);
        Some(length)
    }

    /// A backend answered as it should.
    pub fn answered(&self, ejection: Option<&Ejection>, now: Instant) {
        // Loaded first: a store would take the cache line away from the other workers at each connection.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if self.ejections.load(Relaxed) != 0 {
            let proven = ejection.map_or(0, |ejection| ejection.base.as_millis() as u64);
            if self.ejected_until.load(Relaxed).saturating_add(proven) <= self.millis(now) {
                self.ejections.store(0, Relaxed);
            }
        }
    }

    /// The active checks came to a verdict. One that is good also ends an ejection.
    pub fn checked(&self, health: Health, now: Instant) {
        let before = self.health.swap(health as u8, Relaxed);
        if health == Health::Up && before == Health::Down as u8 {
            self.is_back(now);
        }
    }

    pub fn health(&self) -> Health {
        match self.health.load(Relaxed) {
            up if up == Health::Up as u8 => Health::Up,
            down if down == Health::Down as u8 => Health::Down,
            _ => Health::Unchecked,
        }
    }

    pub fn operator(&self) -> Operator {
        match self.operator.load(Relaxed) {
            drain if drain == Operator::Drain as u8 => Operator::Drain,
            down if down == Operator::Down as u8 => Operator::Down,
            _ => Operator::Ready,
        }
    }

    /// An operator who says ready again also ends an ejection.
    pub fn set_operator(&self, operator: Operator, now: Instant) {
        let before = self.operator.swap(operator as u8, Relaxed);
        if operator == Operator::Ready {
            self.ejections.store(0, Relaxed);
            self.failures.store(0, Relaxed);
            self.readmit(now);
            if before != Operator::Ready as u8 {
                self.is_back(now);
            }
        }
    }

    /// Ends an ejection before its time.
    pub fn readmit(&self, now: Instant) {
        if self.is_ejected(now) {
            self.ejected_until.store(self.millis(now), Relaxed);
        }
    }

    /// Starts the slow start.
    pub fn is_back(&self, now: Instant) {
        self.back_since.store(self.millis(now), Relaxed);
    }

    pub fn is_ejected(&self, now: Instant) -> bool {
        match self.ejected_until.load(Relaxed) {
            0 => false,
            until => until > self.millis(now),
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.origin).as_millis() as u64 + 1
    }
}

/// A backend that gets nothing could never show that it is well.
const LEAST_SHARE: f32 = 0.1;
const MOST_DOUBLINGS: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const EJECTION: Ejection = Ejection { failures: 3, base: Duration::from_secs(10), max: Duration::from_secs(60) };

    fn after(origin: Instant, seconds: u64) -> Instant {
        origin + Duration::from_secs(seconds)
    }

    fn fail(standing: &Standing, now: Instant) -> Option<u64> {
        standing.failed(Some(&EJECTION), now, || true).map(|length| length.as_secs())
    }

    #[test]
    fn so_many_failures_in_a_row_eject_and_a_success_restarts_the_count() {
        let now = Instant::now();
        let standing = Standing::new(now);
        assert_eq!((fail(&standing, now), fail(&standing, now)), (None, None));
        standing.answered(Some(&EJECTION), now);
        assert_eq!((fail(&standing, now), fail(&standing, now)), (None, None));
        assert_eq!(standing.grade(now), Grade::Usable);
        assert_eq!(fail(&standing, now), Some(10));
        assert_eq!((standing.grade(now), standing.state(now)), (Grade::Ejected, State::Ejected));
        assert_eq!(standing.grade(after(now, 10)), Grade::Usable);
    }

    #[test]
    fn each_ejection_is_twice_as_long_until_the_backend_has_proven_itself() {
        let start = Instant::now();
        let standing = Standing::new(start);
        let mut now = start;
        (0..2).for_each(|_| assert_eq!(fail(&standing, now), None));
        for length in [10, 20, 40, 60, 60] {
            assert_eq!(fail(&standing, now), Some(length), "one failure is enough for one that is back");
            assert_eq!(fail(&standing, now), None, "it is out already");
            now = after(now, length);
        }
        standing.answered(Some(&EJECTION), now);
        (0..2).for_each(|_| assert_eq!(fail(&standing, now), None));
        assert_eq!(fail(&standing, now), Some(60), "an answer right after it came back proves little");
        now = after(now, 70);
        standing.answered(Some(&EJECTION), now);
        (0..2).for_each(|_| assert_eq!(fail(&standing, now), None));
        assert_eq!(fail(&standing, now), Some(10));
    }

    #[test]
    fn one_that_cannot_be_spared_is_not_ejected() {
        let now = Instant::now();
        let standing = Standing::new(now);
        for _ in 0..10 {
            assert_eq!(standing.failed(Some(&EJECTION), now, || false), None);
        }
        assert_eq!(standing.failed(None, now, || true), None, "ejection is off");
        assert_eq!(standing.grade(now), Grade::Usable);
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let now = Instant::now();
        let standing = Standing::new(now);
        standing.checked(Health::Down, now);
        assert_eq!((standing.grade(now), standing.state(now)), (Grade::Failing, State::Failing));
        for (operator, state) in [(Operator::Drain, State::Drain), (Operator::Down, State::Down)] {
            standing.set_operator(operator, now);
            standing.checked(Health::Up, now);
            assert_eq!((standing.grade(now), standing.state(now)), (Grade::Closed, state));
        }
        standing.set_operator(Operator::Ready, now);
        assert_eq!(standing.grade(now), Grade::Usable);
    }

    #[test]
    fn a_backend_that_is_back_gets_its_share_little_by_little() {
        let now = Instant::now();
        let standing = Standing::new(now);
        let slow_start = Duration::from_secs(20);
        assert_eq!(standing.share(slow_start, now), 1.0, "one that was there from the start");
        standing.checked(Health::Down, now);
        standing.checked(Health::Up, after(now, 5));
        assert_eq!(standing.share(slow_start, after(now, 5)), 0.1);
        assert_eq!(standing.share(slow_start, after(now, 15)), 0.5);
        assert_eq!(standing.share(slow_start, after(now, 25)), 1.0);
        (0..3).for_each(|_| _ = fail(&standing, after(now, 30)));
        assert_eq!(standing.share(slow_start, after(now, 50)), 0.5, "the end of an ejection is a start too");
        assert_eq!(standing.share(Duration::ZERO, after(now, 41)), 1.0);
    }
}
