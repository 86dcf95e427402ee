//! Holds one backend of a pool, and counts the connections that use it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::telemetry::{BackendActive, BackendMetrics};

/// One address in a pool. It keeps its identity (pool name and address) across reloads, and with it its counts.
#[derive(Debug)]
pub struct Backend {
    /// As it stands in the configuration.
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub metrics: Arc<BackendMetrics>,
    active: AtomicUsize,
}

/// A place on a backend, given back when dropped.
#[derive(Debug)]
pub struct Lease {
    backend: Arc<Backend>,
    _counted: BackendActive,
}

impl Backend {
    pub fn new(name: Arc<str>, address: SocketAddr, metrics: Arc<BackendMetrics>) -> Self {
        Self { name, address, metrics, active: AtomicUsize::new(0) }
    }

    /// How many connections use this backend now, those being opened included.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }
}

impl Lease {
    pub fn new(backend: &Arc<Backend>) -> Self {
        backend.active.fetch_add(1, Ordering::Relaxed);
        Self { backend: Arc::clone(backend), _counted: backend.metrics.active() }
    }

    pub fn backend(&self) -> &Backend {
        &self.backend
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.active.fetch_sub(1, Ordering::Relaxed);
    }
}
