//! Judges one backend by the operator's setting, its checks and its own connections.
//!
//! In:  verdicts, each with its time.
//! Out: a [`Grade`] for the pick, a [`BackendState`](State) for display.
//!
//! All fields are atomics read on the path: a few relaxed loads per pick. Concurrent events on two workers may be
//! counted in either order; nothing here needs a stronger ordering.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::maglev::key_of_client;
use crate::settings::Ejection;
use crate::telemetry::BackendState as State;

/// The state a backend is judged by.
#[derive(Debug)]
pub struct Standing {
    /// Times are stored in milliseconds since this instant, starting at 1; 0 means never.
    origin: Instant,
    operator: AtomicU8,
    health: AtomicU8,
    /// What the latest connections show, a [`Traffic`].
    traffic: AtomicU8,
    /// Consecutive failed connections that are the backend's fault.
    failures: AtomicU32,
    /// Consecutive failed connections that may be the client's doing.
    refusals: AtomicU32,
    /// The clients that met these, as short hashes of their addresses; 0 is free.
    refused_clients: [AtomicU32; CLIENTS_THAT_PROVE],
    /// The last active check failed.
    check_failed: AtomicBool,
    /// Whether it accepts inner hellos, a [`Confirms`].
    confirms: AtomicU8,
    /// Consecutive races lost to an address of the other family.
    lost_races: AtomicU32,
    /// Consecutive ejections; each lasts twice as long as the one before.
    ejections: AtomicU32,
    ejected_until: AtomicU64,
    /// When the backend was added or came back, for the slow start.
    back_since: AtomicU64,
}

/// Whose fault a failed connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The backend's, for any client: the connect failed, or it does not speak TLS.
    Backend,
    /// Perhaps this client's: with its name, its offer or its address it may have provoked an alert, a close or a
    /// silence. Counts only if several clients, or a check, meet it as well.
    Client(IpAddr),
}

/// The state an operator has set for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Ready,
    /// No new connections; open ones continue.
    Drain,
    /// No new connections and no checks.
    Down,
}

/// The verdict of the active checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// No check has completed yet, or none is configured.
    Unchecked,
    /// The last checks passed.
    Up,
    /// The last checks failed.
    Down,
}

/// Whether a backend accepts the inner hellos of Encrypted ClientHello (RFC 9849), as the last check that showed it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirms {
    /// No check asks for it, or none has got an answer.
    Unknown,
    /// It does.
    Yes,
    /// It does not: a client that reaches it by an inner hello fails.
    No,
}

/// What the connections of clients show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traffic {
    /// No connection has got an answer or failed too often.
    Unknown,
    /// The last one that tells got a valid answer.
    Answered,
    /// As many have failed in a row as eject a backend that can be spared.
    Failing,
}

/// How eagerly a backend is picked; the best grade present is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    Usable,
    /// Usable, but an address of the other family keeps connecting faster: comes after those that are not (RFC 8305 §4).
    Overtaken,
    /// Ejected for a while, but still better than no backend.
    Ejected,
    /// Its checks fail.
    Failing,
    /// Never picked: set by the operator.
    Closed,
}

impl Standing {
    pub fn new(now: Instant) -> Self {
        Self {
            origin: now,
            operator: AtomicU8::new(Operator::Ready as u8),
            health: AtomicU8::new(Health::Unchecked as u8),
            traffic: AtomicU8::new(Traffic::Unknown as u8),
            failures: AtomicU32::new(0),
            refusals: AtomicU32::new(0),
            refused_clients: Default::default(),
            check_failed: AtomicBool::new(false),
            confirms: AtomicU8::new(Confirms::Unknown as u8),
            lost_races: AtomicU32::new(0),
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
        } else if self.lost_races.load(Relaxed) >= OVERTAKEN_AFTER {
            Grade::Overtaken
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
            (Operator::Ready, _) if self.traffic_is(Traffic::Failing) => State::Failing,
            (Operator::Ready, _) if self.health() == Health::Unchecked && self.traffic_is(Traffic::Unknown) => {
                State::Unchecked
            }
            (Operator::Ready, Grade::Usable | Grade::Overtaken | Grade::Closed) => State::Up,
        }
    }

    /// The fraction of its share, 0.1 to 1, for a backend that came back recently.
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

    /// Records a failed connection: the connect failed, or the backend did something wrong before its first valid
    /// answer. If that was one failure too many, ejects the backend and returns for how long; `spare` returns whether
    /// the pool can do without it.
    pub fn failed(
        &self,
        blame: Blame,
        ejection: Option<&Ejection>,
        now: Instant,
        spare: impl FnOnce() -> bool,
    ) -> Option<Duration> {
        self.count(blame);
        if self.failures_in_a_row() < ejection.map_or(FAILING_AFTER, |ejection| ejection.failures) {
            return None;
        }
        self.traffic.store(Traffic::Failing as u8, Relaxed);
        let Ejection { failures, base, max } = ejection?;
        let until = self.ejected_until.load(Relaxed);
        if until > self.millis(now) || !spare() {
            return None;
        }
        let doublings = self.ejections.load(Relaxed).min(MOST_DOUBLINGS);
        let length = base.saturating_mul(1 << doublings).min(**max);
        let end = self.millis(now + length);
        // If two workers see the last failure at once, only one ejects.
        self.ejected_until.compare_exchange(until, end, Relaxed, Relaxed).ok()?;
        self.ejections.fetch_add(1, Relaxed);
        self.forgive();
        // After its return, a single further failure is enough.
        self.failures.store(failures - 1, Relaxed);
        Some(length)
    }

    fn count(&self, blame: Blame) {
        let Blame::Client(address) = blame else {
            self.failures.fetch_add(1, Relaxed);
            return;
        };
        self.refusals.fetch_add(1, Relaxed);
        let client = (key_of_client(address) as u32).max(1);
        for place in &self.refused_clients {
            match place.compare_exchange(0, client, Relaxed, Relaxed) {
                Err(other) if other != client => {}
                _ => return,
            }
        }
    }

    /// How many connections in a row have failed, without those that may be the doing of few clients.
    fn failures_in_a_row(&self) -> u32 {
        let several = || self.refused_clients.iter().all(|client| client.load(Relaxed) != 0);
        let proven = self.check_failed.load(Relaxed) || several();
        let refusals = if proven { self.refusals.load(Relaxed) } else { 0 };
        self.failures.load(Relaxed).saturating_add(refusals)
    }

    fn forgive(&self) {
        self.failures.store(0, Relaxed);
        self.refusals.store(0, Relaxed);
        self.refused_clients.iter().for_each(|client| client.store(0, Relaxed));
    }

    /// Records a valid answer.
    pub fn answered(&self, ejection: Option<&Ejection>, now: Instant) {
        // Loaded first: an unconditional store would take the cache line from the other workers on each connection.
        if self.failures.load(Relaxed) != 0 || self.refusals.load(Relaxed) != 0 {
            self.forgive();
        }
        if !self.traffic_is(Traffic::Answered) {
            self.traffic.store(Traffic::Answered as u8, Relaxed);
        }
        if self.ejections.load(Relaxed) != 0 {
            let proven = ejection.map_or(0, |ejection| ejection.base.as_millis() as u64);
            if self.ejected_until.load(Relaxed).saturating_add(proven) <= self.millis(now) {
                self.ejections.store(0, Relaxed);
            }
        }
    }

    /// Records an answer that says no more than that the backend is alive.
    pub fn heard(&self) {
        if self.traffic_is(Traffic::Unknown) {
            self.traffic.store(Traffic::Answered as u8, Relaxed);
        }
    }

    /// Records that a connection to another address, begun later, was established first. Returns whether the backend has
    /// now lost so many in a row that it comes last.
    pub fn lost_race(&self) -> bool {
        self.lost_races.fetch_add(1, Relaxed) + 1 == OVERTAKEN_AFTER
    }

    /// Records that a connection was established in time, by a client or by a check.
    pub fn connected(&self) {
        if self.lost_races.load(Relaxed) != 0 {
            self.lost_races.store(0, Relaxed);
        }
    }

    /// Records what the last active check met.
    pub fn check_met(&self, failure: bool) {
        self.check_failed.store(failure, Relaxed);
    }

    /// Records a verdict of the active checks. A good one also ends an ejection.
    pub fn checked(&self, health: Health, now: Instant) {
        let before = self.health.swap(health as u8, Relaxed);
        if health == Health::Up && before == Health::Down as u8 {
            self.is_back(now);
        }
    }

    /// Records whether it accepts inner hellos; returns what was known before.
    pub fn set_confirms(&self, confirms: Confirms) -> Confirms {
        Confirms::from(self.confirms.swap(confirms as u8, Relaxed))
    }

    /// Whether it accepts inner hellos.
    pub fn confirms(&self) -> Confirms {
        Confirms::from(self.confirms.load(Relaxed))
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

    /// Sets the operator's state. Setting it to ready also ends an ejection.
    pub fn set_operator(&self, operator: Operator, now: Instant) {
        let before = self.operator.swap(operator as u8, Relaxed);
        if operator == Operator::Ready {
            self.ejections.store(0, Relaxed);
            self.forgive();
            self.readmit(now);
            if before != Operator::Ready as u8 {
                self.is_back(now);
            }
        }
    }

    /// Ends an ejection early, and forgets that connections failed.
    pub fn readmit(&self, now: Instant) {
        if self.is_ejected(now) {
            self.ejected_until.store(self.millis(now), Relaxed);
        }
        if self.traffic_is(Traffic::Failing) {
            self.traffic.store(Traffic::Unknown as u8, Relaxed);
        }
    }

    /// Whether its connections failed so often that checks may say more about it.
    pub fn is_doubted(&self, now: Instant) -> bool {
        self.is_ejected(now) || self.traffic_is(Traffic::Failing)
    }

    fn traffic_is(&self, traffic: Traffic) -> bool {
        self.traffic.load(Relaxed) == traffic as u8
    }

    /// Begins the slow start.
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

impl From<u8> for Confirms {
    fn from(number: u8) -> Self {
        match number {
            yes if yes == Self::Yes as u8 => Self::Yes,
            no if no == Self::No as u8 => Self::No,
            _ => Self::Unknown,
        }
    }
}

/// A backend that gets no connections could never show that it has recovered.
const LEAST_SHARE: f32 = 0.1;
const MOST_DOUBLINGS: u32 = 20;
const OVERTAKEN_AFTER: u32 = 3;
/// Without `ejection`, which says how many failures it takes.
const FAILING_AFTER: u32 = 3;
/// A failure that this many clients in a row have met is not caused by one of them.
const CLIENTS_THAT_PROVE: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Span;

    const EJECTION: Ejection = Ejection { failures: 3, base: Span::from_secs(10), max: Span::from_secs(60) };

    fn after(origin: Instant, seconds: u64) -> Instant {
        origin + Duration::from_secs(seconds)
    }

    fn fail(standing: &Standing, now: Instant) -> Option<u64> {
        standing.failed(Blame::Backend, Some(&EJECTION), now, || true).map(|length| length.as_secs())
    }

    fn refuse(standing: &Standing, client: &str, now: Instant) -> bool {
        let client = Blame::Client(client.parse().unwrap());
        standing.failed(client, Some(&EJECTION), now, || true).is_some()
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
            assert_eq!(standing.failed(Blame::Backend, Some(&EJECTION), now, || false), None);
        }
        assert_eq!(standing.failed(Blame::Backend, None, now, || true), None, "ejection is off");
        assert_eq!(standing.grade(now), Grade::Usable);
    }

    #[test]
    fn what_a_client_may_have_provoked_counts_when_three_clients_meet_it() {
        let now = Instant::now();
        let standing = Standing::new(now);
        // One /64 is one client.
        let few = ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2"];
        (0..50).for_each(|_| few.iter().for_each(|client| assert!(!refuse(&standing, client, now), "{client}")));
        standing.answered(Some(&EJECTION), now);
        assert!(!refuse(&standing, "192.0.2.3", now), "an answer has made the others forgotten");
        few.iter().for_each(|client| assert_eq!(refuse(&standing, client, now), *client == "2001:db8::1"));
        assert_eq!(standing.state(now), State::Ejected);
    }

    #[test]
    fn one_client_cannot_eject_again_what_is_back() {
        let now = Instant::now();
        let standing = Standing::new(now);
        assert_eq!((fail(&standing, now), fail(&standing, now), fail(&standing, now)), (None, None, Some(10)));
        let back = after(now, 10);
        (0..9).for_each(|_| assert!(!refuse(&standing, "192.0.2.1", back)));
        assert_eq!(fail(&standing, back), Some(20));
    }

    #[test]
    fn what_a_client_may_have_provoked_counts_when_a_check_meets_it() {
        let now = Instant::now();
        let standing = Standing::new(now);
        (0..9).for_each(|_| assert!(!refuse(&standing, "192.0.2.1", now)));
        standing.check_met(true);
        standing.check_met(false);
        assert!(!refuse(&standing, "192.0.2.1", now), "it works again");
        standing.check_met(true);
        assert!(refuse(&standing, "192.0.2.1", now));
    }

    #[test]
    fn one_that_is_overtaken_again_and_again_comes_last_until_it_connects() {
        let now = Instant::now();
        let standing = Standing::new(now);
        assert!(!standing.lost_race() && !standing.lost_race());
        standing.connected();
        assert!(!standing.lost_race() && !standing.lost_race());
        assert_eq!(standing.grade(now), Grade::Usable);
        assert!(standing.lost_race());
        assert_eq!((standing.grade(now), standing.state(now)), (Grade::Overtaken, State::Unchecked));
        assert!(!standing.lost_race(), "it is known");
        standing.connected();
        assert_eq!(standing.grade(now), Grade::Usable);
    }

    #[test]
    fn one_is_unchecked_until_something_is_known_and_failing_after_failures_in_a_row() {
        let now = Instant::now();
        for (ejection, failures) in [(Some(&EJECTION), 3), (Some(&Ejection { failures: 5, ..EJECTION }), 5), (None, 3)]
        {
            let standing = Standing::new(now);
            let fail = || standing.failed(Blame::Backend, ejection, now, || false);
            assert_eq!(standing.state(now), State::Unchecked);
            (1..failures).for_each(|_| assert_eq!(fail(), None));
            assert_eq!(standing.state(now), State::Unchecked);
            assert_eq!(fail(), None);
            assert_eq!((standing.state(now), standing.grade(now)), (State::Failing, Grade::Usable));
            standing.answered(ejection, now);
            assert_eq!(standing.state(now), State::Up);
            (0..failures).for_each(|_| assert_eq!(fail(), None));
            assert_eq!(standing.state(now), State::Failing);
            standing.readmit(now);
            assert_eq!(standing.state(now), State::Unchecked);
            standing.checked(Health::Up, now);
            assert_eq!(standing.state(now), State::Up);
            assert_eq!((fail(), standing.state(now)), (None, State::Failing), "traffic contradicts the check");
            standing.set_operator(Operator::Ready, now);
            assert_eq!(standing.state(now), State::Up);
        }
    }

    #[test]
    fn an_alert_about_the_client_is_a_sign_of_life_and_no_more() {
        let now = Instant::now();
        let standing = Standing::new(now);
        standing.heard();
        assert_eq!(standing.state(now), State::Up);
        (0..3).for_each(|_| _ = fail(&standing, now));
        standing.readmit(now + Duration::from_secs(60));
        (0..3).for_each(|_| _ = standing.failed(Blame::Backend, None, now, || false));
        standing.heard();
        assert_eq!(standing.state(now + Duration::from_secs(60)), State::Failing);
    }

    #[test]
    fn one_client_does_not_make_a_backend_look_as_if_it_failed() {
        let now = Instant::now();
        let standing = Standing::new(now);
        (0..9).for_each(|_| assert!(!refuse(&standing, "192.0.2.1", now)));
        assert_eq!(standing.state(now), State::Unchecked);
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
