//! Connects to a backend of a pool, trying the next one until one works for this connection.
//!
//! In:  a pool, the client's request, the bytes the backend must read first.
//! Out: [`Connected`], or [`ConnectError`] of the last attempt.
//! Source: docs/design.md; RFC 8305 (happy eyeballs).
//!
//! Until a backend has accepted a byte, another one can be tried, since nothing has been sent. The same holds until it
//! has answered, if only a ClientHello was sent: another backend can be sent the same one. So if there is another
//! backend to try, the first answer is awaited here; if there is none, the relay waits for it.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use self::answer::first_answer;
pub(crate) use self::answer::{Answer, NotTls, first_record};
pub(crate) use self::error::ConnectError;
use self::error::is_out_of_ports;
pub(crate) use self::stream::BackendStream;
use crate::pool::{Address, Backend, Blame, Lease, PickRequest, Picks, Pool, Refusals};
use crate::prefix::Prefix;
use crate::socket::{self, Towards};
use crate::telemetry::{ConnectResult, FirstRecord};

mod answer;
mod error;
mod stream;

/// A backend that has accepted the first of the client's bytes.
#[derive(Debug)]
pub(crate) struct Connected {
    pub stream: BackendStream,
    pub lease: Lease,
    /// Bytes the first write did not accept.
    pub rest: Prefix,
    /// How many of the client's bytes the first write accepted.
    pub taken_bytes: usize,
    pub after: Duration,
    /// If it is not TLS, it has been counted.
    pub answer: Option<Answer>,
}

/// A client and what it asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub request: PickRequest<'a>,
    pub client: &'a TcpStream,
    pub first_bytes: FirstBytes<'a>,
    pub said: Said,
    pub nodelay: bool,
}

/// What the client's first bytes consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A ClientHello and nothing after it: until a backend answers, another one can be sent the same bytes.
    HelloAlone,
    /// More than may be sent to two backends: early data must not be replayed (RFC 8446 §8).
    More,
}

/// What a backend reads first: a PROXY header or nothing, then the client's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstBytes<'a> {
    pub header: &'a [u8],
    pub prefix: &'a [u8],
}

/// Records each attempt as it begins, so that the log line is complete even if the connection is cut short.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    pub last: Option<Arc<Backend>>,
    /// Boxed, since nearly every connection succeeds at its first attempt.
    further: Option<Box<Further>>,
}

#[derive(Debug, Default)]
struct Further {
    /// The attempts after the first.
    count: u32,
    /// Which backends failed and why, for the log.
    failed: Vec<String>,
    /// Those that refused the hello, until they are judged.
    refusals: Refusals,
    /// The first that answered with something other than TLS, until one answers in TLS.
    not_tls: Option<Box<Connected>>,
}

/// Tries backends in the pool's order until one works: at most `connect.attempts`, each within `connect.timeout`, all
/// within `connect.total`. If none works, but one has answered with something other than TLS, the client gets that.
///
/// # Errors
/// [`ConnectError`].
pub(crate) async fn to_any(pool: &Pool, ask: Ask<'_>, attempts: &mut Attempts) -> Result<Connected, ConnectError> {
    let total = Instant::now() + *pool.settings.connect.total;
    let mut picks = pool.picks(ask.request);
    let mut failed = ConnectError::NoBackend;
    while attempts.count() < pool.settings.connect.attempts {
        let now = Instant::now();
        if attempts.count() > 0 && now >= total {
            break;
        }
        let Some(lease) = picks.next(now) else { break };
        match attempt(pool, lease, &mut picks, ask, now, total, attempts).await {
            Ok(connected) => {
                drop(attempts.take_not_tls());
                if let Some(refusals) = attempts.refusals() {
                    refusals.all_asked = !picks.has_more(now);
                }
                return Ok(connected);
            }
            Err(FailedAttempt { error: error @ ConnectError::ClientGone(_), .. }) => {
                if let Some(refusals) = attempts.refusals() {
                    refusals.charge(pool, ask.request.client, now);
                }
                return Err(error);
            }
            Err(FailedAttempt { backend, error }) => {
                let goes_on = note_failure(pool, &backend, &error, attempts);
                failed = error;
                if !goes_on {
                    break;
                }
            }
        }
    }
    if let Some(refusals) = attempts.refusals() {
        let now = Instant::now();
        refusals.all_asked = !picks.has_more(now);
        refusals.end(pool, ask.request.client, now);
    }
    if let Some(answered) = attempts.take_not_tls() {
        attempts.last = Some(Arc::clone(answered.lease.backend()));
        return Ok(*answered);
    }
    if attempts.count() == 0 {
        // The name may have resolved to addresses by now.
        pool.look_again.notify_one();
    }
    if attempts.count() == 0 && picks.met_full() { Err(ConnectError::Full) } else { Err(failed) }
}

/// Connects to one address with the pool's options, for health checks. The caller enforces the deadline.
///
/// # Errors
/// The kernel's error.
pub(crate) async fn to_one(pool: &Pool, address: &Address) -> io::Result<BackendStream> {
    to_the_end(pool, address, SocketOptions { nodelay: true, fast_open: false }).await
}

/// The options that vary between connections of one pool.
#[derive(Clone, Copy, Debug)]
struct SocketOptions {
    nodelay: bool,
    fast_open: bool,
}

impl SocketOptions {
    fn of(pool: &Pool, ask: Ask<'_>, backend: &Backend) -> Self {
        // Data sent with a SYN may arrive twice, which early data must not (RFC 7413 §6.1). Among the addresses of a
        // DNS name, we first find one that connects before sending anything.
        let fast_open = pool.settings.connect.fast_open && ask.said == Said::HelloAlone && !backend.looked_up;
        Self { nodelay: ask.nodelay, fast_open }
    }
}

/// An attempt that failed.
struct FailedAttempt {
    backend: Arc<Backend>,
    error: ConnectError,
}

impl FailedAttempt {
    fn of(lease: &Lease, error: io::Error) -> Self {
        Self { backend: Arc::clone(lease.backend()), error: ConnectError::Io(error) }
    }
}

/// Records a failed attempt. Returns whether another backend may be tried.
fn note_failure(pool: &Pool, backend: &Arc<Backend>, error: &ConnectError, attempts: &mut Attempts) -> bool {
    let (result, now) = (error.result(), Instant::now());
    backend.metrics.connect(result);
    attempts.further().failed.push(format!("{} {}: {error}", backend.name, result.as_str()));
    if backend.looked_up {
        pool.look_again.notify_one();
    }
    match result {
        // Running out of our own resources is not the backend's fault.
        ConnectResult::Exhausted => {}
        ConnectResult::Silent | ConnectResult::Closed | ConnectResult::Reset => {
            attempts.refused(backend, Some(error.to_string()));
            return pool.fails_over(backend, now);
        }
        _ => pool.failed(backend, Blame::Backend, error, now),
    }
    true
}

/// Connects, writes, and waits for the answer if another backend could be tried.
async fn attempt(
    pool: &Pool,
    lease: Lease,
    picks: &mut Picks<'_>,
    ask: Ask<'_>,
    now: Instant,
    total: Instant,
    attempts: &mut Attempts,
) -> Result<Connected, FailedAttempt> {
    attempts.begin(lease.backend());
    let options = SocketOptions::of(pool, ask, lease.backend());
    let opened = timeout_at(total.min(now + *pool.settings.connect.timeout), async {
        let (lease, stream) = open(pool, lease, picks, options, attempts).await?;
        match give(&stream, ask.first_bytes, options).await {
            Ok(taken) => Ok((lease, stream, taken)),
            Err(error) => Err(FailedAttempt::of(&lease, error)),
        }
    });
    let (lease, stream, taken) = match opened.await {
        Ok(opened) => opened?,
        Err(_) => {
            let backend = attempts.last.clone().expect("an attempt has begun");
            return Err(FailedAttempt { backend, error: ConnectError::TimedOut { after: now.elapsed() } });
        }
    };
    let after = now.elapsed();
    let rest = ask.first_bytes.after(taken);
    let taken_bytes = taken.saturating_sub(ask.first_bytes.header.len());
    let mut connected = Connected { stream, lease, rest, taken_bytes, after, answer: None };
    let took = Instant::now();
    let patience = took + *pool.settings.connect.first_byte;
    // What the backend did not accept at once is left to the relay, which writes and reads at the same time.
    let can_ask_again = ask.said == Said::HelloAlone && connected.rest.is_empty();
    let more = attempts.count() < pool.settings.connect.attempts && patience < total && picks.has_more(now);
    let may_go_on = more && pool.may_fail_over(connected.lease.backend(), now);
    if can_ask_again && (may_go_on || attempts.further.as_ref().is_some_and(|further| further.not_tls.is_some())) {
        let answer = first_answer(&connected.stream, ask.client, took, patience).await;
        let backend = Arc::clone(connected.lease.backend());
        match answer {
            Ok(Some(first)) if first.kind == FirstRecord::Other => {
                backend.metrics.first_record(FirstRecord::Other);
                let error = ConnectError::NotTls(NotTls::new(first.rest.unwritten()));
                connected.answer = Some(first);
                attempts.further().not_tls.get_or_insert_with(|| Box::new(connected));
                return Err(FailedAttempt { backend, error });
            }
            Ok(first) => connected.answer = first,
            Err(silence) => {
                let error = silence.into_error(took);
                match error {
                    ConnectError::ClientGone(_) => backend.metrics.connect(ConnectResult::Ok),
                    _ => backend.metrics.first_record(FirstRecord::None),
                }
                return Err(FailedAttempt { backend, error });
            }
        }
    }
    pool.metrics.connected(after);
    Ok(connected)
}

/// Opens a stream to the leased backend. If the backend came from DNS and is slow to connect, also tries an address of
/// the other family, if the name has one; the first to connect wins.
async fn open(
    pool: &Pool,
    lease: Lease,
    picks: &mut Picks<'_>,
    options: SocketOptions,
    attempts: &mut Attempts,
) -> Result<(Lease, BackendStream), FailedAttempt> {
    if !lease.backend().looked_up {
        return match begin(pool, &lease.backend().address, options).await {
            Ok(stream) => Ok((lease, stream)),
            Err(error) => Err(FailedAttempt::of(&lease, error)),
        };
    }
    // Boxed, since it is rare and large.
    Box::pin(race(pool, lease, picks, options, attempts)).await
}

/// Connects to the leased backend and, if that is slow, to a rival of the other address family; the first to connect
/// wins.
async fn race(
    pool: &Pool,
    lease: Lease,
    picks: &mut Picks<'_>,
    options: SocketOptions,
    attempts: &mut Attempts,
) -> Result<(Lease, BackendStream), FailedAttempt> {
    let first = Arc::clone(lease.backend());
    let mut one = pin!(finish(pool, lease, options));
    let rival = tokio::select! {
        result = &mut one => {
            let won = result.inspect(|(lease, _)| lease.backend().standing.connected());
            return won.map_err(|(lease, error)| FailedAttempt::of(&lease, error));
        }
        () = sleep(CONNECTION_ATTEMPT_DELAY) => {
            picks.other_family(&first, Instant::now())
        }
    };
    let Some(rival) = rival else { return one.await.map_err(|(lease, error)| FailedAttempt::of(&lease, error)) };
    attempts.begin(rival.backend());
    let mut other = pin!(finish(pool, rival, options));
    let (result, rest) = tokio::select! {
        result = &mut one => (result, other),
        result = &mut other => (result, one),
    };
    match result {
        Ok((lease, stream)) => {
            lease.backend().standing.connected();
            if !Arc::ptr_eq(lease.backend(), &first) {
                pool.overtaken(&first);
            }
            attempts.last = Some(Arc::clone(lease.backend()));
            Ok((lease, stream))
        }
        Err((lease, error)) => {
            note_failure(pool, lease.backend(), &ConnectError::Io(error), attempts);
            rest.await.map_err(|(lease, error)| FailedAttempt::of(&lease, error))
        }
    }
}

async fn finish(
    pool: &Pool,
    lease: Lease,
    options: SocketOptions,
) -> Result<(Lease, BackendStream), (Lease, io::Error)> {
    match to_the_end(pool, &lease.backend().address, options).await {
        Ok(stream) => Ok((lease, stream)),
        Err(error) => Err((lease, error)),
    }
}

/// Connects and waits until the connection is established.
async fn to_the_end(pool: &Pool, address: &Address, options: SocketOptions) -> io::Result<BackendStream> {
    let stream = begin(pool, address, options).await?;
    match stream.error() {
        None => Ok(stream),
        Some(error) => Err(error),
    }
}

/// Starts to connect and waits until the socket is writable; an error, if any, is reported by the write.
async fn begin(pool: &Pool, address: &Address, options: SocketOptions) -> io::Result<BackendStream> {
    let stream = match address {
        Address::Inet(address) => BackendStream::Tcp(begin_tcp(pool, *address, options)?),
        Address::Unix(path) => BackendStream::unix(path).await?,
    };
    stream.writable().await?;
    Ok(stream)
}

fn begin_tcp(pool: &Pool, address: SocketAddr, options: SocketOptions) -> io::Result<TcpStream> {
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    // A source address whose ports are all in use is skipped.
    for _ in 0..pool.settings.source_addresses.len().max(1) {
        let from = pool.source_address(address.ip());
        let SocketOptions { nodelay, fast_open } = options;
        let towards =
            Towards { from, nodelay, fast_open, congestion: crate::settings::named(&pool.settings.congestion) };
        result = socket::for_backend(address, towards);
        match &result {
            Err(error) if is_out_of_ports(error) => {}
            _ => break,
        }
    }
    TcpStream::from_std(result?)
}

/// Writes the first bytes and returns how many were accepted by a backend known to be connected.
async fn give(stream: &BackendStream, first: FirstBytes<'_>, options: SocketOptions) -> io::Result<usize> {
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
            // The readiness predates the connection.
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
        if self.last.replace(Arc::clone(backend)).is_some() {
            self.further().count += 1;
        }
    }

    fn further(&mut self) -> &mut Further {
        self.further.get_or_insert_default()
    }

    fn take_not_tls(&mut self) -> Option<Box<Connected>> {
        self.further.as_mut()?.not_tls.take()
    }

    pub(crate) fn count(&self) -> u32 {
        u32::from(self.last.is_some()) + self.further.as_ref().map_or(0, |further| further.count)
    }

    /// `backend` refused the hello, and this is `why`; `None` for an alert that never counts.
    pub(crate) fn refused(&mut self, backend: &Arc<Backend>, why: Option<String>) {
        self.further().refusals.add(backend, why);
    }

    /// The backends that refused the hello, if any did.
    pub(crate) fn refusals(&mut self) -> Option<&mut Refusals> {
        self.further.as_mut().map(|further| &mut further.refusals)
    }

    pub(crate) fn failed(&self) -> &[String] {
        self.further.as_ref().map_or(&[], |further| &further.failed)
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
