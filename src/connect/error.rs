//! Reports why no backend accepted a connection, for the log, the metrics and the reason label.

use std::net::IpAddr;
use std::time::Duration;
use std::{fmt, io};

use super::{Said, StarttlsError};
use crate::socket::{From, NotOurs};
use crate::telemetry::ConnectResult;

/// Why no backend accepted the connection: the reason of the last attempt.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The pool has no backend that can be tried.
    NoBackend,
    /// Every backend that could be tried is at its connection limit.
    Full,
    /// The same, and `size` clients wait already.
    QueueFull {
        size: u32,
    },
    /// The same, and it stayed so for `after`.
    QueueTimeout {
        after: Duration,
    },
    /// The client sent FIN while it waited for a place on a backend.
    ClientLeft,
    /// Not connected within `after`.
    TimedOut {
        after: Duration,
    },
    /// The backend accepted what the client said and sent nothing for `after`.
    Silent {
        said: Said,
        after: Duration,
    },
    /// The backend accepted what the client said and closed.
    Closed {
        said: Said,
    },
    /// The backend answered the hello with something other than TLS.
    NotTls(NotTls),
    /// The exchange before the hello failed.
    Starttls(StarttlsError),
    Io(io::Error),
    /// The client reset the connection while we waited for the answer.
    ClientGone(io::Error),
}

/// The first line of what is not TLS, or how it begins, as it is logged: `HTTP/1.1 400`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotTls(Box<str>);

impl NotTls {
    pub(crate) fn new(first_bytes: &[u8]) -> Self {
        let line = first_bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        let shown = match (line, first_bytes) {
            // The version and the status; what follows them is free text.
            ([b'H', b'T', b'T', b'P', b'/', ..], _) => &line[..line.len().min("HTTP/1.1 400".len())],
            ([], beginning) | (beginning, _) => &beginning[..beginning.len().min(MAX_SHOWN_BYTES)],
        };
        let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\'' | b'\\');
        // Nearly all answers are plain text, and escaping goes byte by byte.
        match std::str::from_utf8(shown) {
            Ok(text) if shown.iter().all(is_plain) => Self(text.into()),
            _ => Self(shown.escape_ascii().to_string().into()),
        }
    }
}

impl fmt::Display for NotTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backend's first bytes are not TLS ({})", self.0)
    }
}

impl ConnectError {
    pub(crate) fn result(&self) -> ConnectResult {
        use io::ErrorKind;
        match self {
            Self::TimedOut { .. } => ConnectResult::TimedOut,
            Self::Silent { .. } => ConnectResult::Silent,
            Self::Closed { .. } => ConnectResult::Closed,
            Self::NotTls(_) => ConnectResult::NotTls,
            Self::Starttls(StarttlsError::TimedOut { .. }) => ConnectResult::TimedOut,
            Self::Starttls(_) => ConnectResult::Starttls,
            Self::NoBackend
            | Self::Full
            | Self::QueueFull { .. }
            | Self::QueueTimeout { .. }
            | Self::ClientLeft
            | Self::ClientGone(_) => ConnectResult::Failed,
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

impl ConnectError {
    /// Whether the backend can have caused it. It cannot if we run out of resources, or have no address that suits it.
    pub(super) fn blames_backend(&self) -> bool {
        let is_unsuitable = |error: &io::Error| error.kind() == io::ErrorKind::InvalidInput;
        self.result() != ConnectResult::Exhausted && !matches!(self, Self::Io(error) if is_unsuitable(error))
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBackend => f.write_str("the pool has no backend to try"),
            Self::Full => f.write_str("every backend of the pool is at its connection limit"),
            Self::QueueFull { size } => {
                write!(f, "every backend of the pool is at its connection limit, and {size} clients wait already")
            }
            Self::QueueTimeout { after } => write!(f, "no place on a backend within {} ms", after.as_millis()),
            Self::ClientLeft => f.write_str("the client disconnected while it waited for a place on a backend"),
            Self::TimedOut { after } => write!(f, "no connection within {} ms", after.as_millis()),
            Self::Silent { said: Said::Nothing, after } => {
                write!(f, "the backend accepted the connection but sent nothing for {} ms", after.as_millis())
            }
            Self::Silent { after, .. } => {
                write!(f, "the backend accepted the hello but did not answer for {} ms", after.as_millis())
            }
            Self::Closed { said: Said::Nothing } => f.write_str("the backend accepted the connection and closed it"),
            Self::Closed { .. } => f.write_str("the backend accepted the hello and closed without an answer"),
            Self::NotTls(first) => first.fmt(f),
            Self::Starttls(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::ClientGone(_) => f.write_str("the client disconnected before the backend answered"),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Starttls(error) => error.source(),
            Self::Io(error) | Self::ClientGone(error) => Some(error),
            _ => None,
        }
    }
}

/// Every local port that the kernel may use towards a backend is in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutOfPorts(pub From);

impl fmt::Display for OutOfPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no local port is left towards this backend")?;
        match self.0 {
            From::Any => Ok(()),
            From::Own(address) => write!(f, " from {address}"),
            From::Client(address) => write!(f, " from the client's address {address}"),
        }
    }
}

impl std::error::Error for OutOfPorts {}

impl std::convert::From<OutOfPorts> for io::Error {
    fn from(error: OutOfPorts) -> Self {
        Self::new(io::ErrorKind::AddrNotAvailable, error)
    }
}

/// With `transparent`, no backend can be connected to from this client's address.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotFromClient {
    pub client: IpAddr,
}

impl fmt::Display for NotFromClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client } = self;
        let family = if client.is_ipv4() { "IPv4" } else { "IPv6" };
        write!(f, "transparent: no backend can be connected to from {client}; add one with an {family} address")
    }
}

impl std::error::Error for NotFromClient {}

impl std::convert::From<NotFromClient> for io::Error {
    fn from(error: NotFromClient) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// The source address is not one of this machine.
pub(super) fn is_not_ours(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<NotOurs>())
}

pub(super) fn is_out_of_ports(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
}

/// Enough for the banner of an SSH or SMTP server, each byte of which takes up to four characters.
const MAX_SHOWN_BYTES: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_tls_is_shown_by_its_first_line_escaped_and_bounded() {
        for (first_bytes, shown) in [
            (&b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n"[..], "HTTP/1.1 400"),
            (b"HTTP/1.0 502", "HTTP/1.0 502"),
            (b"HTTP/1.1 \x1b[2J", "HTTP/1.1 \\x1b[2"),
            (b"HTT", "HTT"),
            (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH-2.0-OpenSSH_9.6"),
            (b"220 mail.test ESMTP\n250 x", "220 mail.test ESMTP"),
            (b"\r\n\r\nlogin:", "\\r\\n\\r\\nlogin:"),
            (b"\x00\x00\x12\x04", "\\x00\\x00\\x12\\x04"),
        ] {
            assert_eq!(NotTls::new(first_bytes).to_string(), format!("backend's first bytes are not TLS ({shown})"));
        }
        assert!(NotTls::new(&[0xff; 64 << 10]).0.len() <= 4 * MAX_SHOWN_BYTES);
    }
}
