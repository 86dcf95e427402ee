//! The shapes of what the admin address reports: one type for each object of its JSON.
//!
//! In:  values from `process`, which gathers them.
//! Out: JSON for the API, the event stream and the command line; the same values for the page; their JSON Schema.
//! Source: docs/admin.md.

mod containers;
mod kubernetes;
mod lists;
mod pools;
mod reload;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use self::containers::{ContainerProblem, ContainerStatus, DockerStatus};
pub(crate) use self::kubernetes::{KubernetesKindStatus, KubernetesObjectStatus, KubernetesProblem, KubernetesStatus};
pub(crate) use self::lists::{
    ConnectionStatus, ConnectionsPage, Ended, History, RefusalsReport, RefusedClient, Series, SeriesKind, UnknownName,
};
pub(crate) use self::pools::{
    BackendStatus, CertificateStatus, ChangedBackends, CheckStatus, DnsName, PoolState, PoolStatus, Quantiles,
    QueueStatus,
};
pub(crate) use self::reload::{LastReload, ReloadAnswer, ReloadProblem};
use crate::telemetry::Timestamp;

/// A word of a closed set, such as a state or a reason.
pub(crate) type Word = Cow<'static, str>;

/// A time as RFC 3339 in UTC, with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub(crate) struct At(#[schemars(extend("format" = "date-time"))] pub String);

impl From<SystemTime> for At {
    fn from(at: SystemTime) -> Self {
        Self(Timestamp(at).to_string())
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The state of the whole process.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Status {
    pub version: String,
    /// The commit, or `unknown`.
    pub revision: String,
    pub pid: u32,
    pub started: At,
    /// When this was reported.
    pub at: At,
    pub uptime_s: u64,
    /// Whether new connections should be sent here.
    pub ready: bool,
    /// `starting`, `ready` or `draining`.
    pub stage: Word,
    /// No client is accepted because `limits.max_connections` is reached.
    pub accept_paused_since: Option<At>,
    /// `admin.allow_control`: `auto`, `token` or `never`.
    pub control: Word,
    pub config: ConfigInForce,
    /// What is wrong, most serious first.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub problems_left_off: usize,
    pub resources: Resources,
    pub totals: Totals,
    pub listeners: Vec<ListenerStatus>,
    pub routes: RoutesSummary,
    pub pools: Vec<PoolStatus>,
    /// How many more there are, if the number of backends is limited and there are very many pools.
    #[serde(default)]
    pub pools_left_off: usize,
    /// How many backends those have.
    #[serde(default)]
    pub backends_left_off: usize,
    /// The DNS names among the backends.
    pub names: Vec<DnsName>,
    /// The source of containers; null if it is off.
    #[serde(default)]
    pub docker: Option<DockerStatus>,
    /// The source of Kubernetes objects; null if it is off.
    #[serde(default)]
    pub kubernetes: Option<KubernetesStatus>,
    /// The latest reload; null before the first.
    pub last_reload: Option<LastReload>,
}

/// The configuration in force.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ConfigInForce {
    /// Null until it is in force.
    pub hash: Option<String>,
    /// Its main file.
    pub file: Option<String>,
}

/// Something that is wrong, or soon will be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Problem {
    pub kind: ProblemKind,
    pub severity: Severity,
    /// Since when, if that is known.
    pub since: Option<At>,
    /// One sentence: what is wrong, and since when.
    pub message: String,
    /// One sentence: what to do about it.
    pub cure: String,
    pub pool: Option<String>,
    pub backend: Option<String>,
    pub route: Option<String>,
    pub listener: Option<String>,
    /// Where in the configuration: `FILE:LINE:COLUMN`.
    pub place: Option<String>,
}

/// How serious a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// Clients are turned away.
    Critical,
    /// Clients are about to be turned away, or figures are missing.
    Warning,
    /// Worth a look.
    Notice,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProblemKind {
    PoolDown,
    AcceptPaused,
    DescriptorsScarce,
    MemoryScarce,
    ConnectionsNearLimit,
    QueueFull,
    CertificateExpired,
    ReloadRejected,
    PoolPartlyDown,
    PoolUnanswered,
    CertificateExpires,
    NoRoute,
    ClientLimits,
    DnsFailing,
    DockerFailing,
    ContainerLabels,
    KubernetesFailing,
    KubernetesNotAccepted,
    LogLinesDropped,
    TaskPanicked,
}

/// What the process uses, and what it may use.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Resources {
    pub connections: Usage,
    pub descriptors: Usage,
    /// Memory of hellos that are not complete yet, in bytes.
    pub hello_memory: Usage,
    /// In bytes: what is resident, and the limit of the control group; or the address space and its limit, if less of
    /// that is left.
    #[serde(default)]
    pub memory: Usage,
    /// Null if the system does not say.
    pub resident_bytes: Option<u64>,
    pub cpu_seconds: f64,
    pub workers: usize,
    /// Since the start.
    pub log_lines_dropped: u64,
    /// Of background tasks, since the start.
    pub task_panics: u64,
}

/// How much is used of what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Usage {
    pub used: u64,
    /// Null: no limit, or unknown.
    pub limit: Option<u64>,
}

/// The sums over all listeners.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Totals {
    pub accepted: u64,
    pub active: u64,
    /// Accepted in the last second.
    pub per_second: f64,
    /// Turned away by snigate: by a limit, an access list, a route, or because of what the client sent.
    pub refused: u64,
    /// Ended by a fault of a backend, or of snigate.
    pub failed: u64,
    /// Relayed, also on connections that are open.
    #[serde(default)]
    pub bytes_to_backends: u64,
    #[serde(default)]
    pub bytes_to_clients: u64,
    /// Refused or failed in the last second.
    pub errors_per_second: f64,
}

/// One listener.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ListenerStatus {
    pub name: String,
    /// As written in the configuration.
    pub bind: Vec<String>,
    /// The addresses in use: with port 0, the port that the system chose.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// `tls` or `http`.
    pub protocol: Word,
    pub accepted: u64,
    pub active: u64,
    /// Accepted in the last second.
    pub per_second: f64,
    /// `max_connections`
    pub limit: Option<u64>,
    /// It accepts nothing because a limit is reached.
    pub accept_paused_since: Option<At>,
    /// Clients that snigate turned away since the start, by reason, without the reasons that have not occurred.
    pub refused: BTreeMap<String, u64>,
    /// Connections that ended by a fault of a backend, or of snigate, as above.
    #[serde(default)]
    pub failed: BTreeMap<String, u64>,
    /// Relayed since the start.
    #[serde(default)]
    pub bytes_to_backends: u64,
    #[serde(default)]
    pub bytes_to_clients: u64,
}

/// The routes in a few figures; `/api/v1/routes` lists them.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RoutesSummary {
    pub total: usize,
    /// Without a connection since the start.
    pub never_matched: usize,
    /// Those with most connections in the last second, or else since the start.
    pub busiest: Vec<RouteStatus>,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RouteStatus {
    pub name: String,
    /// The first patterns.
    pub patterns: Vec<String>,
    /// How many more it has.
    pub more_patterns: usize,
    /// Where its connections go; several for a split, none if it refuses them.
    pub pools: Vec<String>,
    /// Since the start. Never 0 again once it has matched.
    pub connections: u64,
    pub per_second: f64,
    pub active: u64,
    /// Ended by a fault of a backend or of snigate, or because of a limit of the route or its pool.
    pub errors: u64,
    /// Relayed since the start.
    #[serde(default)]
    pub bytes_to_backends: u64,
    #[serde(default)]
    pub bytes_to_clients: u64,
    /// False if there are so many names that it shares its figures with others: they are 0 then.
    pub is_counted_alone: bool,
}

/// A page of routes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RoutesPage {
    pub routes: Vec<RouteStatus>,
    /// All routes.
    pub total: usize,
    /// Those that match the query, on all pages.
    pub matching: usize,
    pub offset: usize,
}
