//! Reads a client's first bytes: a PROXY header if one must come first, then one whole ClientHello or request head.
//!
//! In:  a fresh stream, a deadline, a byte limit.
//! Out: the header; then [`Peeked`]: what the bytes hold, and all bytes after the header, which the backend reads first.
//! Source: docs/design.md: read and replay. To both peers it looks like a peek, since the backend sees the same bytes.
//!
//! `MSG_PEEK` costs one more system call, is quadratic for a hello that arrives in small pieces, and stalls when the
//! hello is larger than the receive buffer. So the bytes are consumed and kept.

use std::io;
use std::mem;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use crate::client_hello::{ClientHello, Hello, NotHello, Reader};
use crate::hello_memory::{self, Held, Refused};
use crate::proxy_header::{self, Header, Kinds, Malformed, Parsed, Received};
use crate::request_head::{self, BadRequest, Head, RequestHead};
use crate::scratch::with_scratch;
use crate::starttls::{self, Step, WithClient};

/// What the first bytes of a connection hold.
#[derive(Debug)]
pub(crate) struct Peeked {
    pub first: First,
    /// In an exact-size buffer; begins with the hello.
    pub prefix: Vec<u8>,
}

#[derive(Debug)]
pub(crate) enum First {
    Hello(ClientHello),
    /// Not a TLS handshake; a `not_tls` pool may still accept the connection.
    NotTls,
    /// Nothing, for so long that the server must speak first.
    Silence,
}

/// Why there is no hello to route by. `got` counts the bytes received; those of a PROXY header only in `Io`.
#[derive(Debug)]
pub(crate) enum PeekError {
    /// The deadline passed.
    TimedOut {
        got: usize,
    },
    /// The client sent FIN first.
    Gone {
        got: usize,
    },
    Io {
        error: io::Error,
        got: usize,
    },
    /// All unfinished hellos together are over their budget, and this one was to be refused.
    Memory {
        got: usize,
    },
    Hello(NotHello),
    Request(BadRequest),
    ProxyHeader(Malformed),
    /// The exchange before TLS does not lead to it.
    Starttls {
        refused: starttls::Refused,
        /// How that begins which was refused.
        first_bytes: Box<[u8]>,
    },
}

/// Reads the first bytes of one client. One deadline covers all of them, so a client gains nothing by sending slowly.
pub(crate) struct Peek {
    kept: Kept,
    /// Of the PROXY header, once it was read.
    header_bytes: usize,
    /// Of what the client sent before TLS.
    exchanged_bytes: usize,
    deadline: Instant,
}

impl Peek {
    /// `memory_bytes`: the budget of all unfinished hellos; `None` is `auto`.
    pub(crate) fn new(memory_bytes: Option<usize>, deadline: Instant) -> Self {
        Self { kept: Kept::new(memory_bytes), header_bytes: 0, exchanged_bytes: 0, deadline }
    }

    /// Reads the PROXY header that must come first, and the values in it that are logged or of a kind to `keep`. Without
    /// this call, bytes that look like a header are the client's own.
    ///
    /// # Errors
    /// [`PeekError`], none of them about a hello.
    pub(crate) async fn proxy_header(
        &mut self,
        client: &mut (impl AsyncRead + Unpin),
        keep: Kinds,
    ) -> Result<(Header, Option<Box<Received>>), PeekError> {
        let read = in_time(self.deadline, pin!(read_proxy_header(client, &mut self.kept, keep))).await;
        let (header, received) = read.unwrap_or(Err(PeekError::TimedOut { got: self.kept.got() }))?;
        self.header_bytes = header.bytes;
        Ok((header, received))
    }

    /// Whether the client says nothing until `until`. What it says is kept. A client that closes is not silent.
    ///
    /// # Errors
    /// [`PeekError`], none of them about a hello.
    pub(crate) async fn is_silent(
        &mut self,
        client: &mut (impl AsyncRead + Unpin),
        until: Instant,
    ) -> Result<bool, PeekError> {
        // After the deadline it would be too late to connect it.
        if !self.kept.bytes.is_empty() || until >= self.deadline {
            return Ok(false);
        }
        let read = in_time(until, pin!(read_more(client, &mut self.kept, 1))).await;
        match read {
            Some(Ok(())) => Ok(false),
            Some(Err(error)) => Err(error.after(self.header_bytes)),
            None => Ok(true),
        }
    }

    /// Answers what the client sends before TLS, until TLS begins.
    ///
    /// # Errors
    /// [`PeekError`], none of them about a hello.
    pub(crate) async fn begin_tls(
        &mut self,
        client: &mut (impl AsyncRead + AsyncWrite + Unpin),
        exchange: WithClient,
    ) -> Result<(), PeekError> {
        let Self { kept, exchanged_bytes, .. } = self;
        let read = in_time(self.deadline, pin!(exchange_with(client, kept, exchanged_bytes, exchange))).await;
        match read {
            Some(exchanged) => exchanged.map_err(|error| error.after(self.header_bytes).plus(self.exchanged_bytes)),
            None => Err(PeekError::TimedOut { got: self.kept.got() + self.exchanged_bytes }),
        }
    }

    /// Reads until the hello is whole or can no longer become one. Nothing can be read after it.
    ///
    /// # Errors
    /// [`PeekError`].
    pub(crate) async fn client_hello(
        &mut self,
        client: &mut (impl AsyncRead + Unpin),
        max_hello_bytes: usize,
    ) -> Result<Peeked, PeekError> {
        let read = in_time(self.deadline, pin!(read_hello(client, &mut self.kept, max_hello_bytes))).await;
        match read {
            Some(Ok(first)) => Ok(Peeked { first, prefix: self.kept.take() }),
            Some(Err(error)) => Err(error.after(self.header_bytes).plus(self.exchanged_bytes)),
            None => Err(PeekError::TimedOut { got: self.kept.got() + self.exchanged_bytes }),
        }
    }

    /// Reads until the head of a request is whole or can no longer become one. Returns it, and all bytes so far.
    /// Nothing can be read after it.
    ///
    /// # Errors
    /// [`PeekError`].
    pub(crate) async fn request_head(
        &mut self,
        client: &mut (impl AsyncRead + Unpin),
        max_head_bytes: usize,
    ) -> Result<(RequestHead, Vec<u8>), PeekError> {
        let read = in_time(self.deadline, pin!(read_request(client, &mut self.kept, max_head_bytes))).await;
        match read {
            Some(Ok(head)) => Ok((head, self.kept.take())),
            Some(Err(error)) => Err(error.after(self.header_bytes)),
            None => Err(PeekError::TimedOut { got: self.kept.bytes.len() }),
        }
    }
}

/// Reads once more after the deadline: a process that was suspended sees its timers first, although everything may have
/// arrived in the meantime.
///
/// `read` is pinned by the caller: as an argument by value it would take up its room twice, once before it is pinned.
async fn in_time<T>(deadline: Instant, mut read: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    for look in 0..=LAST_LOOKS {
        if look > 0 {
            // The runtime asks the kernel for events before this goes on.
            yield_now().await;
        }
        if let Ok(done) = timeout_at(deadline, read.as_mut()).await {
            return Some(done);
        }
    }
    None
}

/// Waits for the first byte, whatever it is.
///
/// # Errors
/// [`PeekError`], none of them about a hello.
pub(crate) async fn anything(client: &mut (impl AsyncRead + Unpin), deadline: Instant) -> Result<(), PeekError> {
    let mut kept = Kept::new(None);
    let first = in_time(deadline, pin!(read_more(client, &mut kept, 1))).await;
    first.unwrap_or(Err(PeekError::TimedOut { got: 0 }))
}

async fn read_hello(
    client: &mut (impl AsyncRead + Unpin),
    kept: &mut Kept,
    max_hello_bytes: usize,
) -> Result<First, PeekError> {
    let mut reader = Reader::new(max_hello_bytes);
    // Bytes may have arrived together with the header.
    let mut more = usize::from(kept.bytes.is_empty());
    loop {
        if more > 0 {
            read_more(client, kept, more).await?;
        }
        match reader.read(&kept.bytes) {
            Ok(Hello::Whole(hello)) => return Ok(First::Hello(hello)),
            Ok(Hello::Needs(bytes)) => more = bytes.get(),
            Err(NotHello::NotTls) => return Ok(First::NotTls),
            Err(error) => return Err(PeekError::Hello(error)),
        }
    }
}

/// Leaves in `bytes` how TLS begins, if that has come.
async fn exchange_with(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    kept: &mut Kept,
    exchanged_bytes: &mut usize,
    mut exchange: WithClient,
) -> Result<(), PeekError> {
    loop {
        let step = exchange.step(&kept.bytes).map_err(|refused| PeekError::Starttls {
            refused,
            first_bytes: kept.bytes[..kept.bytes.len().min(MOST_SHOWN_BYTES)].into(),
        })?;
        let taken = match step {
            Step::Needs(bytes) => {
                read_more(client, kept, bytes.get()).await?;
                continue;
            }
            Step::Send { taken, .. } | Step::Tls { taken } => taken,
        };
        if taken > 0 {
            kept.bytes = kept.bytes[taken..].to_vec();
            kept.held = None;
            *exchanged_bytes += taken;
        }
        let Step::Send { bytes, .. } = step else { return Ok(()) };
        client.write_all(bytes).await.map_err(|error| PeekError::Io { error, got: kept.got() })?;
    }
}

async fn read_request(
    client: &mut (impl AsyncRead + Unpin),
    kept: &mut Kept,
    max_head_bytes: usize,
) -> Result<RequestHead, PeekError> {
    let mut reader = request_head::Reader::new(max_head_bytes);
    loop {
        match reader.read(&kept.bytes).map_err(PeekError::Request)? {
            Head::Whole(head) => return Ok(head),
            Head::Needs(bytes) => read_more(client, kept, bytes.get()).await?,
        }
    }
}

/// Leaves in `bytes` what came after the header.
async fn read_proxy_header(
    client: &mut (impl AsyncRead + Unpin),
    kept: &mut Kept,
    keep: Kinds,
) -> Result<(Header, Option<Box<Received>>), PeekError> {
    let mut more = 1;
    loop {
        read_more(client, kept, more).await?;
        match proxy_header::parse(&kept.bytes) {
            Ok(Parsed::Whole(header)) => {
                let received = Received::read(&kept.bytes, &header, keep);
                kept.bytes = kept.bytes[header.bytes..].to_vec();
                kept.held = None;
                return Ok((header, received));
            }
            Ok(Parsed::Needs(bytes)) => more = bytes.get(),
            Err(malformed) => return Err(PeekError::ProxyHeader(malformed)),
        }
    }
}

/// The bytes so far, and what they take of the budget of all unfinished hellos.
struct Kept {
    /// Empty while they are parked.
    bytes: Vec<u8>,
    parked_bytes: usize,
    /// Only if they did not come in one piece.
    held: Option<Held<'static>>,
    /// `None`: auto.
    memory_bytes: Option<usize>,
}

impl Kept {
    fn new(memory_bytes: Option<usize>) -> Self {
        Self { bytes: Vec::new(), parked_bytes: 0, held: None, memory_bytes }
    }

    fn got(&self) -> usize {
        self.bytes.len() + self.parked_bytes
    }

    /// The bytes, which no longer count as unfinished.
    fn take(&mut self) -> Vec<u8> {
        self.held = None;
        mem::take(&mut self.bytes)
    }

    /// Called before the task waits for more.
    fn park(&mut self, cx: &Context<'_>) -> Result<(), Refused> {
        let got = self.bytes.len();
        if got == 0 {
            return Ok(());
        }
        let held = self.held.get_or_insert_with(|| hello_memory::all().hold());
        held.park(&mut self.bytes, self.memory_bytes.unwrap_or_else(hello_memory::auto_bytes))?;
        self.parked_bytes = got - self.bytes.len();
        if held.poll_refused(cx) { Err(Refused) } else { Ok(()) }
    }

    /// Called before anything else is done with the bytes.
    fn unpark(&mut self) -> Result<(), Refused> {
        let Some(held) = &mut self.held else { return Ok(()) };
        held.unpark(&mut self.bytes)?;
        self.parked_bytes = 0;
        Ok(())
    }
}

/// Appends at least `wanted` bytes, and grows by what was received, hardly by what was announced.
async fn read_more(client: &mut (impl AsyncRead + Unpin), kept: &mut Kept, wanted: usize) -> Result<(), PeekError> {
    // A read that was cancelled leaves them parked.
    kept.unpark().map_err(|Refused| PeekError::Memory { got: kept.got() })?;
    let before = kept.bytes.len();
    let mut got = before;
    while got < before + wanted {
        let read = std::future::poll_fn(|cx| {
            if kept.unpark().is_err() {
                return Poll::Ready(Ok(Next::Refused));
            }
            let poll = with_scratch(|scratch| {
                let mut buffer = ReadBuf::new(&mut scratch[..READ_BYTES]);
                let poll = Pin::new(&mut *client).poll_read(cx, &mut buffer);
                hello_memory::append(&mut kept.bytes, buffer.filled(), before + wanted - got);
                poll.map_ok(|()| Next::Read)
            });
            match poll {
                Poll::Pending if kept.park(cx).is_err() => Poll::Ready(Ok(Next::Refused)),
                poll => poll,
            }
        });
        match read.await {
            Err(error) => return Err(PeekError::Io { error, got }),
            Ok(Next::Refused) => return Err(PeekError::Memory { got }),
            Ok(Next::Read) if kept.bytes.len() == got => return Err(PeekError::Gone { got }),
            Ok(Next::Read) => got = kept.bytes.len(),
        }
    }
    Ok(())
}

enum Next {
    Read,
    Refused,
}

impl PeekError {
    /// Counts the bytes of a PROXY header before an error: a client whose proxy sent one is not a port scan.
    fn after(self, header_bytes: usize) -> Self {
        match self {
            Self::Io { error, got } => Self::Io { error, got: got + header_bytes },
            other => other,
        }
    }
}

impl PeekError {
    /// Counts the bytes of the exchange before TLS.
    fn plus(self, bytes: usize) -> Self {
        match self {
            Self::TimedOut { got } => Self::TimedOut { got: got + bytes },
            Self::Gone { got } => Self::Gone { got: got + bytes },
            Self::Io { error, got } => Self::Io { error, got: got + bytes },
            Self::Memory { got } => Self::Memory { got: got + bytes },
            Self::Hello(_) | Self::Request(_) | Self::ProxyHeader(_) | Self::Starttls { .. } => self,
        }
    }
}

impl std::fmt::Display for PeekError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TimedOut { got } => write!(f, "the first message was not complete in time; {got} bytes received"),
            Self::Gone { got } => write!(f, "the client closed after {got} bytes"),
            Self::Io { got, .. } => write!(f, "reading failed after {got} bytes"),
            Self::Memory { got } => {
                write!(f, "the memory for unfinished hellos is used up (limits.hello_memory); {got} bytes received")
            }
            Self::Hello(error) => error.fmt(f),
            Self::Request(error) => error.fmt(f),
            Self::ProxyHeader(malformed) => malformed.fmt(f),
            Self::Starttls { refused, .. } => refused.fmt(f),
        }
    }
}

impl std::error::Error for PeekError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Each look takes a thousand events from the kernel, of all connections of the worker.
const LAST_LOOKS: u32 = 16;
/// The most one read returns, and so the most we keep of what follows a hello.
const READ_BYTES: usize = 16 << 10;
/// Enough to recognize a protocol.
const MOST_SHOWN_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    /// TLS 1.0, no extensions: the smallest that a client may send.
    fn hello() -> Vec<u8> {
        let mut body = vec![3, 1];
        body.extend([9; 32]);
        body.extend([0, 0, 2, 0, 0x2f, 1, 0]);
        let length = u8::try_from(body.len()).expect("short");
        [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length], &body[..]].concat()
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Proxy {
        None,
        Header,
    }

    async fn read(
        client: &mut (impl AsyncRead + Unpin),
        proxy: Proxy,
        deadline: Instant,
    ) -> Result<(Option<Header>, Peeked), PeekError> {
        let mut peek = Peek::new(None, deadline);
        let header =
            if proxy == Proxy::Header { Some(peek.proxy_header(client, Kinds::default()).await?.0) } else { None };
        Ok((header, peek.client_hello(client, 1000).await?))
    }

    async fn peek(proxy: Proxy, pieces: &[&[u8]]) -> Result<(Option<Header>, Peeked), PeekError> {
        let (mut near, mut far) = duplex(1 << 20);
        let send = async {
            for piece in pieces {
                far.write_all(piece).await.expect("room");
                tokio::task::yield_now().await;
            }
            far.shutdown().await.expect("open");
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        tokio::join!(read(&mut near, proxy, deadline), send).0
    }

    #[tokio::test]
    async fn a_hello_cut_anywhere_is_whole_and_nothing_is_lost() {
        let bytes = [hello(), b"early".to_vec()].concat();
        for cut in 1..bytes.len() {
            let (_, peeked) = peek(Proxy::None, &[&bytes[..cut], &bytes[cut..]]).await.expect("a hello");
            assert!(matches!(peeked.first, First::Hello(_)));
            assert!(bytes.starts_with(&peeked.prefix) && peeked.prefix.len() >= hello().len());
        }
    }

    #[tokio::test]
    async fn a_proxy_header_is_taken_off_wherever_it_is_cut() {
        let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n";
        let bytes = [&header[..], &hello()].concat();
        for cut in 1..bytes.len() {
            let (header, peeked) = peek(Proxy::Header, &[&bytes[..cut], &bytes[cut..]]).await.expect("a hello");
            assert_eq!(peeked.prefix, hello());
            let addresses = header.and_then(|header| header.addresses).expect("addresses");
            assert_eq!(addresses.client.to_string(), "192.0.2.1:5");
        }
        assert!(matches!(peek(Proxy::Header, &[&hello()]).await, Err(PeekError::ProxyHeader(_))));
    }

    #[tokio::test]
    async fn a_client_that_leaves_inside_its_hello_is_gone() {
        assert!(matches!(peek(Proxy::None, &[&hello()[..20]]).await, Err(PeekError::Gone { got: 20 })));
        assert!(matches!(peek(Proxy::None, &[]).await, Err(PeekError::Gone { got: 0 })));
    }

    /// A client that is reset after `bytes`.
    struct Reset<'a>(&'a [u8]);

    impl AsyncRead for Reset<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            if self.0.is_empty() {
                return std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            buffer.put_slice(std::mem::take(&mut self.0));
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn an_error_after_bytes_counts_them_those_of_a_proxy_header_too() {
        let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n";
        for (proxy, bytes) in [
            (Proxy::None, &hello()[..5]),
            (Proxy::Header, &header[..7]),
            (Proxy::Header, &header[..]),
            (Proxy::Header, &[&header[..], &hello()[..5]].concat()),
            (Proxy::None, &[]),
        ] {
            let read = read(&mut Reset(bytes), proxy, Instant::now() + Duration::from_secs(10)).await;
            assert!(matches!(read, Err(PeekError::Io { got, .. }) if got == bytes.len()), "{read:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_deadline_holds_for_a_client_that_drips() {
        let (mut near, mut far) = duplex(1 << 20);
        let started = Instant::now();
        let drip = async {
            for byte in hello() {
                far.write_all(&[byte]).await.expect("room");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            peeked = read(&mut near, Proxy::None, started + Duration::from_secs(10)) => {
                // The eleventh byte and the deadline come at the same instant.
                assert!(matches!(peeked, Err(PeekError::TimedOut { got: 10 | 11 })), "{peeked:?}");
            }
            () = drip => panic!("the deadline did not hold"),
        }
        assert_eq!(started.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test]
    async fn what_is_no_tls_is_kept_for_a_pool_that_wants_it() {
        let (_, peeked) = peek(Proxy::None, &[b"SSH-2.0-x\r\n"]).await.expect("something");
        assert!(matches!(peeked.first, First::NotTls));
        assert_eq!(peeked.prefix, b"SSH-2.0-x\r\n");
    }
}
