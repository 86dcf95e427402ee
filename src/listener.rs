//! Accepts clients on one address, for one worker.
//!
//! In:  a listening socket; limits; orders, as reloads and the end of the process bring them.
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
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::connection::{self, Accepted};
use crate::drain::Watch;
use crate::limits::{Permit, Permits};
use crate::operate::registry::{self, Rosters};
use crate::snapshot::Snapshot;
use crate::socket;
use crate::telemetry::{AcceptError, Enforced, LimitScope, ListenerMetrics, Metrics, Paused, Reason};

/// What all workers share of one listener, for as long as the configuration has its name.
#[derive(Clone)]
pub(crate) struct Listener {
    pub name: Arc<str>,
    pub metrics: Arc<ListenerMetrics>,
    pub permits: Arc<Permits>,
}

/// What an accept loop is told while it runs.
#[derive(Clone)]
pub(crate) enum Order {
    /// Take nobody yet.
    Wait,
    /// Accept for this listener. Its name may be new: a listening socket outlives a listener that is renamed.
    Serve(Listener),
    /// Take nobody new; serve those whom the kernel has accepted, or is accepting, already; close.
    Drain,
    /// Close: somebody else accepts from the same socket.
    Leave,
}

/// A listener, and its place in one snapshot: whoever comes in is served by both.
#[derive(Clone)]
pub(crate) struct Standing {
    listener: Listener,
    snapshot: Arc<Snapshot>,
    /// An index into the listeners of `snapshot`.
    number: usize,
}

impl Standing {
    /// `None`: `snapshot` has no listener of that name.
    pub(crate) fn find(listener: &Listener, snapshot: &Arc<Snapshot>) -> Option<Self> {
        let number = snapshot.config.listeners.iter().position(|known| known.name == listener.name)?;
        Some(Self { listener: listener.clone(), snapshot: Arc::clone(snapshot), number })
    }
}

/// What all listeners share.
#[derive(Clone)]
pub(crate) struct Shared {
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
    pub rosters: Rosters,
}

/// Accepts until it is ordered otherwise, and gives `_place` back when `socket`, which is non-blocking, is closed. It is
/// ordered to drain when whoever gives the orders is gone.
pub(crate) async fn accept(
    socket: std::net::TcpListener,
    mut orders: watch::Receiver<Order>,
    standing: Standing,
    shared: Shared,
    _place: Permit,
) {
    // A socket that does not listen yet is hung up to epoll, and stays so to tokio: it is shown to it once it does.
    let began = orders.wait_for(|order| !matches!(order, Order::Wait)).await.is_ok();
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) if began => socket,
        Ok(_) => return,
        Err(error) => {
            return tracing::error!(event = "listener_socket_failed", %error, "cannot serve a listening socket");
        }
    };
    let snapshot = Cache::new(Arc::clone(&shared.snapshot));
    let mut door = Door { snapshot, ordered: standing.listener.clone(), standing, shared };
    loop {
        let order = orders.borrow_and_update().clone();
        match order {
            Order::Serve(listener) => door.serve(listener),
            Order::Wait | Order::Drain => break,
            Order::Leave => return,
        }
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { break },
            () = door.accept_forever(&socket) => {}
        }
        door.standing.listener.metrics.accept_paused(Paused::No);
    }
    door.drain(&socket).await;
}

struct Door {
    snapshot: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    ordered: Listener,
    standing: Standing,
    shared: Shared,
}

impl Door {
    fn serve(&mut self, listener: Listener) {
        self.ordered = listener;
        self.find_standing();
    }

    /// Moves on to the snapshot in force. One that does not have the listener (it was removed, and the order to close
    /// is still to come) is left alone: clients are served by the last that had it.
    fn find_standing(&mut self) {
        if let Some(standing) = Standing::find(&self.ordered, self.snapshot.load()) {
            self.standing = standing;
        }
    }

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

    /// Closing a socket resets whoever is queued on it, and whoever is in the middle of its handshake. So no handshake
    /// is begun any more, and those that are under way get the time to end: a SYN that is not answered is sent again
    /// after a second, and then finds whoever listens there by that time.
    async fn drain(&mut self, socket: &TcpListener) {
        socket::begin_no_handshakes(socket);
        let closes = Instant::now() + HANDSHAKES_UNDER_WAY;
        loop {
            self.accept_queued(socket).await;
            match timeout_at(closes, socket.accept()).await {
                Ok(Ok((client, peer))) => self.admit(client, peer),
                Ok(Err(error)) => self.pause_after(&error).await,
                Err(_) => break,
            }
        }
        self.accept_queued(socket).await;
    }

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
        self.standing.listener.metrics.accept_paused(Paused::Yes);
        self.shared.metrics.limit_rejected(LimitScope::Global, Enforced::Yes);
        let permits = Arc::clone(&self.shared.permits);
        loop {
            let most = self.most();
            // A reload may change the limit, so it is looked at again now and then.
            if timeout(LIMIT_LOOK, permits.wait_until(|open| open < most)).await.is_ok() {
                break;
            }
        }
        self.standing.listener.metrics.accept_paused(Paused::No);
    }

    fn most(&mut self) -> usize {
        let limits = self.snapshot.load().config.limits;
        limits.max_connections.unwrap_or(self.shared.auto_max_connections)
    }

    fn admit(&mut self, client: TcpStream, peer: SocketAddr) {
        if !Arc::ptr_eq(self.snapshot.load(), &self.standing.snapshot) {
            self.find_standing();
        }
        let Standing { listener, snapshot, number } = &self.standing;
        let on_listener = snapshot.config.listeners[*number].max_connections.unwrap_or(usize::MAX);
        // The global limit was waited for; those who waited together may overshoot it by one each.
        let permit = self.shared.permits.acquire();
        let Some(listener_permit) = listener.permits.try_acquire(on_listener) else {
            return self.turn_away(&client);
        };
        let (id, at) = (self.shared.ids.fetch_add(1, Ordering::Relaxed), Instant::now());
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let live = registry::enter(id, peer, at, Arc::clone(&snapshot.terms), *number);
        let place = live.number();
        let accepted = Accepted {
            listener_metrics: Arc::clone(&listener.metrics),
            metrics: Arc::clone(&self.shared.metrics),
            permits: (permit, listener_permit),
            live,
        };
        let task = tokio::spawn(connection::serve(client, accepted, Arc::clone(snapshot)));
        registry::runs_as(place, task.abort_handle());
    }

    /// Over the listener's own limit: RST, before a byte is read.
    fn turn_away(&self, client: &TcpStream) {
        let metrics = &self.standing.listener.metrics;
        drop(metrics.accepted());
        metrics.closed_unrouted(Reason::LimitListener);
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
        let metrics = &self.standing.listener.metrics;
        metrics.accept_error(kind);
        if kind == AcceptError::Aborted {
            return;
        }
        tracing::debug!(event = "accept_failed", %error, "accept failed");
        metrics.accept_paused(Paused::Yes);
        sleep(ACCEPT_PAUSE).await;
        metrics.accept_paused(Paused::No);
    }
}

/// Then others on the worker have a turn.
const MOST_ACCEPTS_IN_A_ROW: u32 = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const LIMIT_LOOK: Duration = Duration::from_secs(1);
/// Longer than the round trip to a distant client, short enough for a reload or an end that waits for it.
const HANDSHAKES_UNDER_WAY: Duration = Duration::from_millis(300);
