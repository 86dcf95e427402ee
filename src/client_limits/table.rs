//! Counts the open connections of each client, and how much of its rate it has used.
//!
//! In:  the prefix of a client as a number, the time, the limits.
//! Out: a place in the table while the connection is open; or which limit it exceeds.
//! Source: ITU-T I.371 annex A (GCRA), in the form of one "theoretical arrival time".
//!
//! The memory is fixed: a prefix is one word of 16 bytes, which a connection changes in one step, without a lock. It may
//! stand in any of the eight places that a keyed hash assigns to it, so nobody can choose to collide with another. If all
//! eight are taken, the new prefix takes the place of the one without an open connection that has used the least of its
//! rate; if all have open connections, it is not tracked.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use portable_atomic::AtomicU128;

/// Of a fixed size.
pub(super) struct Table {
    words: Box<[AtomicU128]>,
    hash: RandomState,
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub connections: u32,
    pub rate: Option<Rate>,
}

/// How many connections a client may open in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// From one connection to the next.
    interval: u64,
    /// How much sooner one may come than that.
    tolerance: u64,
}

/// The limit that a client exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// It has too many connections open.
    Connections,
    /// It opens them too fast.
    Rate,
}

/// What came of counting a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// To be given back with [`Table::leave`]; and the limit that it exceeds, if that is not enforced.
    At(Index, Option<Exceeded>),
    Over(Exceeded),
    /// There is no place for the prefix.
    Untracked,
}

/// A word of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Index(u32);

/// Whether a connection over a limit is counted, or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Enforce {
    Yes,
    No,
}

impl Table {
    /// Room for about `prefixes`. It takes 32 bytes for each, so that few sets of places are full before all are.
    pub(super) fn new(prefixes: u32) -> Self {
        let sets = (2 * prefixes as usize).div_ceil(WAYS).next_power_of_two();
        Self { words: (0..sets * WAYS).map(|_| AtomicU128::new(0)).collect(), hash: RandomState::new() }
    }

    /// The memory, in bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    /// Counts a connection of `prefix` at `now`, in ticks, unless it is over a limit that is enforced.
    pub(super) fn enter(&self, prefix: u128, now: u64, limits: Limits, enforce: Enforce) -> Counted {
        let hash = self.hash.hash_one(prefix);
        let set = (hash as usize & (self.words.len() / WAYS - 1)) * WAYS;
        // 0 marks a place that nobody has.
        let tag = (hash >> (64 - TAG_BITS)).max(1);
        loop {
            let Some((way, before)) = self.find(set, tag) else { return Counted::Untracked };
            let known = if before.tag == tag { before } else { Word { tag, used_until: 0, open: 0 } };
            let (after, exceeded) = match known.admit(now, limits) {
                Ok(after) => (after, None),
                Err(exceeded) if enforce == Enforce::Yes => return Counted::Over(exceeded),
                // It is let in, and uses nothing of the rate.
                Err(exceeded) => (Word { open: known.open + 1, ..known }, Some(exceeded)),
            };
            if known.open == MOST_OPEN {
                return Counted::Untracked;
            }
            let word = &self.words[set + way];
            if word.compare_exchange(before.pack(), after.pack(), SeqCst, Relaxed).is_err() {
                continue;
            }
            if before.tag != tag && self.is_elsewhere_too(set, way, tag) {
                // Two workers took a place for this prefix at the same moment.
                self.undo(set + way, after);
                continue;
            }
            let index = Index(u32::try_from(set + way).expect("the size is bounded by the settings"));
            return Counted::At(index, exceeded);
        }
    }

    /// Ends a connection.
    pub(super) fn leave(&self, Index(at): Index) {
        // Nobody takes a place with open connections, so it is still that of the same prefix; `open` is the lowest field.
        self.words[at as usize].fetch_sub(1, SeqCst);
    }

    /// The place of `tag`; if it has none, the one to take.
    fn find(&self, set: usize, tag: u64) -> Option<(usize, Word)> {
        let mut free: Option<(usize, Word)> = None;
        for (way, word) in self.words[set..set + WAYS].iter().enumerate() {
            let word = Word::unpack(word.load(SeqCst));
            if word.tag == tag {
                return Some((way, word));
            }
            if word.open == 0 && free.is_none_or(|(_, other)| word.used_until < other.used_until) {
                free = Some((way, word));
            }
        }
        free
    }

    fn is_elsewhere_too(&self, set: usize, way: usize, tag: u64) -> bool {
        let words = self.words[set..set + WAYS].iter().enumerate();
        words.filter(|(other, _)| *other != way).any(|(_, word)| Word::unpack(word.load(SeqCst)).tag == tag)
    }

    /// Frees a place again that was just taken, unless another connection has come to it.
    fn undo(&self, at: usize, taken: Word) {
        if self.words[at].compare_exchange(taken.pack(), 0, SeqCst, Relaxed).is_err() {
            self.words[at].fetch_sub(1, SeqCst);
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("words", &self.words.len()).finish_non_exhaustive()
    }
}

/// A prefix, its open connections, and until when its rate is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    /// From the hash. Together with the set it tells prefixes apart.
    tag: u64,
    /// In ticks; the theoretical arrival time.
    used_until: u64,
    open: u32,
}

impl Word {
    /// The word with one more connection.
    fn admit(self, now: u64, limits: Limits) -> Result<Self, Exceeded> {
        if self.open >= limits.connections {
            return Err(Exceeded::Connections);
        }
        let open = self.open + 1;
        let Some(Rate { interval, tolerance }) = limits.rate else { return Ok(Self { open, ..self }) };
        let used_until = self.used_until.max(now);
        if used_until - now > tolerance {
            return Err(Exceeded::Rate);
        }
        Ok(Self { open, used_until: (used_until + interval).min(LATEST), ..self })
    }

    /// From the highest bit on: the tag, the time, the number of connections.
    fn pack(self) -> u128 {
        u128::from(self.tag) << (TIME_BITS + OPEN_BITS)
            | u128::from(self.used_until) << OPEN_BITS
            | u128::from(self.open)
    }

    fn unpack(word: u128) -> Self {
        Self {
            tag: (word >> (TIME_BITS + OPEN_BITS)) as u64,
            used_until: (word >> OPEN_BITS) as u64 & LATEST,
            open: word as u32 & MOST_OPEN,
        }
    }
}

impl Rate {
    /// `count` connections in `period`, `burst` of them at once.
    pub(super) fn new(count: u32, period: Duration, burst: u32) -> Self {
        let interval = ticks(period).div_ceil(u64::from(count)).max(1);
        Self { interval, tolerance: interval.saturating_mul(u64::from(burst) - 1).min(LATEST / 2) }
    }
}

/// A time in ticks.
pub(super) fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos() >> TICK_BITS).map_or(LATEST, |ticks| ticks.min(LATEST))
}

/// Places for each hash: two cache lines.
const WAYS: usize = 8;
/// A tick is 128 ns, so that 52 bits count 18 years.
const TICK_BITS: u32 = 7;
const TAG_BITS: u32 = 56;
const TIME_BITS: u32 = 52;
const OPEN_BITS: u32 = 20;
const LATEST: u64 = (1 << TIME_BITS) - 1;
const MOST_OPEN: u32 = (1 << OPEN_BITS) - 1;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const NO_LIMIT: Limits = Limits { connections: u32::MAX, rate: None };

    fn at_most(connections: u32) -> Limits {
        Limits { connections, rate: None }
    }

    fn place(counted: Counted) -> Index {
        match counted {
            Counted::At(index, None) => index,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_connection_over_the_limit_is_refused_until_one_has_left() {
        let table = Table::new(64);
        let held = [(); 3].map(|()| place(table.enter(1, 0, at_most(3), Enforce::Yes)));
        assert_eq!(table.enter(1, 0, at_most(3), Enforce::Yes), Counted::Over(Exceeded::Connections));
        place(table.enter(2, 0, at_most(3), Enforce::Yes));
        table.leave(held[0]);
        place(table.enter(1, 0, at_most(3), Enforce::Yes));
        // What is not enforced is counted all the same.
        let fourth = table.enter(1, 0, at_most(3), Enforce::No);
        assert!(matches!(fourth, Counted::At(_, Some(Exceeded::Connections))), "{fourth:?}");
        assert_eq!(table.enter(1, 0, at_most(4), Enforce::Yes), Counted::Over(Exceeded::Connections));
    }

    #[test]
    fn a_burst_comes_at_once_and_then_one_each_interval() {
        let table = Table::new(64);
        let second = ticks(Duration::from_secs(1));
        let limits = Limits { rate: Some(Rate::new(10, Duration::from_secs(1), 5)), ..NO_LIMIT };
        let admitted = |now| matches!(table.enter(7, now, limits, Enforce::Yes), Counted::At(..));
        assert_eq!((0..20).filter(|_| admitted(second)).count(), 5);
        // A tenth of a second later there is one more, and after a second's silence a whole burst.
        let later = second + second / 10 + 1;
        assert_eq!((0..20).filter(|_| admitted(later)).count(), 1);
        assert_eq!((0..20).filter(|_| admitted(later + second)).count(), 5);
    }

    #[test]
    fn whoever_has_open_connections_keeps_the_place_and_the_one_that_used_least_gives_way() {
        let table = Table::new(1);
        assert_eq!(table.words.len(), WAYS);
        let limits = |count| Limits { rate: Some(Rate::new(1, Duration::from_secs(count), 9)), ..NO_LIMIT };
        let open: Vec<Index> = (0..6).map(|prefix| place(table.enter(prefix, 0, NO_LIMIT, Enforce::Yes))).collect();
        // Two have left, and one of them has used more.
        for (prefix, seconds) in [(6, 9), (7, 3)] {
            table.leave(place(table.enter(prefix, 0, limits(seconds), Enforce::Yes)));
        }
        let eighth = place(table.enter(8, 0, NO_LIMIT, Enforce::Yes));
        let tag = (table.hash.hash_one(6u128) >> (64 - TAG_BITS)).max(1);
        assert!(table.find(0, tag).is_some_and(|(_, word)| word.tag == tag), "6 had used more than 7");
        place(table.enter(9, 0, NO_LIMIT, Enforce::Yes));
        assert_eq!(table.enter(10, 0, at_most(1), Enforce::Yes), Counted::Untracked);
        // Those that are tracked still are.
        assert_eq!(table.enter(3, 0, at_most(1), Enforce::Yes), Counted::Over(Exceeded::Connections));
        table.leave(eighth);
        place(table.enter(10, 0, at_most(1), Enforce::Yes));
        open.into_iter().for_each(|index| table.leave(index));
    }

    #[test]
    fn a_million_sources_take_no_more_memory() {
        let table = Table::new(65_536);
        let bytes = table.bytes();
        assert_eq!(bytes, 65_536 * 32);
        let limits = Limits { connections: 10, rate: Some(Rate::new(1, Duration::from_secs(3600), 1)) };
        for prefix in 0..1_000_000 {
            if let Counted::At(index, _) = table.enter(prefix, 1, limits, Enforce::Yes) {
                table.leave(index);
            }
        }
        assert_eq!(table.bytes(), bytes);
        // A client that comes then is tracked like any other.
        place(table.enter(u128::MAX, 1, limits, Enforce::Yes));
        assert_eq!(table.enter(u128::MAX, 1, limits, Enforce::Yes), Counted::Over(Exceeded::Rate));
    }

    #[test]
    fn nearly_all_of_as_many_as_there_is_room_for_are_tracked_at_once() {
        let table = Table::new(65_536);
        let untracked =
            (0..65_536).filter(|n| table.enter(*n, 0, NO_LIMIT, Enforce::Yes) == Counted::Untracked).count();
        assert!(untracked < 65_536 / 20, "{untracked}");
    }

    /// Two workers, all with one client: neither lets one in too many, nor refuses one too early.
    #[test]
    fn two_workers_count_together_to_the_last_connection() {
        let (table, start) = (Table::new(64), Barrier::new(2));
        for prefix in 0..500 {
            let (inside, most, admitted) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
            let worker = || {
                start.wait();
                let mut held = Vec::new();
                for turn in 0..200 {
                    if let Counted::At(index, _) = table.enter(prefix, 0, at_most(50), Enforce::Yes) {
                        held.push(index);
                        most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                        admitted.fetch_add(1, SeqCst);
                    }
                    if turn % 3 == 0
                        && let Some(index) = held.pop()
                    {
                        inside.fetch_sub(1, SeqCst);
                        table.leave(index);
                    }
                }
                held
            };
            let held = thread::scope(|scope| {
                let other = scope.spawn(worker);
                [worker(), other.join().unwrap()].concat()
            });
            assert!(most.load(SeqCst) <= 50, "{} at once", most.load(SeqCst));
            assert!(admitted.load(SeqCst) >= 50, "only {}", admitted.load(SeqCst));
            // Exactly the rest fits in.
            let rest: Vec<Index> =
                (held.len()..50).map(|_| place(table.enter(prefix, 0, at_most(50), Enforce::Yes))).collect();
            assert_eq!(table.enter(prefix, 0, at_most(50), Enforce::Yes), Counted::Over(Exceeded::Connections));
            held.into_iter().chain(rest).for_each(|index| table.leave(index));
        }
    }

    proptest! {
        /// The model: a bucket of `burst` tokens that fills by one each interval.
        #[test]
        fn the_rate_is_that_of_a_bucket_of_tokens(
            count in 1u32..1000,
            seconds in 1u64..100,
            burst in 1u32..20,
            steps in prop::collection::vec((0u64..3, 0u64..1 << 24), 1..200),
        ) {
            let rate = Rate::new(count, Duration::from_secs(seconds), burst);
            let (table, limits) = (Table::new(64), Limits { rate: Some(rate), ..NO_LIMIT });
            let mut full: HashMap<u128, (u64, u64)> = HashMap::new();
            let (mut now, capacity) = (1, u64::from(burst) * rate.interval);
            for (prefix, later) in steps {
                now += later;
                let (filled, at) = full.entry(prefix.into()).or_insert((capacity, now));
                (*filled, *at) = ((*filled + (now - *at)).min(capacity), now);
                let has_token = *filled >= rate.interval;
                if has_token {
                    *filled -= rate.interval;
                }
                let counted = table.enter(prefix.into(), now, limits, Enforce::Yes);
                prop_assert_eq!(matches!(counted, Counted::At(..)), has_token);
            }
        }

        #[test]
        fn a_word_holds_what_was_put_into_it(tag in 0..1u64 << TAG_BITS, used_until in 0..=LATEST, open in 0..=MOST_OPEN) {
            let word = Word { tag, used_until, open };
            prop_assert_eq!(Word::unpack(word.pack()), word);
        }
    }
}
