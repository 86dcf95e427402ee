//! Accepts clients on one address, for one worker.
//!
//! In:  a listening socket; limits.
//! Out: a task for each client; a pause when there is no room or no descriptor.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::connection::{self, Accepted};
use crate::drain::{Phase, Watch};
use crate::limits::{Permit, Permits};
use crate::snapshot::Snapshot;
use crate::socket;
use crate::telemetry::{AcceptError, Enforced, LimitScope, ListenerMetrics, Metrics, Paused, Reason};

/// What all workers share of one listener.
#[derive(Clone)]
pub struct Listener {
    /// Its place in the configuration.
    pub number: usize,
    pub metrics: Arc<ListenerMetrics>,
    pub permits: Arc<Permits>,
}

/// What all listeners share.
#[derive(Clone)]
pub struct Shared {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub metrics: Arc<Metrics>,
    pub permits: Arc<Permits>,
    /// Listening sockets that may still have clients queued.
    pub doors: Arc<Permits>,
    pub ids: Arc<AtomicU64>,
    /// What `limits.max_connections: auto` comes to here.
    pub auto_max_connections: usize,
    /// Of each worker.
    pub most_pipes: usize,
    pub drain: Watch,
}

/// Accepts until the drain begins; then takes what the kernel has queued already, closes, and gives `_door` back.
pub async fn accept(socket: TcpListener, listener: Listener, shared: Shared, _door: Permit) {
    let mut drain = shared.drain.clone();
    let mut door = Door { snapshot: Cache::new(Arc::clone(&shared.snapshot)), listener, shared };
    tokio::select! {
        () = drain.reached(Phase::Draining) => {}
        () = door.accept_forever(&socket) => {}
    }
    door.accept_queued(&socket).await;
}

struct Door {
    snapshot: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    listener: Listener,
    shared: Shared,
}

impl Door {
    async fn accept_forever(&mut self, socket: &TcpListener) {
        loop {
            for _ in 0..MOST_ACCEPTS_IN_A_ROW {
                self.wait_for_room().await;
                match socket.accept().await {
                    Ok((client, peer)) => self.admit(client, peer),
                    Err(error) => self.pause_after(&error).await,
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// A socket that is closed loses what is queued on it, so that is taken first.
    async fn accept_queued(&mut self, socket: &TcpListener) {
        loop {
            // First, and often enough: tokio calls a queue empty that was looked at too often in one turn of the task.
            tokio::task::yield_now().await;
            for _ in 0..MOST_ACCEPTS_IN_A_ROW {
                match poll_fn(|cx| Poll::Ready(socket.poll_accept(cx))).await {
                    Poll::Ready(Ok((client, peer))) => self.admit(client, peer),
                    Poll::Ready(Err(error)) => self.pause_after(&error).await,
                    Poll::Pending => return,
                }
            }
        }
    }

    /// The global limit: what cannot be served waits in the kernel's queue.
    async fn wait_for_room(&mut self) {
        if self.shared.permits.open() < self.most() {
            return;
        }
        self.listener.metrics.accept_paused(Paused::Yes);
        self.shared.metrics.limit_rejected(LimitScope::Global, Enforced::Yes);
        let permits = Arc::clone(&self.shared.permits);
        loop {
            let most = self.most();
            // A reload may change the limit, so it is looked at again now and then.
            if timeout(LIMIT_LOOK, permits.wait_until(|open| open < most)).await.is_ok() {
                break;
            }
        }
        self.listener.metrics.accept_paused(Paused::No);
    }

    fn most(&mut self) -> usize {
        let limits = self.snapshot.load().config.limits;
        limits.max_connections.unwrap_or(self.shared.auto_max_connections)
    }

    fn admit(&mut self, client: TcpStream, peer: SocketAddr) {
        let snapshot = Arc::clone(self.snapshot.load());
        let on_listener = snapshot.config.listeners[self.listener.number].max_connections.unwrap_or(usize::MAX);
        // The global limit was waited for; those who waited together may overshoot it by one each.
        let permit = self.shared.permits.acquire();
        let Some(listener_permit) = self.listener.permits.try_acquire(on_listener) else {
            return self.turn_away(&client);
        };
        let accepted = Accepted {
            id: self.shared.ids.fetch_add(1, Ordering::Relaxed),
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            at: Instant::now(),
            listener: self.listener.number,
            listener_metrics: Arc::clone(&self.listener.metrics),
            metrics: Arc::clone(&self.shared.metrics),
            snapshot,
            permits: (permit, listener_permit),
        };
        tokio::spawn(connection::serve(client, accepted));
    }

    /// Over the listener's own limit: RST, before a byte is read.
    fn turn_away(&self, client: &TcpStream) {
        drop(self.listener.metrics.accepted());
        self.listener.metrics.closed_unrouted(Reason::LimitListener);
        self.shared.metrics.limit_rejected(LimitScope::Listener, Enforced::Yes);
        socket::reset_on_drop(client);
    }

    /// Out of descriptors, a loop that goes on without a pause makes a million failed accepts a second.
    async fn pause_after(&self, error: &io::Error) {
        let kind = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => AcceptError::Descriptors,
            Some(libc::ENOBUFS | libc::ENOMEM) => AcceptError::Memory,
            Some(libc::ECONNABORTED) => AcceptError::Aborted,
            _ => AcceptError::Other,
        };
        self.listener.metrics.accept_error(kind);
        if kind == AcceptError::Aborted {
            return;
        }
        tracing::debug!(%error, "accept failed");
        self.listener.metrics.accept_paused(Paused::Yes);
        sleep(ACCEPT_PAUSE).await;
        self.listener.metrics.accept_paused(Paused::No);
    }
}

/// Then others on the worker have a turn.
const MOST_ACCEPTS_IN_A_ROW: u32 = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const LIMIT_LOOK: Duration = Duration::from_secs(1);
