//! Counts the connections that no backend has answered yet by their ClientHello, to detect a loop through other proxies.
//!
//! In:  the first bytes of each connection that is about to be passed to a backend.
//! Out: [`InFlight`], dropped once the backend has answered; [`Suspect`] if many others with the same bytes are in flight.
//!
//! A hello has 32 random bytes, so clients never have the same one in flight twice; what loops does, and so does a client
//! that replays one. [`super::suspicion`] tells the two apart. Until there are many, a connection costs one hash and two
//! atomic operations, and there is no lock.

use std::hash::BuildHasher;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use foldhash::fast::FixedState;
use tokio::time::{Instant, sleep_until};

use super::suspicion::{Next, Suspicion};

/// A connection whose backend has not answered yet. Its bits: 1, its slot (15), its token if it is suspect, else 0 (16).
#[derive(Debug)]
pub(crate) struct InFlight(NonZeroU32);

/// A connection that may be one that came back. It must ask whether it [`loops`](Self::loops).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspect {
    key: u64,
    token: u16,
    next: Next,
}

/// A connection came back, and was going to be passed on again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loop {
    /// None was reported for a minute.
    pub is_news: bool,
}

/// Counts a connection that is about to be passed to a backend.
pub(crate) fn enter(first_bytes: &[u8]) -> (InFlight, Option<Suspect>) {
    let (number, suspect) = ALL.enter(first_bytes, Instant::now);
    (InFlight(number), suspect)
}

impl Suspect {
    /// Waits until it is known whether the connection may be passed on: milliseconds, at most some seconds.
    ///
    /// # Errors
    /// It is in a loop.
    pub(crate) async fn loops(mut self) -> Result<(), Loop> {
        loop {
            match self.next {
                Next::Clear | Next::Pass => return Ok(()),
                Next::Loops => return Err(Loop { is_news: ALL.suspicions().is_news(Instant::now()) }),
                Next::Wait(until) => sleep_until(until).await,
            }
            self.next = ALL.asks(self.key, self.token, Instant::now());
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        ALL.leave(self.0);
    }
}

/// The connections of the process: a loop may lead through any worker.
struct Table {
    slots: [Slot; SLOTS],
    tokens: AtomicU16,
    suspicions: Mutex<Suspicions>,
}

/// Connections whose hellos have the same low bits in their hash.
struct Slot {
    in_flight: AtomicU32,
    /// From how many on they are suspect; 0 if that was not decided yet.
    suspect_from: AtomicU32,
}

#[derive(Debug)]
struct Suspicions {
    list: Vec<Suspicion>,
    reported: Option<Instant>,
}

/// Zeros, so that it takes no memory until it is used.
static ALL: Table = Table::new();

impl Table {
    const fn new() -> Self {
        Self {
            slots: [const { Slot { in_flight: AtomicU32::new(0), suspect_from: AtomicU32::new(0) } }; SLOTS],
            tokens: AtomicU16::new(0),
            suspicions: Mutex::new(Suspicions { list: Vec::new(), reported: None }),
        }
    }

    fn enter(&self, first_bytes: &[u8], now: impl FnOnce() -> Instant) -> (NonZeroU32, Option<Suspect>) {
        let key = FixedState::with_seed(0).hash_one(&first_bytes[..first_bytes.len().min(HASHED_BYTES)]);
        let number = slot_of(key);
        let slot = &self.slots[number];
        let in_flight = slot.in_flight.fetch_add(1, Relaxed) + 1;
        let suspect = if in_flight < FEWEST { None } else { self.suspect(key, slot, in_flight, now) };
        let token = suspect.map_or(0, |suspect| suspect.token);
        let number = u32::try_from(number).expect("15 bits");
        (NonZeroU32::MIN | (number << 17) | (u32::from(token) << 1), suspect)
    }

    #[cold]
    fn suspect(&self, key: u64, slot: &Slot, in_flight: u32, now: impl FnOnce() -> Instant) -> Option<Suspect> {
        let mut rng = Rng::new();
        let from = match slot.suspect_from.load(Relaxed) {
            // Not the same everywhere: two instances that hold connections would each find the other's slow.
            0 => FEWEST + rng.u32(..FEWEST),
            decided => decided,
        };
        slot.suspect_from.store(from, Relaxed);
        if in_flight < from {
            return None;
        }
        let token = self.tokens.fetch_add(1, Relaxed).wrapping_add(1).max(1);
        let next = self.suspicions().arrives(key, slot, in_flight, now(), &mut rng);
        Some(Suspect { key, token, next })
    }

    fn asks(&self, key: u64, token: u16, now: Instant) -> Next {
        let slot = &self.slots[slot_of(key)];
        self.suspicions().asks(key, slot, token, now)
    }

    fn leave(&self, number: NonZeroU32) {
        let (number, token) = (number.get() >> 17, (number.get() >> 1) & u32::from(u16::MAX));
        let number = number as usize;
        let slot = &self.slots[number];
        if slot.in_flight.fetch_sub(1, Relaxed) == FEWEST {
            slot.suspect_from.store(0, Relaxed);
        }
        if let Some(token) = u16::try_from(token).ok().filter(|token| *token != 0) {
            self.suspicions().leaves(number, slot, token);
        }
    }

    fn suspicions(&self) -> MutexGuard<'_, Suspicions> {
        self.suspicions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Suspicions {
    fn arrives(&mut self, key: u64, slot: &Slot, in_flight: u32, now: Instant, rng: &mut Rng) -> Next {
        self.list.retain(|suspicion| !suspicion.is_over(now) || (suspicion.key == key && suspicion.waits()));
        let Some(at) = self.list.iter().position(|suspicion| suspicion.key == key) else {
            if self.list.len() == MOST_SUSPICIONS {
                return Next::Clear;
            }
            let (suspicion, next) = Suspicion::begin(key, now, rng);
            self.list.push(suspicion);
            // Each one that arrives counts.
            slot.suspect_from.store(FEWEST, Relaxed);
            return next;
        };
        let next = self.list[at].arrives(in_flight, now, rng);
        if next == Next::Clear {
            self.clear(at, slot);
        }
        next
    }

    fn asks(&mut self, key: u64, slot: &Slot, token: u16, now: Instant) -> Next {
        let Some(at) = self.list.iter().position(|suspicion| suspicion.key == key) else { return Next::Clear };
        let next = self.list[at].asks(token, now);
        if next == Next::Clear {
            self.clear(at, slot);
        }
        next
    }

    fn leaves(&mut self, slot_number: usize, slot: &Slot, token: u16) {
        let refuted = |suspicion: &Suspicion| slot_of(suspicion.key) == slot_number && suspicion.is_refuted_by(token);
        if let Some(at) = self.list.iter().position(refuted) {
            self.clear(at, slot);
        }
    }

    /// It is not a loop, or not only one: whoever replays one hello is left alone until there are many more.
    fn clear(&mut self, at: usize, slot: &Slot) {
        self.list.swap_remove(at);
        let in_flight = slot.in_flight.load(Relaxed).max(FEWEST);
        slot.suspect_from.store(in_flight.saturating_mul(2) + Rng::new().u32(..2 * FEWEST), Relaxed);
    }

    fn is_news(&mut self, now: Instant) -> bool {
        let is_news = self.reported.is_none_or(|reported| now >= reported + REPORTED_EVERY);
        if is_news {
            self.reported = Some(now);
        }
        is_news
    }
}

fn slot_of(key: u64) -> usize {
    key as usize % SLOTS
}

/// Enough that full limits alone make few of them suspect.
const SLOTS: usize = 1 << 14;
/// Up to the end of the session identifier, if the hello is in one record: record header (5), message header (4), version
/// (2), random (32), session identifier (33).
const HASHED_BYTES: usize = 76;
/// Connections in flight below this number are never suspect.
const FEWEST: u32 = 8;
const MOST_SUSPICIONS: usize = 16;
const REPORTED_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slot_counts_those_in_flight_and_forgets_them() {
        let table: &'static Table = Box::leak(Box::new(Table::new()));
        let enter = |bytes: &[u8]| table.enter(bytes, Instant::now);
        let mut numbers = Vec::new();
        for _ in 0..FEWEST - 1 {
            let (number, suspect) = enter(b"hello");
            assert!(suspect.is_none());
            numbers.push(number);
        }
        // Others do not count.
        for other in 0..1_000_u32 {
            assert!(enter(&other.to_be_bytes()).1.is_none());
        }
        let suspect = loop {
            let (number, suspect) = enter(b"hello");
            numbers.push(number);
            if suspect.is_some() {
                break suspect;
            }
        };
        assert!((FEWEST as usize..2 * FEWEST as usize).contains(&numbers.len()), "{}", numbers.len());
        assert!(suspect.is_some_and(|suspect| matches!(suspect.next, Next::Wait(_))));
        numbers.into_iter().for_each(|number| table.leave(number));
        assert_eq!(table.slots[slot_of(FixedState::with_seed(0).hash_one(&b"hello"[..]))].in_flight.load(Relaxed), 0);
        assert!(enter(b"hello").1.is_none());
    }

    #[test]
    fn a_loop_is_reported_once_a_minute() {
        let mut suspicions = Suspicions { list: Vec::new(), reported: None };
        let now = Instant::now();
        assert!(suspicions.is_news(now));
        assert!(!suspicions.is_news(now + Duration::from_secs(59)));
        assert!(suspicions.is_news(now + Duration::from_secs(60)));
    }
}
