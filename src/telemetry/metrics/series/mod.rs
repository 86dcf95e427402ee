//! The handles that events are counted with. An event costs only atomic adds: no look-up, no lock, no formatting.

mod backend;
mod ech_key;
mod listener;
mod pool;
mod route;

pub(crate) use self::backend::BackendMetrics;
pub(crate) use self::ech_key::EchKeyMetrics;
pub(crate) use self::listener::{Active, ListenerMetrics};
pub(crate) use self::pool::{DnsMetrics, PoolMetrics, QueueMetrics};
pub(crate) use self::route::RouteMetrics;

/// When the series of a route or a backend are registered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Registering {
    AtOnce,
    OnFirstUse,
}
