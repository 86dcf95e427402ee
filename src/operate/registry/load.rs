//! Shows the other threads how busy a worker is.
//!
//! In:  the connections of one worker, as they enter and leave its registry; the clock of its thread.
//! Out: figures that any thread may read. Only the worker writes them, so a store is enough: no atomic add.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::ThreadClock;
use crate::telemetry::WorkerReading;

/// How busy one worker is.
#[derive(Debug)]
pub(crate) struct Load {
    worker: usize,
    accepted: AtomicU64,
    active: AtomicU64,
    clock: Option<ThreadClock>,
}

impl Load {
    /// Of the calling thread, which is worker number `worker`.
    pub(crate) fn of_this_thread(worker: usize) -> Self {
        Self {
            worker,
            accepted: AtomicU64::default(),
            active: AtomicU64::default(),
            clock: ThreadClock::of_this_thread(),
        }
    }

    /// A connection has entered; `active` are open now.
    pub(crate) fn entered(&self, active: usize) {
        self.accepted.store(self.accepted.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.left(active);
    }

    pub(super) fn left(&self, active: usize) {
        self.active.store(active as u64, Ordering::Relaxed);
    }

    /// How many connections the worker has open.
    pub(crate) fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    pub(super) fn read(&self) -> WorkerReading {
        WorkerReading {
            number: self.worker,
            accepted: self.accepted.load(Ordering::Relaxed),
            active: self.active.load(Ordering::Relaxed),
            busy_s: self.clock.and_then(ThreadClock::read).map(|busy| busy.as_secs_f64()),
        }
    }
}
