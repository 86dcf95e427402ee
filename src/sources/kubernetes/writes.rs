//! Writes one object at a time: a status, a Service, an Event.
//!
//! In:  the object as the store has it; what it should be.
//! Out: a write that is refused if the object has changed meanwhile; counts.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::time::Duration;

use hyper::{Request, StatusCode};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::request;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::client::NO_ANSWER;
use super::objects::ObjectName;
use super::request::{Failure, object};
use super::service;
use crate::telemetry::{KubernetesKind, Metrics, WriteResult};

/// What became of writes. Of two, the greater one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// The objects are as they should be, or are gone.
    Done,
    /// One has to be written again.
    Again,
    /// Something outside the cluster has to be asked again.
    Waits,
}

/// Writes, and remembers what was written.
pub(super) struct Writes<'a> {
    client: &'a Client,
    metrics: &'a Metrics,
    /// The versions that were written over. The store shows what was written a little later.
    replaced: HashMap<Key, String>,
    failing: HashMap<Key, Failing>,
    /// Until when the server wants no requests.
    busy: Option<Instant>,
    /// The Event that was written last for each object.
    events: HashMap<ObjectName, String>,
}

type Key = (KubernetesKind, ObjectName);

/// An object that could not be written.
struct Failing {
    error: String,
    pause: Duration,
    again: Instant,
}

/// What became of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Ok,
    /// There is no such object any more.
    Gone,
    Conflict,
    Failed,
}

impl<'a> Writes<'a> {
    pub(super) fn new(client: &'a Client, metrics: &'a Metrics) -> Self {
        let (replaced, failing, events) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { client, metrics, replaced, failing, busy: None, events }
    }

    /// How long the server wants no requests.
    pub(super) fn busy_for(&self) -> Duration {
        self.busy.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Writes the status of `object`.
    pub(super) async fn status<K>(&mut self, kind: KubernetesKind, object: &K, status: impl Serialize) -> Outcome
    where
        K: Resource + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let meta = object.meta();
        let (key, version) = ((kind, ObjectName::of(meta)), meta.resource_version.clone());
        if self.replaced.contains_key(&key) && self.replaced.get(&key) == version.as_ref() {
            // What it says is out of date: the store will show what was written.
            return Outcome::Done;
        }
        if !self.may_try(&key) {
            return Outcome::Again;
        }
        let patch = Patch::Merge(json!({ "metadata": { "resourceVersion": version }, "status": status }));
        let request = path::<K>(&key.1).patch_subresource("status", &key.1.name, &PatchParams::default(), &patch);
        let written = self.send(&key, request).await;
        let result = match written {
            Written::Ok => WriteResult::Ok,
            Written::Gone => return Outcome::Done,
            Written::Conflict => WriteResult::Conflict,
            Written::Failed => WriteResult::Failed,
        };
        self.metrics.kubernetes().wrote(kind, result);
        if written == Written::Ok {
            self.replaced.extend(version.map(|version| (key, version)));
        }
        written.into()
    }

    /// Makes a Service, or changes the one that there is.
    pub(super) async fn service(&mut self, before: Option<&Service>, wanted: &Service) -> Outcome {
        let key = (KubernetesKind::Service, ObjectName::of(&wanted.metadata));
        if before.is_some_and(|before| service::is_as_wanted(before, wanted)) {
            self.failing.remove(&key);
            return Outcome::Done;
        }
        if !self.may_try(&key) {
            return Outcome::Again;
        }
        let path = path::<Service>(&key.1);
        let request = match before {
            None => path.create(&PostParams::default(), json!(wanted).to_string().into_bytes()),
            Some(before) => {
                let patch = Patch::Merge(json!({
                    "metadata": {
                        "resourceVersion": before.metadata.resource_version,
                        "labels": wanted.metadata.labels,
                        "annotations": wanted.metadata.annotations,
                    },
                    "spec": wanted.spec,
                }));
                path.patch(&key.1.name, &PatchParams::default(), &patch)
            }
        };
        // After a conflict the store will show the newer version, or the Service that somebody else has just made.
        self.send(&key, request).await.into()
    }

    /// Deletes a Service, unless it has changed.
    pub(super) async fn delete_service(&mut self, service: &Service) -> Outcome {
        let key = (KubernetesKind::Service, ObjectName::of(&service.metadata));
        if !self.may_try(&key) {
            return Outcome::Again;
        }
        let meta = &service.metadata;
        let preconditions = Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let request = path::<Service>(&key.1).delete(&key.1.name, &params);
        self.send(&key, request).await.into()
    }

    /// Reports a Service that has the name of one of ours, and is not.
    pub(super) fn not_ours(&mut self, name: &ObjectName) -> Outcome {
        let failure = Failure::new(
            "a Service of that name was not made by snigate for this Gateway; rename the Service or the Gateway",
        );
        self.note(&(KubernetesKind::Service, name.clone()), &failure);
        Outcome::Again
    }

    /// Writes an Event about the object that is called `about`, unless it is the last one that was written about it.
    /// Events are a courtesy: one that cannot be written is not tried again.
    pub(super) async fn event(&mut self, about: &ObjectName, event: &Event) {
        let name = event.metadata.name.clone().unwrap_or_default();
        if self.events.get(about) == Some(&name) || !self.busy_for().is_zero() {
            return;
        }
        self.events.insert(about.clone(), name);
        let request = path::<Event>(about).create(&PostParams::default(), json!(event).to_string().into_bytes());
        // A conflict: another process has written it.
        self.send(&(KubernetesKind::Ingress, about.clone()), request).await;
    }

    /// Forgets the Events of objects that have no problem any more.
    pub(super) fn retain_events(&mut self, has_problem: impl Fn(&ObjectName) -> bool) {
        self.events.retain(|about, _| has_problem(about));
    }

    /// Forgets what is known of objects that are no more.
    pub(super) fn retain(&mut self, is_there: impl Fn(KubernetesKind, &ObjectName) -> bool) {
        self.replaced.retain(|(kind, name), _| is_there(*kind, name));
        self.failing.retain(|(kind, name), _| is_there(*kind, name));
    }

    /// Why Services cannot be written.
    pub(super) fn service_errors(&self) -> BTreeMap<ObjectName, String> {
        let of_services = self.failing.iter().filter(|((kind, _), _)| *kind == KubernetesKind::Service);
        of_services.map(|((_, name), failing)| (name.clone(), failing.error.clone())).collect()
    }

    fn may_try(&self, key: &Key) -> bool {
        self.busy_for().is_zero() && self.failing.get(key).is_none_or(|failing| failing.again <= Instant::now())
    }

    async fn send(&mut self, key: &Key, request: Result<Request<Vec<u8>>, request::Error>) -> Written {
        let answer = match request {
            Ok(request) => timeout(PATIENCE, object::<Value>(self.client, request)).await,
            Err(error) => Ok(Err(Failure::of(&error))),
        };
        let mut failure = match answer.unwrap_or_else(|_| Err(Failure::new(NO_ANSWER))) {
            Ok(_) => {
                self.failing.remove(key);
                return Written::Ok;
            }
            Err(failure) => failure,
        };
        match failure.code.and_then(|code| StatusCode::from_u16(code).ok()) {
            Some(StatusCode::NOT_FOUND) => return Written::Gone,
            Some(StatusCode::CONFLICT) => return Written::Conflict,
            // It would answer the next ones in the same way.
            None | Some(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
                self.busy = Some(Instant::now() + failure.retry_after.unwrap_or(SHORTEST_PAUSE));
            }
            Some(StatusCode::FORBIDDEN) if key.0 == KubernetesKind::Service => {
                failure.message += "; allow snigate to write Services there (deploy/kubernetes/gateway/base/rbac.yaml)";
            }
            Some(_) => {}
        }
        self.note(key, &failure);
        Written::Failed
    }

    /// Notes, and logs, that an object cannot be written.
    fn note(&mut self, key: &Key, failure: &Failure) {
        let before = self.failing.get(key);
        let error = failure.to_string();
        if before.is_none_or(|before| before.error != error) {
            let (kind, name) = (key.0.as_str(), &key.1);
            tracing::warn!(
                event = "kubernetes_write_failed",
                kind,
                %name,
                error,
                "an object cannot be written: it is tried again"
            );
        }
        let pause = before.map_or(SHORTEST_PAUSE, |before| (before.pause * 2).min(LONGEST_PAUSE));
        self.failing.insert(key.clone(), Failing { error, pause, again: Instant::now() + pause });
    }
}

impl From<Written> for Outcome {
    fn from(written: Written) -> Self {
        match written {
            Written::Ok | Written::Gone => Self::Done,
            Written::Conflict | Written::Failed => Self::Again,
        }
    }
}

/// The path of the objects beside `name`.
fn path<K: Resource>(name: &ObjectName) -> kube::core::Request
where
    K::DynamicType: Default,
{
    let namespace = Some(&*name.namespace).filter(|namespace| !namespace.is_empty());
    kube::core::Request::new(K::url_path(&K::DynamicType::default(), namespace))
}

const PATIENCE: Duration = Duration::from_secs(10);
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
