//! Waits for the first answer of the backends that have a hello, and classifies it on the way through.
//!
//! In:  the backends that have accepted a ClientHello, or that speak first; the client.
//! Out: an [`Event`]: an [`Answer`] already being written to the client, or a failure, after which another backend can be
//! tried.
//! Source: RFC 8446 §5.1 (records), §4.1.3 (ServerHello, HelloRetryRequest), §6 (alerts).

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::error::{ConnectError, NotTls};
use super::stream::BackendStream;
use super::{Ask, Said};
use crate::alert::Alert;
use crate::pool::Lease;
use crate::prefix::Prefix;
use crate::scratch::with_scratch;
use crate::telemetry::FirstRecord;

/// A backend that has accepted the first of the client's bytes.
#[derive(Debug)]
pub(super) struct Asked {
    pub stream: BackendStream,
    pub lease: Lease,
    /// Bytes the first write did not accept.
    pub rest: Prefix,
    /// How many of the client's bytes the first write accepted.
    pub taken_bytes: usize,
    /// How long it took to connect and to write.
    pub after: Duration,
    pub took: Instant,
}

/// The backends that have the same hello and have not answered yet, in the order in which they were asked.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// Those that have not answered within `connect.first_byte`: nearly always none.
    pub slow: Vec<Asked>,
    pub newest: Option<Asked>,
    /// Nothing but a reset is expected of the client.
    client_is_quiet: bool,
    /// Keep a copy of the first bytes, whatever they are.
    keeps_answer: bool,
}

/// What happens while an answer is waited for. A backend that answers or fails is no longer among the [`Unanswered`].
#[derive(Debug)]
pub(super) enum Event {
    Answered(Asked, Answer),
    /// The answer is there if it is not TLS.
    Failed(Asked, ConnectError, Option<Answer>),
    /// The client has sent more, which the relay handles.
    More,
    /// The client reset the connection.
    ClientGone(io::Error),
}

/// A backend's first bytes.
#[derive(Debug)]
pub(crate) struct Answer {
    pub kind: FirstRecord,
    /// If the record is an alert.
    pub alert: Option<Alert>,
    pub at: Instant,
    /// How many of these bytes the client has already accepted; none if they are not TLS.
    pub carried_bytes: usize,
    pub rest: Prefix,
    /// See [`undecided`].
    pub undecided: Vec<u8>,
    /// The bytes themselves, if they answer an inner hello.
    pub beginning: Vec<u8>,
}

impl Unanswered {
    pub(super) fn of(ask: &Ask<'_>) -> Self {
        Self { keeps_answer: ask.request.is_inner, ..Self::default() }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Asked> {
        self.slow.iter().chain(&self.newest)
    }

    pub(super) fn take(&mut self, number: usize) -> Option<Asked> {
        if number < self.slow.len() { Some(self.slow.remove(number)) } else { self.newest.take() }
    }

    /// Waits for the next event; for ever if nobody is asked.
    pub(super) async fn event(&mut self, client: &TcpStream, said: Said) -> Event {
        loop {
            tokio::select! {
                biased;
                (number, ready) = self.readable() => {
                    let stream = &self.all().nth(number).expect("it is among them").stream;
                    let answer = ready.map_err(ConnectError::Io);
                    let keeps = self.keeps_answer;
                    let answer = answer.and_then(|()| with_scratch(|scratch| read(stream, client, said, keeps, scratch)));
                    if matches!(&answer, Err(ConnectError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock) {
                        continue;
                    }
                    let asked = self.take(number).expect("it is among them");
                    return match answer {
                        Ok(answer) if answer.kind == FirstRecord::Other && said != Said::Nothing => {
                            let not_tls = NotTls::new(answer.rest.unwritten());
                            Event::Failed(asked, ConnectError::NotTls(not_tls), Some(answer))
                        }
                        Ok(answer) => Event::Answered(asked, answer),
                        Err(error) => Event::Failed(asked, error, None),
                    };
                }
                _ = client.readable(), if !self.client_is_quiet => match has_more(client) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // A FIN: the client may still be waiting for an answer.
                    Ok(0) => self.client_is_quiet = true,
                    // Left unread for the one that answers.
                    Ok(_) if self.newest.is_none() || !self.slow.is_empty() => self.client_is_quiet = true,
                    Ok(_) => return Event::More,
                    // The peek consumed the socket's error: nothing else will report it.
                    Err(error) => return Event::ClientGone(error),
                },
                // Readable from now on: all that can still be noticed is a reset.
                _ = client.ready(Interest::ERROR), if self.client_is_quiet => {
                    let Err(error) = reset_of(client);
                    if error.kind() != io::ErrorKind::WouldBlock {
                        return Event::ClientGone(error);
                    }
                }
            }
        }
    }

    async fn readable(&self) -> (usize, io::Result<()>) {
        poll_fn(|cx| {
            let mut ready = self.all().map(|asked| asked.stream.poll_readable(cx)).enumerate();
            let ready = ready.find_map(|(number, poll)| match poll {
                Poll::Ready(ready) => Some((number, ready)),
                Poll::Pending => None,
            });
            ready.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

fn read(
    backend: &BackendStream,
    client: &TcpStream,
    said: Said,
    keeps: bool,
    scratch: &mut [u8],
) -> Result<Answer, ConnectError> {
    let count = backend.try_read(scratch).map_err(ConnectError::Io)?;
    let bytes = &scratch[..count];
    let (kind, alert) = match first_record(bytes) {
        _ if bytes.is_empty() => return Err(ConnectError::Closed { said }),
        known => known,
    };
    let at = Instant::now();
    let carried_bytes = match kind {
        // Another backend may still answer in TLS.
        FirstRecord::Other if said != Said::Nothing => 0,
        // An error will be reported again when the relay writes.
        _ => client.try_write(bytes).unwrap_or(0),
    };
    let rest = Prefix::new(bytes[carried_bytes..].to_vec());
    let beginning = if keeps { bytes.to_vec() } else { Vec::new() };
    Ok(Answer { kind, alert, at, carried_bytes, rest, undecided: undecided(bytes), beginning })
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

/// Copies a backend's first bytes if they end before a HelloRetryRequest differs from a ServerHello; else empty.
pub(crate) fn undecided(bytes: &[u8]) -> Vec<u8> {
    let random = bytes.get(RANDOM_AT..).unwrap_or_default();
    let may_be_retry = bytes.len() < UNDECIDED_BYTES
        && HELLO_RETRY_REQUEST.starts_with(random)
        && first_record(bytes).0 == FirstRecord::ServerHello;
    if may_be_retry { bytes.to_vec() } else { Vec::new() }
}

/// Peeks, without consuming, whether the client has sent more: the relay must read it.
pub(super) fn has_more(client: &TcpStream) -> io::Result<usize> {
    client.try_io(Interest::READABLE, || {
        let (taken, _) = retry_on_intr(|| recv(client, &mut [0_u8; 1], RecvFlags::PEEK))?;
        Ok(taken)
    })
}

/// The error a reset has left on the socket; `WouldBlock` if there is none.
pub(super) fn reset_of(client: &TcpStream) -> io::Result<Infallible> {
    client.try_io(Interest::ERROR, || Err(client.take_error()?.unwrap_or_else(|| io::ErrorKind::WouldBlock.into())))
}

/// Offset of the random in a record that begins with a ServerHello.
const RANDOM_AT: usize = 11;
/// Offset of what follows it: fewer bytes do not show a HelloRetryRequest.
pub(crate) const UNDECIDED_BYTES: usize = RANDOM_AT + 32;

/// The random of a ServerHello that is a HelloRetryRequest: SHA-256 of "HelloRetryRequest" (RFC 8446 §4.1.3).
const HELLO_RETRY_REQUEST: &[u8] = &[
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_record_is_reported_by_its_first_bytes() {
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
    fn it_is_undecided_until_the_random_differs_or_ends() {
        let retry = [&[0x16, 3, 3, 0, 88, 2, 0, 0, 84, 3, 3][..], HELLO_RETRY_REQUEST].concat();
        assert!((1..retry.len()).all(|cut| undecided(&retry[..cut]) == retry[..cut]));
        let other = [&retry[..11], &[7]].concat();
        for decided in [&[][..], &retry, &other, &[0x15, 3, 3, 0, 2, 2, 40], b"SSH", &[0x16, 3, 3, 0, 4, 0]] {
            assert!(undecided(decided).is_empty(), "{decided:?}");
        }
    }

    #[test]
    fn a_cut_record_is_judged_by_what_is_there() {
        let hello = [&[0x16, 3, 3, 0, 122, 2, 0, 0, 118, 3, 3][..], &[7; 32]].concat();
        assert!((1..hello.len()).all(|cut| first_record(&hello[..cut]).0 == FirstRecord::ServerHello));
        let alert = [0x15, 3, 3, 0, 2, 2, 40];
        assert!((1..alert.len()).all(|cut| first_record(&alert[..cut]).0 == FirstRecord::Alert));
    }
}
