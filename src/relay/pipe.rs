//! Keeps the worker's pipes: one for each bulk direction that is blocked, each empty while it is in the pool.
//!
//! Failing to get a pipe is not an error: the direction copies instead.

use std::cell::RefCell;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use crate::descriptors;

/// A pipe, and how many bytes it holds. If dropped while holding bytes it is closed, never reused.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity_bytes: usize,
    held_bytes: usize,
    /// What it has taken of [`LARGE`].
    large_bytes: usize,
}

impl Pipe {
    pub(super) fn read_end(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.read)
    }

    pub(super) fn write_end(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.write)
    }

    pub(super) fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held_bytes == 0
    }

    pub(super) fn filled(&mut self, bytes: usize) {
        self.held_bytes += bytes;
    }

    pub(super) fn emptied(&mut self, bytes: usize) {
        self.held_bytes -= bytes;
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        LARGE.fetch_add(self.large_bytes, Ordering::Relaxed);
        // At thread exit the pool may be dropped before its pipes.
        let _ = POOL.try_with(|pool| {
            pool.try_borrow_mut().map(|mut pool| {
                pool.open -= 1;
                pool.show();
            })
        });
    }
}

/// Bounds this worker's pipes from now on, and shows them in [`all`]; never more than [`MOST_OPEN`] are open.
pub(crate) fn bound(most: usize) {
    POOL.with_borrow_mut(|pool| {
        pool.most = most.min(MOST_OPEN);
        let shown = pool.shown.get_or_insert_with(|| {
            let shown = Arc::<Shown>::default();
            SHOWN.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&shown));
            shown
        });
        shown.most.store(pool.most, Ordering::Relaxed);
    });
}

/// The pipes of all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pipes {
    /// They hold bytes in transit.
    pub in_use: usize,
    pub idle: usize,
    pub most: usize,
}

/// The pipes of all workers, as any thread may read them.
pub(crate) fn all() -> Pipes {
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    shown.iter().fold(Pipes::default(), |sum, shown| {
        let [open, idle, most] = [&shown.open, &shown.idle, &shown.most].map(|figure| figure.load(Ordering::Relaxed));
        Pipes { in_use: sum.in_use + open.saturating_sub(idle), idle: sum.idle + idle, most: sum.most + most }
    })
}

/// Takes an empty pipe of about `bytes`; `None` when the kernel or our own bound does not allow a useful one.
pub(super) fn take(bytes: usize) -> Option<Box<Pipe>> {
    POOL.with_borrow_mut(|pool| {
        if let Some(pipe) = pool.idle.pop() {
            pool.show();
            return Some(pipe);
        }
        if pool.open >= pool.most || pool.failed_at.is_some_and(|at| at.elapsed() < RETRY) {
            return None;
        }
        let pipe = open(bytes);
        pool.failed_at = pipe.is_none().then(Instant::now);
        pool.open += usize::from(pipe.is_some());
        pool.show();
        pipe
    })
}

/// Returns a pipe. One that still holds bytes, or is surplus, is closed.
pub(super) fn give_back(pipe: Box<Pipe>) {
    let surplus = POOL.with_borrow_mut(|pool| {
        if pipe.is_empty() && pool.idle.len() < MOST_IDLE {
            pool.idle.push(pipe);
            pool.show();
            return None;
        }
        Some(pipe)
    });
    // Dropped after the borrow ends, since Drop borrows again.
    drop(surplus);
}

#[cfg(target_os = "linux")]
fn open(bytes: usize) -> Option<Box<Pipe>> {
    use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    if descriptors::is_reserved(&write) {
        return None;
    }
    let least_bytes = bytes.min(LEAST_USEFUL_BYTES);
    QUOTA.call_once(|| LARGE.store(quota_of_large_pipes(), Ordering::Relaxed));
    let is_large = bytes > least_bytes
        && LARGE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok();
    let (wanted_bytes, large_bytes) = if is_large { (bytes, bytes) } else { (least_bytes, 0) };
    let mut pipe = Box::new(Pipe { read, write, capacity_bytes: 0, held_bytes: 0, large_bytes });
    // Beyond the user's quota the kernel returns EPERM, or has made the pipe tiny from the start (pipe(7)).
    let granted = fcntl_setpipe_size(&pipe.write, wanted_bytes).or_else(|_| fcntl_getpipe_size(&pipe.write));
    pipe.capacity_bytes = granted.ok()?;
    (pipe.capacity_bytes >= least_bytes).then_some(pipe)
}

/// How many bytes all large pipes together may have: half of the user's quota, so that the other half is left for
/// small ones. Otherwise 64 blocked transfers would take all of it.
#[cfg(target_os = "linux")]
fn quota_of_large_pipes() -> usize {
    use rustix::pipe::{fcntl_setpipe_size, pipe};
    let sysctl = |name| std::fs::read_to_string(format!("/proc/sys/fs/{name}")).ok()?.trim().parse::<usize>().ok();
    // A user who may exceed this limit has no quota. Capabilities do not show that: those of a user namespace do not
    // count.
    let may_exceed = |most: usize| pipe().is_ok_and(|(_read, write)| fcntl_setpipe_size(&write, 2 * most).is_ok());
    match sysctl("pipe-user-pages-soft") {
        Some(pages) if pages > 0 && !sysctl("pipe-max-size").is_some_and(may_exceed) => {
            pages.saturating_mul(rustix::param::page_size()) / 2
        }
        _ => usize::MAX,
    }
}

#[cfg(not(target_os = "linux"))]
fn open(_: usize) -> Option<Box<Pipe>> {
    None
}

struct Pool {
    /// Boxed, so that a direction without a pipe costs only a pointer.
    #[expect(clippy::vec_box, reason = "they move between directions and here without being boxed again")]
    idle: Vec<Box<Pipe>>,
    /// All of this worker's pipes, idle and in use.
    open: usize,
    most: usize,
    /// When the kernel last refused one.
    failed_at: Option<Instant>,
    /// Where other threads see them.
    shown: Option<Arc<Shown>>,
}

impl Pool {
    /// Two stores to memory that only this thread writes.
    fn show(&self) {
        if let Some(shown) = &self.shown {
            shown.open.store(self.open, Ordering::Relaxed);
            shown.idle.store(self.idle.len(), Ordering::Relaxed);
        }
    }
}

/// The pipes of one worker, for other threads.
#[derive(Debug, Default)]
struct Shown {
    open: AtomicUsize,
    idle: AtomicUsize,
    most: AtomicUsize,
}

/// What is left of [`quota_of_large_pipes`], for all workers.
static LARGE: AtomicUsize = AtomicUsize::new(0);
static QUOTA: Once = Once::new();
/// Those of each worker.
static SHOWN: Mutex<Vec<Arc<Shown>>> = Mutex::new(Vec::new());

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { idle: Vec::new(), open: 0, most: MOST_OPEN, failed_at: None, shown: None }) };
}

/// The most pipes of one worker, two descriptors each; counted in the descriptor budget.
pub(crate) const MOST_OPEN: usize = 256;
const MOST_IDLE: usize = 32;
/// Other workers, or other processes of the user, may have closed some by then.
const RETRY: Duration = Duration::from_millis(250);
const LEAST_USEFUL_BYTES: usize = 64 << 10;
