//! The shapes of pools, their backends and the DNS names among these.
//!
//! In:  nothing.
//! Out: types.
//! Source: docs/admin.md, "Backends" and "Names of backends".

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{At, Word};

/// One pool.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct PoolStatus {
    pub name: String,
    pub state: PoolState,
    /// When it entered that state, to the second.
    pub since: Option<At>,
    /// Why, if it is down or partly down.
    pub why: Option<String>,
    /// `balance`
    pub policy: Word,
    pub active: u64,
    /// Attempts to connect since the start, without those of backends that are gone.
    pub connections: u64,
    pub per_second: f64,
    pub connect_ms: Quantiles,
    pub first_byte_ms: Quantiles,
    /// Null if it has none.
    pub queue: Option<QueueStatus>,
    pub backends: Vec<BackendStatus>,
    /// How many more it has.
    pub backends_left_off: usize,
}

/// Whether a pool serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PoolState {
    /// All backends that operators have not taken out may be used.
    Up,
    /// As above, but none of them was ever checked or reached: nothing shows that they answer.
    Unchecked,
    /// Some of them fail.
    PartlyDown,
    /// All of them fail.
    Down,
    /// Operators have taken all of them out.
    Drained,
    /// It has none: its names have no addresses.
    Empty,
}

/// The queue of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct QueueStatus {
    pub waiting: usize,
    pub size: usize,
    pub timeout_ms: u64,
}

/// Durations in milliseconds, of the last five to ten minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Quantiles {
    /// Null if there was none.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub count: u64,
}

/// One backend.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct BackendStatus {
    pub name: String,
    pub address: String,
    /// `up`, `unchecked`, `failing`, `ejected`, `drain` or `down`.
    pub state: Word,
    /// When it entered that state, to the second.
    pub since: Option<At>,
    /// The last error of a check or a connection, if it is failing or ejected.
    pub why: Option<String>,
    /// What an operator has set: `ready`, `drain` or `down`.
    pub operator: Word,
    pub active: u64,
    /// Attempts to connect since the start.
    pub connections: u64,
    pub per_second: f64,
    /// Those that failed.
    pub failed: u64,
    pub connect_ms: Quantiles,
    pub first_byte_ms: Quantiles,
    /// In force.
    pub weight: u32,
    /// Set by an operator.
    pub weight_set: Option<u32>,
    pub backup: bool,
    pub max_connections: Option<usize>,
    pub check: Option<CheckStatus>,
    pub certificate: Option<CertificateStatus>,
}

/// The result of a health check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct CheckStatus {
    pub at: At,
    pub result: Word,
    pub error: Option<String>,
}

/// The certificate that a health check received.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct CertificateStatus {
    pub names: Vec<String>,
    pub expires: At,
}

/// A DNS name among the backends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct DnsName {
    pub name: String,
    pub pools: Vec<String>,
    pub addresses: Vec<String>,
    /// When the last good answer arrived.
    pub answered: Option<At>,
    pub age_s: Option<u64>,
    pub ttl_s: Option<f64>,
    /// Why the last lookup failed.
    pub error: Option<String>,
}

/// The backends that a change was about.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ChangedBackends {
    pub backends: Vec<BackendStatus>,
}
