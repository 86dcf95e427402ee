//! What the admin API reports, as the commands read it.
//!
//! In:  JSON of `/api/v1/status`, `/api/v1/connections` and the answers to changes.
//! Out: plain values. A key that an older or newer process leaves out has its default, so that versions mix.
//! Source: docs/admin.md.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub version: String,
    pub revision: String,
    pub pid: Option<u32>,
    /// When this was reported.
    pub at: Option<String>,
    /// When the process started.
    pub started: Option<String>,
    pub uptime_s: u64,
    /// `starting`, `ready`, `draining`.
    pub stage: String,
    /// `auto`, `token` or `never`.
    pub control: String,
    pub config: ConfigInForce,
    pub last_reload: Option<LastReload>,
    /// What is wrong, most serious first.
    pub problems: Vec<Trouble>,
    pub problems_left_off: usize,
    pub resources: Resources,
    pub totals: Option<Totals>,
    pub listeners: Vec<Listener>,
    pub routes: Option<Routes>,
    pub pools: Vec<Pool>,
    /// The pools that are not listed, and their backends.
    pub pools_left_off: usize,
    pub backends_left_off: usize,
    pub names: Vec<ResolvedName>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConfigInForce {
    pub hash: Option<String>,
    pub file: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LastReload {
    /// `applied`, `unchanged`, `rejected`.
    pub result: String,
    pub trigger: String,
    pub at: Option<String>,
    pub error: Option<String>,
}

/// One thing that an operator should know.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Trouble {
    pub kind: String,
    pub severity: Severity,
    pub since: Option<String>,
    pub message: String,
    pub cure: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    /// Clients are refused.
    Critical,
    /// Clients will be refused, or an operator should look.
    Warning,
    #[default]
    #[serde(other)]
    Notice,
}

impl Severity {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Notice => "notice",
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Resources {
    pub connections: Option<Gauge>,
    pub descriptors: Option<Gauge>,
    pub hello_memory: Option<Gauge>,
    pub memory: Option<Gauge>,
    pub resident_bytes: Option<u64>,
    pub cpu_seconds: Option<f64>,
    pub workers: Option<usize>,
}

/// How much of something is in use.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Gauge {
    pub used: Option<u64>,
    pub limit: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Totals {
    pub accepted: u64,
    pub active: u64,
    pub per_second: f64,
    pub refused: u64,
    pub refused_per_second: f64,
    /// Connections that failed at their backends.
    pub failed: u64,
    pub bytes_to_backends: u64,
    pub bytes_to_clients: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Listener {
    pub name: String,
    pub bind: Vec<String>,
    /// With the ports that are in use.
    pub addresses: Vec<String>,
    pub protocol: String,
    pub accepted: u64,
    pub active: u64,
    pub per_second: Option<f64>,
    pub limit: Option<u64>,
    pub accept_paused_since: Option<String>,
    /// How many snigate refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// How many failed at backends.
    pub failed: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Routes {
    pub total: usize,
    pub never_matched: Option<usize>,
    pub busiest: Vec<Route>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Route {
    pub name: String,
    pub patterns: Vec<String>,
    pub more_patterns: usize,
    pub pools: Vec<String>,
    pub connections: Option<u64>,
    pub per_second: Option<f64>,
    pub active: Option<u64>,
    pub errors: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pool {
    pub name: String,
    /// `up`, `partly_down`, `down`, `drained`, `empty`.
    pub state: Option<String>,
    pub since: Option<String>,
    pub why: Option<String>,
    pub active: Option<u64>,
    pub per_second: Option<f64>,
    pub connect_ms: Option<Quantiles>,
    pub first_byte_ms: Option<Quantiles>,
    pub queue: Option<Queue>,
    pub backends: Vec<Backend>,
    pub backends_left_off: usize,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Queue {
    pub waiting: u64,
    pub size: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Backend {
    pub name: String,
    pub address: String,
    /// `up`, `unchecked`, `failing`, `ejected`, `drain`, `down`.
    pub state: String,
    pub since: Option<String>,
    pub why: Option<String>,
    pub active: u64,
    pub per_second: Option<f64>,
    pub failed: Option<u64>,
    pub connect_ms: Option<Quantiles>,
    pub first_byte_ms: Option<Quantiles>,
    pub weight: u32,
    pub weight_set: Option<u32>,
    pub backup: bool,
    pub check: Option<Check>,
    pub certificate: Option<Certificate>,
}

/// In milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Quantiles {
    pub p50: Option<f64>,
    pub p99: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Check {
    pub result: String,
    pub error: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Certificate {
    pub names: Vec<String>,
    pub expires: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ResolvedName {
    pub name: String,
    pub pools: Vec<String>,
    pub addresses: Vec<String>,
    pub answered: Option<String>,
    pub error: Option<String>,
}

/// A page of connections.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Connections {
    pub connections: Vec<Connection>,
    /// On all pages.
    pub matching: usize,
    pub next: Option<String>,
    /// How many were skipped.
    pub offset: usize,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Connection {
    pub id: String,
    pub client: String,
    pub listener: String,
    pub sni: Option<String>,
    pub route: Option<String>,
    pub pool: Option<String>,
    pub backend: Option<String>,
    pub state: String,
    pub age_ms: u64,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
}

/// What happened in the last minutes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct History {
    pub series: Vec<Series>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Series {
    pub kind: String,
    pub name: String,
    pub pool: Option<String>,
    /// New ones in each step, oldest first.
    pub connections: Vec<u64>,
}

impl Listener {
    /// Where it listens; until it is bound, what the configuration says.
    pub(super) fn shown_addresses(&self) -> String {
        if self.addresses.is_empty() { self.bind.join(", ") } else { self.addresses.join(", ") }
    }
}

impl Resources {
    /// The memory in use, of its limit. Older versions report no limit.
    pub(super) fn memory_of_limit(&self) -> Option<Gauge> {
        let resident = || self.resident_bytes.map(|used| Gauge { used: Some(used), limit: None });
        self.memory.filter(|memory| memory.used.is_some()).or_else(resident)
    }
}

impl Backend {
    /// Whether the policy may pick it.
    pub(super) fn takes_connections(&self) -> bool {
        matches!(&*self.state, "up" | "unchecked") && self.weight > 0
    }

    /// Why it is not in order: the reason of its state, or else that of the last check.
    pub(super) fn trouble(&self) -> Option<&str> {
        let of_check = || self.check.as_ref().and_then(|check| check.error.as_deref());
        self.why.as_deref().or_else(of_check)
    }
}

impl Status {
    /// What is not listed, for the foot of a list; `None` if everything is.
    pub(super) fn left_off(&self) -> Option<String> {
        let backends: usize = self.pools.iter().map(|pool| pool.backends_left_off).sum();
        let backends = backends + self.backends_left_off;
        let more = |count: usize, what: &str| format!("{count} more {what}{}", if count == 1 { "" } else { "s" });
        match (backends, self.pools_left_off) {
            (0, 0) => None,
            (backends, 0) => Some(more(backends, "backend")),
            (backends, pools) => {
                Some(format!("{}, some of them in {}", more(backends, "backend"), more(pools, "pool")))
            }
        }
    }

    /// How long ago `at` was when this was reported.
    pub(super) fn ago(&self, at: Option<&str>) -> Option<Duration> {
        Some(Duration::from_secs(self.now()?.saturating_sub(seconds_since_1970(at?)?)))
    }

    /// How long it is until `at`; zero if it is past.
    pub(super) fn until(&self, at: Option<&str>) -> Option<Duration> {
        Some(Duration::from_secs(seconds_since_1970(at?)?.saturating_sub(self.now()?)))
    }

    /// When this was reported, in seconds since 1970.
    pub(super) fn seconds(&self) -> Option<f64> {
        let at = OffsetDateTime::parse(self.at.as_deref()?, &Rfc3339).ok()?;
        #[expect(clippy::cast_precision_loss, reason = "microseconds remain")]
        Some(at.unix_timestamp_nanos() as f64 / 1e9)
    }

    /// The clock of the process, or of this machine.
    fn now(&self) -> Option<u64> {
        let here = || u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).ok();
        self.at.as_deref().and_then(seconds_since_1970).or_else(here)
    }
}

/// RFC 3339.
fn seconds_since_1970(at: &str) -> Option<u64> {
    OffsetDateTime::parse(at, &Rfc3339).ok()?.unix_timestamp().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_missing_or_new_do_no_harm() {
        let status: Status = serde_json::from_str(
            r#"{"version":"9","new":[1],"at":"2026-11-30T12:00:00.500Z","problems":[{"severity":"fatal","message":"m"}],
               "pools":[{"name":"p","backends":[{"name":"b","state":"up","weight":1,"check":{"error":"e"}}]}]}"#,
        )
        .unwrap();
        assert_eq!(status.problems[0].severity, Severity::Notice);
        assert!(status.pools[0].backends[0].takes_connections());
        assert_eq!(status.pools[0].backends[0].trouble(), Some("e"));
        assert_eq!(status.ago(Some("2026-11-30T11:58:00.000Z")), Some(Duration::from_secs(120)));
        assert_eq!(status.until(Some("2026-12-01T12:00:00Z")), Some(Duration::from_secs(86_400)));
        assert_eq!(status.ago(Some("yesterday")), None);
    }
}
