//! Tells operators what happened: the metrics, the connection log, the names of all outcomes.
//!
//! Imports no other room, so that every room can call it.

mod escape;
mod event;
mod labels;
mod line;
pub mod log;
mod metrics;
mod names;
mod process;
mod reason;
mod registry;
mod render;
mod series;
mod table;
mod timestamp;

pub use self::labels::*;
pub use self::line::{Alpn, ConnectionLine};
pub use self::log::{ConnectionLog, Format, Level, LogControl, LogGuard, LogSettings, Which, init};
pub use self::metrics::{LastReload, Metrics, REVISION, VERSION};
pub use self::reason::Reason;
pub use self::series::{Active, BackendMetrics, DnsMetrics, ListenerMetrics, PoolMetrics, RouteMetrics};
pub use self::timestamp::Timestamp;
