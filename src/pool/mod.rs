//! Picks a backend for a connection.
//!
//! In:  the pool a route leads to, and which backends were tried already.
//! Out: a backend; no I/O, no lock, no allocation.

mod backend;
mod policy;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub use self::backend::{Backend, Lease};
use self::policy::RoundRobin;
use crate::proxy_header;
use crate::telemetry::PoolMetrics;

/// A named set of backends and how they are used.
#[derive(Debug)]
pub struct Pool {
    pub name: Arc<str>,
    pub connect: Connect,
    pub metrics: Arc<PoolMetrics>,
    backends: Vec<Arc<Backend>>,
    policy: RoundRobin,
    source_turn: AtomicUsize,
}

/// How connections to backends are made: how long and how often that is tried, and what is set on their sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// For one attempt.
    pub timeout: Duration,
    /// To distinct backends.
    pub attempts: usize,
    /// Over all attempts.
    pub total: Duration,
    pub send_proxy_protocol: Option<proxy_header::Version>,
    /// Local addresses to connect from, in turn.
    pub source_addresses: Vec<IpAddr>,
    /// `None`: the kernel's default.
    pub congestion: Option<Arc<str>>,
}

/// Walks a pool in its policy's order, from a start of its own; gives each backend once.
#[derive(Debug)]
pub struct Picks<'a> {
    pool: &'a Pool,
    turn: usize,
    /// Backends already given, the first `count` of them.
    tried: [usize; MOST_ATTEMPTS],
    count: usize,
}

impl Pool {
    /// Makes a pool of `backends` with their weights.
    pub fn new(
        name: Arc<str>,
        backends: Vec<(Arc<Backend>, u32)>,
        connect: Connect,
        metrics: Arc<PoolMetrics>,
    ) -> Self {
        let weights: Vec<u32> = backends.iter().map(|(_, weight)| *weight).collect();
        let backends = backends.into_iter().map(|(backend, _)| backend).collect();
        let policy = RoundRobin::new(&weights);
        let source_turn = AtomicUsize::new(0);
        Self { name, connect, metrics, backends, policy, source_turn }
    }

    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// Takes the next turn of the policy.
    pub fn picks(&self) -> Picks<'_> {
        Picks { pool: self, turn: self.policy.turn(), tried: [0; MOST_ATTEMPTS], count: 0 }
    }

    /// The local address to connect to `backend` from; `None` leaves the choice to the kernel.
    pub fn source_address(&self, backend: IpAddr) -> Option<IpAddr> {
        let usable = || self.connect.source_addresses.iter().filter(|source| source.is_ipv4() == backend.is_ipv4());
        match usable().count() {
            0 => None,
            count => usable().nth(self.source_turn.fetch_add(1, Ordering::Relaxed) % count).copied(),
        }
    }
}

impl<'a> Iterator for Picks<'a> {
    type Item = &'a Arc<Backend>;

    fn next(&mut self) -> Option<Self::Item> {
        // Tried ones are skipped, not removed: the order is the policy's.
        let tried = &self.tried[..self.count];
        let number = self.pool.policy.order(self.turn).find(|number| !tried.contains(number))?;
        *self.tried.get_mut(self.count)? = number;
        self.count += 1;
        self.pool.backends.get(number)
    }
}

/// No connection is worth more attempts than this, whatever is configured.
const MOST_ATTEMPTS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    fn pool(weights: &[u32]) -> Pool {
        let metrics = Metrics::new();
        let backend = |(port, weight): (u16, &u32)| {
            let address = ([127, 0, 0, 1], port).into();
            (Arc::new(Backend::new("b".into(), address, metrics.backend("p", "b"))), *weight)
        };
        let backends = (1..).zip(weights).map(backend).collect();
        let connect = Connect {
            timeout: Duration::ZERO,
            attempts: 3,
            total: Duration::ZERO,
            send_proxy_protocol: None,
            source_addresses: vec![],
            congestion: None,
        };
        Pool::new("p".into(), backends, connect, metrics.pool("p"))
    }

    #[test]
    fn turns_follow_the_weights() {
        let pool = pool(&[1, 3]);
        let ports: Vec<u16> = (0..8).filter_map(|_| Some(pool.picks().next()?.address.port())).collect();
        assert_eq!(ports.iter().filter(|&&port| port == 2).count(), 6);
    }

    #[test]
    fn every_backend_is_given_once_a_connection() {
        let pool = pool(&[5, 1, 1]);
        for _ in 0..20 {
            let mut ports: Vec<u16> = pool.picks().map(|backend| backend.address.port()).collect();
            ports.sort_unstable();
            assert_eq!(ports, [1, 2, 3]);
        }
    }

    #[test]
    fn a_pool_without_backends_gives_none() {
        assert!(pool(&[]).picks().next().is_none());
    }
}
