//! Keeps up with the objects of the cluster of the configuration in force, and remembers what became of them.
//!
//! In:  the snapshot in force, for its settings; what the reload has made of the objects.
//! Out: [`Found`] whenever objects change that are put in force by a new snapshot; endpoints in the pools; the status.
//!      While the API server is away, what was found last goes on.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use gateway_api::apis::standard::gateways::Gateway;
use kube::Client;
use tokio::sync::{Notify, SetOnce, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::client::{connect, own_namespace};
use super::controller::{self, Leaving};
use super::data_planes::{InForce, is_of_data_planes};
use super::join::Cluster;
use super::lease::identity;
use super::members::Members;
use super::own_addresses::own_addresses;
use super::reports::Reports;
use super::request::Failure;
use super::watch::{Happened, Stores, follow, stores};
use super::{ObjectName, Objects, Observed, Translation};
use crate::config::Settings;
use crate::operate::status::{KubernetesKindStatus, KubernetesStatus};
use crate::settings::{Kubernetes, KubernetesRole, Origin};
use crate::snapshot::Snapshot;
use crate::sources::Found;
use crate::supervise::supervise;
use crate::telemetry::{KubernetesKind, Metrics, Task};

/// The objects of the cluster. Clones share the state.
#[derive(Clone)]
pub(crate) struct ClusterFollower(Arc<Inner>);

struct Inner {
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    found: Arc<watch::Sender<Found>>,
    members: Members,
    /// The generation of each Gateway that is in force here; `None`: nothing is yet.
    in_force: watch::Sender<Option<Arc<InForce>>>,
    /// Until when this process may write to the cluster.
    leads: watch::Sender<Option<Instant>>,
    leaving: Leaving,
    /// Names this process among those that want to write.
    identity: String,
    /// What the objects are told, for the status page.
    reports: Mutex<Reports>,
    /// Statuses, or Services, may differ from what they should be.
    look_again: Notify,
    state: Mutex<State>,
    /// Set once the first objects are in force, or `kubernetes` is off.
    tried: SetOnce<()>,
}

#[derive(Default)]
struct State {
    kinds: BTreeMap<&'static str, KindState>,
    /// Since when everything is followed, or something is not.
    since: Option<SystemTime>,
    is_connected: bool,
    /// Why there is no client.
    error: Option<String>,
    /// The namespace of this process; `None`: there was no client yet.
    namespace: Option<Arc<str>>,
    unbindable: BTreeMap<ObjectName, Unbindable>,
    /// The first event of a change that has not been passed on.
    first_event: Option<Instant>,
    /// The same of the change that was passed on last.
    passed_on: Option<Instant>,
}

/// A Gateway with an address that cannot be bound.
struct Unbindable {
    why: String,
    since: Instant,
    /// Of the Gateway. Another one may have other addresses, which can be bound.
    generation: i64,
}

#[derive(Default)]
struct KindState {
    is_synced: bool,
    count: usize,
    failure: Option<Failure>,
}

impl ClusterFollower {
    pub(crate) fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        metrics: Arc<Metrics>,
        found: Arc<watch::Sender<Found>>,
        listening: watch::Receiver<Arc<[SocketAddr]>>,
    ) -> Self {
        Self(Arc::new(Inner {
            snapshot,
            metrics,
            found,
            members: Members::new(listening),
            in_force: watch::Sender::default(),
            leads: watch::Sender::default(),
            leaving: Leaving::default(),
            identity: identity(),
            reports: Mutex::default(),
            look_again: Notify::new(),
            state: Mutex::default(),
            tried: SetOnce::new(),
        }))
    }

    /// Follows the objects until the process ends.
    pub(crate) async fn run(self) {
        supervise(Task::Kubernetes, &self.0.metrics, || self.keep()).await;
    }

    /// Lets another process write from now on.
    pub(crate) async fn leave(&self) {
        let _ = self.0.leaving.asked.set(());
        if self.0.leads.borrow().is_some() {
            let _ = timeout(PATIENCE, self.0.leaving.done.wait()).await;
        }
    }

    /// Waits until the objects that are there at the start are in force.
    pub(crate) async fn tried(&self) {
        self.0.tried.wait().await;
    }

    async fn keep(&self) {
        loop {
            if self.settings().is_none() {
                self.forget();
                self.until(|settings| settings.is_some()).await;
            }
            tokio::select! {
                () = self.follow() => {}
                () = self.until(|settings| settings.is_none()) => {}
            }
        }
    }

    fn settings(&self) -> Option<Kubernetes> {
        self.0.snapshot.load().config.kubernetes.clone()
    }

    /// Waits until `wanted` settings are in force.
    async fn until(&self, wanted: impl Fn(Option<&Kubernetes>) -> bool) {
        loop {
            let snapshot = self.0.snapshot.load_full();
            if wanted(snapshot.config.kubernetes.as_ref()) {
                return;
            }
            snapshot.until_replaced().await;
        }
    }

    /// Forgets the cluster: `kubernetes` is off.
    fn forget(&self) {
        *self.state() = State::default();
        self.0.members.end();
        self.0.found.send_modify(|found| found.kubernetes = None);
        self.0.in_force.send_replace(None);
        self.leads_no_more();
        for kind in KubernetesKind::ALL {
            self.0.metrics.kubernetes().objects(*kind, 0);
        }
        self.0.metrics.kubernetes().synced(false, None);
        // An error means that it was already set.
        let _ = self.0.tried.set(());
    }

    fn leads_no_more(&self) {
        self.0.leads.send_replace(None);
        self.0.metrics.kubernetes().leads(false);
    }

    /// Follows the cluster, whatever the other settings are: what is known stays when they change.
    async fn follow(&self) {
        *self.state() = State::default();
        let client = self.connected().await;
        self.state().namespace = Some(own_namespace(&client).into());
        let (stores, writers) = stores();
        self.0.members.begin(stores.slices.clone());
        let changed = Notify::new();
        let happened = |kind, what| self.happened(kind, what, &changed);
        tokio::join!(
            follow(&client, writers, &happened),
            self.gather(&stores, &changed),
            self.bind_again(),
            self.write(&client, &stores),
        );
    }

    /// Writes to the cluster, as the settings in force want it.
    async fn write(&self, client: &Client, stores: &Stores) {
        let bound = || bound(&self.0.snapshot.load().config);
        let unsupported = || self.unsupported();
        loop {
            let Some(settings) = self.settings() else { return };
            self.leads_no_more();
            let parts = controller::Parts {
                client: client.clone(),
                settings: &settings,
                stores,
                found: self.0.found.subscribe(),
                in_force: self.0.in_force.subscribe(),
                reports: &self.0.reports,
                unsupported: &unsupported,
                bound: &bound,
                look_again: &self.0.look_again,
                metrics: &self.0.metrics,
                leads: &self.0.leads,
                leaving: &self.0.leaving,
                identity: &self.0.identity,
            };
            tokio::select! {
                () = controller::run(parts) => {}
                () = self.until(|now| now != Some(&settings)) => {}
            }
        }
    }

    async fn connected(&self) -> Client {
        loop {
            match connect().await {
                Ok(client) => {
                    self.state().error = None;
                    return client;
                }
                Err(error) => {
                    let text = error.to_string();
                    let mut state = self.state();
                    if state.error.as_ref() != Some(&text) {
                        tracing::error!(
                            event = "kubernetes_no_access",
                            error = text,
                            "the Kubernetes API cannot be used: run in a pod with a service account, or set KUBECONFIG"
                        );
                        state.error = Some(text);
                        state.since.get_or_insert_with(SystemTime::now);
                    }
                }
            }
            sleep(BETWEEN_CONNECTS).await;
        }
    }

    fn happened(&self, kind: KubernetesKind, what: Happened, changed: &Notify) {
        let mut state = self.state();
        let State { kinds, first_event, namespace, .. } = &mut *state;
        let of = kinds.entry(kind.as_str()).or_default();
        match what {
            Happened::Failed(failure) => {
                self.0.metrics.kubernetes().failed(kind);
                if failure.is_not_found() {
                    self.0.look_again.notify_one();
                }
                if of.failure.as_ref() != Some(&failure) {
                    log_failure(kind, &failure, of.is_synced);
                }
                of.failure = Some(failure);
            }
            Happened::Unreadable { name, error } => {
                self.0.metrics.kubernetes().failed(kind);
                let kind = kind.as_str();
                tracing::warn!(
                    event = "kubernetes_object_unreadable",
                    kind,
                    %name,
                    error,
                    "an object cannot be read: what it said before stays in force until it is mended or deleted"
                );
            }
            Happened::Answered => of.failure = None,
            Happened::StatusChanged => {
                of.failure = None;
                self.0.look_again.notify_one();
            }
            Happened::Slice { slice, count } => {
                (of.failure, of.count) = (None, count);
                self.0.members.changed(&slice, &self.0.snapshot.load());
                if namespace.as_deref().is_some_and(|own| is_of_data_planes(&slice, own)) {
                    self.0.look_again.notify_one();
                }
            }
            Happened::Changed { count } | Happened::Synced { count } => {
                (of.failure, of.count) = (None, count);
                of.is_synced |= matches!(what, Happened::Synced { .. });
                if kind == KubernetesKind::EndpointSlice {
                    self.0.members.listed(&self.0.snapshot.load());
                }
                first_event.get_or_insert_with(Instant::now);
                changed.notify_one();
            }
        }
        self.0.metrics.kubernetes().objects(kind, of.count);
        self.note_connection(&mut state);
    }

    /// Why the installed version of the Gateway API cannot be used; `None`: it can, as far as is known.
    fn unsupported(&self) -> Option<String> {
        let state = self.state();
        let missing = state.kinds.iter().filter(|(_, of)| of.failure.as_ref().is_some_and(Failure::is_not_found));
        let missing: Vec<&str> = missing.map(|(kind, _)| *kind).collect();
        (!missing.is_empty()).then(|| format!("the cluster has no {} of version v1: {INSTALL}", missing.join(", ")))
    }

    /// Notes since when all kinds are followed, or some are not.
    fn note_connection(&self, state: &mut State) {
        let is_synced = state.is_synced();
        let is_connected = is_synced && state.kinds.values().all(|of| of.failure.is_none());
        if is_connected != state.is_connected || state.since.is_none() {
            state.since = Some(SystemTime::now());
            state.is_connected = is_connected;
            if is_connected {
                let objects = state.kinds.values().map(|of| of.count).sum::<usize>();
                tracing::info!(
                    event = "kubernetes_connected",
                    objects,
                    "all objects of the Kubernetes cluster are known"
                );
            }
        }
        self.0.metrics.kubernetes().synced(is_connected, state.since.filter(|_| !is_connected));
    }

    /// Passes all objects on when some have changed, and no more changes come for a moment.
    async fn gather(&self, stores: &Stores, changed: &Notify) {
        loop {
            changed.notified().await;
            let until = Instant::now() + GATHER_AT_MOST;
            loop {
                let quiet = (Instant::now() + GATHER).min(until);
                if timeout_at(quiet, changed.notified()).await.is_err() {
                    break;
                }
            }
            let mut state = self.state();
            if state.is_synced() {
                // A change that was passed on and is not in force yet counts from its own beginning.
                let first = state.first_event.take();
                state.passed_on = state.passed_on.or(first);
                drop(state);
                self.pass_on(Some(objects(stores)));
            }
        }
    }

    /// Passes `objects` on, or those that were passed on before if something else has changed.
    fn pass_on(&self, objects: Option<Objects>) {
        let mut state = self.state();
        if let Some(objects) = &objects {
            let now: HashMap<ObjectName, i64> = objects.gateways.iter().map(|gateway| generation(gateway)).collect();
            state.unbindable.retain(|name, it| now.get(name) == Some(&it.generation));
        }
        let unbindable = state.unbindable.iter().map(|(name, it)| (name.clone(), it.why.clone())).collect();
        let namespace = state.namespace.clone();
        drop(state);
        let observed = Observed { unbindable, own_addresses: own_addresses(), namespace, ..Observed::default() };
        self.0.found.send_if_modified(|all| {
            let objects = objects.or_else(|| all.kubernetes.as_ref().map(|cluster| cluster.objects.clone()));
            let is_known = objects.is_some();
            all.kubernetes = objects.map(|objects| Arc::new(Cluster { objects, observed }));
            is_known
        });
    }

    /// An address of a Gateway cannot be bound: the others are put in force without it, and it is tried again later.
    pub(crate) fn cannot_bind(&self, listener: &str, address: SocketAddr, error: &std::io::Error) {
        // `NAMESPACE/GATEWAY:PORT`
        let gateway = listener.rsplit_once(':').and_then(|(gateway, _)| gateway.split_once('/'));
        let Some((namespace, name)) = gateway else { return };
        let name = ObjectName::new(namespace, name);
        let found = self.0.found.borrow().kubernetes.clone();
        let mut gateways =
            found.iter().flat_map(|cluster| &cluster.objects.gateways).map(|gateway| generation(gateway));
        let generation = gateways.find(|(known, _)| *known == name).map_or(0, |(_, generation)| generation);
        let why = format!("{address} cannot be bound: {error}");
        let unbindable = Unbindable { why, since: Instant::now(), generation };
        if self.state().unbindable.insert(name, unbindable).is_some() {
            return;
        }
        tracing::error!(event = "kubernetes_cannot_bind", gateway = listener, %address, %error, "an address of a Gateway cannot be bound; it is tried again every 30 s");
        self.pass_on(None);
    }

    /// Tries again what could not be bound.
    async fn bind_again(&self) {
        loop {
            sleep(BETWEEN_BINDS).await;
            let mut state = self.state();
            let before = state.unbindable.len();
            state.unbindable.retain(|_, it| it.since.elapsed() < BETWEEN_BINDS);
            let is_other = state.unbindable.len() != before;
            drop(state);
            if is_other {
                self.pass_on(None);
            }
        }
    }

    /// Puts the endpoints that are known into the pools of a snapshot that is not in force yet.
    pub(crate) fn fill(&self, snapshot: &Snapshot, translation: &Translation) {
        self.0.members.learn(&translation.pools);
        self.0.members.fill(snapshot);
    }

    /// Takes note of what is now in force. If nothing else had to change, a port of a Service may have another name.
    pub(crate) fn in_force(&self, cluster: &Cluster, translation: &Translation) {
        let snapshot = self.0.snapshot.load_full();
        self.0.members.learn(&translation.pools);
        // Endpoints that have changed while the snapshot was built.
        self.0.members.fill(&snapshot);
        if snapshot.config.kubernetes.is_none() {
            return;
        }
        let first = self.state().passed_on.take();
        if let Some(first) = first {
            self.0.metrics.kubernetes().applied(first.elapsed());
        }
        // One that cannot be bound here is not served here.
        let all = cluster.objects.gateways.iter().map(|gateway| generation(gateway));
        let in_force = all.filter(|(name, _)| !cluster.observed.unbindable.contains_key(name)).collect();
        self.0.in_force.send_replace(Some(Arc::new(in_force)));
        let _ = self.0.tried.set(());
    }

    /// `None`: `kubernetes` is off.
    pub(crate) fn status(&self) -> Option<KubernetesStatus> {
        self.settings()?;
        let state = self.state();
        let reports = self.0.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds = state.kinds.iter().map(|(kind, of)| KubernetesKindStatus {
            kind: (*kind).into(),
            objects: of.count,
            synced: of.is_synced,
            error: of.failure.as_ref().map(|failure| match failure.is_not_found() {
                true => format!("the cluster has no such kind of version v1: {INSTALL}"),
                false => failure.to_string(),
            }),
        });
        Some(KubernetesStatus {
            connected: state.is_connected,
            since: state.since.map(Into::into),
            error: state.error.clone(),
            kinds: kinds.collect(),
            gateways: self.gateways(),
            leader: self.0.leads.borrow().is_some(),
            objects: reports.objects.clone(),
            objects_left_off: reports.left_off,
        })
    }

    fn gateways(&self) -> BTreeMap<String, i64> {
        let in_force = self.0.in_force.borrow();
        let serves =
            self.0.snapshot.load().config.kubernetes.as_ref().is_some_and(|it| it.role != KubernetesRole::Controller);
        let gateways = in_force.iter().filter(|_| serves).flat_map(|gateways| gateways.iter());
        gateways.map(|(name, generation)| (name.to_string(), *generation)).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_synced(&self) -> bool {
        KubernetesKind::ALL.iter().all(|kind| self.kinds.get(kind.as_str()).is_some_and(|of| of.is_synced))
    }
}

fn log_failure(kind: KubernetesKind, failure: &Failure, is_synced: bool) {
    let kind = kind.as_str();
    if failure.is_not_found() {
        tracing::error!(event = "kubernetes_kind_missing", kind, "the cluster has no {kind} of version v1: {INSTALL}");
        return;
    }
    let kept = if is_synced { "what is in force stays" } else { "no Gateway is served until they can" };
    tracing::warn!(event = "kubernetes_lost", kind, error = %failure, "objects of the cluster cannot be watched: {kept}");
}

fn generation(gateway: &Gateway) -> (ObjectName, i64) {
    (ObjectName::of(&gateway.metadata), gateway.metadata.generation.unwrap_or_default())
}

/// Where the listeners of the file are bound.
fn bound(config: &Settings) -> Vec<SocketAddr> {
    let of_file = config.listeners.iter().filter(|listener| listener.origin == Origin::File);
    of_file.flat_map(|listener| listener.bind.iter().map(|bind| bind.0)).collect()
}

fn objects(stores: &Stores) -> Objects {
    let Stores { classes, gateways, routes, grants, services, slices: _, namespaces, ingresses } = stores;
    Objects {
        gateway_classes: classes.state(),
        gateways: gateways.state(),
        tls_routes: routes.state(),
        reference_grants: grants.state(),
        services: services.state(),
        endpoint_slices: Vec::new(),
        namespaces: namespaces.state(),
        ingresses: ingresses.state(),
    }
}

/// After an event, for others that belong to it.
const GATHER: Duration = Duration::from_millis(50);
/// Events that go on and on are passed on after this.
const GATHER_AT_MOST: Duration = Duration::from_millis(500);
/// What to do if kinds are missing.
const INSTALL: &str = "install Gateway API 1.5 or newer, standard channel: `kubectl apply --server-side -f \
                       https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.5.0/standard-install.yaml`";
const PATIENCE: Duration = Duration::from_secs(2);
const BETWEEN_BINDS: Duration = Duration::from_secs(30);
const BETWEEN_CONNECTS: Duration = Duration::from_secs(5);
