//! Reports to operators what happened: the metrics, the connection log, the names of all outcomes.
//!
//! Imports only `alert` and `way`, so that every other module can call it.

mod ends;
pub(crate) mod escape;
mod event;
mod format;
mod keys;
mod labels;
mod line;
pub(crate) mod log;
mod log_file;
mod metrics;
mod names;
mod open_line;
mod output;
mod pretty;
mod process;
mod pseudonyms;
mod queue;
mod reason;
mod record;
mod refusals;
mod refused;
mod registry;
mod render;
mod series;
mod style;
mod table;
mod timestamp;
mod visible;

pub(crate) use self::ends::RouteFigures;
pub(crate) use self::escape::readable;
pub use self::labels::*;
pub use self::line::{Alpn, ConnectionLine, Endpoint, LoggedAddress};
pub(crate) use self::line::{Asked, MAX_ALPN_NAME_BYTES, MAX_ALPN_NAMES, RequestLine};
pub use self::log::ConnectionLog;
pub(crate) use self::log::{LogControl, LogGuard};
pub(crate) use self::log_file::LogFile;
pub use self::metrics::Metrics;
pub(crate) use self::metrics::{REVISION, VERSION};
pub(crate) use self::open_line::OpenConnectionLine;
pub(crate) use self::process::usage as process_usage;
pub(crate) use self::reason::Fault;
pub use self::reason::Reason;
pub(crate) use self::refused::Refused;
pub(crate) use self::series::{
    Active, BackendMetrics, DnsMetrics, ListenerMetrics, PoolMetrics, QueueMetrics, RouteMetrics,
};
pub(crate) use self::timestamp::Timestamp;
