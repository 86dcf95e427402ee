//! Reports to operators what happened: the metrics, the connection log, the names of all outcomes.
//!
//! Imports only `alert` and `way`, so that every other module can call it.

mod ends;
pub(crate) mod escape;
mod event;
mod labels;
mod line;
pub(crate) mod log;
mod metrics;
mod names;
mod open_line;
mod process;
mod queue;
mod reason;
mod refusals;
mod refused;
mod registry;
mod render;
mod series;
mod table;
mod timestamp;

pub(crate) use self::ends::RouteFigures;
pub(crate) use self::escape::readable;
pub use self::labels::*;
pub(crate) use self::line::{Alpn, Asked, ConnectionLine, Endpoint, MAX_ALPN_NAME_BYTES, MAX_ALPN_NAMES, RequestLine};
pub(crate) use self::log::{ConnectionLog, LogControl, LogGuard};
pub use self::metrics::Metrics;
pub(crate) use self::metrics::{REVISION, VERSION};
pub(crate) use self::open_line::OpenConnectionLine;
pub(crate) use self::process::usage as process_usage;
pub(crate) use self::reason::{Fault, Reason};
pub(crate) use self::refused::Refused;
pub(crate) use self::series::{
    Active, BackendMetrics, DnsMetrics, ListenerMetrics, PoolMetrics, QueueMetrics, RouteMetrics,
};
pub(crate) use self::timestamp::Timestamp;
