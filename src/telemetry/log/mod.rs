//! The log: operator messages and the lines of connections, to stdout and to a file, without ever blocking the caller.

mod connection_log;
mod control;
mod event;
mod file;
mod format;
mod keys;
mod line;
mod open_line;
mod output;
mod outputs;
mod queue;
mod record;
mod refusals;

pub use self::connection_log::ConnectionLog;
pub(crate) use self::control::{LogControl, LogGuard, flush, init, log_panics, reopen};
pub(crate) use self::file::LogFile;
pub use self::line::{Alpn, ConnectionLine, Endpoint, LoggedAddress};
pub(crate) use self::line::{Asked, MAX_ALPN_NAME_BYTES, MAX_ALPN_NAMES, RequestLine};
pub(crate) use self::open_line::OpenConnectionLine;
