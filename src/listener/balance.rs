//! Decides which worker serves a fresh connection, and takes it there.
//!
//! In:  how many connections each worker has open.
//! Out: the worker that accepted it, unless another one has clearly fewer open; then it is handed over, once, before
//!      anything is read.
//!
//! The kernel spreads connections over the sockets of the workers by a hash, not by load: of two connections that last
//! for hours, both often come to one worker while another idles. Where loads are even, the decision costs a few loads
//! from memory: no lock, no write and no wake-up.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::CurrentListener;
use crate::limits::Permit;
use crate::operate::registry::Load;

/// The workers, as one of them sees them.
#[derive(Clone)]
pub(crate) struct Balance {
    workers: Arc<[OnceLock<Worker>]>,
    /// `None`: not in a worker.
    own: Option<usize>,
}

/// A worker that takes connections from others.
struct Worker {
    inbox: UnboundedSender<Handed>,
    load: Arc<Load>,
    /// Connections in its inbox.
    on_the_way: AtomicU64,
}

/// A connection that another worker has accepted.
pub(crate) struct Handed {
    pub client: std::net::TcpStream,
    pub peer: SocketAddr,
    /// Of all connections: a shutdown waits for this one too.
    pub permit: Permit,
    pub current: CurrentListener,
}

impl Balance {
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| OnceLock::new()).collect(), own: None }
    }

    /// Makes this the view of worker `number`, which shows its load in `load`. Returns what others hand to it.
    pub(crate) fn join(&mut self, number: usize, load: Arc<Load>) -> UnboundedReceiver<Handed> {
        let (inbox, handed) = unbounded_channel();
        // A worker joins once.
        let _ = self.workers[number].set(Worker { inbox, load, on_the_way: AtomicU64::new(0) });
        self.own = Some(number);
        handed
    }

    /// Hands `client` to the least loaded worker, if that has clearly fewer connections than this one; returns it
    /// otherwise.
    pub(super) fn place(
        &self,
        client: TcpStream,
        peer: SocketAddr,
        permit: Permit,
        current: &CurrentListener,
    ) -> Option<(TcpStream, Permit)> {
        let Some(other) = self.lighter() else { return Some((client, permit)) };
        match client.into_std() {
            Ok(client) => {
                other.on_the_way.fetch_add(1, Ordering::Relaxed);
                // It fails only if that worker has ended, as all do at the end of a drain.
                let _ = other.inbox.send(Handed { client, peer, permit, current: current.clone() });
            }
            Err(error) => tracing::debug!(event = "accept_failed", %error, "accept failed"),
        }
        None
    }

    /// A connection has left this worker's inbox.
    pub(super) fn arrived(&self) {
        if let Some(worker) = self.own.and_then(|own| self.workers[own].get()) {
            worker.on_the_way.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn lighter(&self) -> Option<&Worker> {
        let mine = match self.own.and_then(|own| self.workers[own].get()) {
            Some(worker) if self.workers.len() > 1 => worker.open(),
            _ => return None,
        };
        if mine == 0 {
            return None;
        }
        let others = self.workers.iter().filter_map(OnceLock::get).map(|worker| (worker.open(), worker));
        let (theirs, worker) = others.min_by_key(|(open, _)| *open)?;
        is_clearly_less(theirs, mine).then_some(worker)
    }
}

impl Worker {
    fn open(&self) -> u64 {
        self.load.active() + self.on_the_way.load(Ordering::Relaxed)
    }
}

/// Whether a wake-up of another worker is worth it: half as many again, which chance makes of many short connections only
/// seldom.
fn is_clearly_less(theirs: u64, mine: u64) -> bool {
    mine > theirs + theirs / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_difference_is_worth_a_wake_up() {
        for (theirs, mine) in [(0, 1), (1, 2), (2, 4), (10, 16), (1000, 1501)] {
            assert!(is_clearly_less(theirs, mine), "{theirs} {mine}");
        }
        for (theirs, mine) in [(0, 0), (1, 1), (2, 3), (10, 15), (1000, 1500), (16, 10)] {
            assert!(!is_clearly_less(theirs, mine), "{theirs} {mine}");
        }
    }

    #[test]
    fn alone_or_outside_of_a_worker_nothing_is_handed_over() {
        assert!(Balance::new(4).lighter().is_none());
        let mut alone = Balance::new(1);
        let load = Arc::new(Load::of_this_thread(0));
        let _inbox = alone.join(0, Arc::clone(&load));
        load.entered(7);
        assert!(alone.lighter().is_none());
    }

    #[test]
    fn connections_on_the_way_count_as_open() {
        let mut first = Balance::new(3);
        let (mut second, loads) = (first.clone(), [0, 1].map(|number| Arc::new(Load::of_this_thread(number))));
        let _first = first.join(0, Arc::clone(&loads[0]));
        let _second = second.join(1, Arc::clone(&loads[1]));
        // The third has not begun yet.
        assert!(first.lighter().is_none(), "nothing is open");
        loads[0].entered(1);
        let other = first.lighter().expect("the second has none");
        assert!(second.lighter().is_none());
        other.on_the_way.fetch_add(1, Ordering::Relaxed);
        assert!(first.lighter().is_none());
        loads[0].entered(2);
        assert!(first.lighter().is_some());
        second.arrived();
        loads[1].entered(2);
        assert!(first.lighter().is_none());
    }
}
