//! Accepts clients on one address, for one worker.
//!
//! In:  a listening socket; limits.
//! Out: a task for each client; a pause when there is no room or no descriptor.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use crate::connection::{self, Accepted};
use crate::drain::{Phase, Watch};
use crate::limits::Permits;
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
    pub ids: Arc<AtomicU64>,
    /// What `limits.max_connections: auto` comes to here.
    pub auto_max_connections: usize,
    pub drain: Watch,
}

/// Accepts until the drain begins; then takes what the kernel has queued already, and closes.
pub async fn accept(socket: TcpListener, listener: Listener, shared: Shared) {
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
        let mut in_a_row = 0;
        loop {
            self.wait_for_room().await;
            match socket.accept().await {
                Ok((client, peer)) => self.admit(client, peer),
                Err(error) => self.pause_after(&error).await,
            }
            in_a_row += 1;
            if in_a_row % MOST_ACCEPTS_IN_A_ROW == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// A socket that is closed loses what is queued on it, so that is taken first.
    async fn accept_queued(&mut self, socket: &TcpListener) {
        while let Ok(Ok((client, peer))) = tokio::time::timeout(Duration::ZERO, socket.accept()).await {
            self.admit(client, peer);
        }
    }

    /// The global limit: what cannot be served waits in the kernel's queue.
    async fn wait_for_room(&mut self) {
        let most = self.most();
        if self.shared.permits.open() < most {
            return;
        }
        self.listener.metrics.accept_paused(Paused::Yes);
        self.shared.metrics.limit_rejected(LimitScope::Global, Enforced::Yes);
        let permits = Arc::clone(&self.shared.permits);
        // A reload may raise the limit, so the wait is not for ever.
        let _ = tokio::time::timeout(LIMIT_LOOK, permits.wait_until(|open| open < most)).await;
        self.listener.metrics.accept_paused(Paused::No);
    }

    fn most(&mut self) -> usize {
        let limits = self.snapshot.load().settings.limits;
        limits.max_connections.unwrap_or(self.shared.auto_max_connections)
    }

    fn admit(&mut self, client: TcpStream, peer: SocketAddr) {
        let snapshot = Arc::clone(self.snapshot.load());
        let on_listener = snapshot.settings.listeners[self.listener.number].max_connections.unwrap_or(usize::MAX);
        // The global limit was waited for; two workers may overshoot it by one each.
        let Some(permit) = self.shared.permits.try_acquire(usize::MAX) else { return };
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
