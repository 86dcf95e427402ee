//! Keeps the clients of one pool that wait for a place on a backend: first come, first served, over all workers.
//!
//! In:  clients that found every backend full; places that become free.
//! Out: a call for the first in line, which may then try to take a place.
//!
//! The lock is taken only while somebody waits. A connection that ends otherwise loads one atomic. No call is lost: who
//! joins, or goes back, looks for a free place afterwards, and who gives one back looks for somebody waiting afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use super::Pool;

/// The clients that wait for a place on a backend of the pool of one name, across reloads.
#[derive(Debug, Default)]
pub(crate) struct WaitQueue {
    length: AtomicUsize,
    line: Mutex<Line>,
    /// The pool of this name in force, once a reload has replaced the first.
    in_force: Mutex<Weak<Pool>>,
}

/// Clients by their number, which is lower the earlier they came.
#[derive(Debug, Default)]
struct Line {
    next: u64,
    waiting: BTreeMap<u64, Option<Waker>>,
    /// Those that may try to take a place, until they have one, leave or go back.
    called: BTreeSet<u64>,
}

/// A client in line. It leaves when this is dropped; if it was called, the next one is called instead.
#[derive(Debug)]
pub(crate) struct InLine {
    queue: Arc<WaitQueue>,
    number: u64,
}

impl WaitQueue {
    /// Joins at the end; `None` if `most` are waiting already. Look for a free place afterwards.
    pub(crate) fn join(self: &Arc<Self>, most: usize) -> Option<InLine> {
        let number = {
            let mut line = self.lock();
            if line.len() >= most {
                return None;
            }
            let number = line.next;
            line.next += 1;
            line.waiting.insert(number, None);
            self.length.store(line.len(), SeqCst);
            number
        };
        fence(SeqCst);
        Some(InLine { queue: Arc::clone(self), number })
    }

    /// How many clients wait.
    pub(crate) fn length(&self) -> usize {
        self.length.load(SeqCst)
    }

    /// Calls the first that has not been called yet.
    pub(crate) fn call_first(&self) {
        if self.length() == 0 {
            return;
        }
        let waker = {
            let mut line = self.lock();
            let Some((number, waker)) = line.waiting.pop_first() else { return };
            line.called.insert(number);
            waker
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The pool that clients who wait should use; `None`: the one that they came with.
    pub(crate) fn in_force(&self) -> Option<Arc<Pool>> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// A reload has put `pool` in force. The first in line finds out what that changes for it, and so do those behind it.
    pub(crate) fn is_now_of(&self, pool: &Arc<Pool>) {
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(pool);
        self.call_first();
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn len(&self) -> usize {
        self.waiting.len() + self.called.len()
    }
}

impl InLine {
    /// Waits until it is this client's turn to try to take a place.
    pub(crate) async fn called(&self) {
        poll_fn(|cx| self.poll_called(cx)).await;
    }

    fn poll_called(&self, cx: &Context<'_>) -> Poll<()> {
        match self.queue.lock().waiting.get_mut(&self.number) {
            None => Poll::Ready(()),
            Some(waker) => {
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// There was no place after all: it waits again, where it was. Look for a free place afterwards.
    pub(crate) fn goes_back(&self) {
        let mut line = self.queue.lock();
        if line.called.remove(&self.number) {
            line.waiting.insert(self.number, None);
        }
        drop(line);
        fence(SeqCst);
    }

    /// It has a place, and nobody is called instead.
    pub(crate) fn served(self) {
        self.queue.lock().called.remove(&self.number);
        // Its drop does the rest.
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        let was_called = {
            let mut line = self.queue.lock();
            line.waiting.remove(&self.number);
            let was_called = line.called.remove(&self.number);
            self.queue.length.store(line.len(), SeqCst);
            was_called
        };
        if was_called {
            self.queue.call_first();
        }
    }
}

#[cfg(test)]
#[path = "queue/tests.rs"]
mod tests;
