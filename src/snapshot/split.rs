//! Spreads the connections of a route over several pools, in proportion to weights.
//!
//! In:  the pools with their weights.
//! Out: the pool of each next connection; no lock, no allocation, and one atomic add.
//!
//! The weights divided by their greatest common divisor have a sum, the *period*: 90 and 10 have 10. Of any `period`
//! consecutive connections each pool gets exactly its weight, whichever workers serve them, since the workers share one
//! counter. Drawing at random would be right only on average: one in three runs of ten would miss a share of a tenth.
//!
//! Turn number `t` takes the slot `t * step mod period` of a row that holds a run of slots for each pool. A step without
//! a common divisor with the period visits each slot once per period; one near the period divided by the golden ratio
//! makes consecutive turns land far apart, so that the turns of a pool are spread evenly (Steinhaus' three-distance
//! theorem). This takes no memory per slot, unlike a table of turns: a million routes may have splits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::pool::Pool;
use crate::telemetry::RouteMetrics;

/// The pools of a route and their shares.
pub struct Split {
    shares: Vec<Share>,
    period: u64,
    step: u64,
    /// Continues over reloads: if each reload began with the first turn, frequent ones would starve small shares.
    turn: Arc<AtomicU64>,
}

/// A pool of a split.
pub struct Share {
    pub pool: Arc<Pool>,
    /// As in the configuration; 0: no connections.
    pub weight: u32,
    /// Where its run of slots ends; it begins where that of the share before ends.
    end: u64,
    /// Created on first use, as for a route without a split.
    pub(super) metrics: OnceLock<Arc<RouteMetrics>>,
}

impl Split {
    /// Prepares a split. `before` is the one that the same route had, if any. At least one weight must not be 0; their
    /// sum must be less than 2^32.
    pub(super) fn new(pools: impl Iterator<Item = (Arc<Pool>, u32)>, before: Option<&Self>) -> Self {
        let mut shares: Vec<Share> =
            pools.map(|(pool, weight)| Share { pool, weight, end: 0, metrics: OnceLock::new() }).collect();
        let divisor = shares.iter().fold(0, |divisor, share| gcd(divisor, u64::from(share.weight))).max(1);
        let mut end = 0;
        for share in &mut shares {
            end += u64::from(share.weight) / divisor;
            share.end = end;
        }
        let period = end.max(1);
        Self {
            shares,
            period,
            step: step(period),
            turn: before.map(|before| Arc::clone(&before.turn)).unwrap_or_default(),
        }
    }

    /// The share that the next connection goes to.
    pub fn next(&self) -> &Share {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.period;
        // Both are less than 2^32.
        let slot = turn * self.step % self.period;
        // A share with a weight of 0 ends where the one before it ends, so it has no slot.
        let number = self.shares.partition_point(|share| share.end <= slot);
        &self.shares[number]
    }

    /// In the order of the configuration.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// The part of the connections that `share` gets, 0 to 1.
    pub fn part(&self, share: &Share) -> f64 {
        let sum: u64 = self.shares.iter().map(|share| u64::from(share.weight)).sum();
        f64::from(share.weight) / sum.max(1) as f64
    }
}

/// The number nearest to `period` divided by the golden ratio that has no common divisor with it.
fn step(period: u64) -> u64 {
    let golden = (period as f64 * GOLDEN).round() as u64;
    (0..period)
        .flat_map(|distance| [golden + distance, golden.saturating_sub(distance)])
        .find(|step| gcd(*step, period) == 1)
        .unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// One divided by the golden ratio.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;
    use crate::settings;
    use crate::snapshot::{Route, Snapshot};
    use crate::telemetry::Metrics;

    fn split(weights: &[u32]) -> Split {
        split_after(weights, None)
    }

    fn split_after(weights: &[u32], before: Option<&Split>) -> Split {
        let metrics = Metrics::new();
        let pool = |number: usize| {
            let settings = settings::Pool { name: number.to_string().into(), ..settings::Pool::default() };
            Arc::new(Pool::new(settings, &metrics, None))
        };
        Split::new(weights.iter().enumerate().map(|(number, weight)| (pool(number), *weight)), before)
    }

    fn turns(split: &Split, count: u64) -> Vec<usize> {
        (0..count).map(|_| split.next().pool.name.parse().unwrap()).collect()
    }

    fn count(turns: &[usize], share: usize) -> usize {
        turns.iter().filter(|turn| **turn == share).count()
    }

    #[test]
    fn shares_are_spread_evenly() {
        assert_eq!(turns(&split(&[3, 2]), 10), [0, 1, 0, 1, 0, 0, 1, 0, 1, 0]);
        assert_eq!(turns(&split(&[7]), 3), [0, 0, 0]);
        assert_eq!(turns(&split(&[0, 5, 0, 5, 0]), 4), [1, 3, 1, 3]);
        let nine_to_one = turns(&split(&[90, 10]), 30);
        let seconds: Vec<usize> = (0..30).filter(|&turn| nine_to_one[turn] == 1).collect();
        assert_eq!((seconds.len(), seconds[1] - seconds[0], seconds[2] - seconds[1]), (3, 10, 10));
    }

    #[test]
    fn workers_share_the_turns() {
        let split = split(&[1, 2, 7]);
        let turns: Vec<usize> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| turns(&split, 250))).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!([0, 1, 2].map(|share| count(&turns, share)), [100, 200, 700]);
    }

    #[test]
    fn a_reload_goes_on_where_the_split_before_was() {
        let mut split = split(&[9, 1]);
        let mut all = Vec::new();
        for _ in 0..10 {
            all.extend(turns(&split, 3));
            split = split_after(&[9, 1], Some(&split));
        }
        assert_eq!(count(&all, 1), 3);
    }

    #[test]
    fn a_route_with_the_name_of_a_fallback_has_turns_of_its_own() {
        let shares = "split: [{ pool: p, weight: 1 }, { pool: q, weight: 1 }]";
        let text = format!(
            "listeners: [{{ name: l, bind: \"127.0.0.1:0\" }}]\nroutes: [{{ name: unmatched, sni: a.test, {shares} }}]\n\
             unmatched: {{ {shares} }}\npools: {{ p: {{ backends: [127.0.0.1:1] }}, q: {{ backends: [127.0.0.1:2] }} }}\n"
        );
        let config =
            || Config::parse(&text, Path::new("f.yaml")).unwrap_or_else(|problems| panic!("{problems}")).config;
        let metrics = Metrics::new();
        let before = Snapshot::build(config(), None, &metrics);
        let after = Snapshot::build(config(), Some(&before), &metrics);
        let next = |route: &Route| route.next().map(|to| to.pool.name.to_string());
        let [route, fallback] = [&after.routes[0], &after.unmatched];
        let turns = [fallback, fallback, route, route, fallback].map(next);
        assert_eq!(turns, ["p", "q", "p", "q", "p"].map(|pool| Ok(pool.to_owned())));
        assert_eq!(next(&before.routes[0]), Ok("p".to_owned()), "both snapshots share the turns");
        assert_eq!(next(route), Ok("q".to_owned()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Also for any number of connections that is no whole period, nearly.
        #[test]
        fn any_run_of_connections_has_the_proportions(
            weights in prop::collection::vec(0_u32..=40, 1..5),
            skipped in 0_u64..500,
            length in 1_u64..500,
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let split = split(&weights);
            let sum: u32 = weights.iter().sum();
            turns(&split, skipped);
            let period = turns(&split, split.period);
            let run = turns(&split, length);
            for (share, weight) in weights.iter().enumerate() {
                let part = f64::from(*weight) / f64::from(sum);
                prop_assert_eq!(count(&period, share) as f64, (part * split.period as f64).round());
                let off = count(&run, share) as f64 - part * length as f64;
                prop_assert!(off.abs() < 4.0, "share {} of {:?} is off by {}", share, weights, off);
            }
        }

        #[test]
        fn every_slot_is_visited(weights in prop::collection::vec(0_u32..=1_000_000, 1..64)) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let split = split(&weights);
            prop_assert!(gcd(split.step, split.period) == 1 && split.period < 1 << 32 && split.step < 1 << 32);
            prop_assert!(turns(&split, 200).iter().all(|turn| weights[*turn] > 0));
        }
    }
}
