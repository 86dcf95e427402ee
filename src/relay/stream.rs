//! The interface of a stream that can be relayed: its bytes, its readiness, its descriptor.

use std::io;
use std::os::fd::AsFd;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpStream, UnixStream};

/// A stream that can be relayed: bytes, readiness, a descriptor.
pub(crate) trait Stream: AsyncRead + AsyncWrite + AsFd + Unpin {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Runs `operation`; if it returns WouldBlock, the readiness is cleared.
    ///
    /// # Errors
    /// The error of `operation`.
    fn try_io<R>(&self, interest: Interest, operation: impl FnMut() -> io::Result<R>) -> io::Result<R>;

    /// Checks the cached readiness only: registers no wakeup and makes no system call.
    fn is_read_ready(&self) -> bool {
        self.try_io(Interest::READABLE, || Ok(())).is_ok()
    }
}

/// Which of the two streams failed.
#[derive(Debug)]
pub(super) enum Fault {
    Read(io::Error),
    Write(io::Error),
    /// None: bytes were read that the other side does not accept now. The polling task is woken when it does.
    Blocked,
    /// Neither: the meter refused the client.
    Refused,
}

macro_rules! streams {
    ($($stream:ty),*) => {$(
        impl Stream for $stream {
            fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                <$stream>::poll_read_ready(self, cx)
            }

            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                <$stream>::poll_write_ready(self, cx)
            }

            fn try_io<R>(&self, interest: Interest, operation: impl FnMut() -> io::Result<R>) -> io::Result<R> {
                <$stream>::try_io(self, interest, operation)
            }
        }
    )*};
}

streams!(TcpStream, UnixStream);
