//! The shapes of the lists that have an address of their own: histories, refusals, connections.
//!
//! In:  nothing.
//! Out: types.
//! Source: docs/admin.md, "History", "Refusals" and "Connections".

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{At, Word};

/// Figures of the last fifteen minutes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct History {
    /// Seconds that each value stands for.
    pub step_s: u64,
    /// The end of the last step.
    pub ends: At,
    pub series: Vec<Series>,
}

/// The figures of one listener, route, pool or backend, oldest first. A series that began later is shorter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Series {
    pub kind: SeriesKind,
    /// Empty for `all`.
    pub name: String,
    /// Of a backend.
    pub pool: Option<String>,
    /// New connections in each step.
    pub connections: Vec<u32>,
    /// Open at the end of each step.
    pub active: Vec<u32>,
    /// Failed or turned away in each step.
    pub errors: Vec<u32>,
}

/// What a series is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SeriesKind {
    All,
    Listener,
    Pool,
    Backend,
    Route,
}

/// The latest clients that were turned away, and the names that they asked for in vain.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RefusalsReport {
    /// At most 200, newest first.
    pub refusals: Vec<RefusedClient>,
    /// How many came too fast to be recorded here, since the start. The metrics and the log count them.
    pub not_recorded: u64,
    /// Names that no route matches, most frequent first; at most 64.
    pub unknown_names: Vec<UnknownName>,
}

/// A client that was turned away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RefusedClient {
    pub at: At,
    pub reason: Word,
    pub listener: String,
    pub client: String,
    /// The name that it asked for.
    pub name: Option<String>,
    pub route: Option<String>,
}

/// A name that no route matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct UnknownName {
    pub name: String,
    pub count: u64,
    /// The count may be too large by this much.
    pub at_most_too_many: u64,
}

/// Live connections.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ConnectionsPage {
    pub connections: Vec<ConnectionStatus>,
    /// Those that match, on all pages.
    pub matching: usize,
    /// Pass it as `after` for the next page; null on the last page, and if the order is not that of ids.
    pub next: Option<String>,
    pub offset: usize,
}

/// A live connection. What is not known yet is null.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ConnectionStatus {
    pub id: String,
    pub client: String,
    pub peer: String,
    pub listener: String,
    pub sni: Option<String>,
    pub route: Option<String>,
    pub pool: Option<String>,
    pub backend: Option<String>,
    pub state: Word,
    pub age_ms: u64,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
}
/// How many connections were ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Ended {
    pub ended: usize,
}
