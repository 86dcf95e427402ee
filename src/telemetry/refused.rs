//! Passes the clients that were turned away from the workers to the status.
//!
//! In:  each client that was turned away, on its worker.
//! Out: the same, a few times a second, on the control thread. What does not fit is only counted.
//!
//! The channel is bounded and allocated at the start, and its receiver never blocks: sending takes no lock and wakes
//! nobody.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::Reason;

/// A client that was turned away.
#[derive(Debug)]
pub(crate) struct Refused {
    pub at: SystemTime,
    pub reason: Reason,
    pub listener: Arc<str>,
    pub client: SocketAddr,
    /// The name that it asked for.
    pub name: Option<Box<str>>,
    pub route: Option<Arc<str>>,
}

pub(super) struct Feed {
    sender: SyncSender<Refused>,
    receiver: Mutex<Receiver<Refused>>,
    lost: AtomicU64,
}

impl Feed {
    pub(super) fn new() -> Self {
        let (sender, receiver) = sync_channel(ROOM);
        Self { sender, receiver: Mutex::new(receiver), lost: AtomicU64::new(0) }
    }

    pub(super) fn send(&self, refused: Refused) {
        if self.sender.try_send(refused).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Passes what has been sent since the last call to `take`.
    pub(super) fn drain(&self, take: impl FnMut(Refused)) {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        // Bounded, since workers go on sending.
        receiver.try_iter().take(ROOM).for_each(take);
    }

    /// How many did not fit.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Between two calls of `drain`.
const ROOM: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let feed = Feed::new();
        let refused = |port| Refused {
            at: SystemTime::now(),
            reason: Reason::NoRoute,
            listener: "l".into(),
            client: ([127, 0, 0, 1], port).into(),
            name: Some("a.test".into()),
            route: None,
        };
        (0..600).for_each(|port| feed.send(refused(port)));
        let mut ports = Vec::new();
        feed.drain(|refused| ports.push(refused.client.port()));
        assert_eq!((ports, feed.lost()), ((0..512).collect(), 88));
        feed.send(refused(7));
        feed.drain(|refused| assert_eq!(refused.client.port(), 7));
    }
}
