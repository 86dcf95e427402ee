//! A connected stream to a backend, TCP or unix, before the relay takes over.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::path::Path;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use super::starttls::{StarttlsError, begin_tls};
use crate::descriptors;
use crate::socket;
use crate::starttls::WithBackend;

#[derive(Debug)]
pub(crate) enum BackendStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl BackendStream {
    pub(super) async fn unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path).await?;
        if descriptors::is_reserved(&stream) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        Ok(Self::Unix(stream))
    }

    /// Makes the exchange after which TLS begins; see [`begin_tls`]. Boxed, since it is rare.
    pub(super) async fn begin_tls(&mut self, header: &[u8], exchange: WithBackend) -> Result<(), StarttlsError> {
        match self {
            Self::Tcp(stream) => Box::pin(begin_tls(stream, header, exchange)).await,
            Self::Unix(stream) => Box::pin(begin_tls(stream, header, exchange)).await,
        }
    }

    /// Waits until a write can be attempted. Uses the stream's single waker per direction, so only one task may wait.
    ///
    /// # Errors
    /// The connection failed. That includes soft errors: an ICMP error during `connect` leaves the socket in SYN-SENT,
    /// where writes return `WouldBlock`, and its error readiness never clears. Waiting again would spin.
    pub(super) async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
        })
        .await?;
        if !self.is_error_ready() {
            return Ok(());
        }
        // The kernel drops a soft error once a retry succeeds, but the readiness stays set.
        Err(self.error().unwrap_or_else(|| io::ErrorKind::HostUnreachable.into()))
    }

    /// Waits for a write readiness newer than the current one.
    ///
    /// # Errors
    /// See [`Self::writable`].
    pub(super) async fn writable_again(&self) -> io::Result<()> {
        let stale = || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into());
        let _ = match self {
            Self::Tcp(stream) => stream.try_io(Interest::WRITABLE, stale),
            Self::Unix(stream) => stream.try_io(Interest::WRITABLE, stale),
        };
        self.writable().await
    }

    /// Whether the runtime has seen EPOLLERR. No system call.
    fn is_error_ready(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.try_io(Interest::ERROR, || Ok(())).is_ok(),
            Self::Unix(stream) => stream.try_io(Interest::ERROR, || Ok(())).is_ok(),
        }
    }

    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Reads what is there. A read that does not fill `buffer` has emptied the socket, so that the next one waits for
    /// the runtime instead of asking the kernel in vain; the end of the stream stays readable.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
        };
        if matches!(read, Ok(bytes) if 0 < bytes && bytes < buffer.len()) {
            let stale = || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into());
            let _ = match self {
                Self::Tcp(stream) => stream.try_io(Interest::READABLE, stale),
                Self::Unix(stream) => stream.try_io(Interest::READABLE, stale),
            };
        }
        read
    }

    /// Waits until the handshake is complete: with TCP Fast Open, the first bytes are sent before the backend has
    /// answered.
    pub(super) async fn established(&self) -> io::Result<()> {
        let Self::Tcp(stream) = self else { return Ok(()) };
        while stream.peer_addr().is_err() {
            if let Some(error) = self.error() {
                return Err(error);
            }
            // The current readiness was for the first write.
            self.writable_again().await?;
        }
        Ok(())
    }

    /// As [`Self::try_write`], but asks the kernel and not the runtime whether the socket is writable.
    pub(super) fn write_now(&self, header: &[u8], prefix: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => socket::send_now(stream, header, prefix),
            Self::Unix(stream) => socket::send_now(stream, header, prefix),
        }
    }

    /// Writes both in one system call, so that header and hello leave in one segment.
    pub(super) fn try_write(&self, header: &[u8], prefix: &[u8]) -> io::Result<usize> {
        let both = [IoSlice::new(header), IoSlice::new(prefix)];
        match self {
            Self::Tcp(stream) if header.is_empty() => stream.try_write(prefix),
            Self::Tcp(stream) => stream.try_write_vectored(&both),
            Self::Unix(stream) => stream.try_write_vectored(&both),
        }
    }

    /// Takes the socket's pending error, if there is one.
    pub(super) fn error(&self) -> Option<io::Error> {
        match self {
            Self::Tcp(stream) => socket::error(stream),
            Self::Unix(stream) => socket::error(stream),
        }
    }
}
