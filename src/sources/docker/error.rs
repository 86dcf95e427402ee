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
    Connect { socket: PathBuf, error: io::Error },
    /// What answers does not speak HTTP, or stopped in the middle.
    Http(hyper::Error),
    /// The request was refused; `said` is the engine's own message, if there is one.
    Status { status: StatusCode, said: String },
    /// The body ended early.
    Incomplete(Box<dyn Error + Send + Sync>),
    /// The body is larger than `most` bytes.
    TooLarge { most: usize },
    /// The body is not what was asked for.
    Json(serde_json::Error),
    /// The engine closed the stream of events.
    EventsEnded,
    /// There was no complete answer within this time.
    TimedOut(Duration),
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
            Self::Http(error) => write!(
                f,
                "the answer is not valid HTTP, or is incomplete: {error}; is this the socket of Docker or podman?"
            ),
            Self::Status { status, said } if said.is_empty() => write!(f, "the answer is {status}"),
            Self::Status { status, said } => write!(f, "the answer is {status}: {said}"),
            Self::Incomplete(error) => write!(f, "the answer is incomplete: {error}"),
            Self::TooLarge { most } => write!(
                f,
                "the answer has more than {most} bytes; shorten the labels and variables of containers, or remove some \
                 containers"
            ),
            Self::Json(error) => write!(f, "the answer is not the expected JSON: {error}"),
            Self::EventsEnded => f.write_str("the engine has ended the event stream"),
            Self::TimedOut(limit) => write!(f, "there was no complete answer within {} s", limit.as_secs_f32()),
        }
    }
}

impl Error for ApiError {}

impl ApiError {
    /// Whether, as the answer to an inspection, it may be about that container alone: the engine has answered, or is slow.
    pub(super) fn is_of_one_container(&self) -> bool {
        matches!(self, Self::Status { .. } | Self::TooLarge { .. } | Self::Json(_) | Self::TimedOut(_))
    }

    /// Whether it says nothing about the container, and may pass.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Status { status, .. } => status.is_server_error(),
            Self::TimedOut(_) => true,
            _ => false,
        }
    }
}

/// For one request.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// For one container: less, since the others wait for it.
pub(super) const INSPECT_PATIENCE: Duration = Duration::from_secs(3);
