//! Decides whether a refused hello counts against the backend, since the client may have provoked the refusal, and
//! whether another backend may be tried.
//!
//! In:  the backends that refused one hello; each new connection and each failover of a pool.
//! Out: failures of backends; whether there may be one more failover.
//! Source: the retry budgets of Finagle and Envoy.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

use super::standing::Blame;
use super::{Backend, Pool};

/// The backends that refused one hello. They are judged once it is known how the others react to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals {
    /// Those that the refusal counts against, and why, unless all refuse. Nearly always empty, and then allocates nothing.
    by: Vec<(Arc<Backend>, String)>,
    count: u32,
    /// No backend of the pool is left to try.
    pub all_asked: bool,
}

impl Refusals {
    /// Records a refusal, and `why`; `None` for an alert that never counts.
    pub(crate) fn add(&mut self, backend: &Arc<Backend>, why: Option<String>) {
        self.count += 1;
        self.by.extend(why.map(|why| (Arc::clone(backend), why)));
    }

    /// Judges them after the last refusal. If every backend refused, the cause is the hello, and it counts against none.
    pub(crate) fn end(&mut self, pool: &Pool, client: IpAddr, now: Instant) {
        if self.all_asked && self.count > 1 {
            self.by.clear();
        }
        self.charge(pool, client, now);
    }

    /// Judges them after another backend did not refuse, or its answer was not seen.
    pub(crate) fn charge(&mut self, pool: &Pool, client: IpAddr, now: Instant) {
        self.by.drain(..).for_each(|(backend, why)| pool.failed(&backend, Blame::Client(client), &why, now));
    }
}

/// How many failovers after a hello a pool may make, so that a client that is refused everywhere does not cost several
/// connections each time: a fifth of its connections, one per second, and ten at once.
///
/// This is a GCRA whose clock advances with connections and time. All numbers are thousandths of a failover.
#[derive(Debug)]
pub(super) struct FailoverBudget {
    origin: Instant,
    connections: AtomicU64,
    spent: AtomicU64,
}

impl FailoverBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self { origin: now, connections: AtomicU64::new(0), spent: AtomicU64::new(0) }
    }

    /// Records a new connection.
    pub(super) fn earn(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(super) fn has_one(&self, now: Instant) -> bool {
        self.after_one(self.spent.load(Relaxed), now).is_some()
    }

    /// Takes one failover from the budget, if one is left.
    pub(super) fn spend(&self, now: Instant) -> bool {
        self.spent.fetch_update(Relaxed, Relaxed, |spent| self.after_one(spent, now)).is_ok()
    }

    fn after_one(&self, spent: u64, now: Instant) -> Option<u64> {
        let seconds = now.saturating_duration_since(self.origin).as_millis() as u64 * PER_SECOND / 1000;
        let earned = self.connections.load(Relaxed) * PER_CONNECTION + seconds;
        let after = spent.max(earned) + ONE;
        (after <= earned + AT_ONCE).then_some(after)
    }
}

const ONE: u64 = 1000;
const AT_ONCE: u64 = 10 * ONE;
const PER_CONNECTION: u64 = ONE / 5;
const PER_SECOND: u64 = ONE;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn spends(budget: &FailoverBudget, now: Instant) -> usize {
        (0..1000).take_while(|_| budget.has_one(now) && budget.spend(now)).count()
    }

    #[test]
    fn a_few_failovers_then_a_fifth_of_the_connections_and_one_per_second() {
        let now = Instant::now();
        let budget = FailoverBudget::new(now);
        assert_eq!((spends(&budget, now), budget.spend(now)), (10, false));
        (0..30).for_each(|_| budget.earn());
        assert_eq!(spends(&budget, now), 6);
        assert_eq!(spends(&budget, now + Duration::from_secs(3)), 3);
    }

    #[test]
    fn what_was_not_needed_long_ago_is_not_saved() {
        let now = Instant::now();
        let budget = FailoverBudget::new(now);
        (0..10_000).for_each(|_| budget.earn());
        assert_eq!(spends(&budget, now + Duration::from_secs(3600)), 10);
    }
}
