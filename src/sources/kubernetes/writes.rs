//! Writes one object at a time: a status, or a Service.
//!
//! In:  the object as the store has it; what it should be.
//! Out: a write that is refused if the object has changed meanwhile; counts.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::timeout;

use super::client::causes;
use super::objects::ObjectName;
use super::service;
use crate::telemetry::{KubernetesKind, Metrics, WriteResult};

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The object is as it should be, or is gone.
    Done,
    /// It has to be tried again.
    Again,
}

impl Outcome {
    /// Of two writes.
    pub(super) fn and(self, other: Self) -> Self {
        if self == Self::Done { other } else { self }
    }
}

/// The versions that were written over. The stores show what was written a little later.
#[derive(Default)]
pub(super) struct Replaced(HashMap<(KubernetesKind, ObjectName), String>);

impl Replaced {
    /// Writes the status of `object`.
    pub(super) async fn status<K>(
        &mut self,
        api: &Api<K>,
        kind: KubernetesKind,
        object: &K,
        status: impl Serialize,
        metrics: &Metrics,
    ) -> Outcome
    where
        K: Resource + Clone + Debug + DeserializeOwned,
    {
        let (name, key) = (object.name_any(), (kind, ObjectName::of(object.meta())));
        let version = object.resource_version();
        let patch = json!({ "metadata": { "resourceVersion": version }, "status": status });
        let written = timeout(PATIENCE, api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch))).await;
        let result = match written {
            Ok(Ok(_)) => WriteResult::Ok,
            // It was deleted meanwhile.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Outcome::Done,
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => WriteResult::Conflict,
            Ok(Err(error)) => {
                log_failure(kind, &key.1, &causes(&error));
                WriteResult::Failed
            }
            Err(_) => {
                log_failure(kind, &key.1, NO_ANSWER);
                WriteResult::Failed
            }
        };
        metrics.kubernetes().wrote(kind, result);
        if result != WriteResult::Ok {
            return Outcome::Again;
        }
        self.0.extend(version.map(|version| (key, version)));
        Outcome::Done
    }

    /// Whether this version of an object was written over, so that what it says is out of date.
    pub(super) fn has(&self, kind: KubernetesKind, object: &impl Resource) -> bool {
        let meta = object.meta();
        self.0.get(&(kind, ObjectName::of(meta))).is_some_and(|version| Some(version) == meta.resource_version.as_ref())
    }
}

/// Makes a Service, or changes the one that there is.
pub(super) async fn service(api: &Api<Service>, before: Option<&Service>, wanted: &Service) -> Outcome {
    let name = wanted.name_any();
    let written = match before {
        Some(before) if service::is_as_wanted(before, wanted) => return Outcome::Done,
        None => timeout(PATIENCE, api.create(&PostParams::default(), wanted)).await,
        Some(before) => {
            let patch = json!({
                "metadata": {
                    "resourceVersion": before.metadata.resource_version,
                    "labels": wanted.metadata.labels,
                    "annotations": wanted.metadata.annotations,
                },
                "spec": wanted.spec,
            });
            timeout(PATIENCE, api.patch(&name, &PatchParams::default(), &Patch::Merge(patch))).await
        }
    };
    let error = match written {
        Ok(Ok(_)) => return Outcome::Done,
        // The store will show the newer version, or the Service that somebody else has just made.
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => return Outcome::Again,
        Ok(Err(error)) => causes(&error),
        Err(_) => NO_ANSWER.to_owned(),
    };
    log_failure(KubernetesKind::Service, &ObjectName::of(&wanted.metadata), &error);
    Outcome::Again
}

pub(super) fn log_failure(kind: KubernetesKind, name: &ObjectName, error: &str) {
    let kind = kind.as_str();
    tracing::warn!(event = "kubernetes_write_failed", kind, %name, error, "an object cannot be written: it is tried again");
}

const NO_ANSWER: &str = "the API server has not answered in time";
const PATIENCE: Duration = Duration::from_secs(10);
