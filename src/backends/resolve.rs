//! Follows a DNS name of the configuration: looks it up again and again, and tells what its addresses are now.
//!
//! In:  a [`Query`], its [`Settings`], and a [`Notify`] by which others ask for an early look.
//! Out: a [`Report`] after each look-up, and when what was kept has become too old.
//! Source: RFC 1035, RFC 2181 §8 (TTL), RFC 2782 (SRV), RFC 8305 §3 (one family does not wait long for the other).
//!
//! Only names of the configuration are ever looked up, never one from the wire. What a name last had is kept for
//! `stale` whenever it cannot be had anew, whatever the reason: a name that is gone for a moment (a service between two
//! deployments, a nameserver that restarts) is the rule, and backends that are truly gone refuse connections anyway.

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

use self::answers::{Memory, Refused};
pub(crate) use self::failure::Failure;
use self::lookup::{Looked, Lookup};
use self::schedule::Schedule;

/// What is looked up. Names are A-labels; a trailing dot keeps the search domains out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Query {
    /// Every A and AAAA record of `host`, each with `port`.
    Host { host: Arc<str>, port: u16 },
    /// Every target of the SRV records of `name`, say `_https._tcp.shop.internal`.
    Service { name: Arc<str> },
}

/// Which addresses a name may give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    #[default]
    Any,
    V4,
    V6,
}

/// How a name is looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Settings {
    pub family: Family,
    /// A shorter TTL counts as this one; nor is a name looked up more often because connects fail.
    pub min_ttl: Duration,
    /// A longer TTL counts as this one.
    pub max_ttl: Duration,
    /// How long after its last look-up an answer is used that cannot be had anew.
    pub stale: Duration,
    /// Empty: those of `/etc/resolv.conf`, with its search domains, and `/etc/hosts` before them. If there are any, names
    /// are taken as they stand.
    pub nameservers: Vec<SocketAddr>,
}

/// An address that a name has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Found {
    pub address: SocketAddr,
    /// 1 to 1000. `None`: the records say nothing of it.
    pub weight: Option<u32>,
    /// The SRV record has not the best priority.
    pub backup: bool,
}

/// What there is to tell of a name.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// All that may be connected to now: each address once, those that are no backup first, then by address.
    pub found: Arc<[Found]>,
    /// Whether that is another set than in the report before.
    pub changed: bool,
    /// The TTL of the answer, clamped, or why there is none. `None`: no look-up, but what was kept is now too old.
    pub looked: Option<Result<Duration, Failure>>,
}

/// Follows `query` for ever; drop the future to end that.
///
/// `known` is what it had when it was last followed, and is kept like an answer of now. `kick` asks for a look-up before its time, say because connects fail. Answers that `is_ours` takes for one of our
/// own listening addresses are refused: connections would go round in a circle.
pub(crate) async fn follow(
    query: Query,
    settings: Settings,
    known: Arc<[Found]>,
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

/// Looks `query` up once: what may be connected to now.
///
/// # Errors
/// [`Failure`], when there is no answer.
pub(crate) async fn once(query: &Query, settings: &Settings) -> Result<Vec<Found>, Failure> {
    let looked = Lookup::new(query, settings).look().await;
    let mut memory = Memory::default();
    memory.learn(&looked, Instant::now());
    looked.map(|_| memory.found(settings.family, |_| false).0)
}

/// What is known of a name between two look-ups.
struct Follower<'a, O, R> {
    name: &'a str,
    settings: &'a Settings,
    is_ours: O,
    report: R,
    schedule: Schedule,
    memory: Memory,
    found: Arc<[Found]>,
    refused: Vec<Refused>,
    failure: Option<&'static str>,
}

impl<'a, O: Fn(SocketAddr) -> bool, R: FnMut(Report)> Follower<'a, O, R> {
    fn new(name: &'a str, settings: &'a Settings, known: Arc<[Found]>, is_ours: O, report: R) -> Self {
        let now = Instant::now();
        Self {
            name,
            settings,
            is_ours,
            report,
            schedule: Schedule::new(settings.min_ttl, settings.max_ttl, now),
            memory: Memory::of(&known, now),
            found: known,
            refused: Vec::new(),
            failure: None,
        }
    }

    /// Takes in what a look-up brought that began at `begun`.
    fn learn(&mut self, looked: Result<Looked, Failure>, begun: Instant, spread: f64) {
        let now = Instant::now();
        self.memory.learn(&looked, now);
        self.memory.forget(now, self.settings.stale);
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
            let too_old = self.memory.forgets_at(self.settings.stale);
            tokio::select! {
                () = sleep_until(self.schedule.next()) => return,
                () = kick.notified() => self.schedule.hasten(Instant::now()),
                () = sleep_until(too_old.unwrap_or_else(Instant::now)), if too_old.is_some() => {
                    self.memory.forget(Instant::now(), self.settings.stale);
                    self.tell(None);
                }
            }
        }
    }

    fn tell(&mut self, looked: Option<Result<Duration, Failure>>) {
        let (found, refused) = self.memory.found(self.settings.family, &self.is_ours);
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

    /// A failure that lasts is told once.
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

/// Something between 0 and 1, so that many names, and many instances, do not ask all at once.
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
