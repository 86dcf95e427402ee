//! Writes to the cluster while this process holds the Lease: the Services of Gateways, and statuses.
//!
//! In:  the objects that were found; what is in force of them.
//! Out: writes, where something differs, and what the status page shows. What cannot be written is tried again.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::{Lookup, ObjectRef, Store};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, SetOnce, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::client::{NO_ANSWER, causes, own_namespace};
use super::data_planes::{self, InForce};
use super::events;
use super::gateway::is_made_for;
use super::join::Cluster;
use super::lease::{Candidate, EVERY};
use super::objects::{ObjectName, Objects, Observed};
use super::reports::Reports;
use super::service;
use super::status::Statuses;
use super::translate::translate;
use super::translation::Exposure;
use super::watch::Stores;
use super::writes::{Outcome, Writes};
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
    let writes = Writes::new(&parts.client, parts.metrics);
    let writer = Writer { parts: &parts, namespace: own_namespace(&parts.client), writes };
    tokio::join!(keep_lease(&parts), writer.run());
}

/// Takes the Lease, or waits for it, and renews it.
async fn keep_lease(parts: &Parts<'_>) {
    if parts.settings.role == KubernetesRole::DataPlane {
        return;
    }
    let namespace = own_namespace(&parts.client);
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
                    let now = if holds { "writes from now on" } else { "writes no longer" };
                    tracing::info!(
                        event = "kubernetes_leader",
                        holds,
                        "this process {now}: statuses, Services and Events"
                    );
                }
                None
            }
            Ok(Err(error)) => Some(causes(&error)),
            Err(_) => Some(NO_ANSWER.to_owned()),
        };
        if let Some(error) = &error
            && failed.as_ref() != Some(error)
        {
            tracing::warn!(
                event = "kubernetes_lease_failed",
                namespace,
                error,
                "the Lease cannot be taken or renewed; a Role must allow it in this namespace"
            );
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

struct Writer<'a> {
    parts: &'a Parts<'a>,
    /// Of this pod.
    namespace: String,
    writes: Writes<'a>,
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
                    let soon = Instant::now() + IN_FORCE;
                    again = Some(again.map_or(soon, |again| again.min(soon)));
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
                (Some(now), Some(of_here)) => self.bring_up_to_date(&now, &of_here).await,
                _ => self.refuse_version().await,
            };
            again = (outcome != Outcome::Done).then(|| Instant::now() + pause.max(self.writes.busy_for()));
            let longest = if outcome == Outcome::Waits { LONGEST_WAIT } else { LONGEST_PAUSE };
            pause = (pause * 2).min(longest);
        }
    }

    /// Writes what differs from what the objects should be, with what is in force of them.
    async fn bring_up_to_date(&mut self, now: &Cluster, of_here: &InForce) -> Outcome {
        let others = data_planes::addresses(&self.parts.stores.slices.state(), &self.namespace);
        let in_force = match others.is_empty() {
            false => data_planes::in_force(&others).await,
            true if self.parts.settings.role == KubernetesRole::Controller => InForce::new(),
            true => of_here.clone(),
        };
        // A data plane reports nothing by itself.
        let is_everywhere = of_here.iter().all(|(name, generation)| in_force.get(name) >= Some(generation));
        let waits = if is_everywhere { Outcome::Done } else { Outcome::Waits };
        let unsupported_version = (self.parts.unsupported)();
        let service_errors = self.writes.service_errors();
        let observed = Observed { in_force, unsupported_version, service_errors, ..now.observed.clone() };
        self.write(&now.objects, &observed).await.max(waits)
    }

    /// Writes what differs from what these objects should be.
    async fn write(&mut self, objects: &Objects, observed: &Observed) -> Outcome {
        let translation = translate(objects, self.parts.settings, observed, &(self.parts.bound)());
        let reports = Reports::of(&translation.statuses, objects);
        *self.parts.reports.lock().unwrap_or_else(PoisonError::into_inner) = reports;
        let mut outcome = Outcome::Done;
        if self.parts.settings.addresses == KubernetesAddresses::Service {
            for (gateway, exposure) in &translation.exposures {
                outcome = outcome.max(self.service(gateway, exposure).await);
            }
        }
        outcome = outcome.max(self.obsolete_services(objects).await);
        outcome.max(self.statuses(&translation.statuses).await)
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
    async fn service(&mut self, gateway: &ObjectName, exposure: &Exposure) -> Outcome {
        // The Service of a Gateway that was just deleted is not made again.
        let is_there = get(&self.parts.stores.gateways, gateway)
            .is_some_and(|gateway| gateway.metadata.uid.as_deref().unwrap_or_default() == exposure.uid);
        if !self.leads() || !is_there {
            return Outcome::Done;
        }
        let before = get(&self.parts.stores.services, &exposure.service);
        if before.as_ref().is_some_and(|before| !is_made_for(before, &exposure.uid)) {
            return self.writes.not_ours(&exposure.service);
        }
        let wanted = service::wanted(gateway, exposure, self.parts.settings.service);
        self.writes.service(before.as_deref(), &wanted).await
    }

    /// Deletes the Services of Gateways that have another class now. Those of deleted Gateways are deleted by the cluster.
    async fn obsolete_services(&mut self, objects: &Objects) -> Outcome {
        let mut outcome = Outcome::Done;
        for service in service::obsolete(objects) {
            // The store may know better.
            let is_there = || get(&self.parts.stores.services, &ObjectName::of(&service.metadata)).is_some();
            if self.leads() && is_there() {
                outcome = outcome.max(self.writes.delete_service(service).await);
            }
        }
        outcome
    }

    /// Writes the statuses that differ.
    async fn statuses(&mut self, statuses: &Statuses) -> Outcome {
        let stores = self.parts.stores;
        let controller = &*self.parts.settings.controller_name.0;
        let now = Time(Timestamp::now());
        let mut outcome = Outcome::Done;
        for (name, status) in &statuses.gateway_classes {
            let Some(object) = stores.classes.get(&ObjectRef::new(&name.name)) else { continue };
            let status = status.replace(object.status.as_ref(), &now);
            outcome = outcome.max(self.status(KubernetesKind::GatewayClass, &*object, status).await);
        }
        for (name, status) in &statuses.gateways {
            let Some(object) = get(&stores.gateways, name) else { continue };
            let status = status.replace(object.status.as_ref(), &now);
            outcome = outcome.max(self.status(KubernetesKind::Gateway, &*object, status).await);
        }
        for (name, status) in &statuses.tls_routes {
            let Some(object) = get(&stores.routes, name) else { continue };
            let status = status.replace(object.status.as_ref(), controller, &now);
            outcome = outcome.max(self.status(KubernetesKind::TlsRoute, &*object, status).await);
        }
        let outcome = outcome.max(self.ingresses(statuses, now.0).await);
        self.writes.retain(|kind, name| match kind {
            KubernetesKind::GatewayClass => stores.classes.get(&ObjectRef::new(&name.name)).is_some(),
            KubernetesKind::Gateway => get(&stores.gateways, name).is_some(),
            KubernetesKind::TlsRoute => get(&stores.routes, name).is_some(),
            KubernetesKind::Ingress => get(&stores.ingresses, name).is_some(),
            // One that cannot be made is not there either.
            KubernetesKind::Service => statuses.gateways.keys().any(|gateway| gateway.namespace == name.namespace),
            _ => false,
        });
        outcome
    }

    async fn ingresses(&mut self, statuses: &Statuses, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::Done;
        for (name, status) in &statuses.ingresses {
            let Some(object) = get(&self.parts.stores.ingresses, name) else { continue };
            outcome = outcome
                .max(self.status(KubernetesKind::Ingress, &*object, status.replace(object.status.as_ref())).await);
            if self.leads() && !status.problems.is_empty() {
                let us = (&*self.parts.settings.controller_name.0, self.parts.identity);
                self.writes.event(name, &events::not_served(&object, &status.problems, us, now)).await;
            }
        }
        let has_problem = |name: &ObjectName| statuses.ingresses.get(name).is_some_and(|one| !one.problems.is_empty());
        self.writes.retain_events(has_problem);
        outcome
    }

    /// Writes a status, if it differs and this process may write.
    async fn status<K>(&mut self, kind: KubernetesKind, object: &K, status: Option<impl Serialize>) -> Outcome
    where
        K: Resource + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        match status {
            Some(status) if self.leads() => self.writes.status(kind, object, status).await,
            _ => Outcome::Done,
        }
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
/// For what cannot be written.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// For other data planes.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
