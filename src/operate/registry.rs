//! Registers every live connection, so that an operator can list and end them.
//!
//! In:  connections as they start, progress and end, on their own worker; requests from the control thread.
//! Out: a row for each connection requested; connections ended.
//!
//! Each worker has a registry of its own in thread-local memory, and only that thread touches it: the path writes into
//! a slot without a lock, an atomic or a system call. Requests go to a task on each worker, which walks the slots in
//! small batches, so that connections get their turn in between.

mod load;
mod removal;
mod queries;
mod slots;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub(crate) use self::load::Load;
pub(crate) use self::queries::Order;
pub use self::queries::Registries;
pub(crate) use self::queries::{Page, serve};
pub(crate) use self::removal::{Removal, Removals};
use self::slots::Slots;
use crate::ids::{ConnectionId, ListenerIndex};
use crate::pool::{Backend, BackendId};
use crate::self_loop::in_flight::InFlight;
use crate::snapshot::Terms;
use crate::telemetry::{OpenConnectionLine, Reason, State};
use crate::way::Way;

/// What is known about a live connection.
pub struct LiveConnection {
    pub id: ConnectionId,
    pub peer: SocketAddr,
    /// From the PROXY header if there was one, otherwise the peer.
    pub client: SocketAddr,
    pub at: Instant,
    /// Terms of the snapshot that serves it.
    pub terms: Arc<Terms>,
    pub listener: ListenerIndex,
    pub state: State,
    /// Until a backend has answered. Here, since there is room.
    pub(crate) in_flight: Option<InFlight>,
    pub sni: Option<Box<str>>,
    /// `sni` was encrypted.
    pub sni_is_inner: bool,
    pub route: Option<Arc<str>>,
    pub pool: Option<Arc<str>>,
    pub backend: Option<Arc<Backend>>,
    /// Bytes to the backend, bytes to the client.
    pub bytes: [u64; 2],
    /// Why it was ended from outside, if it was.
    pub ended_by: Option<Reason>,
    task: Option<AbortHandle>,
    /// Events that could not yet be matched against this connection, since it has no backend.
    #[expect(clippy::box_collection, reason = "there is nearly never one, and every connection has the room")]
    pending: Option<Box<Vec<Event>>>,
}

/// What may end a connection from outside.
#[derive(Clone)]
enum Event {
    Removed(Arc<Removal>),
    Down(Down),
}

/// A backend whose connections end because its health checks failed.
#[derive(Clone, Debug)]
struct Down {
    pool: Arc<str>,
    backend: BackendId,
}

impl Event {
    /// Why `entry`, which has a backend, ends.
    fn ends(&self, entry: &LiveConnection) -> Option<Reason> {
        match self {
            Self::Removed(removal) => removal.matches(entry).then_some(Reason::RouteRemoved),
            Self::Down(down) => down.matches(entry).then_some(Reason::BackendDown),
        }
    }
}

impl Down {
    fn matches(&self, entry: &LiveConnection) -> bool {
        entry.backend.as_ref().is_some_and(|backend| backend.id == self.backend)
    }
}

/// A connection's slot in its worker's registry, released when dropped. It cannot leave the thread that created it: on
/// another one, its number would be the slot of another connection.
///
/// ```compile_fail
/// fn sent<T: Send>() {}
/// sent::<snigate::internals::registry::Ticket>();
/// ```
#[derive(Debug)]
pub struct Ticket(Option<u32>, PhantomData<*const ()>);

/// A live connection as it is reported.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: ConnectionId,
    pub client: SocketAddr,
    pub peer: SocketAddr,
    pub listener: Arc<str>,
    pub sni: Option<Box<str>>,
    pub route: Option<Arc<str>>,
    pub pool: Option<Arc<str>>,
    pub backend: Option<Arc<str>>,
    pub age: Duration,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
    pub state: State,
}

/// Selects connections: every field that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub id: Option<ConnectionId>,
    pub listener: Option<String>,
    pub route: Option<String>,
    pub pool: Option<String>,
    pub backend: Option<String>,
    pub client: Option<IpNet>,
    /// The name that the client asked for, in lower case.
    pub name: Option<String>,
    /// Part of the name, the client's address, the route, the pool or the backend, in lower case.
    pub part: Option<String>,
}

/// Registers a connection that was accepted at `at` with this thread.
pub fn enter(id: ConnectionId, peer: SocketAddr, at: Instant, terms: Arc<Terms>, listener: ListenerIndex) -> Ticket {
    let entry = LiveConnection {
        id,
        peer,
        client: peer,
        at,
        terms,
        listener,
        state: State::Hello,
        in_flight: None,
        sni: None,
        sni_is_inner: false,
        route: None,
        pool: None,
        backend: None,
        bytes: [0; 2],
        ended_by: None,
        task: None,
        pending: None,
    };
    Ticket(Some(SLOTS.with_borrow_mut(|slots| slots.insert(entry))), PhantomData)
}

/// Where this thread, if it has joined, shows its load.
pub(crate) fn load() -> Option<Arc<Load>> {
    SLOTS.with_borrow(|slots| slots.load().cloned())
}

impl Ticket {
    /// The slot number, for [`runs_as`].
    pub fn number(&self) -> u32 {
        self.0.unwrap_or(u32::MAX)
    }

    /// Changes what is shown of the connection; `None` if it has ended.
    pub fn update<R>(&self, update: impl FnOnce(&mut LiveConnection) -> R) -> Option<R> {
        let number = self.0?;
        SLOTS.with_borrow_mut(|slots| slots.get_mut(number).map(update))
    }

    /// Calls `look` with the entry. Call only while the connection is registered, that is until [`Ticket::leave`].
    pub fn see<R>(&self, look: impl FnOnce(&LiveConnection) -> R) -> R {
        self.update(|entry| look(entry)).expect("the connection is registered")
    }

    /// Counts bytes that have passed.
    pub fn carried(&self, way: Way, bytes: u64) {
        self.update(|entry| entry.bytes[way as usize] += bytes);
    }

    /// Records the backend; from now on filters and removals can match this connection. If a pending event already
    /// does, it is aborted at its next await.
    pub fn relays_to(&self, backend: Arc<Backend>) {
        self.update(|entry| {
            entry.backend = Some(backend);
            let pending = entry.pending.take();
            let ends = pending.iter().flat_map(|pending| pending.iter()).find_map(|event| event.ends(entry));
            if let Some(reason) = ends {
                entry.end(reason);
            }
        });
    }

    /// Releases the slot and returns the entry.
    pub fn leave(&mut self) -> Option<LiveConnection> {
        let number = self.0.take()?;
        SLOTS.with_borrow_mut(|slots| slots.remove(number))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // The entry is dropped after the borrow ends.
        let _ = self.leave();
    }
}

/// Records the task that serves the connection with this number, so that it can be aborted.
pub(crate) fn runs_as(number: u32, task: AbortHandle) {
    SLOTS.with_borrow_mut(|slots| {
        if let Some(entry) = slots.get_mut(number) {
            entry.task = Some(task);
        }
    });
}

impl LiveConnection {
    /// Ends the connection with RST on both sides. If its reason is already set, it only ends sooner.
    fn end(&mut self, reason: Reason) {
        self.ended_by.get_or_insert(reason);
        if let Some(task) = &self.task {
            task.abort();
        }
    }

    /// Whether it waits for the client's hello.
    fn is_stalled(&self) -> bool {
        self.state == State::Hello && self.ended_by.is_none()
    }

    /// Ends the connection if `removal` matches it; while that cannot be decided yet, keeps the removal for later.
    fn remove(&mut self, removal: &Arc<Removal>) {
        match self.state {
            State::Queued if removal.takes_route(self) => self.end(Reason::RouteRemoved),
            State::Hello | State::Queued | State::Connecting => {
                self.pending.get_or_insert_default().push(Event::Removed(Arc::clone(removal)));
            }
            State::Relaying if removal.matches(self) => self.end(Reason::RouteRemoved),
            State::Relaying | State::Refusing => {}
        }
    }

    /// Ends the connection if it uses the backend that is down. Returns whether it did. One that is still connecting may
    /// be about to use it.
    fn loses(&mut self, down: &Down) -> bool {
        match self.state {
            State::Queued | State::Connecting if self.pool.as_ref() == Some(&down.pool) => {
                self.pending.get_or_insert_default().push(Event::Down(down.clone()));
            }
            State::Relaying if self.ended_by.is_none() && down.matches(self) => {
                self.end(Reason::BackendDown);
                return true;
            }
            State::Hello | State::Queued | State::Connecting | State::Relaying | State::Refusing => {}
        }
        false
    }

    /// Logs the connection if it became a multiple of `interval` old after `since`, and not later than `until`.
    fn log_if_due(&self, interval: Duration, since: Instant, until: Instant) {
        let whole = |at: Instant| at.saturating_duration_since(self.at).as_millis() / interval.as_millis();
        if whole(until) == whole(since) {
            return;
        }
        self.terms.connection_log.open_line(&OpenConnectionLine {
            id: self.id,
            listener: self.listener(),
            client: self.client,
            peer: self.peer,
            sni: self.sni.as_deref(),
            sni_is_inner: self.sni_is_inner,
            route: self.route.as_deref(),
            pool: self.pool.as_deref(),
            backend: self.backend.as_ref().map(|backend| &*backend.name),
            address: self.backend.as_ref().map(|backend| backend.address.logged()),
            duration_ms: until.saturating_duration_since(self.at),
            bytes_to_backend: self.bytes[Way::ToBackend as usize],
            bytes_to_client: self.bytes[Way::ToClient as usize],
            phase: self.state,
            config: &self.terms.hash,
        });
    }

    fn listener(&self) -> &Arc<str> {
        self.terms.listener(self.listener)
    }

    fn row(&self, now: Instant) -> Row {
        Row {
            id: self.id,
            client: self.client,
            peer: self.peer,
            listener: Arc::clone(self.listener()),
            sni: self.sni.clone(),
            route: self.route.clone(),
            pool: self.pool.clone(),
            backend: self.backend.as_ref().map(|backend| Arc::clone(&backend.name)),
            age: now - self.at,
            bytes_to_backend: self.bytes[Way::ToBackend as usize],
            bytes_to_client: self.bytes[Way::ToClient as usize],
            state: self.state,
        }
    }
}

impl Filter {
    /// Whether the filter is empty and matches everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn matches(&self, entry: &LiveConnection) -> bool {
        let is = |wanted: &Option<String>, has: Option<&Arc<str>>| {
            wanted.as_ref().is_none_or(|wanted| has.is_some_and(|has| **has == **wanted))
        };
        self.id.is_none_or(|id| id == entry.id)
            && is(&self.listener, Some(entry.listener()))
            && is(&self.route, entry.route.as_ref())
            && is(&self.pool, entry.pool.as_ref())
            && self.client.is_none_or(|net| net.contains(&entry.client.ip().to_canonical()))
            && self
                .backend
                .as_ref()
                .is_none_or(|wanted| entry.backend.as_ref().is_some_and(|has| has.is_called(wanted)))
            && self.name.as_ref().is_none_or(|wanted| entry.sni.as_ref().is_some_and(|has| **has == **wanted))
            && self.part.as_ref().is_none_or(|part| has_part(entry, part))
    }
}

fn has_part(entry: &LiveConnection, part: &str) -> bool {
    // Most names are in lower case, as those on the wire are.
    let has = |text: &str| {
        text.contains(part)
            || text.bytes().any(|byte| byte.is_ascii_uppercase()) && text.to_ascii_lowercase().contains(part)
    };
    entry.sni.as_deref().is_some_and(has)
        || entry.route.as_deref().is_some_and(has)
        || entry.pool.as_deref().is_some_and(has)
        || entry.backend.as_ref().is_some_and(|backend| has(&backend.name))
        || has(&entry.client.to_string())
}

thread_local! {
    static SLOTS: RefCell<Slots> = const { RefCell::new(Slots::new()) };
}

#[cfg(test)]
mod tests;
