//! Knows every live connection, so that an operator can see them and end them.
//!
//! In:  connections as they come, get on and go, on their own worker; questions from the control thread.
//! Out: rows, one for each connection that is asked for; ends.
//!
//! Each worker has a roster of its own in the memory of its thread, and only that thread touches it: the path writes
//! into a slot, without a lock, an atomic or a system call. Questions go to a task on each worker, which walks the slots
//! a few at a time, so that connections have their turn in between.

mod condemned;
mod desk;
mod slots;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub(crate) use self::condemned::{Condemned, Fates};
pub use self::desk::Rosters;
pub(crate) use self::desk::{Listed, serve};
use self::slots::Slots;
use crate::snapshot::Terms;
use crate::telemetry::{Reason, State};
use crate::way::Way;

/// What is known of a live connection.
pub struct Entry {
    pub id: u64,
    pub peer: SocketAddr,
    /// Told by a PROXY header, else the peer.
    pub client: SocketAddr,
    pub at: Instant,
    /// Of the snapshot it is served by.
    pub terms: Arc<Terms>,
    /// An index into the listeners of `terms`.
    pub listener: usize,
    pub state: State,
    pub sni: Option<Box<str>>,
    pub route: Option<Arc<str>>,
    pub pool: Option<Arc<str>>,
    pub backend: Option<Arc<str>>,
    /// To the backend, to the client.
    pub bytes: [u64; 2],
    /// Why it was ended from outside, if it was.
    pub ended_by: Option<Reason>,
    task: Option<AbortHandle>,
    /// What was condemned before it was known whether this connection is meant.
    #[expect(clippy::box_collection, reason = "there is nearly never one, and every connection has the room")]
    late: Option<Box<Vec<Arc<Condemned>>>>,
}

/// A connection's place in the roster of its worker, given back when dropped. It stays on the thread it was made on.
#[derive(Debug)]
pub struct Ticket(Option<u32>);

/// A live connection as it is told of.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: u64,
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

/// Which connections are meant: those of which all that is given here holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub id: Option<u64>,
    pub listener: Option<String>,
    pub route: Option<String>,
    pub pool: Option<String>,
    pub backend: Option<String>,
    pub client: Option<IpNet>,
}

/// Puts a connection that was accepted at `at` on the roster of this thread.
pub fn enter(id: u64, peer: SocketAddr, at: Instant, terms: Arc<Terms>, listener: usize) -> Ticket {
    let entry = Entry {
        id,
        peer,
        client: peer,
        at,
        terms,
        listener,
        state: State::Hello,
        sni: None,
        route: None,
        pool: None,
        backend: None,
        bytes: [0; 2],
        ended_by: None,
        task: None,
        late: None,
    };
    Ticket(Some(SLOTS.with_borrow_mut(|slots| slots.insert(entry))))
}

impl Ticket {
    /// A number by which [`runs_as`] knows it.
    pub fn number(&self) -> u32 {
        self.0.unwrap_or(u32::MAX)
    }

    pub fn update<R>(&self, update: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        let number = self.0?;
        SLOTS.with_borrow_mut(|slots| slots.get_mut(number).map(update))
    }

    /// To be called while the connection is on the roster, which it is until [`Ticket::leave`].
    pub fn see<R>(&self, look: impl FnOnce(&Entry) -> R) -> R {
        self.update(|entry| look(entry)).expect("it is on the roster")
    }

    pub fn carried(&self, way: Way, bytes: u64) {
        self.update(|entry| entry.bytes[way as usize] += bytes);
    }

    /// The connection has its backend, and so all by which it can be meant. One that is condemned ends at the next
    /// chance.
    pub fn relays_to(&self, backend: Arc<str>) {
        self.update(|entry| {
            entry.backend = Some(backend);
            let late = entry.late.take();
            if late.iter().flat_map(|late| late.iter()).any(|condemned| condemned.takes(entry)) {
                entry.end(Reason::RouteRemoved);
            }
        });
    }

    /// Gives the place back; what was known last.
    pub fn leave(&mut self) -> Option<Entry> {
        let number = self.0.take()?;
        SLOTS.with_borrow_mut(|slots| slots.remove(number))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // What a slot holds is dropped after the borrow.
        let _ = self.leave();
    }
}

/// Tells by which task the connection with this number is served, so that it can be ended.
pub(crate) fn runs_as(number: u32, task: AbortHandle) {
    SLOTS.with_borrow_mut(|slots| {
        if let Some(entry) = slots.get_mut(number) {
            entry.task = Some(task);
        }
    });
}

impl Entry {
    /// Ends it with RST on both sides. One whose reason is known already is only ended sooner.
    fn end(&mut self, reason: Reason) {
        self.ended_by.get_or_insert(reason);
        if let Some(task) = &self.task {
            task.abort();
        }
    }

    /// Ends it if `condemned` takes it; as long as that cannot be known, keeps it in mind.
    fn judge(&mut self, condemned: &Arc<Condemned>) {
        match self.state {
            State::Hello | State::Connecting => self.late.get_or_insert_default().push(Arc::clone(condemned)),
            State::Relaying if condemned.takes(self) => self.end(Reason::RouteRemoved),
            State::Relaying | State::Refusing => {}
        }
    }

    fn listener(&self) -> &Arc<str> {
        &self.terms.listeners[self.listener]
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
            backend: self.backend.clone(),
            age: now - self.at,
            bytes_to_backend: self.bytes[Way::ToBackend as usize],
            bytes_to_client: self.bytes[Way::ToClient as usize],
            state: self.state,
        }
    }
}

impl Filter {
    /// Whether nothing is given, so that every connection is meant.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn takes(&self, entry: &Entry) -> bool {
        let is = |wanted: &Option<String>, has: Option<&Arc<str>>| {
            wanted.as_ref().is_none_or(|wanted| has.is_some_and(|has| **has == **wanted))
        };
        self.id.is_none_or(|id| id == entry.id)
            && is(&self.listener, Some(entry.listener()))
            && is(&self.route, entry.route.as_ref())
            && is(&self.pool, entry.pool.as_ref())
            && is(&self.backend, entry.backend.as_ref())
            && self.client.is_none_or(|net| net.contains(&entry.client.ip().to_canonical()))
    }
}

thread_local! {
    static SLOTS: RefCell<Slots> = const { RefCell::new(Slots::new()) };
}

#[cfg(test)]
mod tests;
