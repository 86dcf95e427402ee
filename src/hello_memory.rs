//! Bounds the total memory of all hellos that are not complete yet.
//!
//! In:  the bytes of each of them while it waits for more; the budget.
//! Out: a [`Held`], given back when dropped. Beyond the budget, the largest hello is refused first; once only small ones
//!      are left, the oldest. What a refused hello holds is freed at once, not when its task runs next.
//!
//! A hello that arrives in one piece is not counted. A small one takes no lock while the budget is mostly unused. The
//! rest of it suffices for thousands of small ones, so an honest client, which is younger than the stalled ones of an
//! attacker, completes its hello long before it would be refused.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Waker};

use crate::memory_limit;

/// Counts the bytes of unfinished hellos; one for the process, since memory is limited for the process.
#[derive(Default)]
pub(crate) struct Budget {
    bytes: AtomicUsize,
    next: AtomicU64,
    /// Those that may be refused. The next one to refuse comes last.
    listed: Mutex<BTreeMap<Rank, Listed>>,
}

/// The size in bytes, 0 for a small hello, and a number that is lower the older the hello is.
type Rank = (usize, Reverse<u64>);

struct Listed {
    bytes: usize,
    waiting: Arc<Mutex<Waiting>>,
}

/// The hellos of this process.
pub(crate) fn all() -> &'static Budget {
    static ALL: OnceLock<Budget> = OnceLock::new();
    ALL.get_or_init(Budget::default)
}

/// What one hello holds.
pub(crate) struct Held<'a> {
    budget: &'a Budget,
    age: Reverse<u64>,
    bytes: usize,
    /// Only if it is listed.
    waiting: Option<Arc<Mutex<Waiting>>>,
}

/// A hello between two polls of its task.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    is_refused: bool,
    waker: Option<Waker>,
}

/// The budget is used up, and this hello was the one to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

impl Budget {
    pub(crate) fn hold(&self) -> Held<'_> {
        Held { budget: self, age: Reverse(self.next.fetch_add(1, Ordering::Relaxed)), bytes: 0, waiting: None }
    }

    /// What the hellos hold that wait for more: the capacity of their buffers.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Refuses listed hellos until the rest is within `limit` bytes.
    fn enforce(&self, limit: usize) {
        while self.bytes() > limit {
            let Some((_, Listed { bytes, waiting })) = lock(&self.listed).pop_last() else { return };
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            let mut waiting = lock(&waiting);
            waiting.is_refused = true;
            waiting.bytes = Vec::new();
            if let Some(waker) = waiting.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Held<'_> {
    /// Counts `bytes`, of which there is at least one, while the hello waits for more. Takes them until
    /// [`Self::unpark`] if the hello may be refused meanwhile.
    ///
    /// # Errors
    /// The hello has been refused, now or earlier.
    pub(crate) fn park(&mut self, bytes: &mut Vec<u8>, limit: usize) -> Result<(), Refused> {
        let capacity = bytes.capacity();
        let is_listed = self.waiting.is_some() && capacity == self.bytes;
        if capacity != self.bytes {
            self.release()?;
            self.budget.bytes.fetch_add(capacity, Ordering::Relaxed);
            self.bytes = capacity;
        }
        let is_mostly_unused = self.budget.bytes() <= limit / UNLISTED_PART;
        if self.waiting.is_none() && capacity <= SMALL_BYTES && is_mostly_unused {
            return Ok(());
        }
        let rank = self.rank();
        let waiting = self.waiting.get_or_insert_default();
        lock(waiting).put(bytes)?;
        if !is_listed {
            lock(&self.budget.listed).insert(rank, Listed { bytes: capacity, waiting: Arc::clone(waiting) });
        }
        self.budget.enforce(limit);
        if lock(waiting).is_refused { Err(Refused) } else { Ok(()) }
    }

    /// Returns what [`Self::park`] took to `bytes`, which has not been touched since.
    ///
    /// # Errors
    /// The hello has been refused, and the bytes are gone.
    pub(crate) fn unpark(&mut self, bytes: &mut Vec<u8>) -> Result<(), Refused> {
        let Some(waiting) = &self.waiting else { return Ok(()) };
        let mut waiting = lock(waiting);
        if waiting.is_refused {
            return Err(Refused);
        }
        if bytes.is_empty() {
            *bytes = std::mem::take(&mut waiting.bytes);
        }
        Ok(())
    }

    /// Whether the hello has been refused; if not, the task is woken once it is.
    pub(crate) fn poll_refused(&self, cx: &Context<'_>) -> bool {
        let Some(waiting) = &self.waiting else { return false };
        let mut waiting = lock(waiting);
        waiting.waker = Some(cx.waker().clone());
        waiting.is_refused
    }

    fn rank(&self) -> Rank {
        (if self.bytes > SMALL_BYTES { self.bytes } else { 0 }, self.age)
    }

    fn release(&mut self) -> Result<(), Refused> {
        if self.bytes > 0 && self.waiting.is_some() {
            // If it is missing, it was refused, and its bytes have been subtracted.
            let listed = lock(&self.budget.listed).remove(&self.rank());
            listed.ok_or(Refused).inspect_err(|Refused| self.bytes = 0)?;
        }
        self.budget.bytes.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        Ok(())
    }
}

impl Waiting {
    fn put(&mut self, bytes: &mut Vec<u8>) -> Result<(), Refused> {
        if self.is_refused {
            return Err(Refused);
        }
        self.bytes = std::mem::take(bytes);
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = self.release();
    }
}

/// Appends what was `received` of a hello. Before it, at least `announced` more bytes were missing.
///
/// The buffer grows to the announced size, but no more than an eighth beyond what has come: neither does a length cost
/// memory, nor does a hello that comes byte by byte cost a copy each time. A hello in one piece fits exactly.
pub(crate) fn append(bytes: &mut Vec<u8>, received: &[u8], announced: usize) {
    if bytes.capacity() - bytes.len() < received.len() {
        let ahead = if bytes.is_empty() { 0 } else { MIN_AHEAD_BYTES.max(bytes.len() / 8) };
        bytes.reserve_exact(announced.min(received.len() + ahead).max(received.len()));
    }
    bytes.extend_from_slice(received);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `limits.hello_memory: auto`: a quarter of the memory that the process may use.
pub(crate) fn auto_bytes() -> usize {
    static AUTO: OnceLock<usize> = OnceLock::new();
    *AUTO.get_or_init(|| {
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total_kib = memory.strip_prefix("MemTotal:").and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        let total = total_kib.map_or(u64::MAX, |kib: u64| kib.saturating_mul(1024));
        let limit = memory_limit::of_group().unwrap_or(u64::MAX);
        usize::try_from(limit.min(total) / 4).unwrap_or(usize::MAX)
    })
}

/// More than any hello of a browser, on the wire.
const SMALL_BYTES: usize = 4 << 10;
/// The part of the budget that small hellos use without a lock; they cannot be refused.
const UNLISTED_PART: usize = 4;
const MIN_AHEAD_BYTES: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;

    /// As its task does it: the bytes so far and `more` are held, then it waits.
    fn grow(hello: &mut (Held, Vec<u8>), more: usize, limit: usize) -> Result<(), Refused> {
        let (held, bytes) = hello;
        held.unpark(bytes)?;
        append(bytes, &vec![7; more], 0);
        held.park(bytes, limit)
    }

    fn refused(hellos: &[(Held, Vec<u8>)]) -> Vec<usize> {
        let is_refused = |hello: &Held| hello.waiting.as_ref().is_some_and(|waiting| lock(waiting).is_refused);
        hellos.iter().enumerate().filter_map(|(number, (held, _))| is_refused(held).then_some(number)).collect()
    }

    #[test]
    fn the_largest_and_then_the_oldest_is_refused_and_what_it_holds_is_freed() {
        let budget = Budget::default();
        let mut hellos: Vec<_> = (0..5).map(|_| (budget.hold(), Vec::new())).collect();
        for (hello, bytes) in hellos.iter_mut().zip([20_000, 30_000, 30_000, 10_000]) {
            assert_eq!(grow(hello, bytes, 100_000), Ok(()));
        }
        assert_eq!((budget.bytes(), refused(&hellos)), (90_000, vec![]));
        assert_eq!(grow(&mut hellos[4], 4000, 70_000), Ok(()));
        assert_eq!((budget.bytes(), refused(&hellos)), (64_000, vec![1]));
        let waiting = hellos[1].0.waiting.as_ref().expect("it is listed");
        assert_eq!(lock(waiting).bytes.capacity(), 0);
        assert_eq!(grow(&mut hellos[1], 1, 100_000), Err(Refused));
        // The one that grows is the largest now.
        assert_eq!(grow(&mut hellos[0], 20_000, 70_000), Err(Refused));
        assert_eq!((budget.bytes(), refused(&hellos)), (44_000, vec![0, 1]));
        drop(hellos);
        assert_eq!(budget.bytes(), 0);
        assert!(lock(&budget.listed).is_empty());
    }

    #[test]
    fn of_small_ones_the_oldest_is_refused_and_the_budget_holds() {
        let (budget, limit) = (Budget::default(), 100_000);
        let mut hellos = Vec::new();
        for _ in 0..300 {
            let mut hello = (budget.hold(), Vec::new());
            assert_eq!(grow(&mut hello, 500, limit), Ok(()), "the youngest passes");
            hellos.push(hello);
            assert!(budget.bytes() <= limit);
        }
        // The first quarter of the budget is not listed; then there is room for 150 that are.
        assert_eq!(refused(&hellos), (50..150).collect::<Vec<_>>());
        assert_eq!(grow(&mut hellos[0], 1, limit), Err(Refused), "it is listed once it waits again, and is the oldest");
        drop(hellos);
        assert_eq!(budget.bytes(), 0);
        assert!(lock(&budget.listed).is_empty());
    }

    #[test]
    fn a_large_one_goes_before_an_older_small_one() {
        let budget = Budget::default();
        let mut hellos: Vec<_> = (0..3).map(|_| (budget.hold(), Vec::new())).collect();
        for (hello, bytes) in hellos.iter_mut().zip([4096, 4097, 4096]) {
            let _ = grow(hello, bytes, 10_000);
        }
        assert_eq!(refused(&hellos), [1]);
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_refused_one_is_woken() {
        let budget = Budget::default();
        let mut first = (budget.hold(), Vec::new());
        assert_eq!(grow(&mut first, 5000, 6000), Ok(()));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(!first.0.poll_refused(&Context::from_waker(&waker)));
        assert_eq!(grow(&mut (budget.hold(), Vec::new()), 4000, 6000), Ok(()));
        assert!(woken.0.load(Ordering::Relaxed) && first.0.poll_refused(&Context::from_waker(&waker)));
    }

    #[test]
    fn a_buffer_grows_to_what_is_announced_and_is_not_copied_for_each_byte() {
        let mut bytes = Vec::new();
        append(&mut bytes, &[7; 1400], 5);
        assert_eq!(bytes.capacity(), 1400, "the first piece fits exactly");
        append(&mut bytes, &[7; 10], 405);
        assert_eq!(bytes.capacity(), 1805, "and is announced to become a whole hello");
        let (whole, mut copies) = (65_561, 0);
        while bytes.len() < whole {
            let (before, announced) = (bytes.capacity(), whole - bytes.len());
            append(&mut bytes, &[7], announced);
            copies += usize::from(bytes.capacity() != before);
            assert!(bytes.capacity() <= whole.min(bytes.len() + 1024.max(bytes.len() / 8)), "{}", bytes.len());
        }
        assert_eq!(bytes.capacity(), whole);
        assert!(copies < 40, "{copies} copies");
    }
}
