//! Reports to operators what happened: the metrics, the connection log, the names of all outcomes.
//!
//! Imports only `alert`, `ids`, `settings` and `way`, so that every other module can call it.

pub(crate) mod escape;
mod labels;
pub(crate) mod log;
mod metrics;
mod reason;
mod refused;
mod timestamp;

pub(crate) use self::escape::readable;
pub use self::labels::*;
pub use self::log::{Alpn, ConnectionLine, ConnectionLog, Endpoint, LoggedAddress};
pub(crate) use self::log::{
    Asked, LogControl, LogFile, LogGuard, MAX_ALPN_NAME_BYTES, MAX_ALPN_NAMES, OpenConnectionLine, RequestLine,
};
pub(crate) use self::metrics::{
    AcceptQueueReading, Active, BackendMetrics, DnsMetrics, EchKeyMetrics, ListenerMetrics, PipesReading, PoolMetrics,
    ProcessUsage, QueueMetrics, REVISION, Readings, RouteFigures, RouteMetrics, VERSION, WorkerReading, process_usage,
};
pub use self::metrics::{Format, Metrics};
pub(crate) use self::reason::Fault;
pub use self::reason::Reason;
pub(crate) use self::refused::Refused;
pub(crate) use self::timestamp::Timestamp;
