//! Resolves the DNS names of the configuration in force, and updates the backends of the pools.
//!
//! In:  the snapshot in force, and each that replaces it; requests for a fresh look-up from pools with unreachable
//!      backends.
//! Out: addresses in the pools; counts; the status of each name.
//!
//! A name that both the old and the new snapshot have keeps its task: a reload sends no DNS queries for it.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, SetOnce, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::backends::resolve::{self, Failure, Query, Report, ResolvedAddress};
use crate::operate::status::DnsName;
use crate::pool::{self, Address, Pool};
use crate::self_loop::comes_back;
use crate::settings::{BackendAddress, Resolve, Search};
use crate::snapshot::Snapshot;
use crate::supervise::supervise;
use crate::telemetry::{DnsMetrics, DnsResult, Metrics, Task};

/// All names that are being resolved. Clones share the state.
#[derive(Clone)]
pub(crate) struct Discovery(Arc<Inner>);

struct Inner {
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    /// The addresses of our own listeners.
    listening: watch::Receiver<Arc<[SocketAddr]>>,
    names: Mutex<BTreeMap<Key, ResolvedName>>,
    /// Set once the tasks for the names of the first snapshot have started.
    begun: SetOnce<()>,
}

/// Settings are part of the key: the same name may resolve differently under other settings.
type Key = (Query, Resolve);

/// A name and the task that resolves it. Dropping this stops the task.
struct ResolvedName {
    name: Arc<Name>,
    task: JoinHandle<()>,
}

struct Name {
    query: Query,
    kick: Arc<Notify>,
    /// Set when the first look-up has finished, whether or not it succeeded.
    tried: SetOnce<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    users: Vec<User>,
    /// `None`: no answer so far.
    found: Option<Arc<[ResolvedAddress]>>,
    answered: Option<(SystemTime, Duration)>,
    failure: Option<Failure>,
}

/// A pool entry that uses the name.
struct User {
    pool: Arc<Pool>,
    entry: Arc<str>,
    metrics: Arc<DnsMetrics>,
}

impl Discovery {
    pub(crate) fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        metrics: Arc<Metrics>,
        listening: watch::Receiver<Arc<[SocketAddr]>>,
    ) -> Self {
        let (names, begun) = (Mutex::default(), SetOnce::new());
        Self(Arc::new(Inner { snapshot, metrics, listening, names, begun }))
    }

    /// Resolves the names of the snapshot in force until the process ends.
    pub(crate) async fn run(self) {
        supervise(Task::Discovery, &self.0.metrics, || self.keep()).await;
    }

    async fn keep(&self) {
        let mut listening = self.0.listening.clone();
        loop {
            let snapshot = self.0.snapshot.load_full();
            // These tasks end when the next snapshot brings its own pools.
            let _early_lookups = self.follow(&snapshot);
            // Only the first call has an effect.
            let _ = self.0.begun.set(());
            tokio::select! {
                () = snapshot.until_replaced() => {}
                // Addresses that were usable may now be our own, and the other way round.
                Ok(()) = listening.changed() => {
                    self.names().values().for_each(|followed| followed.name.kick.notify_one());
                }
            }
        }
    }

    /// Waits until every name in force has been looked up once, successfully or not.
    pub(crate) async fn tried(&self) {
        self.0.begun.wait().await;
        let names: Vec<_> = self.names().values().map(|followed| Arc::clone(&followed.name)).collect();
        for name in names {
            name.tried.wait().await;
        }
    }

    /// The status of each name.
    pub(crate) fn status(&self) -> Vec<DnsName> {
        self.names().values().map(|followed| followed.name.status()).collect()
    }

    /// Starts, keeps and stops tasks to match the names in `snapshot`.
    fn follow(&self, snapshot: &Snapshot) -> JoinSet<()> {
        let mut users = users(snapshot, &self.0.metrics);
        let mut names = self.names();
        let before = std::mem::take(&mut *names);
        // When only the settings changed, the old answer is used until there is a new one.
        let mut known: BTreeMap<Query, Arc<[ResolvedAddress]>> = BTreeMap::new();
        for (key, followed) in before {
            known.extend(followed.name.found().map(|found| (key.0.clone(), found)));
            if let Some(users) = users.remove(&key) {
                followed.name.use_for(users);
                names.insert(key, followed);
            }
        }
        for (key, users) in users {
            let followed = self.begin(&key, users, known.get(&key.0).cloned());
            names.insert(key, followed);
        }
        early_lookups(names.values().map(|followed| &*followed.name))
    }

    fn begin(&self, (query, settings): &Key, users: Vec<User>, known: Option<Arc<[ResolvedAddress]>>) -> ResolvedName {
        let name = Arc::new(Name {
            query: query.clone(),
            kick: Arc::default(),
            tried: SetOnce::new(),
            state: Mutex::new(State { found: known, ..State::default() }),
        });
        name.use_for(users);
        let (inner, learner, query, settings) =
            (Arc::clone(&self.0), Arc::clone(&name), query.clone(), settings.clone());
        let task = tokio::spawn(async move {
            let (inner, learner) = (&inner, &learner);
            let follow = || {
                let (query, settings, known) = (query.clone(), settings.clone(), learner.found().unwrap_or_default());
                let is_ours = move |address| inner.is_ours(address);
                resolve::follow(query, settings, known, Arc::clone(&learner.kick), is_ours, move |report| {
                    learner.learn(report)
                })
            };
            supervise(Task::Discovery, &inner.metrics, follow).await;
        });
        ResolvedName { name, task }
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<Key, ResolvedName>> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_ours(&self, address: SocketAddr) -> bool {
        comes_back(address, &self.listening.borrow())
    }
}

impl Name {
    /// Passes the current addresses to `users`, and every later change.
    fn use_for(&self, users: Vec<User>) {
        let mut state = self.state();
        state.users = users;
        // A pool took over its predecessor's addresses when it was built; they may have changed since.
        if let Some(found) = &state.found {
            state.users.iter().for_each(|user| user.take(found));
        }
    }

    fn learn(&self, Report { found, changed, looked }: Report) {
        let mut state = self.state();
        if let Some(looked) = looked {
            let result = looked.as_ref().map_or_else(Failure::result, |_| DnsResult::Ok);
            state.users.iter().for_each(|user| user.metrics.looked_up(result));
            match looked {
                Ok(ttl) => {
                    state.answered = Some((SystemTime::now(), ttl));
                    state.failure = None;
                }
                Err(failure) => state.failure = Some(failure),
            }
        }
        if changed {
            state.users.iter().for_each(|user| user.take(&found));
            state.found = Some(found);
        }
        drop(state);
        let _ = self.tried.set(());
    }

    fn found(&self) -> Option<Arc<[ResolvedAddress]>> {
        self.state().found.clone()
    }

    fn status(&self) -> DnsName {
        let state = self.state();
        let mut pools: Vec<String> = state.users.iter().map(|user| user.pool.name.to_string()).collect();
        pools.sort_unstable();
        let found = state.found.iter().flat_map(|found| found.iter());
        let addresses: Vec<_> = found.map(|found| found.address.to_string()).collect();
        let age = |at: SystemTime| at.elapsed().unwrap_or_default().as_secs();
        DnsName {
            name: self.query.to_string(),
            pools,
            addresses,
            answered: state.answered.map(|(at, _)| at.into()),
            age_s: state.answered.map(|(at, _)| age(at)),
            ttl_s: state.answered.map(|(_, ttl)| ttl.as_secs_f64()),
            error: state.failure.as_ref().map(|failure| match failure.source() {
                Some(cause) => format!("{failure}: {cause}"),
                None => failure.to_string(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl User {
    fn take(&self, found: &[ResolvedAddress]) {
        let found = found.iter().map(|found| pool::ResolvedAddress {
            address: Address::Inet(found.address),
            weight: found.weight.unwrap_or(1),
            backup: found.backup,
        });
        self.pool.answer(&self.entry, found.collect());
    }
}

impl Drop for ResolvedName {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The names in `snapshot`, and the pool entries that use each.
fn users(snapshot: &Snapshot, metrics: &Metrics) -> BTreeMap<Key, Vec<User>> {
    let mut users: BTreeMap<Key, Vec<User>> = BTreeMap::new();
    for (config, pool) in snapshot.config.pools.iter().zip(&snapshot.pools) {
        for backend in &config.backends {
            let Place::LookedUp(query) = place(&backend.address) else { continue };
            users.entry((query, config.resolve.clone())).or_default().push(User {
                pool: Arc::clone(pool),
                entry: backend.address.to_string().into(),
                metrics: metrics.dns(&pool.name),
            });
        }
    }
    users
}

/// The address of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Known(Address),
    LookedUp(Query),
    /// A source beside the file passes the addresses to the pool.
    Passed,
}

pub(crate) fn place(address: &BackendAddress) -> Place {
    match address {
        BackendAddress::Inet(address) => Place::Known(Address::Inet(*address)),
        BackendAddress::Unix(path) => Place::Known(Address::Unix(Arc::clone(path))),
        BackendAddress::Name { host, port, search } => Place::LookedUp(Query::Host {
            host: match search {
                Search::Allowed => host.as_str().into(),
                Search::No => format!("{host}.").into(),
            },
            port: *port,
        }),
        BackendAddress::Service(_) => Place::Passed,
        BackendAddress::Srv { name } => Place::LookedUp(Query::Service { name: name.as_str().into() }),
    }
}

/// Forwards each pool's requests for a fresh look-up to its names.
fn early_lookups<'a>(names: impl Iterator<Item = &'a Name>) -> JoinSet<()> {
    let mut early_lookups: BTreeMap<Arc<str>, EarlyLookups> = BTreeMap::new();
    for name in names {
        for User { pool, .. } in &name.state().users {
            let forward = || EarlyLookups { pool: Arc::clone(pool), names: Vec::new() };
            early_lookups.entry(Arc::clone(&pool.name)).or_insert_with(forward).names.push(Arc::clone(&name.kick));
        }
    }
    early_lookups.into_values().map(EarlyLookups::pass_on).collect()
}

struct EarlyLookups {
    pool: Arc<Pool>,
    names: Vec<Arc<Notify>>,
}

impl EarlyLookups {
    async fn pass_on(self) {
        loop {
            self.pool.look_again.notified().await;
            self.names.iter().for_each(|name| name.notify_one());
        }
    }
}
