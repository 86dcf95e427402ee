//! Opens connections to a backend as snigate would.
//!
//! In:  a backend of the configuration.
//! Out: its addresses; a stream to one of them, on which the PROXY header was sent if the pool sends one.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::{Sleep, sleep, timeout};

use crate::backends::discovery::{self, Place};
use crate::backends::resolve;
use crate::connect::{StarttlsError, begin_tls};
use crate::pool::Address;
use crate::proxy_header::{self, Addresses, Version};
use crate::settings::{Backend, Pool, Starttls};
use crate::starttls::WithBackend;

/// How to connect to an address.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    address: Address,
    from: Option<IpAddr>,
    proxy: Option<Version>,
    starttls: Starttls,
}

/// A connected stream of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Why a name has no address.
#[derive(Debug)]
pub(super) enum Unresolved {
    Failure(resolve::Failure),
    TimedOut { after: Duration },
}

/// Resolves the current addresses of `backend`, within `limit`.
///
/// # Errors
/// [`Unresolved`].
pub(super) async fn addresses(pool: &Pool, backend: &Backend, limit: Duration) -> Result<Vec<Address>, Unresolved> {
    let query = match discovery::place(&backend.address) {
        Place::Known(address) => return Ok(vec![address]),
        Place::LookedUp(query) => query,
        Place::Passed => return Ok(Vec::new()),
    };
    let found = timeout(limit, resolve::once(&query, &pool.resolve)).await;
    match found {
        Ok(Ok(found)) => Ok(found.iter().map(|found| Address::Inet(found.address)).collect()),
        Ok(Err(failure)) => Err(Unresolved::Failure(failure)),
        Err(_) => Err(Unresolved::TimedOut { after: limit }),
    }
}

/// Why TLS cannot begin.
#[derive(Debug)]
pub(super) enum NotOpen {
    /// As reported by the kernel.
    Io(io::Error),
    Starttls(StarttlsError),
}

impl Connector {
    pub(super) fn new(pool: &Pool, address: Address) -> Self {
        let from = match &address {
            Address::Inet(to) => {
                pool.source_addresses.iter().find(|from| from.is_ipv4() == to.is_ipv4()).map(|from| from.0)
            }
            Address::Unix(_) => None,
        };
        Self { address, from, proxy: pool.send_proxy_protocol.version(), starttls: pool.starttls }
    }

    pub(super) fn sends_proxy_header(&self) -> bool {
        self.proxy.is_some()
    }

    /// The same address, with a PROXY header if there was none, without it if there was one.
    pub(super) fn otherwise(&self) -> Self {
        let proxy = if self.proxy.is_some() { None } else { Some(Version::V2) };
        Self { proxy, ..self.clone() }
    }

    /// What clients offer to such a backend.
    pub(super) fn alpn(&self) -> Vec<Vec<u8>> {
        match self.starttls {
            Starttls::None => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Starttls::Postgres => Vec::new(),
        }
    }

    /// Connects, sends the header, and makes the exchange before TLS.
    ///
    /// # Errors
    /// [`NotOpen`].
    pub(super) async fn open(&self) -> Result<Box<dyn Stream>, NotOpen> {
        let mut stream = self.introduced().await.map_err(NotOpen::Io)?;
        if let Some(exchange) = WithBackend::new(self.starttls) {
            begin_tls(&mut stream, &[], exchange).await.map_err(NotOpen::Starttls)?;
        }
        Ok(stream)
    }

    /// Connects and sends the header; for what is not TLS.
    ///
    /// # Errors
    /// As reported by the kernel.
    pub(super) async fn introduced(&self) -> io::Result<Box<dyn Stream>> {
        let (mut stream, own): (Box<dyn Stream>, _) = match &self.address {
            Address::Inet(address) => {
                let stream = self.connect(*address).await?;
                let own = Addresses { client: stream.local_addr()?, local: stream.peer_addr()? };
                (Box::new(stream), Some(own))
            }
            Address::Unix(path) => (Box::new(UnixStream::connect(path).await?), None),
        };
        if let Some(version) = self.proxy {
            stream.write_all(&proxy_header::local(version, own)).await?;
        }
        Ok(stream)
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(from) = self.from {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        // Each write is its own segment, for the hello that is sent in pieces.
        socket.set_nodelay(true)?;
        socket.connect(address).await
    }
}

/// Writes in pieces with a pause after each, so that each travels in its own segment.
pub(super) struct InPieces {
    stream: Box<dyn Stream>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl InPieces {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, pause: None }
    }
}

impl AsyncWrite for InPieces {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let piece = &buf[..buf.len().min(PIECE_BYTES)];
        let written = Pin::new(&mut self.stream).poll_write(cx, piece);
        if matches!(written, Poll::Ready(Ok(_))) {
            self.pause = Some(Box::pin(sleep(PAUSE)));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for InPieces {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failure(failure) => failure.fmt(f),
            Self::TimedOut { after } => write!(f, "no answer within {} ms", after.as_millis()),
        }
    }
}

impl std::error::Error for Unresolved {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failure(failure) => Some(failure),
            Self::TimedOut { .. } => None,
        }
    }
}

/// Splits a hello in or near its server name.
pub(super) const PIECE_BYTES: usize = 64;
const PAUSE: Duration = Duration::from_millis(10);
