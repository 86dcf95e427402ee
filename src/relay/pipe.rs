//! Keeps the worker's pipes: one for each bulk direction that is blocked, each empty while it is in the pool.
//!
//! Failing to get a pipe is not an error: the direction copies instead.

use std::cell::RefCell;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::descriptors;

/// A pipe, and how many bytes it holds. If dropped while holding bytes it is closed, never reused.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity_bytes: usize,
    held_bytes: usize,
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
        // At thread exit the pool may be dropped before its pipes.
        let _ = POOL.try_with(|pool| pool.try_borrow_mut().map(|mut pool| pool.open -= 1));
    }
}

/// Bounds this worker's pipes from now on; never more than [`MOST_OPEN`] are open.
pub(crate) fn bound(most: usize) {
    POOL.with_borrow_mut(|pool| pool.most = most.min(MOST_OPEN));
}

/// Takes an empty pipe of about `bytes`; `None` when the kernel or our own bound does not allow a useful one.
pub(super) fn take(bytes: usize) -> Option<Box<Pipe>> {
    POOL.with_borrow_mut(|pool| {
        if let Some(pipe) = pool.idle.pop() {
            return Some(pipe);
        }
        if pool.open >= pool.most {
            return None;
        }
        let pipe = open(bytes)?;
        pool.open += 1;
        Some(pipe)
    })
}

/// Returns a pipe. One that still holds bytes, or is surplus, is closed.
pub(super) fn give_back(pipe: Box<Pipe>) {
    let surplus = POOL.with_borrow_mut(|pool| {
        if pipe.is_empty() && pool.idle.len() < MOST_IDLE {
            pool.idle.push(pipe);
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
    // Beyond the user's pipe quota the kernel returns EPERM, or has made the pipe tiny from the start (pipe(7)).
    let granted = fcntl_setpipe_size(&write, bytes).or_else(|_| fcntl_getpipe_size(&write)).ok()?;
    (granted >= LEAST_USEFUL_BYTES).then(|| Box::new(Pipe { read, write, capacity_bytes: granted, held_bytes: 0 }))
}

#[cfg(not(target_os = "linux"))]
fn open(_: usize) -> Option<Box<Pipe>> {
    None
}

struct Pool {
    /// Boxed, so that a direction without a pipe costs only a pointer.
    #[expect(clippy::vec_box, reason = "they move between directions and here without being boxed anew")]
    idle: Vec<Box<Pipe>>,
    /// All of this worker's pipes, idle and in use.
    open: usize,
    most: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { idle: Vec::new(), open: 0, most: MOST_OPEN }) };
}

/// The most pipes of one worker, two descriptors each; counted in the descriptor budget.
pub(crate) const MOST_OPEN: usize = 256;
const MOST_IDLE: usize = 32;
const LEAST_USEFUL_BYTES: usize = 64 << 10;
