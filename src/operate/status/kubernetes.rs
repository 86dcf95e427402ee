//! The shapes of what was found in a Kubernetes cluster.
//!
//! In:  nothing.
//! Out: types.
//! Source: docs/admin.md, docs/kubernetes.md.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{At, Word};

/// The objects of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct KubernetesStatus {
    /// Whether the objects of all kinds are known and followed.
    pub connected: bool,
    /// Since when they are, or are not; null before the first attempt.
    pub since: Option<At>,
    /// Why the API cannot be used at all.
    pub error: Option<String>,
    /// Whether this process writes statuses and Services.
    pub leader: bool,
    /// The generation of each Gateway, by `NAMESPACE/NAME`, that is in force in this process.
    pub gateways: BTreeMap<String, i64>,
    /// Each kind that is read.
    pub kinds: Vec<KubernetesKindStatus>,
    /// Gateways and routes: those that are not accepted first, then by kind and name.
    pub objects: Vec<KubernetesObjectStatus>,
    /// How many more there are.
    pub objects_left_off: usize,
}

/// A kind of objects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct KubernetesKindStatus {
    /// As in manifests.
    pub kind: Word,
    pub objects: usize,
    /// Whether all of them were seen once.
    pub synced: bool,
    /// Why they cannot be followed.
    pub error: Option<String>,
}

/// A Gateway or a route of ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct KubernetesObjectStatus {
    pub kind: Word,
    /// `NAMESPACE/NAME`
    pub name: String,
    /// The generation that is in force.
    pub generation: i64,
    /// Whether everything about it is as it should be.
    pub accepted: bool,
    /// The conditions that are not as they should be.
    pub problems: Vec<KubernetesProblem>,
}

/// A condition that is not as it should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct KubernetesProblem {
    /// The listener of a Gateway, or the Gateway that a route names.
    pub of: Option<String>,
    /// The type of the condition.
    pub condition: String,
    pub reason: String,
    pub message: String,
}
