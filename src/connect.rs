//! Connects to a backend of a pool, going on to the next until one has taken the client's first bytes.
//!
//! In:  a pool, what the backend must read first.
//! Out: [`Connected`], or [`ConnectError`] of the last attempt.
//! Source: DESIGN §9. Until a backend has taken a byte, another one can be tried, since nothing was said yet.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::pool::{Backend, Lease, Pool};
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

/// What a backend reads first: a PROXY header or nothing, then the client's bytes.
#[derive(Clone, Copy, Debug)]
pub struct FirstBytes<'a> {
    pub header: &'a [u8],
    pub prefix: &'a [u8],
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
    first_bytes: FirstBytes<'_>,
    attempts: &mut Attempts,
) -> Result<Connected, ConnectError> {
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
                let taken_bytes = taken.saturating_sub(first_bytes.header.len());
                return Ok(Connected { stream, lease, rest: first_bytes.after(taken), taken_bytes, after });
            }
            Ok(Err(error)) => failed = ConnectError::Io(error),
            Err(_) => failed = ConnectError::TimedOut { after },
        }
        backend.metrics.connect(failed.result());
    }
    Err(failed)
}

/// Connects and writes; the write waits for the connection by itself, and carries its error.
async fn begin(pool: &Pool, backend: &Backend, nodelay: bool, first: FirstBytes<'_>) -> io::Result<(TcpStream, usize)> {
    let from = pool.source_address(backend.address.ip());
    let stream =
        TcpStream::from_std(socket::for_backend(backend.address, from, nodelay, pool.connect.congestion.as_deref())?)?;
    loop {
        stream.writable().await?;
        match first.write(&stream) {
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

impl FirstBytes<'_> {
    /// In one call, so that header and hello leave in one segment.
    fn write(self, to: &TcpStream) -> io::Result<usize> {
        if self.header.is_empty() {
            return to.try_write(self.prefix);
        }
        to.try_write_vectored(&[io::IoSlice::new(self.header), io::IoSlice::new(self.prefix)])
    }

    fn after(self, taken: usize) -> Prefix {
        let left = self.header.iter().chain(self.prefix).skip(taken).copied();
        Prefix::new(left.collect())
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
