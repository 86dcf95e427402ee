//! Writes to the cluster while this process holds the Lease: the Services of Gateways, and statuses.
//!
//! In:  the objects that were found; what is in force of them.
//! Out: writes, where something differs, and what the status page shows. What cannot be written is tried again.

use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gateway_api::apis::standard::gatewayclasses::GatewayClass;
use gateway_api::apis::standard::gateways::Gateway;
use gateway_api::apis::standard::tlsroutes::TlsRoute;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::{Lookup, ObjectRef, Store};
use kube::{Api, Client};
use tokio::sync::{Notify, SetOnce, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::client::causes;
use super::data_planes::{self, InForce};
use super::lease::{Candidate, EVERY};
use super::objects::{ObjectName, Objects, Observed};
use super::reports::Reports;
use super::service;
use super::status::Statuses;
use super::translate::translate;
use super::translation::Exposure;
use super::watch::Stores;
use super::writes::{self, Outcome, Replaced};
use crate::settings::{Kubernetes, KubernetesAddresses, KubernetesRole};
use crate::sources::Found;
use crate::telemetry::{KubernetesKind, Metrics};

/// What [`run`] works with.
pub(super) struct Parts<'a> {
    pub client: Client,
    pub settings: &'a Kubernetes,
    pub stores: &'a Stores,
    /// The objects.
    pub found: watch::Receiver<Found>,
    /// What is in force of them.
    pub in_force: watch::Receiver<Option<Arc<InForce>>>,
    /// An object may differ from what it should be.
    pub look_again: &'a Notify,
    pub metrics: &'a Metrics,
    /// Where what the objects are told is kept.
    pub reports: &'a Mutex<Reports>,
    /// Why the installed version of the Gateway API cannot be used.
    pub unsupported: &'a (dyn Fn() -> Option<String> + Sync),
    /// Where the listeners of the file are bound.
    pub bound: &'a (dyn Fn() -> Vec<SocketAddr> + Sync),
    /// Until when this process may write.
    pub leads: &'a watch::Sender<Option<Instant>>,
    pub leaving: &'a Leaving,
    /// Of this process, in the Lease.
    pub identity: &'a str,
}

/// How a process gives the Lease back before it ends.
#[derive(Default)]
pub(super) struct Leaving {
    pub asked: SetOnce<()>,
    pub done: SetOnce<()>,
}

/// Writes until it is dropped.
pub(super) async fn run(parts: Parts<'_>) {
    let writer = Writer { parts: &parts, namespace: namespace(&parts.client), replaced: Replaced::default() };
    tokio::join!(keep_lease(&parts), writer.run());
}

/// Takes the Lease, or waits for it, and renews it.
async fn keep_lease(parts: &Parts<'_>) {
    if parts.settings.role == KubernetesRole::DataPlane {
        let _ = parts.leaving.done.set(());
        return;
    }
    let namespace = namespace(&parts.client);
    let mut candidate =
        Candidate::new(parts.client.clone(), &namespace, &parts.settings.controller_name.0, parts.identity);
    let mut failed: Option<String> = None;
    loop {
        let began = Instant::now();
        let error = match timeout(PATIENCE, candidate.attempt()).await {
            Ok(Ok(until)) => {
                let was = parts.leads.send_replace(until);
                if until.is_some() != was.is_some() {
                    let holds = until.is_some();
                    tracing::info!(event = "kubernetes_leader", holds, "who writes statuses has changed");
                }
                None
            }
            Ok(Err(error)) => Some(causes(&error)),
            Err(_) => Some("the API server has not answered in time".to_owned()),
        };
        if let Some(error) = &error
            && failed.as_ref() != Some(error)
        {
            tracing::warn!(event = "kubernetes_lease_failed", namespace, error, "the Lease cannot be taken or renewed");
        }
        failed = error;
        // What was held goes on for its time.
        parts.leads.send_if_modified(|until| until.is_some_and(|at| at <= Instant::now()) && until.take().is_some());
        parts.metrics.kubernetes().leads(parts.leads.borrow().is_some());
        tokio::select! {
            () = sleep_until(began + EVERY) => {}
            _ = parts.leaving.asked.wait() => {
                parts.leads.send_replace(None);
                let _ = timeout(PATIENCE, candidate.release()).await;
                let _ = parts.leaving.done.set(());
                return;
            }
        }
    }
}

/// Where the Lease is: the namespace of the pod.
fn namespace(client: &Client) -> String {
    std::env::var("POD_NAMESPACE").unwrap_or_else(|_| client.default_namespace().to_owned())
}

struct Writer<'a> {
    parts: &'a Parts<'a>,
    /// Of this pod.
    namespace: String,
    replaced: Replaced,
}

impl Writer<'_> {
    async fn run(mut self) {
        let (mut found, mut in_force) = (self.parts.found.clone(), self.parts.in_force.clone());
        let mut leads = self.parts.leads.subscribe();
        found.mark_changed();
        let mut pause = SHORTEST_PAUSE;
        let mut again: Option<Instant> = None;
        loop {
            let was_leading = leads.borrow_and_update().is_some();
            let is_retry = tokio::select! {
                // It will be in force in a moment: what is written then need not be written twice.
                Ok(()) = found.changed() => {
                    again.get_or_insert_with(|| Instant::now() + IN_FORCE);
                    continue;
                }
                Ok(()) = in_force.changed() => false,
                () = self.parts.look_again.notified() => false,
                // A new leader does not know what the last one has written.
                Ok(()) = leads.changed() => if was_leading || leads.borrow().is_none() { continue } else { false },
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => true,
            };
            if !is_retry {
                pause = SHORTEST_PAUSE;
            }
            let now = found.borrow_and_update().kubernetes.clone();
            let of_here = in_force.borrow_and_update().clone();
            let outcome = match (now, of_here) {
                (Some(now), Some(of_here)) => {
                    let others = data_planes::addresses(&self.parts.stores.slices.state(), &self.namespace);
                    let in_force = match others.is_empty() {
                        false => data_planes::in_force(&others).await,
                        true if self.parts.settings.role == KubernetesRole::Controller => InForce::new(),
                        true => (*of_here).clone(),
                    };
                    // A data plane reports nothing by itself.
                    let is_everywhere = of_here.iter().all(|(name, generation)| in_force.get(name) >= Some(generation));
                    let waits = if is_everywhere { Outcome::Done } else { Outcome::Again };
                    let unsupported_version = (self.parts.unsupported)();
                    let observed = Observed { in_force, unsupported_version, ..now.observed.clone() };
                    self.write(&now.objects, &observed).await.and(waits)
                }
                _ => self.refuse_version().await,
            };
            again = (outcome == Outcome::Again).then(|| Instant::now() + pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Writes what differs from what these objects should be.
    async fn write(&mut self, objects: &Objects, observed: &Observed) -> Outcome {
        let translation = translate(objects, self.parts.settings, observed, &(self.parts.bound)());
        let reports = Reports::of(&translation.statuses, objects);
        *self.parts.reports.lock().unwrap_or_else(PoisonError::into_inner) = reports;
        let mut outcome = Outcome::Done;
        if self.parts.settings.addresses == KubernetesAddresses::Service {
            for (gateway, exposure) in &translation.exposures {
                outcome = outcome.and(self.service(gateway, exposure).await);
            }
        }
        outcome.and(self.statuses(&translation.statuses).await)
    }

    /// Tells the GatewayClasses if the installed version of the Gateway API cannot be used.
    async fn refuse_version(&mut self) -> Outcome {
        let Some(why) = (self.parts.unsupported)() else { return Outcome::Done };
        let objects = Objects { gateway_classes: self.parts.stores.classes.state(), ..Objects::default() };
        let observed = Observed { unsupported_version: Some(why), ..Observed::default() };
        let translation = translate(&objects, self.parts.settings, &observed, &[]);
        self.statuses(&translation.statuses).await
    }

    fn leads(&self) -> bool {
        self.parts.leads.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Makes, or corrects, the Service of a Gateway.
    async fn service(&self, gateway: &ObjectName, exposure: &Exposure) -> Outcome {
        if !self.leads() {
            return Outcome::Done;
        }
        let before = get(&self.parts.stores.services, &exposure.service);
        if before.as_ref().is_some_and(|before| !service::is_ours(before, exposure)) {
            let error = "there is a Service of that name which belongs to nobody, or to somebody else";
            writes::log_failure(KubernetesKind::Service, &exposure.service, error);
            return Outcome::Again;
        }
        let wanted = service::wanted(gateway, exposure, self.parts.settings.service);
        let api = Api::<Service>::namespaced(self.parts.client.clone(), &exposure.service.namespace);
        writes::service(&api, before.as_deref(), &wanted).await
    }

    /// Writes the statuses that differ.
    async fn statuses(&mut self, statuses: &Statuses) -> Outcome {
        let (client, stores, metrics) = (&self.parts.client, self.parts.stores, self.parts.metrics);
        let controller = &*self.parts.settings.controller_name.0;
        let now = Time(Timestamp::now());
        let mut outcome = Outcome::Done;
        for (name, status) in &statuses.gateway_classes {
            let Some(object) = stores.classes.get(&ObjectRef::new(&name.name)) else { continue };
            if self.may_write(KubernetesKind::GatewayClass, &*object)
                && let Some(status) = status.replace(object.status.as_ref(), &now)
            {
                let api = Api::<GatewayClass>::all(client.clone());
                let written = self.replaced.status(&api, KubernetesKind::GatewayClass, &*object, status, metrics).await;
                outcome = outcome.and(written);
            }
        }
        for (name, status) in &statuses.gateways {
            let Some(object) = get(&stores.gateways, name) else { continue };
            if self.may_write(KubernetesKind::Gateway, &*object)
                && let Some(status) = status.replace(object.status.as_ref(), &now)
            {
                let api = Api::<Gateway>::namespaced(client.clone(), &name.namespace);
                let written = self.replaced.status(&api, KubernetesKind::Gateway, &*object, status, metrics).await;
                outcome = outcome.and(written);
            }
        }
        for (name, status) in &statuses.tls_routes {
            let Some(object) = get(&stores.routes, name) else { continue };
            if self.may_write(KubernetesKind::TlsRoute, &*object)
                && let Some(status) = status.replace(object.status.as_ref(), controller, &now)
            {
                let api = Api::<TlsRoute>::namespaced(client.clone(), &name.namespace);
                let written = self.replaced.status(&api, KubernetesKind::TlsRoute, &*object, status, metrics).await;
                outcome = outcome.and(written);
            }
        }
        outcome
    }

    /// Whether this process writes, and the store shows what was written last.
    fn may_write(&self, kind: KubernetesKind, object: &impl kube::Resource) -> bool {
        self.leads() && !self.replaced.has(kind, object)
    }
}

fn get<K>(store: &Store<K>, name: &ObjectName) -> Option<Arc<K>>
where
    K: Lookup + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone + Default,
{
    store.get(&ObjectRef::new(&name.name).within(&name.namespace))
}

const PATIENCE: Duration = Duration::from_secs(5);
/// For a change to come into force in this process.
const IN_FORCE: Duration = Duration::from_millis(500);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
