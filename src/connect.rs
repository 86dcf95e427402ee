//! Connects to a backend of a pool, trying the next one until one works for this connection.
//!
//! In:  a pool, the client's request, the bytes the backend must read first.
//! Out: [`Connected`], or [`ConnectError`] of the last attempt.
//! Source: docs/design.md; RFC 8305 (happy eyeballs).
//!
//! Until a backend has accepted a byte, another one can be tried, since nothing has been sent. The same holds until it
//! has answered, if only a ClientHello was sent: another backend can be sent the same one. So if there is another
//! backend to try, the first answer is awaited here; if there is none, the relay waits for it. A backend that is slow to
//! answer keeps its connection while another one is tried, and the first answer wins.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

pub(crate) use self::answer::{Answer, UNDECIDED_BYTES, first_record, undecided};
use self::answer::{Asked, Event, Unanswered};
use self::error::is_out_of_ports;
pub(crate) use self::error::{ConnectError, NotTls};
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
    /// When the backend had accepted the first bytes.
    pub took: Instant,
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
    /// How long to wait if several backends have the hello and none answers.
    pub idle: Duration,
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
/// begun within `connect.total`. If none works, but one has answered with something other than TLS, the client gets that.
///
/// # Errors
/// [`ConnectError`].
pub(crate) async fn to_any(pool: &Pool, ask: Ask<'_>, attempts: &mut Attempts) -> Result<Connected, ConnectError> {
    let mut search = Search {
        pool,
        ask,
        began: Instant::now(),
        picks: pool.picks(ask.request),
        goes_on: true,
        unanswered: Unanswered::default(),
        failed: ConnectError::NoBackend,
    };
    let found = search.run(attempts).await;
    if found.is_err() {
        search.give_up(attempts);
    }
    let not_tls = attempts.take_not_tls();
    if let Some(refusals) = attempts.refusals() {
        let now = Instant::now();
        refusals.all_asked = !search.picks.has_more(now);
        if found.is_err() {
            refusals.end(pool, ask.request.client, now);
        }
    }
    if attempts.count() == 0 {
        // The name may have resolved to addresses by now.
        pool.look_again.notify_one();
    }
    match (found, not_tls) {
        (Err(error), Some(answered)) if !matches!(error, ConnectError::ClientGone(_)) => {
            attempts.last = Some(Arc::clone(answered.lease.backend()));
            Ok(*answered)
        }
        (found, _) => found,
    }
}

/// One connection's search for a backend.
struct Search<'a> {
    pool: &'a Pool,
    ask: Ask<'a>,
    began: Instant,
    picks: Picks<'a>,
    /// Whether the pool and its budget may have another backend to try.
    goes_on: bool,
    unanswered: Unanswered,
    /// Why the last attempt failed.
    failed: ConnectError,
}

type Found = ControlFlow<Result<Connected, ConnectError>>;

impl Search<'_> {
    async fn run(&mut self, attempts: &mut Attempts) -> Result<Connected, ConnectError> {
        loop {
            let now = Instant::now();
            let lease = if self.may_begin(attempts, now) { self.picks.next(now) } else { None };
            let found = match lease {
                Some(lease) => self.ask_one(lease, attempts).await,
                None => self.listen(attempts).await,
            };
            if let ControlFlow::Break(found) = found {
                return found;
            }
        }
    }

    fn total(&self) -> Instant {
        self.began + *self.pool.settings.connect.total
    }

    fn may_begin(&self, attempts: &Attempts, now: Instant) -> bool {
        let count = attempts.count();
        let in_time = count == 0 || now < self.total();
        self.unanswered.newest.is_none() && self.goes_on && in_time && count < self.pool.settings.connect.attempts
    }

    /// Connects to one backend and sends it the hello, while those that are slow may still answer.
    async fn ask_one(&mut self, lease: Lease, attempts: &mut Attempts) -> Found {
        let (total, client) = (self.total(), self.ask.client);
        let Self { pool, ask, picks, unanswered, .. } = self;
        let mut failed = Vec::new();
        let reached = {
            let any_slow = !unanswered.slow.is_empty();
            let heard = async {
                loop {
                    match unanswered.event(client).await {
                        Event::Failed(asked, error, answer) => failed.push((asked, error, answer)),
                        event => return event,
                    }
                }
            };
            tokio::select! {
                biased;
                event = heard, if any_slow => Err(event),
                reached = reach(pool, lease, picks, *ask, total, attempts) => Ok(reached),
            }
        };
        failed.into_iter().for_each(|(asked, error, answer)| self.note_unanswered(asked, error, answer, attempts));
        match reached {
            Err(event) => {
                let is_overtaken = matches!(event, Event::Answered(..));
                let result = if is_overtaken { ConnectResult::Overtaken } else { ConnectResult::Ok };
                attempts.last.iter().for_each(|opening| opening.metrics.connect(result));
                self.after(event, attempts)
            }
            // What the backend did not accept at once is left to the relay, which writes and reads at the same time.
            Ok(Ok(asked)) if self.ask.said == Said::More || !asked.rest.is_empty() => self.found(asked, None, attempts),
            Ok(Ok(asked)) => {
                self.unanswered.newest = Some(asked);
                ControlFlow::Continue(())
            }
            Ok(Err(FailedAttempt { backend, error })) => {
                self.note_failure(&backend, error, attempts);
                ControlFlow::Continue(())
            }
        }
    }

    /// Waits for an answer, or until another backend can be tried. If only one backend is left, the relay waits for it.
    async fn listen(&mut self, attempts: &mut Attempts) -> Found {
        let now = Instant::now();
        let newest = self.unanswered.newest.as_ref();
        let more = newest.is_some_and(|newest| self.has_more(newest, attempts, now));
        let spare_answer = attempts.has_not_tls();
        match self.unanswered.all().count() {
            0 if attempts.count() == 0 && self.picks.met_full() => return ControlFlow::Break(Err(ConnectError::Full)),
            0 => return ControlFlow::Break(Err(std::mem::replace(&mut self.failed, ConnectError::NoBackend))),
            1 if !more && !spare_answer => return self.take(0, attempts),
            _ => {}
        }
        let total = self.total();
        let slow =
            self.pool.settings.connect.first_byte.zip(newest).map(|(first_byte, newest)| newest.took + *first_byte);
        let deadline = match slow {
            Some(slow) if more || spare_answer => slow.min(total),
            _ if more || spare_answer => total,
            _ => total.max(self.began + self.ask.idle),
        };
        match timeout_at(deadline, self.unanswered.event(self.ask.client)).await {
            Ok(event) => self.after(event, attempts),
            Err(_) if more => {
                if deadline < total {
                    self.is_slow()
                } else {
                    self.goes_on = false
                }
                ControlFlow::Continue(())
            }
            Err(_) => {
                self.unanswered.slow.extend(self.unanswered.newest.take());
                ControlFlow::Break(Err(ConnectError::Silent { after: self.began.elapsed() }))
            }
        }
    }

    /// Whether another backend can be tried if `newest` does not answer.
    fn has_more(&self, newest: &Asked, attempts: &Attempts, now: Instant) -> bool {
        self.goes_on
            && attempts.count() < self.pool.settings.connect.attempts
            && now < self.total()
            && self.picks.has_more(now)
            && self.pool.may_fail_over(newest.lease.backend(), now)
    }

    /// The newest keeps its connection while another one is tried.
    fn is_slow(&mut self) {
        if let Some(newest) = self.unanswered.newest.take() {
            self.goes_on &= self.pool.fails_over(newest.lease.backend(), Instant::now());
            self.unanswered.slow.push(newest);
        }
    }

    fn after(&mut self, event: Event, attempts: &mut Attempts) -> Found {
        match event {
            Event::Answered(asked, answer) => self.found(asked, Some(answer), attempts),
            Event::More => self.take(0, attempts),
            Event::ClientGone(error) => ControlFlow::Break(Err(ConnectError::ClientGone(error))),
            Event::Failed(asked, error, answer) => {
                self.note_unanswered(asked, error, answer, attempts);
                ControlFlow::Continue(())
            }
        }
    }

    /// Leaves the wait for the answer to the relay.
    fn take(&mut self, number: usize, attempts: &mut Attempts) -> Found {
        match self.unanswered.take(number) {
            Some(asked) => self.found(asked, None, attempts),
            None => ControlFlow::Continue(()),
        }
    }

    /// The search is over. Those asked before this one were too slow.
    fn found(&mut self, asked: Asked, answer: Option<Answer>, attempts: &mut Attempts) -> Found {
        for other in self.unanswered.slow.drain(..).chain(self.unanswered.newest.take()) {
            if other.took < asked.took {
                was_silent(self.pool, &other, attempts);
            } else {
                other.lease.backend().metrics.connect(ConnectResult::Overtaken);
            }
        }
        self.pool.metrics.connected(asked.after);
        attempts.last = Some(Arc::clone(asked.lease.backend()));
        ControlFlow::Break(Ok(connected(asked, answer)))
    }

    /// Nobody answered, or the client is gone.
    fn give_up(&mut self, attempts: &mut Attempts) {
        let any_slow = !self.unanswered.slow.is_empty();
        self.unanswered.slow.drain(..).for_each(|asked| was_silent(self.pool, &asked, attempts));
        if let Some(newest) = self.unanswered.newest.take() {
            newest.lease.backend().metrics.connect(ConnectResult::Ok);
            if any_slow {
                attempts.refused(newest.lease.backend(), None);
            }
        }
    }

    fn note_unanswered(&mut self, asked: Asked, error: ConnectError, answer: Option<Answer>, attempts: &mut Attempts) {
        let backend = Arc::clone(asked.lease.backend());
        backend.metrics.first_record(answer.as_ref().map_or(FirstRecord::None, |answer| answer.kind));
        if answer.is_some() {
            attempts.further().not_tls.get_or_insert_with(|| Box::new(connected(asked, answer)));
        }
        self.note_failure(&backend, error, attempts);
    }

    fn note_failure(&mut self, backend: &Arc<Backend>, error: ConnectError, attempts: &mut Attempts) {
        if note_failure(self.pool, backend, &error, attempts) {
            self.goes_on &= self.pool.fails_over(backend, Instant::now());
        }
        self.failed = error;
    }
}

fn connected(asked: Asked, answer: Option<Answer>) -> Connected {
    let Asked { stream, lease, rest, taken_bytes, after, took } = asked;
    Connected { stream, lease, rest, taken_bytes, after, took, answer }
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

fn was_silent(pool: &Pool, asked: &Asked, attempts: &mut Attempts) {
    asked.lease.backend().metrics.first_record(FirstRecord::None);
    note_failure(pool, asked.lease.backend(), &ConnectError::Silent { after: asked.took.elapsed() }, attempts);
}

/// Records a failed attempt. Returns whether the backend refused the hello, which may be the client's doing.
fn note_failure(pool: &Pool, backend: &Arc<Backend>, error: &ConnectError, attempts: &mut Attempts) -> bool {
    let result = error.result();
    backend.metrics.connect(result);
    attempts.further().failed.push(format!("{} {}: {error}", backend.name, result.as_str()));
    if backend.looked_up {
        pool.look_again.notify_one();
    }
    let is_refusal = matches!(result, ConnectResult::Silent | ConnectResult::Closed | ConnectResult::Reset);
    if is_refusal {
        attempts.refused(backend, Some(error.to_string()));
    } else if result != ConnectResult::Exhausted {
        // Running out of our own resources is not the backend's fault.
        pool.failed(backend, Blame::Backend, error, Instant::now());
    }
    is_refusal
}

/// Connects to one backend and writes the first bytes.
async fn reach(
    pool: &Pool,
    lease: Lease,
    picks: &mut Picks<'_>,
    ask: Ask<'_>,
    total: Instant,
    attempts: &mut Attempts,
) -> Result<Asked, FailedAttempt> {
    attempts.begin(lease.backend());
    let now = Instant::now();
    let options = SocketOptions::of(pool, ask, lease.backend());
    let opened = timeout_at(total.min(now + *pool.settings.connect.timeout), async {
        let (lease, stream) = open(pool, lease, picks, options, attempts).await?;
        match give(&stream, ask.first_bytes, options).await {
            Ok(taken) => Ok((lease, stream, taken)),
            Err(error) => Err(FailedAttempt::of(&lease, error)),
        }
    });
    let Ok(opened) = opened.await else {
        let backend = attempts.last.clone().expect("an attempt has begun");
        return Err(FailedAttempt { backend, error: ConnectError::TimedOut { after: now.elapsed() } });
    };
    let (lease, stream, taken) = opened?;
    let took = Instant::now();
    let taken_bytes = taken.saturating_sub(ask.first_bytes.header.len());
    Ok(Asked { stream, lease, rest: ask.first_bytes.after(taken), taken_bytes, after: took - now, took })
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

    fn has_not_tls(&self) -> bool {
        self.further.as_ref().is_some_and(|further| further.not_tls.is_some())
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
