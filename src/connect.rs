//! Connects to a backend of a pool, going on to the next until one is good for this connection.
//!
//! In:  a pool, who asks, what the backend must read first.
//! Out: [`Connected`], or [`ConnectError`] of the last attempt.
//! Source: docs/design.md; RFC 8305 (happy eyeballs).
//!
//! Until a backend has taken a byte, another one can be tried, since nothing was said yet. The same holds until it has
//! answered, if all that was said is a ClientHello: another backend reads the same one. So, where there is another, the
//! first answer is waited for here. Where there is none, the relay waits for it.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

pub(crate) use self::answer::first_record;
use self::answer::{Answer, first_answer};
pub(crate) use self::error::ConnectError;
use self::error::is_out_of_ports;
pub(crate) use self::stream::BackendStream;
use crate::pool::{Address, Backend, Lease, Picks, Pool, Request};
use crate::prefix::Prefix;
use crate::socket::{self, Towards};
use crate::telemetry::{ConnectResult, FirstRecord};

mod answer;
mod error;
mod stream;

/// A backend that has taken the first of the client's bytes.
#[derive(Debug)]
pub(crate) struct Connected {
    pub stream: BackendStream,
    pub lease: Lease,
    /// What it did not take with the first write.
    pub rest: Prefix,
    /// How many of the client's bytes it took.
    pub taken_bytes: usize,
    pub after: Duration,
    pub answer: Option<Answer>,
}

/// A client and what it wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub request: Request<'a>,
    pub client: &'a TcpStream,
    pub first_bytes: FirstBytes<'a>,
    pub said: Said,
    pub nodelay: bool,
}

/// What the client's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A ClientHello and nothing behind it: as long as there is no answer, another backend can be asked the same.
    HelloAlone,
    /// More than a backend may be told twice: early data must not be replayed (RFC 8446 §8).
    More,
}

/// What a backend reads first: a PROXY header or nothing, then the client's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstBytes<'a> {
    pub header: &'a [u8],
    pub prefix: &'a [u8],
}

/// Told of each attempt as it begins, so that a connection that is cut short is still logged whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attempts {
    pub count: u32,
    pub last: Option<Arc<Backend>>,
}

/// Tries backends in the pool's order until one is good: at most `connect.attempts`, each within `connect.timeout`, all
/// within `connect.total`.
///
/// # Errors
/// [`ConnectError`].
pub(crate) async fn to_any(pool: &Pool, ask: Ask<'_>, attempts: &mut Attempts) -> Result<Connected, ConnectError> {
    let total = Instant::now() + pool.connect.total;
    let mut picks = pool.picks(ask.request);
    let mut failed = ConnectError::NoBackend;
    while (attempts.count as usize) < pool.connect.attempts {
        let now = Instant::now();
        if attempts.count > 0 && now >= total {
            break;
        }
        let Some(lease) = picks.next(now) else { break };
        match attempt(pool, lease, &mut picks, ask, now, total, attempts).await {
            Ok(connected) => return Ok(connected),
            Err(Failed { error: error @ ConnectError::ClientGone(_), .. }) => return Err(error),
            Err(Failed { backend, error }) => {
                note_failure(pool, &backend, &error);
                failed = error;
            }
        }
    }
    if attempts.count == 0 {
        // A name may have addresses by now.
        pool.look_again.notify_one();
    }
    if attempts.count == 0 && picks.met_full() { Err(ConnectError::Full) } else { Err(failed) }
}

/// Connects to one address as connections of `pool` do, for its checks; the caller keeps the deadline.
///
/// # Errors
/// What the kernel says.
pub(crate) async fn to_one(pool: &Pool, address: &Address) -> io::Result<BackendStream> {
    to_the_end(pool, address, Options { nodelay: true, fast_open: false }).await
}

/// What differs from one connection to another of a pool.
#[derive(Clone, Copy, Debug)]
struct Options {
    nodelay: bool,
    fast_open: bool,
}

impl Options {
    fn of(pool: &Pool, ask: Ask<'_>, backend: &Backend) -> Self {
        // What travels with a SYN may arrive twice, as early data must not (RFC 7413 §6.1). Among the addresses of a name
        // the one that answers is looked for before anything is said.
        let fast_open = pool.connect.fast_open && ask.said == Said::HelloAlone && !backend.looked_up;
        Self { nodelay: ask.nodelay, fast_open }
    }
}

/// One attempt came to nothing.
struct Failed {
    backend: Arc<Backend>,
    error: ConnectError,
}

impl Failed {
    fn of(lease: &Lease, error: io::Error) -> Self {
        Self { backend: Arc::clone(lease.backend()), error: ConnectError::Io(error) }
    }
}

fn note_failure(pool: &Pool, backend: &Arc<Backend>, error: &ConnectError) {
    let result = error.result();
    backend.metrics.connect(result);
    // What we lack ourselves is not the backend's fault.
    if result != ConnectResult::Exhausted {
        pool.failed(backend, Instant::now());
    }
    if backend.looked_up {
        pool.look_again.notify_one();
    }
}

/// Connects, writes, and waits for the answer if there is somebody else to ask.
async fn attempt(
    pool: &Pool,
    lease: Lease,
    picks: &mut Picks<'_>,
    ask: Ask<'_>,
    now: Instant,
    total: Instant,
    attempts: &mut Attempts,
) -> Result<Connected, Failed> {
    attempts.begin(lease.backend());
    let options = Options::of(pool, ask, lease.backend());
    let opened = timeout_at(total.min(now + pool.connect.timeout), async {
        let (lease, stream) = open(pool, lease, picks, options, attempts).await?;
        match give(&stream, ask.first_bytes, options).await {
            Ok(taken) => Ok((lease, stream, taken)),
            Err(error) => Err(Failed::of(&lease, error)),
        }
    });
    let (lease, stream, taken) = match opened.await {
        Ok(opened) => opened?,
        Err(_) => {
            let backend = attempts.last.clone().expect("an attempt has begun");
            return Err(Failed { backend, error: ConnectError::TimedOut { after: now.elapsed() } });
        }
    };
    let after = now.elapsed();
    let rest = ask.first_bytes.after(taken);
    let mut answer = None;
    let took = Instant::now();
    let patience = took + pool.connect.first_byte;
    // What the backend did not take at once is left to the relay, which writes and reads at the same time.
    let can_ask_again = ask.said == Said::HelloAlone && rest.is_empty();
    let more = (attempts.count as usize) < pool.connect.attempts && patience < total;
    if can_ask_again && more && picks.has_more(now) {
        match first_answer(&stream, ask.client, took, patience).await {
            Ok(first) => answer = first,
            Err(silence) => {
                let backend = Arc::clone(lease.backend());
                let error = silence.into_error(took);
                match error {
                    ConnectError::ClientGone(_) => backend.metrics.connect(ConnectResult::Ok),
                    ConnectError::NotTls => backend.metrics.first_record(FirstRecord::Other),
                    _ => backend.metrics.first_record(FirstRecord::None),
                }
                return Err(Failed { backend, error });
            }
        }
    }
    lease.backend().metrics.connect(ConnectResult::Ok);
    pool.metrics.connected(after);
    let taken_bytes = taken.saturating_sub(ask.first_bytes.header.len());
    Ok(Connected { stream, lease, rest, taken_bytes, after, answer })
}

/// Opens a stream to the leased backend. One that was looked up and takes its time gets a rival at an address of the
/// other family, if its name has one: the first to connect is taken.
async fn open(
    pool: &Pool,
    lease: Lease,
    picks: &mut Picks<'_>,
    options: Options,
    attempts: &mut Attempts,
) -> Result<(Lease, BackendStream), Failed> {
    if !lease.backend().looked_up {
        return match begin(pool, &lease.backend().address, options).await {
            Ok(stream) => Ok((lease, stream)),
            Err(error) => Err(Failed::of(&lease, error)),
        };
    }
    // Boxed, since it is rare and large.
    Box::pin(race(pool, lease, picks, options, attempts)).await
}

/// Connects to the leased backend and, if that takes its time, to a rival of the other family; the first one wins.
async fn race(
    pool: &Pool,
    lease: Lease,
    picks: &mut Picks<'_>,
    options: Options,
    attempts: &mut Attempts,
) -> Result<(Lease, BackendStream), Failed> {
    let mut one = pin!(finish(pool, lease, options));
    let rival = tokio::select! {
        result = &mut one => return result.map_err(|(lease, error)| Failed::of(&lease, error)),
        () = sleep(CONNECTION_ATTEMPT_DELAY) => {
            let slow = attempts.last.as_ref().expect("an attempt has begun");
            picks.other_family(slow, Instant::now())
        }
    };
    let Some(rival) = rival else { return one.await.map_err(|(lease, error)| Failed::of(&lease, error)) };
    attempts.begin(rival.backend());
    let mut other = pin!(finish(pool, rival, options));
    let (result, rest) = tokio::select! {
        result = &mut one => (result, other),
        result = &mut other => (result, one),
    };
    match result {
        Ok((lease, stream)) => {
            attempts.last = Some(Arc::clone(lease.backend()));
            Ok((lease, stream))
        }
        Err((lease, error)) => {
            note_failure(pool, lease.backend(), &ConnectError::Io(error));
            rest.await.map_err(|(lease, error)| Failed::of(&lease, error))
        }
    }
}

async fn finish(pool: &Pool, lease: Lease, options: Options) -> Result<(Lease, BackendStream), (Lease, io::Error)> {
    match to_the_end(pool, &lease.backend().address, options).await {
        Ok(stream) => Ok((lease, stream)),
        Err(error) => Err((lease, error)),
    }
}

/// Connects until the stream is known to be connected.
async fn to_the_end(pool: &Pool, address: &Address, options: Options) -> io::Result<BackendStream> {
    let stream = begin(pool, address, options).await?;
    match stream.error() {
        None => Ok(stream),
        Some(error) => Err(error),
    }
}

/// Begins to connect, and waits until the socket can be written to: the write carries the error, if there is one.
async fn begin(pool: &Pool, address: &Address, options: Options) -> io::Result<BackendStream> {
    let stream = match address {
        Address::Inet(address) => BackendStream::Tcp(begin_tcp(pool, *address, options)?),
        Address::Unix(path) => BackendStream::unix(path).await?,
    };
    stream.writable().await?;
    Ok(stream)
}

fn begin_tcp(pool: &Pool, address: SocketAddr, options: Options) -> io::Result<TcpStream> {
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    // A source address whose ports are all in use is passed over.
    for _ in 0..pool.connect.source_addresses.len().max(1) {
        let from = pool.source_address(address.ip());
        let Options { nodelay, fast_open } = options;
        let towards = Towards { from, nodelay, fast_open, congestion: pool.connect.congestion.as_deref() };
        result = socket::for_backend(address, towards);
        match &result {
            Err(error) if is_out_of_ports(error) => {}
            _ => break,
        }
    }
    TcpStream::from_std(result?)
}

/// Writes the first bytes, and tells how many of them were taken by a backend that is known to be there.
async fn give(stream: &BackendStream, first: FirstBytes<'_>, options: Options) -> io::Result<usize> {
    let taken = write_first(stream, first).await?;
    if options.fast_open {
        stream.established().await?;
    }
    Ok(taken)
}

async fn write_first(stream: &BackendStream, first: FirstBytes<'_>) -> io::Result<usize> {
    loop {
        match stream.try_write(first.header, first.prefix) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The readiness is older than the connection.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                if let Some(error) = stream.error() {
                    return Err(error);
                }
            }
            result => return result,
        }
        stream.writable_again().await?;
    }
}

impl Attempts {
    fn begin(&mut self, backend: &Arc<Backend>) {
        self.count += 1;
        self.last = Some(Arc::clone(backend));
    }
}

impl FirstBytes<'_> {
    fn after(self, taken: usize) -> Prefix {
        let left = self.header.iter().chain(self.prefix).skip(taken).copied();
        Prefix::new(left.collect())
    }
}

/// RFC 8305 §5.
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);
