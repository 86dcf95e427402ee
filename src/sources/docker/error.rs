//! Why the Docker API cannot be read.
//!
//! In:  what went wrong with a request.
//! Out: [`ApiError`], which says how to mend it.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper::StatusCode;

/// Why there is no answer that can be used.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// The socket cannot be connected to.
    Connect {
        socket: PathBuf,
        error: io::Error,
    },
    /// What answers does not speak HTTP, or stopped in the middle.
    Http(hyper::Error),
    /// The request was refused; `said` is the engine's own message, if there is one.
    Status {
        status: StatusCode,
        said: String,
    },
    /// The body ended early, or is larger than `most` bytes.
    Body {
        most: usize,
        error: Box<dyn Error + Send + Sync>,
    },
    /// The body is not what was asked for.
    Json(serde_json::Error),
    /// One event is longer than `most` bytes.
    LongEvent {
        most: usize,
    },
    /// The engine closed the stream of events.
    EventsEnded,
    TimedOut,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { socket, error } => {
                let socket = socket.display();
                match error.kind() {
                    io::ErrorKind::NotFound => {
                        write!(f, "there is no socket {socket}; start the engine, or mount its socket")
                    }
                    io::ErrorKind::PermissionDenied => write!(
                        f,
                        "snigate may not use the socket {socket}; run it in the group that owns the socket (`group_add` in \
                         compose, `SupplementaryGroups=` in systemd)"
                    ),
                    io::ErrorKind::ConnectionRefused => write!(f, "no engine listens on {socket}; start it"),
                    _ => write!(f, "cannot connect to {socket}: {error}"),
                }
            }
            Self::Http(error) => write!(f, "the answer is not HTTP, or incomplete: {error}"),
            Self::Status { status, said } if said.is_empty() => write!(f, "the answer is {status}"),
            Self::Status { status, said } => write!(f, "the answer is {status}: {said}"),
            Self::Body { most, error } => write!(f, "the answer is incomplete, or has more than {most} bytes: {error}"),
            Self::Json(error) => write!(f, "the answer is not the expected JSON: {error}"),
            Self::LongEvent { most } => write!(f, "an event has more than {most} bytes"),
            Self::EventsEnded => f.write_str("the engine has ended the stream of events"),
            Self::TimedOut => write!(f, "there was no complete answer within {} s", PATIENCE.as_secs()),
        }
    }
}

impl Error for ApiError {}

/// For one request.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
