//! Bounds the total memory of all hellos that are not complete yet.
//!
//! In:  how many bytes each of them holds, as it grows; the budget.
//! Out: a [`Held`], given back when dropped; beyond the budget, the largest and oldest hello is refused first.
//!
//! A hello that arrives in one piece is not counted, and small ones are never refused: an honest client gets through
//! however much memory an attacker uses.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Waker};

/// Counts the bytes of unfinished hellos; one for the process, since memory is limited for the process.
#[derive(Default)]
pub(crate) struct Budget {
    bytes: AtomicUsize,
    next: AtomicU64,
    /// The largest comes last, and of two of the same size the older.
    large: Mutex<BTreeMap<BySizeAndAge, Arc<Mutex<Victim>>>>,
}

/// The size in bytes, and a number that is lower the older the hello is.
type BySizeAndAge = (usize, Reverse<u64>);

pub(crate) static ALL: OnceLock<Budget> = OnceLock::new();

/// What one hello holds.
pub(crate) struct Held<'a> {
    budget: &'a Budget,
    bytes: usize,
    large: Option<(Reverse<u64>, Arc<Mutex<Victim>>)>,
}

#[derive(Default)]
struct Victim {
    is_refused: bool,
    waker: Option<Waker>,
}

/// The hello is the largest, and the budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

impl Budget {
    pub(crate) fn hold(&self) -> Held<'_> {
        Held { budget: self, bytes: 0, large: None }
    }

    /// Refuses the largest until the rest is within `limit` bytes, or only small ones are left.
    fn enforce(&self, limit: usize) {
        while self.bytes.load(Ordering::Relaxed) > limit {
            let Some(((bytes, _), victim)) = lock(&self.large).pop_last() else { return };
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            let mut victim = lock(&victim);
            victim.is_refused = true;
            if let Some(waker) = victim.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Held<'_> {
    /// Must be called whenever the hello has grown to `bytes` and is not complete.
    ///
    /// # Errors
    /// The hello has been refused, now or since the last call.
    pub(crate) fn grow(&mut self, bytes: usize, limit: usize) -> Result<(), Refused> {
        self.release()?;
        self.budget.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes = bytes;
        if bytes > SMALL_BYTES {
            let next = || (Reverse(self.budget.next.fetch_add(1, Ordering::Relaxed)), Arc::default());
            let (age, victim) = self.large.get_or_insert_with(next);
            lock(&self.budget.large).insert((bytes, *age), Arc::clone(victim));
        }
        if self.budget.bytes.load(Ordering::Relaxed) > limit {
            self.budget.enforce(limit);
        }
        if self.is_refused(None) { Err(Refused) } else { Ok(()) }
    }

    /// Whether the hello has been refused; if not, the task is woken once it is.
    pub(crate) fn poll_refused(&self, cx: &Context<'_>) -> bool {
        self.is_refused(Some(cx.waker()))
    }

    fn is_refused(&self, waker: Option<&Waker>) -> bool {
        let Some((_, victim)) = &self.large else { return false };
        let mut victim = lock(victim);
        victim.waker = waker.cloned();
        victim.is_refused
    }

    fn release(&mut self) -> Result<(), Refused> {
        let bytes = std::mem::take(&mut self.bytes);
        if let Some((age, _)) = self.large.as_ref().filter(|_| bytes > SMALL_BYTES) {
            // If it is missing, it was refused, and its bytes have been subtracted.
            lock(&self.budget.large).remove(&(bytes, *age)).ok_or(Refused)?;
        }
        self.budget.bytes.fetch_sub(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = self.release();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `limits.hello_memory: auto`: a quarter of the memory that the process may use.
pub(crate) fn auto_bytes() -> usize {
    static AUTO: OnceLock<usize> = OnceLock::new();
    *AUTO.get_or_init(|| {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total_kib = memory.strip_prefix("MemTotal:").and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        let total = total_kib.map_or(u64::MAX, |kib: u64| kib.saturating_mul(1024));
        let limit = cgroup_limit(&groups, Path::new("/sys/fs/cgroup")).unwrap_or(u64::MAX);
        usize::try_from(limit.min(total) / 4).unwrap_or(usize::MAX)
    })
}

/// The lowest memory limit of the groups in `groups` (/proc/self/cgroup) and of those around them. In a container,
/// whose own group is mounted at `root`, the paths need not exist.
fn cgroup_limit(groups: &str, root: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let (mount, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let limit = |group: &Path| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
        mount.join(path).ancestors().take_while(|group| group.starts_with(&mount)).filter_map(limit).min()
    });
    limits.min()
}

/// Counted twice, as `peek` does it: 4 KiB on the wire, more than any hello of a browser.
const SMALL_BYTES: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_and_then_the_oldest_is_refused_and_small_ones_pass() {
        let budget = Budget::default();
        let mut held: Vec<_> = (0..4).map(|_| budget.hold()).collect();
        for (held, bytes) in held.iter_mut().zip([20_000, 30_000, 30_000, 10_000]) {
            assert_eq!(held.grow(bytes, 100_000), Ok(()));
        }
        let mut small = budget.hold();
        assert_eq!(small.grow(8000, 70_000), Ok(()));
        assert_eq!(held.iter().map(|held| held.is_refused(None)).collect::<Vec<_>>(), [false, true, false, false]);
        assert_eq!(small.grow(8001, 1), Ok(()), "small ones pass");
        assert!(held.iter().all(|held| held.is_refused(None)));
        assert_eq!(held[0].grow(20_001, 100_000), Err(Refused));
        drop((held, small));
        assert_eq!(budget.bytes.load(Ordering::Relaxed), 0);
        assert!(lock(&budget.large).is_empty());
    }

    #[test]
    fn the_least_limit_of_both_kinds_of_groups_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("below the root")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("memory.max", "max\n");
        write("a/memory.max", "5000\n");
        write("a/b/memory.max", "max\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/c/memory.limit_in_bytes", "4000\n");
        assert_eq!(cgroup_limit("0::/a/b\n", root.path()), Some(5000));
        assert_eq!(cgroup_limit("0::/a/b\n4:cpu,memory:/c/d\n", root.path()), Some(4000));
        assert_eq!(cgroup_limit("0::/\n", root.path()), None);
    }
}
