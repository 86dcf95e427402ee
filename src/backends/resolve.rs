//! Keeps a DNS name of the configuration resolved: looks it up repeatedly and reports its current addresses.
//!
//! In:  a [`Query`], its [`Resolve`], and a [`Notify`] that requests an early look-up.
//! Out: a [`Report`] after each look-up, and when a kept answer has become stale.
//! Source: RFC 1035, RFC 2181 §8 (TTL), RFC 2782 (SRV), RFC 8305 §3 (one family does not wait long for the other).
//!
//! Only names of the configuration are ever looked up, never one from the wire. When a look-up fails, for whatever
//! reason, the last answer is kept for `stale`: usually the name is only gone for a moment (a service between two
//! deployments, a nameserver that restarts), and backends that are really gone refuse connections anyway.

mod answers;
mod failure;
mod lookup;
mod nameservers;
mod schedule;
mod sources;

use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::settings::Resolve;

use self::answers::{KnownAnswers, Refused};
pub(crate) use self::failure::Failure;
use self::lookup::{Lookup, LookupResult};
use self::schedule::Schedule;

/// What to look up. Names are A-labels; a trailing dot disables the search domains.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Query {
    /// All A and AAAA records of `host`, each with `port`.
    Host { host: Arc<str>, port: u16 },
    /// All targets of the SRV records of `name`, such as `_https._tcp.shop.internal`.
    Service { name: Arc<str> },
}

/// A resolved address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ResolvedAddress {
    pub address: SocketAddr,
    /// 1 to 1000. `None`: the records have no weight.
    pub weight: Option<u32>,
    /// The SRV record does not have the best priority.
    pub backup: bool,
}

/// The state of a name after a look-up.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// All usable addresses: each once, primaries before backups, then by address.
    pub found: Arc<[ResolvedAddress]>,
    /// Whether the set differs from that of the previous report.
    pub changed: bool,
    /// The clamped TTL of the answer, or why there is none. `None`: not a look-up; a kept answer has become stale.
    pub looked: Option<Result<Duration, Failure>>,
}

/// Keeps `query` resolved until the future is dropped.
///
/// `known` is its last known answer and is kept as if it had just arrived. `kick` requests a look-up ahead of time, for
/// example because connects fail. Addresses for which `is_ours` is true, our own listeners, are rejected: connections
/// would loop.
pub(crate) async fn follow(
    query: Query,
    settings: Resolve,
    known: Arc<[ResolvedAddress]>,
    kick: Arc<Notify>,
    is_ours: impl Fn(SocketAddr) -> bool,
    report: impl FnMut(Report),
) {
    let mut lookup = Lookup::new(&query, &settings);
    let name = query.to_string();
    let mut follower = Follower::new(&name, &settings, known, is_ours, report);
    loop {
        let begun = Instant::now();
        let looked = lookup.look().await;
        follower.learn(looked, begun, spread());
        follower.wait(&kick).await;
    }
}

/// Looks `query` up once and returns the usable addresses.
///
/// # Errors
/// [`Failure`], if there is no answer or no usable address in it.
pub(crate) async fn once(query: &Query, settings: &Resolve) -> Result<Vec<ResolvedAddress>, Failure> {
    let looked = Lookup::new(query, settings).look().await;
    let mut memory = KnownAnswers::default();
    memory.learn(&looked, Instant::now());
    looked?;
    match memory.found(settings, |_| false) {
        (found, refused) if found.is_empty() && !refused.is_empty() => {
            Err(Failure::NotUsed { address: refused[0].address, why: refused[0].why.as_str() })
        }
        (found, _) => Ok(found),
    }
}

/// The state of a name between two look-ups.
struct Follower<'a, O, R> {
    name: &'a str,
    settings: &'a Resolve,
    is_ours: O,
    report: R,
    schedule: Schedule,
    memory: KnownAnswers,
    found: Arc<[ResolvedAddress]>,
    refused: Vec<Refused>,
    failure: Option<&'static str>,
}

impl<'a, O: Fn(SocketAddr) -> bool, R: FnMut(Report)> Follower<'a, O, R> {
    fn new(name: &'a str, settings: &'a Resolve, known: Arc<[ResolvedAddress]>, is_ours: O, report: R) -> Self {
        let now = Instant::now();
        Self {
            name,
            settings,
            is_ours,
            report,
            schedule: Schedule::new(*settings.min_ttl, *settings.max_ttl, now),
            memory: KnownAnswers::of(&known, now),
            found: known,
            refused: Vec::new(),
            failure: None,
        }
    }

    /// Records the result of a look-up that began at `begun`.
    fn learn(&mut self, looked: Result<LookupResult, Failure>, begun: Instant, spread: f64) {
        let now = Instant::now();
        self.memory.learn(&looked, now);
        self.memory.forget(now, *self.settings.stale);
        let looked = looked.map(|looked| self.schedule.succeeded(looked.ttl, begun, now, spread));
        if looked.is_err() {
            self.schedule.failed(begun, now, spread);
        }
        self.log_failure(looked.as_ref().err());
        self.tell(Some(looked));
    }

    /// Waits until the next look-up is due.
    async fn wait(&mut self, kick: &Notify) {
        loop {
            let too_old = self.memory.forgets_at(*self.settings.stale);
            tokio::select! {
                () = sleep_until(self.schedule.next()) => return,
                () = kick.notified() => self.schedule.hasten(Instant::now()),
                () = sleep_until(too_old.unwrap_or_else(Instant::now)), if too_old.is_some() => {
                    self.memory.forget(Instant::now(), *self.settings.stale);
                    self.tell(None);
                }
            }
        }
    }

    fn tell(&mut self, looked: Option<Result<Duration, Failure>>) {
        let (found, refused) = self.memory.found(self.settings, &self.is_ours);
        let changed = found != *self.found;
        if changed {
            let gone =
                self.found.iter().filter(|before| !found.iter().any(|now| now.address == before.address)).count();
            let came = found.len() + gone - self.found.len();
            if found.is_empty() {
                tracing::warn!(event = "dns_empty", name = self.name, gone, "name has no addresses left");
            } else {
                tracing::info!(
                    event = "dns_changed",
                    name = self.name,
                    addresses = found.len(),
                    came,
                    gone,
                    "name has new addresses"
                );
            }
            self.found = found.into();
        }
        if refused != self.refused {
            for Refused { address, why } in &refused {
                tracing::warn!(
                    event = "dns_address_refused",
                    name = self.name,
                    %address,
                    why = why.as_str(),
                    "address refused"
                );
            }
            self.refused = refused;
        }
        (self.report)(Report { found: Arc::clone(&self.found), changed, looked });
    }

    /// Logs a failure; one that repeats is logged once.
    fn log_failure(&mut self, failure: Option<&Failure>) {
        let now = failure.map(|failure| failure.result().as_str());
        match failure {
            Some(failure) if now != self.failure => {
                let kept = self.memory.len();
                let cause = failure.source().map(tracing::field::display);
                tracing::warn!(
                    event = "dns_failed",
                    name = self.name,
                    why = %failure,
                    cause,
                    kept,
                    "cannot resolve name"
                );
            }
            None if self.failure.is_some() => {
                tracing::info!(event = "dns_recovered", name = self.name, "name resolved again")
            }
            _ => {}
        }
        self.failure = now;
    }
}

/// A random number from 0 to 1, so that names and instances do not all query at the same time.
fn spread() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(random as u32) / f64::from(u32::MAX)
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Service { name } => write!(f, "srv:{name}"),
        }
    }
}

#[cfg(test)]
mod tests;
