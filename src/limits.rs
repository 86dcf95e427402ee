//! Bounds how many connections are open at once: in total, and per listener.
//!
//! In:  a bound, read from the snapshot on each accept, so that a reload takes effect at once.
//! Out: a [`Permit`], given back when dropped.

mod pause;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

pub(crate) use self::pause::Pause;

/// Counts the open connections, and wakes tasks that wait for a free place or for the last one to be returned.
#[derive(Debug, Default)]
pub(crate) struct Permits {
    open: AtomicUsize,
    given_back: Notify,
}

/// A place under a limit, returned when dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Permits>);

impl Permits {
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Takes a place, however many are in use.
    pub(crate) fn acquire(self: &Arc<Self>) -> Permit {
        self.open.fetch_add(1, Ordering::SeqCst);
        Permit(Arc::clone(self))
    }

    /// Takes a place if fewer than `most` are in use.
    pub(crate) fn try_acquire(self: &Arc<Self>, most: usize) -> Option<Permit> {
        let taken = self.open.fetch_add(1, Ordering::SeqCst);
        let permit = Permit(Arc::clone(self));
        (taken < most).then_some(permit)
    }

    /// Waits until `enough` returns true for the number of open places.
    pub(crate) async fn wait_until(&self, enough: impl Fn(usize) -> bool) {
        loop {
            let mut given_back = std::pin::pin!(self.given_back.notified());
            // Registered before the check, so that a permit returned between the two is not missed.
            given_back.as_mut().enable();
            if enough(self.open()) {
                return;
            }
            given_back.await;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back() {
        let permits = Arc::new(Permits::default());
        let first = permits.try_acquire(1);
        assert!(first.is_some() && permits.try_acquire(1).is_none());
        drop(first);
        assert_eq!(permits.open(), 0);
        assert!(permits.try_acquire(1).is_some());
    }

    #[tokio::test]
    async fn waiting_ends_when_a_place_is_given_back() {
        let permits = Arc::new(Permits::default());
        let held = permits.try_acquire(1);
        let wait = permits.wait_until(|open| open == 0);
        let (_, ()) = tokio::join!(async { drop(held) }, wait);
    }
}
