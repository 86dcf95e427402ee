//! Reports why no backend accepted a connection, for the log, the metrics and the reason label.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::answer::{NotTls, Silence};
use crate::telemetry::ConnectResult;

/// Why no backend accepted the connection: the reason of the last attempt.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The pool has no backend that can be tried.
    NoBackend,
    /// Every backend that could be tried is at its connection limit.
    Full,
    /// Not connected within `after`.
    TimedOut {
        after: Duration,
    },
    /// The backend accepted the hello and sent nothing for `after`.
    Silent {
        after: Duration,
    },
    /// The backend accepted the hello and closed.
    Closed,
    /// The backend answered the hello with something other than TLS.
    NotTls(NotTls),
    Io(io::Error),
    /// The client reset the connection while we waited for the answer.
    ClientGone(io::Error),
}

impl Silence {
    pub(super) fn into_error(self, took: Instant) -> ConnectError {
        match self {
            Self::TimedOut => ConnectError::Silent { after: took.elapsed() },
            Self::Closed => ConnectError::Closed,
            Self::Io(error) => ConnectError::Io(error),
            Self::ClientGone(error) => ConnectError::ClientGone(error),
        }
    }
}

impl ConnectError {
    pub(crate) fn result(&self) -> ConnectResult {
        use io::ErrorKind;
        match self {
            Self::TimedOut { .. } => ConnectResult::TimedOut,
            Self::Silent { .. } => ConnectResult::Silent,
            Self::Closed => ConnectResult::Closed,
            Self::NotTls(_) => ConnectResult::NotTls,
            Self::NoBackend | Self::Full | Self::ClientGone(_) => ConnectResult::Failed,
            Self::Io(error) if is_out_of_ports(error) => ConnectResult::Exhausted,
            Self::Io(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                ConnectResult::Exhausted
            }
            Self::Io(error) => match error.kind() {
                // A missing unix socket means that the backend is not running.
                ErrorKind::ConnectionRefused | ErrorKind::NotFound => ConnectResult::Refused,
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => ConnectResult::Reset,
                ErrorKind::TimedOut => ConnectResult::TimedOut,
                ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
                    ConnectResult::Unreachable
                }
                _ => ConnectResult::Failed,
            },
        }
    }
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoBackend => f.write_str("the pool has no backend to try"),
            Self::Full => f.write_str("every backend of the pool is at its connection limit"),
            Self::TimedOut { after } => write!(f, "no connection within {} ms", after.as_millis()),
            Self::Silent { after } => {
                write!(f, "the backend accepted the hello but did not answer for {} ms", after.as_millis())
            }
            Self::Closed => f.write_str("the backend accepted the hello and closed without an answer"),
            Self::NotTls(first) => first.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::ClientGone(_) => f.write_str("the client disconnected before the backend answered"),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) | Self::ClientGone(error) => Some(error),
            _ => None,
        }
    }
}

pub(super) fn is_out_of_ports(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
}
