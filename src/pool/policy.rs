//! Orders the backends of a group: which one is next for this connection.
//!
//! In:  a [`View`] of each backend: whether it may be picked, and how busy it is.
//! Out: the index of one that may be picked; `None` when there is none.

use fastrand::Rng;

use super::maglev::Maglev;
use crate::settings::Balance;

/// A policy, prepared for the backends of one group.
#[derive(Debug)]
pub(super) enum Order {
    RoundRobin(Schedule),
    LeastConnections,
    PowerOfTwo(Schedule),
    Random(Schedule),
    Hash(Maglev),
    First,
}

/// What an order may ask about the backends of its group, by index.
pub(super) trait View {
    fn count(&self) -> usize;
    fn may(&self, number: usize) -> bool;
    /// The fraction of its share it gets at the moment, up to 1.
    fn share(&self, number: usize) -> f32;
    /// Open connections relative to weight and share; the lowest is picked first.
    fn load(&self, number: usize) -> f32;
}

/// The position of one connection in its walk.
#[derive(Debug)]
pub(super) struct Turn {
    /// The first position in the schedule it tries; `None` before its first pick.
    pub at: Option<usize>,
    pub key: u64,
    pub rng: Rng,
}

impl Order {
    /// Prepares `policy` for backends with these names and weights.
    pub(super) fn new(policy: Balance, backends: &[(&str, u32)]) -> Self {
        let schedule = || Schedule::new(backends.iter().map(|(_, weight)| *weight));
        match policy {
            Balance::RoundRobin => Self::RoundRobin(schedule()),
            Balance::LeastConnections => Self::LeastConnections,
            Balance::PowerOfTwo => Self::PowerOfTwo(schedule()),
            Balance::Random => Self::Random(schedule()),
            Balance::SourceHash | Balance::SniHash => Self::Hash(Maglev::new(backends)),
            Balance::First => Self::First,
        }
    }

    /// The next backend of `view` for a connection; `next_turn` advances the counter all connections share.
    pub(super) fn pick(&self, turn: &mut Turn, view: &impl View, next_turn: impl Fn() -> usize) -> Option<usize> {
        match self {
            Self::RoundRobin(schedule) => round_robin(schedule, turn, view, next_turn),
            Self::LeastConnections => least_connections(next_turn(), view),
            Self::PowerOfTwo(schedule) => {
                let one = draw(schedule, turn, view)?;
                let other = draw(schedule, turn, view)?;
                Some(if view.load(other) < view.load(one) { other } else { one })
            }
            Self::Random(schedule) => draw(schedule, turn, view),
            Self::Hash(maglev) => (0..HASH_TRIES)
                .find_map(|attempt| maglev.get(turn.key, attempt).filter(|&number| view.may(number)))
                .or_else(|| any_from((turn.key % (view.count().max(1) as u64)) as usize, view)),
            Self::First => (0..view.count()).find(|&number| view.may(number)),
        }
    }
}

/// A backend that may not be picked uses up a turn, so that its neighbour does not get its share; after a failure a
/// connection continues from its own turn.
fn round_robin(schedule: &Schedule, turn: &mut Turn, view: &impl View, next_turn: impl Fn() -> usize) -> Option<usize> {
    if let Some(at) = turn.at {
        return schedule.from(at).find(|&number| view.may(number));
    }
    let mut at = 0;
    for _ in 0..schedule.len() {
        at = next_turn();
        let number = schedule.at(at);
        if view.may(number) && has_its_share(number, turn, view) {
            turn.at = Some(at);
            return Some(number);
        }
    }
    turn.at = Some(at);
    schedule.from(at).find(|&number| view.may(number))
}

/// Draws by weight; after several misses, takes the next one that may be picked.
fn draw(schedule: &Schedule, turn: &mut Turn, view: &impl View) -> Option<usize> {
    if schedule.len() == 0 {
        return None;
    }
    for _ in 0..DRAWS {
        let number = schedule.at(turn.rng.usize(..schedule.len()));
        if view.may(number) && has_its_share(number, turn, view) {
            return Some(number);
        }
    }
    schedule.from(turn.rng.usize(..schedule.len())).find(|&number| view.may(number))
}

fn has_its_share(number: usize, turn: &mut Turn, view: &impl View) -> bool {
    let share = view.share(number);
    share >= 1.0 || turn.rng.f32() < share
}

/// Starts at `start`, so that equally loaded backends take turns.
fn least_connections(start: usize, view: &impl View) -> Option<usize> {
    let count = view.count();
    let start = start % count.max(1);
    let mut least = None;
    for number in (start..count).chain(0..start).filter(|&number| view.may(number)) {
        let load = view.load(number);
        if least.is_none_or(|(_, lowest)| load < lowest) {
            least = Some((number, load));
        }
    }
    least.map(|(number, _)| number)
}

fn any_from(start: usize, view: &impl View) -> Option<usize> {
    (start..view.count()).chain(0..start).find(|&number| view.may(number))
}

/// Smooth weighted round robin: a backend's turns are spread evenly over the round.
#[derive(Debug)]
pub(super) struct Schedule {
    /// One round: the index of a backend for each turn.
    round: Vec<u32>,
}

impl Schedule {
    /// Lays out one round for `weights`, one per backend. One with a weight of 0 gets no turn.
    pub(super) fn new(weights: impl Iterator<Item = u32> + Clone) -> Self {
        let divisor = weights.clone().fold(0, gcd).max(1);
        // A round longer than the bound is scaled down; every other backend keeps at least one turn.
        let sum: u64 = weights.clone().map(|weight| u64::from(weight / divisor)).sum();
        let scale = sum.div_ceil(MOST_TURNS).max(1);
        let mut turns = Vec::new();
        for (number, weight) in (0_u32..).zip(weights) {
            let count = (u64::from(weight / divisor) / scale).max(u64::from(weight.min(1)));
            // The k-th of n turns goes in the middle of the k-th n-th of the round.
            turns.extend((0..count).map(|turn| ((2 * turn + 1) * TICKS / (2 * count), number)));
        }
        turns.sort_unstable();
        Self { round: turns.into_iter().map(|(_, number)| number).collect() }
    }

    fn len(&self) -> usize {
        self.round.len()
    }

    /// The backend whose turn it is.
    fn at(&self, turn: usize) -> usize {
        self.round[turn % self.round.len()] as usize
    }

    /// The indices of the backends from `turn` on, for one full round; an index may occur more than once.
    fn from(&self, turn: usize) -> impl Iterator<Item = usize> {
        let start = if self.round.is_empty() { 0 } else { turn % self.round.len() };
        self.round[start..].iter().chain(&self.round[..start]).map(|&number| number as usize)
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Maximum turns in a round, unless there are more backends.
const MOST_TURNS: u64 = 1 << 16;
const TICKS: u64 = 1 << 40;
const DRAWS: u32 = 16;
const HASH_TRIES: u64 = 32;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Backends in the state a test sets.
    struct Group {
        may: Vec<bool>,
        loads: Vec<f32>,
        shares: Vec<f32>,
    }

    impl Group {
        fn of(count: usize) -> Self {
            Self { may: vec![true; count], loads: vec![0.0; count], shares: vec![1.0; count] }
        }

        /// How often each backend is picked for this number of connections.
        fn picks(&self, order: &Order, connections: usize) -> Vec<usize> {
            let turns = Cell::new(0);
            let mut hits = vec![0; self.may.len()];
            for connection in 0..connections {
                let rng = Rng::with_seed(connection as u64);
                let mut turn = Turn { at: None, key: super::super::maglev::key_of(&[&connection.to_le_bytes()]), rng };
                let next_turn = || turns.replace(turns.get() + 1);
                hits[order.pick(&mut turn, self, next_turn).expect("one may be picked")] += 1;
            }
            hits
        }
    }

    impl View for Group {
        fn count(&self) -> usize {
            self.may.len()
        }

        fn may(&self, number: usize) -> bool {
            self.may[number]
        }

        fn share(&self, number: usize) -> f32 {
            self.shares[number]
        }

        fn load(&self, number: usize) -> f32 {
            self.loads[number]
        }
    }

    fn order(policy: Balance, weights: &[u32]) -> Order {
        let names = ["a:1", "b:1", "c:1", "d:1", "e:1"];
        let backends: Vec<(&str, u32)> = names.into_iter().zip(weights.iter().copied()).collect();
        Order::new(policy, &backends)
    }

    const ALL: [Balance; 7] = [
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::PowerOfTwo,
        Balance::Random,
        Balance::SourceHash,
        Balance::SniHash,
        Balance::First,
    ];

    fn near(hits: usize, wanted: usize) -> bool {
        hits.abs_diff(wanted) * 10 <= wanted
    }

    #[test]
    fn weights_are_kept_by_every_policy_that_has_them() {
        for policy in [Balance::Random, Balance::PowerOfTwo, Balance::SourceHash] {
            let hits = Group::of(3).picks(&order(policy, &[1, 2, 5]), 8000);
            assert!(near(hits[0], 1000) && near(hits[1], 2000) && near(hits[2], 5000), "{policy:?}: {hits:?}");
        }
        assert_eq!(Group::of(3).picks(&order(Balance::RoundRobin, &[1, 2, 5]), 8000), [1000, 2000, 5000]);
    }

    #[test]
    fn the_share_of_one_that_is_out_is_spread_over_all_others() {
        for policy in [Balance::RoundRobin, Balance::Random, Balance::PowerOfTwo, Balance::SourceHash] {
            let mut group = Group::of(4);
            group.may[1] = false;
            let hits = group.picks(&order(policy, &[1; 4]), 9000);
            assert!(hits[1] == 0 && [0, 2, 3].iter().all(|&n| near(hits[n], 3000)), "{policy:?}: {hits:?}");
        }
    }

    #[test]
    fn whoever_may_be_picked_is_found_by_every_policy() {
        for policy in ALL {
            for only in 0..5 {
                let mut group = Group::of(5);
                group.may = (0..5).map(|number| number == only).collect();
                assert_eq!(group.picks(&order(policy, &[1, 1, 50, 1, 1]), 50)[only], 50, "{policy:?}");
            }
            let none = Group { may: vec![false; 5], ..Group::of(5) };
            let mut turn = Turn { at: None, key: 1, rng: Rng::with_seed(1) };
            assert_eq!(order(policy, &[1; 5]).pick(&mut turn, &none, || 0), None, "{policy:?}");
            assert_eq!(order(policy, &[]).pick(&mut turn, &Group::of(0), || 0), None, "{policy:?}");
        }
    }

    #[test]
    fn the_least_busy_is_picked_and_equals_take_turns() {
        let mut group = Group::of(4);
        group.loads = vec![2.0, 1.0, 1.5, 1.0];
        let hits = group.picks(&order(Balance::LeastConnections, &[1; 4]), 100);
        assert!(hits[0] == 0 && hits[2] == 0 && hits[1] > 20 && hits[3] > 20, "{hits:?}");
    }

    #[test]
    fn power_of_two_shuns_the_busy() {
        let mut group = Group::of(4);
        group.loads[2] = 9.0;
        let hits = group.picks(&order(Balance::PowerOfTwo, &[1; 4]), 8000);
        // Only when both draws hit it.
        assert!(near(hits[2], 500), "{hits:?}");
    }

    #[test]
    fn a_slow_starter_gets_part_of_its_share() {
        for policy in [Balance::RoundRobin, Balance::Random] {
            let mut group = Group::of(2);
            group.shares[0] = 0.5;
            let hits = group.picks(&order(policy, &[1, 1]), 9000);
            assert!(near(hits[0], 3000), "{policy:?}: {hits:?}");
        }
    }

    #[test]
    fn first_is_the_first_that_may() {
        let mut group = Group::of(3);
        group.may[0] = false;
        assert_eq!(group.picks(&order(Balance::First, &[1; 3]), 10), [0, 10, 0]);
    }

    fn round(weights: &[u32]) -> Vec<usize> {
        Schedule::new(weights.iter().copied()).from(0).collect()
    }

    #[test]
    fn turns_are_spread_over_the_round() {
        assert_eq!(round(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(round(&[4, 2]), [0, 1, 0]);
        let heavy = round(&[5, 1, 1]);
        assert_eq!(heavy.len(), 7);
        assert!(heavy.windows(4).all(|four| four != [0, 0, 0, 0]));
    }

    #[test]
    fn a_huge_round_is_scaled_down_and_leaves_no_one_out() {
        let weights: Vec<u32> = (0..1000).map(|i| 1 + i % 997).collect();
        let round = round(&weights);
        assert!(round.len() <= 1 << 17);
        assert!((0..1000).all(|number| round.contains(&number)));
    }
}
