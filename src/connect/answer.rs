//! Waits for a backend's first answer to a hello, and classifies it on the way through.
//!
//! In:  a backend that has accepted a ClientHello, the client that sent it.
//! Out: an [`Answer`] already being written to the client; or [`Silence`], after which another backend can be tried.
//! Source: RFC 8446 §5.1 (records), §4.1.3 (ServerHello, HelloRetryRequest), §6 (alerts).

use std::convert::Infallible;
use std::{fmt, io};

use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::stream::BackendStream;
use crate::alert::Alert;
use crate::prefix::Prefix;
use crate::scratch::with_scratch;
use crate::telemetry::FirstRecord;

/// A backend's first bytes.
#[derive(Debug)]
pub(crate) struct Answer {
    pub kind: FirstRecord,
    /// If the record is an alert.
    pub alert: Option<Alert>,
    /// When the backend had accepted the hello.
    pub took: Instant,
    pub at: Instant,
    /// How many of these bytes the client has already accepted; none if they are not TLS.
    pub carried_bytes: usize,
    pub rest: Prefix,
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
        Self(shown.escape_ascii().to_string().into())
    }
}

impl fmt::Display for NotTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backend's first bytes are not TLS ({})", self.0)
    }
}

/// Why no answer came.
#[derive(Debug)]
pub(super) enum Silence {
    TimedOut,
    Closed,
    Io(io::Error),
    /// The client reset the connection in the meantime.
    ClientGone(io::Error),
}

/// Waits until `deadline`. `None` means the client has sent more, which the relay handles.
pub(super) async fn first_answer(
    backend: &BackendStream,
    client: &TcpStream,
    took: Instant,
    deadline: Instant,
) -> Result<Option<Answer>, Silence> {
    let mut half_closed = false;
    let mut patience = std::pin::pin!(sleep_until(deadline));
    loop {
        tokio::select! {
            biased;
            ready = backend.readable() => {
                ready.map_err(Silence::Io)?;
                match with_scratch(|scratch| read(backend, client, took, scratch)) {
                    Err(Silence::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                    answer => return answer.map(Some),
                }
            }
            _ = client.readable(), if !half_closed => match has_more(client) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A FIN: the client may still be waiting for an answer.
                Ok(0) => half_closed = true,
                Ok(_) => return Ok(None),
                // The peek consumed the socket's error: nothing else will report it.
                Err(error) => return Err(Silence::ClientGone(error)),
            },
            // Readable from now on, with nothing more to read: all that can still arrive is a reset.
            _ = client.ready(Interest::ERROR), if half_closed => {
                let Err(error) = reset_of(client);
                if error.kind() != io::ErrorKind::WouldBlock {
                    return Err(Silence::ClientGone(error));
                }
            }
            () = &mut patience => return Err(Silence::TimedOut),
        }
    }
}

fn read(backend: &BackendStream, client: &TcpStream, took: Instant, scratch: &mut [u8]) -> Result<Answer, Silence> {
    let count = backend.try_read(scratch).map_err(Silence::Io)?;
    let bytes = &scratch[..count];
    let (kind, alert) = match first_record(bytes) {
        _ if bytes.is_empty() => return Err(Silence::Closed),
        known => known,
    };
    let at = Instant::now();
    let carried_bytes = match kind {
        // Another backend may still answer in TLS.
        FirstRecord::Other => 0,
        // An error will be reported again when the relay writes.
        _ => client.try_write(bytes).unwrap_or(0),
    };
    Ok(Answer { kind, alert, took, at, carried_bytes, rest: Prefix::new(bytes[carried_bytes..].to_vec()) })
}

/// Classifies a backend's first bytes, and returns the alert if they are one. A truncated record is
/// classified by the bytes present.
pub(crate) fn first_record(bytes: &[u8]) -> (FirstRecord, Option<Alert>) {
    match bytes {
        [] => (FirstRecord::None, None),
        [0x15, 3, _, _, _, _, alert, ..] => (FirstRecord::Alert, Some(Alert::new(*alert))),
        [0x15] | [0x15, 3, ..] => (FirstRecord::Alert, None),
        [0x16, 3, _, _, _, 2, _, _, _, _, _, random @ ..] if random.starts_with(HELLO_RETRY_REQUEST) => {
            (FirstRecord::HelloRetry, None)
        }
        [0x16] | [0x16, 3] | [0x16, 3, _] | [0x16, 3, _, _] | [0x16, 3, _, _, _] | [0x16, 3, _, _, _, 2, ..] => {
            (FirstRecord::ServerHello, None)
        }
        _ => (FirstRecord::Other, None),
    }
}

/// Peeks, without consuming, whether the client has sent more: the relay must read it.
fn has_more(client: &TcpStream) -> io::Result<usize> {
    client.try_io(Interest::READABLE, || {
        let (taken, _) = retry_on_intr(|| recv(client, &mut [0_u8; 1], RecvFlags::PEEK))?;
        Ok(taken)
    })
}

/// The error a reset has left on the socket; `WouldBlock` if there is none.
fn reset_of(client: &TcpStream) -> io::Result<Infallible> {
    client.try_io(Interest::ERROR, || Err(client.take_error()?.unwrap_or_else(|| io::ErrorKind::WouldBlock.into())))
}

/// Enough for the banner of an SSH or SMTP server, each byte of which takes up to four characters.
const MAX_SHOWN_BYTES: usize = 40;

/// The random of a ServerHello that is a HelloRetryRequest: SHA-256 of "HelloRetryRequest" (RFC 8446 §4.1.3).
const HELLO_RETRY_REQUEST: &[u8] = &[
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_record_is_told_by_its_first_bytes() {
        let hello = [&[0x16, 3, 3, 0, 122, 2, 0, 0, 118, 3, 3][..], &[7; 32]].concat();
        let retry = [&[0x16, 3, 3, 0, 88, 2, 0, 0, 84, 3, 3][..], HELLO_RETRY_REQUEST].concat();
        assert_eq!(first_record(&hello), (FirstRecord::ServerHello, None));
        assert_eq!(first_record(&retry), (FirstRecord::HelloRetry, None));
        assert_eq!(first_record(&[0x15, 3, 3, 0, 2, 2, 112]), (FirstRecord::Alert, Some(Alert::UNRECOGNIZED_NAME)));
        assert_eq!(first_record(b"SSH-2.0-OpenSSH"), (FirstRecord::Other, None));
        assert_eq!(first_record(b"HTTP/1.1 400 Bad Request"), (FirstRecord::Other, None));
        // A handshake record that carries a message other than ServerHello.
        assert_eq!(first_record(&[0x16, 3, 3, 0, 4, 0, 0, 0, 0]), (FirstRecord::Other, None));
        assert_eq!(first_record(&[]), (FirstRecord::None, None));
    }

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

    #[test]
    fn a_cut_record_is_judged_by_what_is_there() {
        let hello = [&[0x16, 3, 3, 0, 122, 2, 0, 0, 118, 3, 3][..], &[7; 32]].concat();
        assert!((1..hello.len()).all(|cut| first_record(&hello[..cut]).0 == FirstRecord::ServerHello));
        let alert = [0x15, 3, 3, 0, 2, 2, 40];
        assert!((1..alert.len()).all(|cut| first_record(&alert[..cut]).0 == FirstRecord::Alert));
    }
}
