//! Is a stream to a backend, over TCP or a unix socket, until the relay takes it as what it is.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::path::Path;

use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use crate::socket;

#[derive(Debug)]
pub(crate) enum BackendStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl BackendStream {
    pub(super) async fn unix(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).await.map(Self::Unix)
    }

    /// By the one waker that a stream keeps for each direction: nobody else waits for it.
    pub(super) async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
        })
        .await
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        })
        .await
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
        }
    }

    /// Waits until the handshake is over: after a fast open, the first bytes were sent before anybody had answered.
    pub(super) async fn established(&self) -> io::Result<()> {
        let Self::Tcp(stream) = self else { return Ok(()) };
        while stream.peer_addr().is_err() {
            if let Some(error) = self.error() {
                return Err(error);
            }
            // The readiness that there is was for the first write. What comes now is seen by the runtime later.
            let _ = stream.try_io(Interest::WRITABLE, || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
            self.writable().await?;
        }
        Ok(())
    }

    /// In one call, so that header and hello leave in one segment.
    pub(super) fn try_write(&self, header: &[u8], prefix: &[u8]) -> io::Result<usize> {
        let both = [IoSlice::new(header), IoSlice::new(prefix)];
        match self {
            Self::Tcp(stream) if header.is_empty() => stream.try_write(prefix),
            Self::Tcp(stream) => stream.try_write_vectored(&both),
            Self::Unix(stream) => stream.try_write_vectored(&both),
        }
    }

    /// The error that the kernel holds for it, if there is one.
    pub(super) fn error(&self) -> Option<io::Error> {
        match self {
            Self::Tcp(stream) => socket::error(stream),
            Self::Unix(stream) => socket::error(stream),
        }
    }
}
