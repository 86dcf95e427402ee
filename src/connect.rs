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

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

pub(crate) use self::answer::{Answer, UNDECIDED_BYTES, first_record, undecided};
pub(crate) use self::error::{ConnectError, NotTls};
pub(crate) use self::queue::{Place, wait};
pub(crate) use self::reach::to_one;
use self::search::Search;
pub(crate) use self::starttls::{StarttlsError, begin_tls};
pub(crate) use self::stream::BackendStream;
use crate::pool::{Backend, Blame, Lease, PickRequest, Pool, Refusals};
use crate::prefix::Prefix;
use crate::settings::Starttls;
use crate::telemetry::ConnectResult;

mod answer;
mod error;
mod queue;
mod reach;
mod search;
mod starttls;
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
    /// What is exchanged with a backend before it gets the first bytes.
    pub starttls: Starttls,
    pub port: Option<OtherPort<'a>>,
    pub nodelay: bool,
    /// How long to wait if several backends have the hello and none answers.
    pub idle: Duration,
}

/// A port that replaces those of the backends. What happens there says nothing about a backend at its own port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OtherPort<'a> {
    pub port: u16,
    /// Where snigate itself listens: a backend on this machine may have the same address.
    pub ours: &'a [SocketAddr],
}

/// What the client's first bytes consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A ClientHello and nothing after it: until a backend answers, another one can be sent the same bytes.
    HelloAlone,
    /// Nothing: the backend speaks first. Until it does, another one can be tried.
    Nothing,
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
/// `first` is a place on the first one, for a client that has waited for it.
///
/// # Errors
/// [`ConnectError`]. After [`ConnectError::Full`] the client may [`wait`], if the pool has a queue.
pub(crate) async fn to_any(
    pool: &Pool,
    first: Option<Lease>,
    ask: &Ask<'_>,
    attempts: &mut Attempts,
) -> Result<Connected, ConnectError> {
    if first.is_none() && pool.has_queue() && pool.queue.length() > 0 {
        // Others were here first.
        return Err(ConnectError::Full);
    }
    let mut search = Search::new(pool, first, ask);
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
    if attempts.count() == 0 && !matches!(found, Err(ConnectError::Full)) {
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

/// Records a failed attempt. Returns whether the backend refused the hello, which may be the client's doing. A failure
/// at another `port` is only logged.
fn note_failure(
    pool: &Pool,
    backend: &Arc<Backend>,
    error: &ConnectError,
    port: Option<OtherPort<'_>>,
    attempts: &mut Attempts,
) -> bool {
    let result = error.result();
    attempts.further().failed.push(format!("{} {}: {error}", backend.name, result.as_str()));
    if port.is_some() {
        return false;
    }
    backend.metrics.connect(result);
    if backend.looked_up {
        pool.look_again.notify_one();
    }
    let is_refusal = matches!(result, ConnectResult::Silent | ConnectResult::Closed | ConnectResult::Reset);
    if is_refusal {
        attempts.refused(backend, Some(error.to_string()));
    } else if error.blames_backend() {
        pool.failed(backend, Blame::Backend, error, Instant::now());
    }
    is_refusal
}
