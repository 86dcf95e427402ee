//! Moves bytes between sockets through a pipe, without copying them to user space (Linux).
//!
//! Source: splice(2). A transfer shorter than requested does not mean that the socket is drained: continue until
//!         WouldBlock.

use std::io;
use std::task::{Context, Poll, ready};

use rustix::io::retry_on_intr;
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::Interest;

use super::Stream;
use super::pipe::Pipe;

/// Splices from `from` into the empty `pipe`; 0 means end of stream.
pub(super) fn fill(cx: &mut Context<'_>, from: &impl Stream, pipe: &mut Pipe) -> Poll<io::Result<usize>> {
    loop {
        ready!(from.poll_read_ready(cx))?;
        let moved = from.try_io(Interest::READABLE, || {
            Ok(retry_on_intr(|| splice(from, None, pipe.write_end(), None, pipe.capacity_bytes(), FLAGS))?)
        });
        match moved {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(bytes) => {
                pipe.filled(bytes);
                return Poll::Ready(Ok(bytes));
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// Splices what `pipe` holds into `to`, as much as that accepts.
pub(super) fn empty(cx: &mut Context<'_>, pipe: &mut Pipe, to: &impl Stream) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(cx))?;
        let moved = to.try_io(Interest::WRITABLE, || {
            Ok(retry_on_intr(|| splice(pipe.read_end(), None, to, None, pipe.held_bytes(), FLAGS))?)
        });
        match moved {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(bytes) => {
                pipe.emptied(bytes);
                return Poll::Ready(Ok(bytes));
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// Whether splice cannot work on these descriptors at all, so that we must copy.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::ACCESS]
        .iter()
        .any(|no| error.raw_os_error() == Some(no.raw_os_error()))
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);
