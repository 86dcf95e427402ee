//! Holds one backend of a pool: its address, its health, and the number of connections that use it.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::latencies::Latencies;
use super::queue::WaitQueue;
use super::standing::Standing;
use crate::telemetry::{BackendMetrics, CheckResult, LoggedAddress};

/// One address in a pool. It keeps its identity (pool, entry and address) across reloads, and with it its counters and
/// its standing.
#[derive(Debug)]
pub struct Backend {
    pub id: BackendId,
    /// As written in the configuration; for a name that is looked up, with a number appended.
    pub name: Arc<str>,
    pub address: Address,
    /// Whether the address was looked up by name, and so may change.
    pub looked_up: bool,
    pub metrics: Arc<BackendMetrics>,
    pub standing: Standing,
    active: AtomicUsize,
    /// Of its pool.
    queue: Arc<WaitQueue>,
    /// Set by the operator; [`NO_WEIGHT`]: that of the configuration applies.
    weight: AtomicU32,
    last_check: Mutex<Option<LastCheck>>,
    last_failure: Mutex<Option<LastFailure>>,
    pub latencies: Latencies,
}

/// Identifies a backend within the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BackendId(u64);

/// The latest active check, for the status.
#[derive(Clone, Debug)]
pub struct LastCheck {
    pub at: SystemTime,
    pub result: CheckResult,
    pub error: Option<String>,
    pub certificate: Option<Shown>,
}

/// The latest failed connection, for the status.
#[derive(Clone, Debug)]
pub struct LastFailure {
    pub at: Instant,
    pub why: String,
}

/// What is reported about a backend's certificate.
#[derive(Clone, Debug)]
pub struct Shown {
    pub names: Vec<String>,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
}

/// Where connections to a backend go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An address and its port.
    Inet(SocketAddr),
    /// The path of a socket.
    Unix(Arc<Path>),
}

impl Address {
    /// As the log takes it.
    pub(crate) fn logged(&self) -> LoggedAddress<'_> {
        match self {
            Self::Inet(address) => LoggedAddress::Inet(*address),
            Self::Unix(_) => LoggedAddress::Other(self),
        }
    }
}

/// A place on a backend, given back when dropped.
#[derive(Debug)]
pub struct Lease(Arc<Backend>);

impl Backend {
    pub(crate) fn new(
        name: Arc<str>,
        address: Address,
        looked_up: bool,
        metrics: Arc<BackendMetrics>,
        queue: Arc<WaitQueue>,
        now: Instant,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: BackendId(NEXT.fetch_add(1, Ordering::Relaxed)),
            name,
            address,
            looked_up,
            metrics,
            standing: Standing::new(now),
            active: AtomicUsize::new(0),
            queue,
            weight: AtomicU32::new(NO_WEIGHT),
            last_check: Mutex::default(),
            last_failure: Mutex::default(),
            latencies: Latencies::default(),
        }
    }

    /// Whether `wanted` is its name, its address, or the DNS name that it was looked up by, as in the configuration.
    pub fn is_called(&self, wanted: &str) -> bool {
        let entry = self.name.rsplit_once('#').filter(|_| self.looked_up).map(|(entry, _)| entry);
        *self.name == *wanted
            || entry == Some(wanted)
            || match &self.address {
                Address::Inet(address) => wanted.parse() == Ok(*address),
                Address::Unix(path) => wanted.strip_prefix("unix:").map(Path::new) == Some(path),
            }
    }

    /// The weight that the operator has set in place of the configured one.
    pub fn live_weight(&self) -> Option<u32> {
        Some(self.weight.load(Ordering::Relaxed)).filter(|weight| *weight != NO_WEIGHT)
    }

    /// Sets or removes it. [`Pool::set_weight`](super::Pool::set_weight) puts it in force.
    pub(super) fn set_live_weight(&self, weight: Option<u32>) {
        self.weight.store(weight.unwrap_or(NO_WEIGHT), Ordering::Relaxed);
    }

    pub fn note_check(&self, check: LastCheck) {
        *self.last_check.lock().unwrap_or_else(PoisonError::into_inner) = Some(check);
    }

    /// Keeps why a connection failed, for the status: of many within a second the first, so that it costs little.
    pub fn note_failure(&self, why: &dyn fmt::Display) {
        let Ok(mut last) = self.last_failure.try_lock() else { return };
        let now = Instant::now();
        if last.as_ref().is_none_or(|last| now - last.at >= Duration::from_secs(1)) {
            *last = Some(LastFailure { at: now, why: why.to_string() });
        }
    }

    pub fn last_failure(&self) -> Option<LastFailure> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn last_check(&self) -> Option<LastCheck> {
        self.last_check.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections use this backend now, including those being opened.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }
}

const NO_WEIGHT: u32 = u32::MAX;

impl Lease {
    /// Takes a place if fewer than `most` are in use.
    pub fn try_new(backend: &Arc<Backend>, most: usize) -> Option<Self> {
        let taken = backend.active.fetch_add(1, Ordering::Relaxed);
        let lease = Self(Arc::clone(backend));
        (taken < most).then_some(lease)
    }

    pub fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Ordered before the look at the queue, as a client's joining it is before its look for a free place.
        self.0.active.fetch_sub(1, Ordering::SeqCst);
        self.0.queue.call_first();
    }
}

impl Address {
    /// Whether this is an IPv6 address.
    pub fn is_ipv6(&self) -> bool {
        matches!(self, Self::Inet(address) if address.is_ipv6())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn a_backend_is_called_by_its_name_its_address_or_the_name_that_was_looked_up() {
        let backend = |name: &str, address, looked_up| {
            Backend::new(
                name.into(),
                address,
                looked_up,
                Metrics::new().backend("p", name),
                Arc::default(),
                Instant::now(),
            )
        };
        let inet = |text: &str| Address::Inet(text.parse().expect("an address"));
        let found = backend("localhost:443#2", inet("[::1]:443"), true);
        for (wanted, is_it) in [
            ("localhost:443#2", true),
            ("localhost:443", true),
            ("[::1]:443", true),
            ("localhost:443#1", false),
            ("localhost", false),
            ("[::1]:444", false),
            ("", false),
        ] {
            assert_eq!(found.is_called(wanted), is_it, "{wanted}");
        }
        let socket = backend("unix:/run/a#b", Address::Unix(Path::new("/run/a#b").into()), false);
        assert!(socket.is_called("unix:/run/a#b") && !socket.is_called("unix:/run/a"));
    }
}
