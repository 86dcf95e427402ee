//! The shapes of what the admin address reports: one type for each object of its JSON.
//!
//! In:  values from `process`, which gathers them.
//! Out: JSON for the API, the event stream and the command line; the same values for the page; their JSON Schema.
//! Source: docs/admin.md.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    ConnectionsNearLimit,
    QueueFull,
    CertificateExpired,
    ReloadRejected,
    PoolPartlyDown,
    CertificateExpires,
    NoRoute,
    ClientLimits,
    DnsFailing,
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
    /// Turned away before they reached a backend, for any reason but one of the backends.
    pub refused: u64,
    /// Ended by a fault of a backend, or of snigate.
    pub failed: u64,
    /// Refused or failed in the last second.
    pub errors_per_second: f64,
}

/// One listener.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ListenerStatus {
    pub name: String,
    /// As written in the configuration.
    pub bind: Vec<String>,
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
    /// Clients turned away since the start, by reason, without the reasons that have not occurred.
    pub refused: BTreeMap<String, u64>,
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

/// The latest reload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LastReload {
    /// `applied`, `unchanged` or `rejected`.
    pub result: Word,
    pub trigger: Word,
    pub at: At,
    pub took_ms: u64,
    /// Why it was rejected.
    pub error: Option<String>,
    /// All errors, or the warnings about an accepted file; at most a hundred of each.
    pub problems: Vec<ReloadProblem>,
    pub problems_left_off: usize,
}

/// The answer to a request to reload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ReloadAnswer {
    /// `applied`, `unchanged` or `rejected`.
    pub result: Word,
    /// Of the configuration in force.
    pub hash: String,
    pub took_ms: u64,
    /// All errors, or the warnings about an accepted file; at most a hundred of each.
    pub problems: Vec<ReloadProblem>,
    /// Why it was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many more problems there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub problems_left_off: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The backends that a change was about.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ChangedBackends {
    pub backends: Vec<BackendStatus>,
}

/// How many connections were ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Ended {
    pub ended: usize,
}

/// A problem of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ReloadProblem {
    /// `error` or `warning`.
    pub severity: Word,
    pub file: String,
    pub line: u32,
    pub column: u32,
    /// Of the key; empty for the file as a whole.
    pub path: String,
    pub message: String,
    /// The line of the file when it was rejected, cut to 200 characters.
    pub text: Option<String>,
}

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
