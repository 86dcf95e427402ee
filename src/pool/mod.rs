//! Holds a named set of backends, and picks one of them for each connection.
//!
//! In:  the entries of the configuration, the addresses of those that are names, the results of connections and checks.
//! Out: a [`Lease`] on a backend. Picking does no I/O, takes no lock and does not allocate.
//!
//! The path calls [`Pool::picks`], [`Pool::failed`] and [`Pool::answered`]; the control thread calls the rest.

mod backend;
pub(crate) mod latencies;
mod maglev;
mod members;
mod picks;
mod policy;
mod queue;
mod refusals;
mod standing;

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::backend::Address;
pub(crate) use self::backend::{Backend, BackendId, LastCheck, Lease, Shown};
pub(crate) use self::members::Member;
use self::members::Members;
pub use self::picks::PickRequest;
pub(crate) use self::picks::{Picks, Room};
pub(crate) use self::queue::InLine;
use self::queue::WaitQueue;
use self::refusals::FailoverBudget;
pub(crate) use self::refusals::Refusals;
use self::standing::Grade;
pub use self::standing::Health;
pub(crate) use self::standing::{Blame, Confirms, Operator};
use crate::settings::{self, BackendAddress};
use crate::telemetry::{Metrics, PoolMetrics, QueueMetrics, Readings};

/// A named set of backends and how they are used.
pub struct Pool {
    /// The key of the pool in the file.
    pub name: Arc<str>,
    /// Without its backends: those are members.
    pub settings: settings::Pool,
    /// The series of the pool.
    pub metrics: Arc<PoolMetrics>,
    /// The clients that wait for a place, also those of former pools of this name.
    pub(crate) queue: Arc<WaitQueue>,
    /// The series of the queue; `None`: the pool has never had one.
    pub(crate) queue_metrics: Option<Arc<QueueMetrics>>,
    members: ArcSwap<Members>,
    /// Where the members come from. Locked only by the control thread, while it changes them.
    entries: Mutex<Vec<Known>>,
    /// Notified when a backend that was looked up could not be reached: its name may have new addresses.
    pub look_again: Notify,
    all_metrics: Arc<Metrics>,
    /// Incremented on each change of the members.
    version: AtomicU64,
    turn: AtomicUsize,
    source_turn: AtomicUsize,
    failovers: FailoverBudget,
}

/// One backend entry of the configuration: a single address, or a name that resolves to any number of them.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// As written in the configuration.
    pub name: Arc<str>,
    /// `None` if it has to be looked up.
    pub address: Option<Address>,
    pub weight: u32,
    pub backup: bool,
    /// Concurrent connections to each of its addresses.
    pub max_connections: usize,
}

impl From<settings::Backend> for Entry {
    fn from(backend: settings::Backend) -> Self {
        Self {
            name: backend.address.to_string().into(),
            address: match backend.address {
                BackendAddress::Inet(address) => Some(Address::Inet(address)),
                BackendAddress::Unix(path) => Some(Address::Unix(path)),
                BackendAddress::Name { .. } | BackendAddress::Srv { .. } | BackendAddress::Service(_) => None,
            },
            weight: backend.weight,
            backup: backend.backup,
            max_connections: backend.max_connections.unwrap_or(usize::MAX),
        }
    }
}

/// One address an entry resolved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedAddress {
    pub address: Address,
    /// Replaces the weight of 1 among the entry's addresses.
    pub weight: u32,
    pub backup: bool,
}

/// An entry and the backends it currently stands for.
struct Known {
    entry: Entry,
    backends: Vec<(ResolvedAddress, Arc<Backend>)>,
}

impl Pool {
    /// Makes a pool. Backends that are also in `before`, by entry and address, are carried over with all their state,
    /// and so are the looked-up addresses of names.
    pub fn new(mut settings: settings::Pool, metrics: &Arc<Metrics>, before: Option<&Self>) -> Self {
        let now = Instant::now();
        let entries: Vec<Entry> = std::mem::take(&mut settings.backends).into_iter().map(Entry::from).collect();
        let queue_metrics = before.and_then(|before| before.queue_metrics.clone());
        let pool = Self {
            queue: before.map(|before| Arc::clone(&before.queue)).unwrap_or_default(),
            queue_metrics: queue_metrics.or_else(|| (settings.queue.size > 0).then(|| metrics.queue(&settings.name))),
            metrics: metrics.pool(&settings.name),
            name: Arc::clone(&settings.name),
            members: ArcSwap::from_pointee(Members::new(Vec::new(), settings.balance)),
            settings,
            entries: Mutex::default(),
            look_again: Notify::new(),
            all_metrics: Arc::clone(metrics),
            version: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
            source_turn: AtomicUsize::new(0),
            failovers: FailoverBudget::new(now),
        };
        let before_entries = before.map(Self::lock);
        let known = entries.into_iter().map(|entry| {
            let was = before_entries.iter().flat_map(|known| known.iter()).find(|known| known.entry.name == entry.name);
            let was = was.map_or(&[][..], |known| &known.backends);
            let found = match &entry.address {
                Some(address) => vec![ResolvedAddress { address: address.clone(), weight: 1, backup: false }],
                None => was.iter().map(|(found, _)| found.clone()).collect(),
            };
            let backends = pool.backends(&entry, found, was, before.is_some(), now);
            Known { entry, backends }
        });
        let known = known.collect();
        drop(before_entries);
        *pool.lock() = known;
        pool.lay_out();
        pool
    }

    /// Whether an inner hello of Encrypted ClientHello may be sent to one of its backends: not if all that an operator lets
    /// get connections are known to ignore them. If there are none, that is no reason to send it elsewhere.
    pub(crate) fn may_confirm(&self, now: Instant) -> bool {
        let members = self.members.load();
        let mut open = members.list().iter().filter(|member| member.grade(now) != Grade::Closed).peekable();
        open.peek().is_none() || open.any(|member| member.backend.standing.confirms() != Confirms::No)
    }

    /// Carries over the addresses that `before`, from which this pool was made, has received since.
    pub fn catch_up(&self, before: &Self) {
        let answers = before.lock();
        let mut entries = self.lock();
        let mut newer = false;
        for known in entries.iter_mut().filter(|known| known.entry.address.is_none()) {
            let Some(was) = answers.iter().find(|was| was.entry.name == known.entry.name) else { continue };
            let same = |((a, one), (b, other)): (&_, &_)| a == b && Arc::ptr_eq(one, other);
            if was.backends.len() != known.backends.len() || !was.backends.iter().zip(&known.backends).all(same) {
                known.backends.clone_from(&was.backends);
                newer = true;
            }
        }
        drop((answers, entries));
        // An operator may have set a weight since the members were laid out.
        let is_stale = |member: &Member| member.backend.live_weight() != member.live_weight;
        if newer || self.members.load().list().iter().any(is_stale) {
            self.lay_out();
        }
    }

    /// Puts the current addresses of the entry called `entry` in force. Live connections to other addresses continue.
    ///
    /// Returns whether anything changed.
    pub fn answer(&self, entry: &str, found: Vec<ResolvedAddress>) -> bool {
        let now = Instant::now();
        {
            let mut entries = self.lock();
            let Some(known) = entries.iter_mut().find(|known| &*known.entry.name == entry) else { return false };
            if known.backends.iter().map(|(found, _)| found).eq(&found) {
                return false;
            }
            let backends = self.backends(&known.entry, found, &known.backends, !known.backends.is_empty(), now);
            let gone = std::mem::replace(&mut known.backends, backends);
            for (_, backend) in gone {
                if !known.backends.iter().any(|(_, kept)| Arc::ptr_eq(kept, &backend)) {
                    self.all_metrics.retire_backend(&self.name, &backend.name);
                }
            }
            for (_, backend) in &known.backends {
                // A number that was released may have been assigned again.
                self.all_metrics.backend(&self.name, &backend.name);
            }
        }
        self.lay_out();
        self.call_waiting(now);
        true
    }

    /// The names of the entries that are looked up.
    pub fn looked_up(&self) -> Vec<Arc<str>> {
        let entries = self.lock();
        entries
            .iter()
            .filter(|known| known.entry.address.is_none())
            .map(|known| Arc::clone(&known.entry.name))
            .collect()
    }

    /// Sets the weight of the backends that are called `name`, 0 to [`MAX_WEIGHT`](settings::MAX_WEIGHT), in place of the
    /// configured one; `None` removes it. It stays in force over reloads as long as the backend exists.
    ///
    /// Returns whether there is such a backend.
    pub fn set_weight(&self, name: &str, weight: Option<u32>, now: Instant) -> bool {
        let members = self.list();
        let mut called = members.iter().filter(|member| member.backend.is_called(name)).peekable();
        if called.peek().is_none() {
            return false;
        }
        for member in called {
            member.backend.set_live_weight(weight);
            if member.weight == 0 && weight != Some(0) {
                member.backend.standing.is_back(now);
            }
        }
        self.lay_out();
        true
    }

    /// The current backends, primaries first.
    pub fn list(&self) -> Vec<Member> {
        self.members.load().list().to_vec()
    }

    /// Changes each time the backends change.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Starts the walk for one connection.
    pub fn picks(&self, request: PickRequest<'_>) -> Picks<'_> {
        self.failovers.earn();
        Picks::new(self, request)
    }

    /// The same for a connection that has been counted.
    pub fn picks_again(&self, request: PickRequest<'_>) -> Picks<'_> {
        Picks::new(self, request)
    }

    /// Whether clients wait when every backend is full.
    pub fn has_queue(&self) -> bool {
        self.settings.queue.size > 0
    }

    /// How many clients wait for a place.
    pub fn waiting(&self) -> usize {
        self.queue.length()
    }

    /// Calls the first client that waits if it need not: there is a place, or no backend that it could wait for. To be
    /// called when a backend may be used again. Costs a load if nobody waits.
    pub fn call_waiting(&self, now: Instant) {
        if self.queue.length() > 0 && Room::of(self, now) != Room::Full {
            self.queue.call_first();
        }
    }

    /// Whether another backend may be asked if `backend` refuses a hello.
    pub fn may_fail_over(&self, backend: &Backend, now: Instant) -> bool {
        // One that is ejected is at fault, not the client.
        backend.standing.is_ejected(now) || self.failovers.has_one(now)
    }

    /// As [`Self::may_fail_over`], and takes it from the budget.
    pub fn fails_over(&self, backend: &Backend, now: Instant) -> bool {
        backend.standing.is_ejected(now) || self.failovers.spend(now)
    }

    /// Records that a connection to `backend` failed before the backend sent a valid answer. Ejects the backend for a
    /// while if that was one failure too many and the pool can spare it; the log then says `why`.
    pub fn failed(&self, backend: &Arc<Backend>, blame: Blame, why: &dyn fmt::Display, now: Instant) {
        let spare = || self.members.load().can_spare(backend, now);
        backend.note_failure(why);
        if let Some(length) = backend.standing.failed(blame, self.settings.ejection.0.as_ref(), now, spare) {
            backend.metrics.ejected();
            let length_s = length.as_secs_f64();
            tracing::warn!(
                event = "backend_ejected",
                pool = &*self.name,
                backend = &*backend.name,
                address = %backend.address,
                length_s,
                %why,
                "backend ejected"
            );
        }
    }

    /// Records that a connection to an address of the other family was faster, although it began later.
    pub fn overtaken(&self, backend: &Backend) {
        if backend.standing.lost_race() {
            tracing::warn!(
                event = "backend_overtaken",
                pool = &*self.name,
                backend = &*backend.name,
                address = %backend.address,
                "address is slow to connect: it is tried after those of the other family"
            );
        }
    }

    /// Records that `backend` gave a valid answer.
    pub fn answered(&self, backend: &Backend, now: Instant) {
        backend.standing.answered(self.settings.ejection.0.as_ref(), now);
    }

    /// The local address to connect to `backend` from; `None` lets the kernel choose.
    pub fn source_address(&self, backend: IpAddr) -> Option<IpAddr> {
        let usable = || self.settings.source_addresses.iter().filter(|source| source.is_ipv4() == backend.is_ipv4());
        match usable().count() {
            0 => None,
            count => usable().nth(self.source_turn.fetch_add(1, Ordering::Relaxed) % count).map(|source| source.0),
        }
    }

    /// Updates the gauges of all backends, and reads what is in use of the limits.
    pub(crate) fn publish(&self, now: Instant, readings: &mut Readings<'_>) {
        for member in self.members.load().list() {
            let Backend { standing, metrics, .. } = &*member.backend;
            metrics.standing(standing.state(now), member.backend.active());
            metrics.weight(member.weight);
            if member.max_connections < usize::MAX {
                readings.backend_limit(&self.name, &member.backend.name, member.max_connections);
            }
        }
        if self.queue_metrics.is_some() {
            readings.queue(&self.name, self.queue.length(), self.settings.queue.size as usize);
        }
    }

    /// The backends behind `entry`: those in `was` that still exist, and new ones with the lowest free numbers.
    fn backends(
        &self,
        entry: &Entry,
        found: Vec<ResolvedAddress>,
        was: &[(ResolvedAddress, Arc<Backend>)],
        late: bool,
        now: Instant,
    ) -> Vec<(ResolvedAddress, Arc<Backend>)> {
        let kept =
            |address: &Address| was.iter().map(|(_, backend)| backend).find(|backend| backend.address == *address);
        let names: Vec<Arc<str>> =
            found.iter().filter_map(|found| Some(Arc::clone(&kept(&found.address)?.name))).collect();
        let mut free = (1..)
            .map(|number| format!("{}#{number}", entry.name))
            .filter(|name| !names.iter().any(|taken| **taken == **name));
        let backend = |found: ResolvedAddress| {
            if let Some(kept) = kept(&found.address) {
                return (found, Arc::clone(kept));
            }
            let name = match entry.address {
                Some(_) => Arc::clone(&entry.name),
                None => free.next().expect("numbers do not end").into(),
            };
            let metrics = self.all_metrics.backend(&self.name, &name);
            let backend = Backend::new(
                name,
                found.address.clone(),
                entry.address.is_none(),
                metrics,
                Arc::clone(&self.queue),
                now,
            );
            if late {
                backend.standing.is_back(now);
            }
            (found, Arc::new(backend))
        };
        found.into_iter().map(backend).collect()
    }

    fn lay_out(&self) {
        let entries = self.lock();
        let member = |number: usize, entry: &Entry, (found, backend): &(ResolvedAddress, Arc<Backend>)| {
            let (live_weight, factor) = (backend.live_weight(), found.weight.max(1));
            Member {
                backend: Arc::clone(backend),
                weight: live_weight.unwrap_or(entry.weight).saturating_mul(factor),
                live_weight,
                backup: entry.backup || found.backup,
                max_connections: entry.max_connections,
                entry: number,
            }
        };
        let list = entries.iter().enumerate().flat_map(|(number, known)| {
            known.backends.iter().map(move |backend| member(number, &known.entry, backend))
        });
        self.members.store(Arc::new(Members::new(list.collect(), self.settings.balance)));
        self.version.fetch_add(1, Ordering::Relaxed);
        drop(entries);
        self.call_waiting(Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
