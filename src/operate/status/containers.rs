//! The shapes of containers that were found by their labels.
//!
//! In:  nothing.
//! Out: types.
//! Source: docs/admin.md, docs/docker.md.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{At, Word};

/// The containers that were found by their labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct DockerStatus {
    pub socket: String,
    /// Whether the Docker API answers.
    pub connected: bool,
    /// Since when it does, or does not; null before the first attempt.
    pub since: Option<At>,
    /// Why it does not.
    pub error: Option<String>,
    /// When the containers were last looked at.
    pub looked_at: Option<At>,
    /// Oldest first.
    pub containers: Vec<ContainerStatus>,
    /// How many more have labels, but are too many.
    pub containers_left_off: usize,
}

/// A container with our labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ContainerStatus {
    pub name: String,
    /// The first twelve digits.
    pub id: String,
    /// `served`, `down` (its names are known, and refused unless its pool has another container) or `left_out`.
    pub state: Word,
    /// The patterns that it gets.
    pub names: Vec<String>,
    pub pool: Option<String>,
    pub address: Option<String>,
    /// Why it is down.
    pub why: Option<String>,
    /// Why it is left out, or which of its names others have.
    pub problems: Vec<ContainerProblem>,
}

/// What is wrong with the labels of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ContainerProblem {
    pub label: String,
    pub message: String,
}
