//! Copies through the worker's scratch buffer: used for small messages, and for streams that cannot splice.
//!
//! In:  a stream to read.
//! Out: its bytes, written to the other stream; what that one does not accept goes to an exact-size buffer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::retry_on_intr;
use rustix::net::{SendFlags, send};
use tokio::io::{Interest, ReadBuf};

use super::Stream;
use super::stream::Fault;
use crate::prefix::Prefix;
use crate::scratch::with_scratch;

/// One message, and what came directly after it.
#[derive(Debug)]
pub(super) struct Message {
    pub bytes: usize,
    pub then: Then,
}

#[derive(Debug)]
pub(super) enum Then {
    /// Nothing yet; the polling task is woken when there is more.
    Drained,
    /// There may be more.
    Open,
    /// FIN.
    End,
    /// The stream failed; the bytes before the failure are intact.
    Failed(io::Error),
}

/// Reads what is available, passes it to `hear`, and writes it once. The scratch buffer is borrowed inside this call
/// only, never across an await.
pub(super) fn message(
    cx: &mut Context<'_>,
    from: &mut impl Stream,
    to: &mut impl Stream,
    carried: &mut u64,
    rest: &mut Prefix,
    hear: impl FnOnce(&[u8]),
) -> Poll<Result<Message, Fault>> {
    with_scratch(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer)).map_err(Fault::Read)?;
        let then = if buffer.filled().is_empty() { Then::End } else { read_on(cx, from, &mut buffer) };
        let read = buffer.filled();
        hear(read);
        let written = match then {
            _ if read.is_empty() => Poll::Ready(Ok(0)),
            Then::End => write_last(cx, to, read),
            Then::Drained | Then::Open | Then::Failed(_) => write(cx, to, read),
        };
        let written = match written {
            Poll::Ready(result) => result.map_err(Fault::Write)?,
            Poll::Pending => 0,
        };
        *carried += written as u64;
        if written < read.len() {
            *rest = Prefix::new(read[written..].to_vec());
        }
        Poll::Ready(Ok(Message { bytes: read.len(), then }))
    })
}

/// Reads what follows the first bytes. A read that did not fill its buffer has emptied the socket, and the runtime
/// knows that: this makes another system call only if the end has been signalled as well.
fn read_on(cx: &mut Context<'_>, from: &mut impl Stream, buffer: &mut ReadBuf<'_>) -> Then {
    while buffer.remaining() > 0 {
        let before = buffer.filled().len();
        match Pin::new(&mut *from).poll_read(cx, buffer) {
            Poll::Pending => return Then::Drained,
            Poll::Ready(Err(error)) => return Then::Failed(error),
            Poll::Ready(Ok(())) if buffer.filled().len() == before => return Then::End,
            Poll::Ready(Ok(())) => {}
        }
    }
    Then::Open
}

pub(super) fn write(cx: &mut Context<'_>, to: &mut impl Stream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        result => Poll::Ready(result),
    }
}

/// Writes the last bytes of a direction with MSG_MORE, so that they leave in one segment with the FIN that follows at
/// once.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn write_last(cx: &mut Context<'_>, to: &mut impl Stream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    let sent =
        to.try_io(Interest::WRITABLE, || retry_on_intr(|| send(to.as_fd(), bytes, flags)).map_err(io::Error::from));
    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => write(cx, to, bytes),
        result => Poll::Ready(result),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn write_last(cx: &mut Context<'_>, to: &mut impl Stream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    write(cx, to, bytes)
}
