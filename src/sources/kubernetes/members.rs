//! Passes the endpoints of Services to the pools in force, as they change: no snapshot is built for them.
//!
//! In:  the EndpointSlices of the cluster; the pools of a snapshot.
//! Out: backends in the pools, which keep health, counters and connections.
//! Source: <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::watch;

use super::endpoints::{self, ServicePort, service_of};
use super::objects::ObjectName;
use super::translation::FoundPool;
use crate::pool::Pool;
use crate::self_loop::comes_back;
use crate::settings::BackendAddress;
use crate::snapshot::Snapshot;

/// Which pool needs which slices.
pub(super) struct Members {
    state: Mutex<State>,
    /// The addresses of our own listeners.
    listening: watch::Receiver<Arc<[SocketAddr]>>,
}

#[derive(Default)]
struct State {
    /// `None`: no cluster is followed, or not all slices are known.
    store: Option<Store<EndpointSlice>>,
    /// It takes the place of the other one once all slices have been listed.
    next: Option<Store<EndpointSlice>>,
    /// The slices of each Service.
    slices: HashMap<ObjectName, BTreeSet<Arc<str>>>,
    /// The Service of each slice: a slice may be given to another one.
    services: HashMap<ObjectName, ObjectName>,
    /// Which port of which Service an entry stands for.
    ports: HashMap<Arc<str>, ServicePort>,
    /// Of the snapshot in force.
    generation: Option<u64>,
    users: HashMap<ObjectName, Vec<User>>,
}

/// A pool with an entry for a Service.
struct User {
    pool: Arc<Pool>,
    entry: Arc<str>,
    port: ServicePort,
}

impl Members {
    pub(super) fn new(listening: watch::Receiver<Arc<[SocketAddr]>>) -> Self {
        Self { state: Mutex::default(), listening }
    }

    /// Reads from `store` once it has all slices. Until then, what was known before goes on.
    pub(super) fn begin(&self, store: Store<EndpointSlice>) {
        self.state().next = Some(store);
    }

    /// Forgets everything: no cluster is followed any more.
    pub(super) fn end(&self) {
        *self.state() = State::default();
    }

    /// All slices have been listed.
    pub(super) fn listed(&self, in_force: &Snapshot) {
        let mut state = self.state();
        state.store = state.next.take().or(state.store.take());
        let slices = state.store.iter().flat_map(|store| store.state());
        let services = slices.filter_map(|slice| Some((ObjectName::of(&slice.metadata), service_of(&slice)?)));
        state.services = services.collect();
        let mut by_service: HashMap<ObjectName, BTreeSet<Arc<str>>> = HashMap::new();
        for (slice, service) in &state.services {
            by_service.entry(service.clone()).or_default().insert(Arc::clone(&slice.name));
        }
        state.slices = by_service;
        state.use_for(in_force);
        state.users.keys().for_each(|service| self.pass_on(&state, service));
    }

    /// One slice was added, changed or deleted.
    pub(super) fn changed(&self, slice: &EndpointSlice, in_force: &Snapshot) {
        let name = ObjectName::of(&slice.metadata);
        let mut state = self.state();
        let now = state.stored(&name).and_then(|slice| service_of(&slice));
        let before = match &now {
            Some(service) => state.services.insert(name.clone(), service.clone()),
            None => state.services.remove(&name),
        };
        if let Some(before) = &before
            && let Some(slices) = state.slices.get_mut(before)
        {
            slices.remove(&name.name);
            if slices.is_empty() {
                state.slices.remove(before);
            }
        }
        if let Some(service) = &now {
            state.slices.entry(service.clone()).or_default().insert(name.name);
        }
        state.use_for(in_force);
        before.iter().filter(|before| now.as_ref() != Some(before)).for_each(|before| self.pass_on(&state, before));
        now.iter().for_each(|service| self.pass_on(&state, service));
    }

    /// Notes what the entries of pools stand for. Those of a snapshot that is replaced stay known: a pool may still be used.
    pub(super) fn learn(&self, pools: &[FoundPool]) {
        let mut state = self.state();
        if state.ports.len() > 2 * pools.len() + MOST_KEPT {
            state.ports.clear();
        }
        let ports = pools.iter().filter_map(|found| Some((found.entry()?.into(), found.port.clone()?)));
        state.ports.extend(ports);
        // The users know their ports, which may be others now.
        state.generation = None;
    }

    /// Puts all endpoints into the pools of `snapshot`.
    pub(super) fn fill(&self, snapshot: &Snapshot) {
        let state = self.state();
        for (service, user) in users(snapshot, &state.ports) {
            user.take(self.addresses(&state, &service, &user.port));
        }
    }

    fn pass_on(&self, state: &State, service: &ObjectName) {
        for user in state.users.get(service).into_iter().flatten() {
            user.take(self.addresses(state, service, &user.port));
        }
    }

    fn addresses(&self, state: &State, service: &ObjectName, port: &ServicePort) -> BTreeSet<SocketAddr> {
        let slices: Vec<Arc<EndpointSlice>> = state.slices_of(service).collect();
        let mut addresses = endpoints::addresses(port, slices.iter().map(|slice| &**slice));
        let ours = self.listening.borrow();
        addresses.retain(|address| is_reachable(address.ip()) && !comes_back(*address, &ours));
        addresses
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn use_for(&mut self, in_force: &Snapshot) {
        if self.generation == Some(in_force.generation) {
            return;
        }
        self.generation = Some(in_force.generation);
        self.users.clear();
        let users: Vec<_> = users(in_force, &self.ports).collect();
        for (service, user) in users {
            self.users.entry(service).or_default().push(user);
        }
    }

    fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = Arc<EndpointSlice>> {
        let names = self.slices.get(service).into_iter().flatten();
        names.filter_map(|name| self.stored(&ObjectName { namespace: service.namespace.clone(), name: name.clone() }))
    }

    fn stored(&self, slice: &ObjectName) -> Option<Arc<EndpointSlice>> {
        self.store.as_ref()?.get(&ObjectRef::new(&slice.name).within(&slice.namespace))
    }
}

impl User {
    fn take(&self, addresses: BTreeSet<SocketAddr>) {
        self.pool.answer(&self.entry, endpoints::resolved(&addresses));
    }
}

/// The entries of all pools of a snapshot that stand for the endpoints of a Service.
fn users<'s>(
    snapshot: &'s Snapshot,
    ports: &'s HashMap<Arc<str>, ServicePort>,
) -> impl Iterator<Item = (ObjectName, User)> + 's {
    let pools = snapshot.config.pools.iter().zip(&snapshot.pools);
    let entries = pools.flat_map(|(config, pool)| config.backends.iter().map(move |backend| (pool, &backend.address)));
    entries.filter_map(move |(pool, address)| {
        let BackendAddress::Service(entry) = address else { return None };
        let port = ports.get(entry)?.clone();
        let user = User { pool: Arc::clone(pool), entry: Arc::clone(entry), port };
        Some((user.port.service.clone(), user))
    })
}

/// Whether other machines reach this address. Slices are written by users of the cluster, who may not reach what listens
/// only here.
pub(super) fn is_reachable(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(is_link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

/// Entries that no pool has any more are forgotten when there are so many of them.
const MOST_KEPT: usize = 1024;
