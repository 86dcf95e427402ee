//! Accepts clients on one address, for one worker.
//!
//! In:  a listening socket; limits; orders from reloads and from shutdown.
//! Out: a task for each client; a pause when the connection limit is reached or descriptors run out.

mod balance;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout, timeout_at};

pub(crate) use self::balance::{Balance, Handed};
use crate::connection::{self, Accepted, Extras, Known, Newcomer, NotAdmitted};
use crate::descriptors::{self, Budget};
use crate::drain::Watch;
use crate::ids::{ConnectionId, ListenerIndex};
use crate::limits::{Pause, Permit, Permits};
use crate::operate::registry::{self, Registries};
use crate::snapshot::{Introduction, Snapshot};
use crate::socket;
use crate::telemetry::{AcceptError, Enforced, LimitScope, ListenerMetrics, Metrics, Paused};

/// What all workers share for one listener, as long as its name is in the configuration.
#[derive(Clone)]
pub(crate) struct Listener {
    pub name: Arc<str>,
    pub metrics: Arc<ListenerMetrics>,
    pub permits: Arc<Permits>,
}

/// An order to a running accept loop.
#[derive(Clone)]
pub(crate) enum AcceptOrder {
    /// Do not accept yet.
    Wait,
    /// Accept for this listener. Its name may be new: a listening socket outlives a listener that is renamed.
    Serve(Listener),
    /// Accept no new connections; serve those the kernel has accepted or is accepting; then close.
    Drain,
    /// Close without draining: the socket stays open in another process, and its queue with it.
    Leave,
}

/// A listener and its index in one snapshot. Each client is served by both.
#[derive(Clone)]
pub(crate) struct CurrentListener {
    listener: Listener,
    snapshot: Arc<Snapshot>,
    /// In `snapshot`.
    index: ListenerIndex,
}

impl CurrentListener {
    /// `None` if `snapshot` has no listener with that name.
    pub(crate) fn find(listener: &Listener, snapshot: &Arc<Snapshot>) -> Option<Self> {
        let index = snapshot.find_listener(&listener.name)?;
        Some(Self { listener: listener.clone(), snapshot: Arc::clone(snapshot), index })
    }
}

/// What all listeners share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub metrics: Arc<Metrics>,
    pub permits: Arc<Permits>,
    pub pause: Arc<Pause>,
    /// Listening sockets that may still have clients queued.
    pub listening_sockets: Arc<Permits>,
    pub ids: Arc<AtomicU64>,
    pub budget: Budget,
    pub drain: Watch,
    pub registries: Registries,
    pub balance: Balance,
}

/// Accepts until an order says stop; a dropped sender means drain. `_place` is held until the socket closes. `socket`
/// must be non-blocking.
pub(crate) async fn accept(
    socket: std::net::TcpListener,
    mut orders: watch::Receiver<AcceptOrder>,
    current: CurrentListener,
    shared: Shared,
    _place: Permit,
) {
    // epoll reports HUP for a socket that does not listen yet, and tokio would keep that readiness. So the socket is
    // registered only once it listens.
    let began = orders.wait_for(|order| !matches!(order, AcceptOrder::Wait)).await.is_ok();
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) if began => socket,
        Ok(_) => return,
        Err(error) => {
            return tracing::error!(event = "listener_socket_failed", %error, "cannot serve a listening socket");
        }
    };
    let snapshot = Cache::new(Arc::clone(&shared.snapshot));
    let mut accept_loop = AcceptLoop { snapshot, ordered: current.listener.clone(), current, shared, highest: 0 };
    loop {
        let order = orders.borrow_and_update().clone();
        match order {
            AcceptOrder::Serve(listener) => accept_loop.serve(listener),
            AcceptOrder::Wait | AcceptOrder::Drain => break,
            AcceptOrder::Leave => return,
        }
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { break },
            () = accept_loop.accept_forever(&socket) => {}
        }
        accept_loop.current.listener.metrics.accept_paused(Paused::No);
    }
    accept_loop.drain(&socket).await;
}

struct AcceptLoop {
    snapshot: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    ordered: Listener,
    current: CurrentListener,
    shared: Shared,
    /// The highest descriptor of a client so far.
    highest: RawFd,
}

impl AcceptLoop {
    fn serve(&mut self, listener: Listener) {
        self.ordered = listener;
        self.find_current();
    }

    /// Switches to the snapshot in force. If that one no longer has the listener (it was removed, and the order to
    /// close has yet to arrive), the last snapshot that had it continues to serve clients.
    fn find_current(&mut self) {
        if let Some(current) = CurrentListener::find(&self.ordered, self.snapshot.load()) {
            self.current = current;
        }
    }

    async fn accept_forever(&mut self, socket: &TcpListener) {
        loop {
            for _ in 0..MOST_ACCEPTS_IN_A_ROW {
                self.wait_for_room(socket).await;
                match socket.accept().await {
                    Ok((client, peer)) => {
                        let scarce = self.are_scarce(&client);
                        self.admit(client, peer);
                        if scarce {
                            self.wait_for_descriptors(socket).await;
                        }
                    }
                    Err(error) => self.pause_after(&error).await,
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Closing a socket resets the clients queued on it and those in the middle of a handshake. So no new handshakes
    /// are started, and those in progress get time to finish. An unanswered SYN is retransmitted after a second and
    /// then reaches whichever process listens by that time.
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
            // Yield first, and on every pass: tokio reports an empty queue once it has been polled too often in one
            // turn of the task.
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

    /// Enforces the global limit: connections beyond it wait in the kernel's queue.
    async fn wait_for_room(&mut self, socket: &TcpListener) {
        if self.shared.permits.open() < self.most() {
            return;
        }
        self.current.listener.metrics.accept_paused(Paused::Yes);
        self.shared.metrics.limit_rejected(None, LimitScope::Global, Enforced::Yes);
        let (permits, pause) = (Arc::clone(&self.shared.permits), Arc::clone(&self.shared.pause));
        let waits = pause.wait();
        loop {
            let most = self.most();
            if socket::has_clients(socket) {
                waits.wants();
            }
            // A reload may change the limit, so it is re-read at intervals.
            if timeout(LIMIT_LOOK, permits.wait_until(|open| open < most)).await.is_ok() {
                break;
            }
        }
        self.current.listener.metrics.accept_paused(Paused::No);
    }

    /// Whether `client` has one of the last descriptors. The limit is read when more descriptors are in use than ever.
    fn are_scarce(&mut self, client: &TcpStream) -> bool {
        if client.as_raw_fd() > self.highest {
            self.highest = client.as_raw_fd();
            descriptors::look_at_limit();
        }
        descriptors::is_reserved(client)
    }

    /// The reserve is not for clients: they wait in the kernel's queue.
    async fn wait_for_descriptors(&self, socket: &TcpListener) {
        while descriptors::are_scarce(socket) {
            self.pause_after(&io::Error::from_raw_os_error(libc::EMFILE)).await;
        }
    }

    fn most(&mut self) -> usize {
        self.snapshot.load().max_connections.unwrap_or_else(|| self.shared.budget.max_connections())
    }

    fn admit(&mut self, client: TcpStream, peer: SocketAddr) {
        if !Arc::ptr_eq(self.snapshot.load(), &self.current.snapshot) {
            self.find_current();
        }
        // We waited for room under the global limit; loops that waited at the same time may overshoot it by one
        // connection each.
        let permit = self.shared.permits.acquire();
        if let Some((client, permit)) = self.shared.balance.place(client, peer, permit, &self.current) {
            admit(&self.shared, &self.current, client, peer, permit);
        }
    }

    /// Pauses after an error: out of descriptors, a loop without a pause makes a million failed accepts a second.
    async fn pause_after(&self, error: &io::Error) {
        let kind = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => AcceptError::Descriptors,
            Some(libc::ENOBUFS | libc::ENOMEM) => AcceptError::Memory,
            Some(libc::ECONNABORTED) => AcceptError::Aborted,
            _ => AcceptError::Other,
        };
        let metrics = &self.current.listener.metrics;
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

/// Serves the connections that other workers hand to this one. Never returns.
pub(crate) async fn take_over(mut handed: UnboundedReceiver<Handed>, shared: Shared) {
    while let Some(Handed { client, peer, permit, current }) = handed.recv().await {
        match TcpStream::from_std(client) {
            Ok(client) => admit(&shared, &current, client, peer, permit),
            Err(error) => {
                tracing::debug!(event = "accept_failed", %error, "accept failed");
                current.listener.metrics.accept_error(AcceptError::Other);
            }
        }
        shared.balance.arrived();
    }
    std::future::pending().await
}

/// Takes a connection in on this worker, or turns it away.
fn admit(shared: &Shared, current: &CurrentListener, client: TcpStream, peer: SocketAddr, permit: Permit) {
    let CurrentListener { listener, snapshot, index } = current;
    let terms = snapshot.listener(*index);
    let (at, peer) = (Instant::now(), SocketAddr::new(peer.ip().to_canonical(), peer.port()));
    // Behind a proxy the client's address is still to come.
    let counted = match terms.introduction(peer.ip()) {
        Introduction::Plain => {
            Newcomer { client: peer, known: Known::Yes, at, terms: &snapshot.terms }.by_listener(terms)
        }
        Introduction::Header | Introduction::Distrusted => Ok(None),
    };
    let admitted = counted.and_then(|counted| {
        let permit = listener.permits.try_acquire(terms.max_connections).ok_or(NotAdmitted::Full)?;
        Ok((counted, permit))
    });
    let (counted, listener_permit, not_admitted) = match admitted {
        Ok((counted, permit)) => (counted, Some(permit), None),
        Err(not_admitted) => (None, None, Some(not_admitted)),
    };
    let id = ConnectionId(shared.ids.fetch_add(1, Ordering::Relaxed));
    let live = registry::enter(id, peer, at, Arc::clone(&snapshot.terms), *index);
    let place = live.number();
    let accepted = Accepted {
        listener_metrics: Arc::clone(&listener.metrics),
        permits: (permit, listener_permit),
        extras: Extras::of_listener(counted),
        live,
    };
    if let Some(not_admitted) = not_admitted {
        // RST, before a byte is read.
        socket::reset_on_drop(&client);
        return connection::turned_away(accepted, not_admitted);
    }
    let task = spawn_local(connection::serve(client, accepted, Arc::clone(snapshot)));
    registry::runs_as(place, task.abort_handle());
}

/// After this many, other tasks on the worker get a turn.
const MOST_ACCEPTS_IN_A_ROW: u32 = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const LIMIT_LOOK: Duration = Duration::from_millis(100);
/// Longer than the round trip to a distant client, short enough not to hold up a reload or shutdown.
const HANDSHAKES_UNDER_WAY: Duration = Duration::from_millis(300);
