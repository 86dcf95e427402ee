//! Connects to a backend of a pool, going on to the next until one has taken the client's first bytes.
//!
//! In:  a pool, what the backend must read first, where the client came from.
//! Out: [`Connected`], or [`ConnectError`] of the last attempt.
//! Source: DESIGN §9. Until a backend has taken a byte, another one can be tried, since nothing was said yet.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::pool::{Backend, Lease, Pool};
use crate::proxy_header::{self, Addresses};
use crate::relay::Prefix;
use crate::socket;
use crate::telemetry::ConnectResult;

/// A backend that has taken the first of the client's bytes.
#[derive(Debug)]
pub struct Connected {
    pub stream: TcpStream,
    pub lease: Lease,
    /// What it did not take with the first write.
    pub rest: Prefix,
    /// How many of the client's bytes it took.
    pub taken_bytes: usize,
    pub after: Duration,
}

/// Told of each attempt as it begins, so that a connection that is cut short is still logged whole.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    pub count: u32,
    pub last: Option<Arc<Backend>>,
}

/// Why no backend took the connection; the last attempt's reason.
#[derive(Debug)]
pub enum ConnectError {
    /// The pool has no backend to try.
    NoBackend,
    /// No answer within `after`.
    TimedOut {
        after: Duration,
    },
    Io(io::Error),
}

/// Tries backends in the pool's order until one takes the first bytes: at most `connect.attempts`, each within
/// `connect.timeout`, all within `connect.total`.
///
/// # Errors
/// [`ConnectError`].
pub async fn to_any(
    pool: &Pool,
    nodelay: bool,
    from: Addresses,
    prefix: &[u8],
    attempts: &mut Attempts,
) -> Result<Connected, ConnectError> {
    let header = pool.send_proxy_protocol.map(|version| [&proxy_header::encode(version, from)[..], prefix].concat());
    let first_bytes = header.as_deref().unwrap_or(prefix);
    let header_bytes = first_bytes.len() - prefix.len();
    let started = Instant::now();
    let mut failed = ConnectError::NoBackend;
    for backend in pool.picks().take(pool.connect.attempts) {
        let now = Instant::now();
        let total = started + pool.connect.total;
        if attempts.count > 0 && now >= total {
            break;
        }
        attempts.count += 1;
        attempts.last = Some(Arc::clone(backend));
        let lease = Lease::new(backend);
        let deadline = total.min(now + pool.connect.timeout);
        let attempt = timeout_at(deadline, begin(pool, backend, nodelay, first_bytes)).await;
        let after = now.elapsed();
        match attempt {
            Ok(Ok((stream, taken))) => {
                backend.metrics.connect(ConnectResult::Ok);
                pool.metrics.connected(after);
                let mut rest = Prefix::default();
                if taken < first_bytes.len() {
                    rest = Prefix::new(first_bytes[taken..].to_vec());
                }
                return Ok(Connected { stream, lease, rest, taken_bytes: taken.saturating_sub(header_bytes), after });
            }
            Ok(Err(error)) => failed = ConnectError::Io(error),
            Err(_) => failed = ConnectError::TimedOut { after },
        }
        backend.metrics.connect(failed.result());
    }
    Err(failed)
}

/// Connects and writes; the write waits for the connection by itself, and carries its error.
async fn begin(pool: &Pool, backend: &Backend, nodelay: bool, bytes: &[u8]) -> io::Result<(TcpStream, usize)> {
    let from = pool.source_address(backend.address.ip());
    let stream = TcpStream::from_std(socket::for_backend(backend.address, from, nodelay)?)?;
    loop {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Readiness that is older than the connection: wait for the next.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                if let Some(error) = socket::error(&stream) {
                    return Err(error);
                }
            }
            result => return result.map(|taken| (stream, taken)),
        }
    }
}

impl ConnectError {
    pub fn result(&self) -> ConnectResult {
        use io::ErrorKind;
        match self {
            Self::TimedOut { .. } => ConnectResult::TimedOut,
            Self::NoBackend => ConnectResult::Failed,
            Self::Io(error) => match error.kind() {
                ErrorKind::ConnectionRefused => ConnectResult::Refused,
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
            Self::TimedOut { after } => write!(f, "no answer within {} ms", after.as_millis()),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}
