//! Is a stream to a backend, over TCP or a unix socket, until the relay takes it as what it is.

use std::io::{self, IoSlice};
use std::path::Path;

use tokio::net::{TcpStream, UnixStream};

use crate::socket;

#[derive(Debug)]
pub enum BackendStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl BackendStream {
    pub(super) async fn unix(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).await.map(Self::Unix)
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
        }
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
        }
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
