//! Connects to one backend and writes the first bytes to it.
//!
//! In:  a leased backend, the first bytes, a deadline.
//! Out: [`Asked`], or [`FailedAttempt`].
//! Source: RFC 8305 (happy eyeballs), RFC 7413 (TCP Fast Open).

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use super::answer::Asked;
use super::error::{NotFromClient, OutOfPorts, is_not_ours, is_out_of_ports};
use super::{Ask, Attempts, BackendStream, ConnectError, FirstBytes, OtherPort, Said, StarttlsError, note_failure};
use crate::pool::{Address, Backend, Lease, Picks, Pool};
use crate::self_loop;
use crate::settings::Starttls;
use crate::socket::{self, Connected, From, Towards};
use crate::starttls::WithBackend;

/// Connects to one address with the pool's options, for health checks. The caller enforces the deadline.
///
/// # Errors
/// The kernel's error.
pub(crate) async fn to_one(pool: &Pool, address: &Address) -> io::Result<BackendStream> {
    let options = SocketOptions { client: None, port: None, nodelay: true, fast_open: false, writes_first: true };
    to_the_end(pool, address, &options).await
}

/// Connects to one backend and writes the first bytes.
pub(super) async fn reach(
    pool: &Pool,
    lease: Lease,
    picks: &mut Picks<'_>,
    ask: &Ask<'_>,
    total: Instant,
    attempts: &mut Attempts,
) -> Result<Asked, FailedAttempt> {
    attempts.begin(lease.backend());
    let now = Instant::now();
    let options = &SocketOptions::of(pool, ask, lease.backend());
    let exchange = WithBackend::new(ask.starttls);
    let is_open = Cell::new(false);
    let opened = timeout_at(total.min(now + *pool.settings.connect.timeout), async {
        let (lease, mut stream) = open(pool, lease, picks, options, attempts).await?;
        is_open.set(true);
        let mut first_bytes = ask.first_bytes;
        if let Some(exchange) = exchange {
            let header = std::mem::take(&mut first_bytes.header);
            if let Err(error) = stream.begin_tls(header, exchange).await {
                return Err(FailedAttempt::new(&lease, ConnectError::Starttls(error)));
            }
        }
        match give(&stream, first_bytes, options).await {
            Ok(taken) => Ok((lease, stream, first_bytes, taken)),
            Err(error) => Err(FailedAttempt::of(&lease, error)),
        }
    });
    let Ok(opened) = opened.await else {
        let backend = attempts.last.clone().expect("an attempt has begun");
        let after = now.elapsed();
        let error = match exchange {
            Some(_) if is_open.get() => ConnectError::Starttls(StarttlsError::TimedOut { after }),
            _ => ConnectError::TimedOut { after },
        };
        return Err(FailedAttempt { backend, error });
    };
    let (lease, stream, first_bytes, taken) = opened?;
    let took = Instant::now();
    let taken_bytes = taken.saturating_sub(first_bytes.header.len());
    Ok(Asked { stream, lease, rest: first_bytes.after(taken), taken_bytes, after: took - now, took })
}

/// The options that vary between connections of one pool.
#[derive(Clone, Copy, Debug)]
struct SocketOptions<'a> {
    /// Connect from the address of this client.
    client: Option<IpAddr>,
    port: Option<OtherPort<'a>>,
    nodelay: bool,
    fast_open: bool,
    writes_first: bool,
}

impl<'a> SocketOptions<'a> {
    fn of(pool: &Pool, ask: &Ask<'a>, backend: &Backend) -> Self {
        // Data sent with a SYN may arrive twice, which early data must not (RFC 7413 §6.1). Among the addresses of a
        // DNS name, we first find one that connects before sending anything.
        let fast_open = pool.settings.connect.fast_open
            && ask.said == Said::HelloAlone
            && ask.starttls == Starttls::None
            && !backend.looked_up;
        let writes_first = ask.said != Said::Nothing || !ask.first_bytes.header.is_empty();
        let client = pool.settings.transparent.then(|| ask.request.client.to_canonical());
        Self { client, port: ask.port, nodelay: ask.nodelay, fast_open, writes_first }
    }
}

/// An attempt that failed.
pub(super) struct FailedAttempt {
    pub backend: Arc<Backend>,
    pub error: ConnectError,
}

impl FailedAttempt {
    fn new(lease: &Lease, error: ConnectError) -> Self {
        Self { backend: Arc::clone(lease.backend()), error }
    }

    fn of(lease: &Lease, error: io::Error) -> Self {
        Self::new(lease, ConnectError::Io(error))
    }
}

/// Opens a stream to the leased backend. If the backend came from DNS and is slow to connect, also tries an address of
/// the other family, if the name has one; the first to connect wins.
async fn open(
    pool: &Pool,
    lease: Lease,
    picks: &mut Picks<'_>,
    options: &SocketOptions<'_>,
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
    options: &SocketOptions<'_>,
    attempts: &mut Attempts,
) -> Result<(Lease, BackendStream), FailedAttempt> {
    let first = Arc::clone(lease.backend());
    let mut one = pin!(finish(pool, lease, options));
    let rival = tokio::select! {
        result = &mut one => {
            let won = result.inspect(|(lease, _)| connected(lease, options));
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
            connected(&lease, options);
            if !Arc::ptr_eq(lease.backend(), &first) && options.port.is_none() {
                pool.overtaken(&first);
            }
            attempts.last = Some(Arc::clone(lease.backend()));
            Ok((lease, stream))
        }
        Err((lease, error)) => {
            note_failure(pool, lease.backend(), &ConnectError::Io(error), options.port, attempts);
            rest.await.map_err(|(lease, error)| FailedAttempt::of(&lease, error))
        }
    }
}

fn connected(lease: &Lease, options: &SocketOptions<'_>) {
    if options.port.is_none() {
        lease.backend().standing.connected();
    }
}

async fn finish(
    pool: &Pool,
    lease: Lease,
    options: &SocketOptions<'_>,
) -> Result<(Lease, BackendStream), (Lease, io::Error)> {
    match to_the_end(pool, &lease.backend().address, options).await {
        Ok(stream) => Ok((lease, stream)),
        Err(error) => Err((lease, error)),
    }
}

/// Connects and waits until the connection is established.
async fn to_the_end(pool: &Pool, address: &Address, options: &SocketOptions<'_>) -> io::Result<BackendStream> {
    let stream = begin(pool, address, options).await?;
    match stream.error() {
        None => Ok(stream),
        Some(error) => Err(error),
    }
}

/// Starts to connect and waits until the socket can be written to; an error, if any, is reported by the write.
async fn begin(pool: &Pool, address: &Address, options: &SocketOptions<'_>) -> io::Result<BackendStream> {
    let stream = match address {
        Address::Inet(address) => match begin_tcp(pool, *address, options)? {
            // The runtime reports a new socket as writable only after a turn of its own, which is not waited for.
            (stream, Connected::Now) => return Ok(BackendStream::Tcp(stream)),
            (stream, Connected::Later) => BackendStream::Tcp(stream),
        },
        // Boxed, since it is rare.
        Address::Unix(path) => Box::pin(BackendStream::unix(path)).await?,
    };
    stream.writable().await?;
    Ok(stream)
}

fn begin_tcp(pool: &Pool, mut address: SocketAddr, options: &SocketOptions<'_>) -> io::Result<(TcpStream, Connected)> {
    if let Some(OtherPort { port, ours }) = options.port {
        address.set_port(port);
        if self_loop::is_here(address, ours) {
            return Err(io::Error::other("snigate itself listens there (http_port)"));
        }
    }
    let &SocketOptions { client, nodelay, fast_open, writes_first, .. } = options;
    let congestion = crate::settings::named(&pool.settings.congestion);
    let connect = |from| {
        let connected = socket::for_backend(address, Towards { from, nodelay, fast_open, writes_first, congestion });
        connected.map_err(|error| if is_out_of_ports(&error) { OutOfPorts(from).into() } else { error })
    };
    if let Some(client) = client {
        let (stream, connected) = connect(from_client(client, address.ip().to_canonical())?)?;
        return Ok((TcpStream::from_std(stream)?, connected));
    }
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    // A source address whose ports are all in use is skipped, and so is one that this machine does not have.
    for _ in 0..pool.settings.source_addresses.len().max(1) {
        result = connect(pool.source_address(address.ip()).map_or(From::Any, From::Own));
        match &result {
            Err(error) if is_out_of_ports(error) || is_not_ours(error) => {}
            _ => break,
        }
    }
    let (stream, connected) = result?;
    Ok((TcpStream::from_std(stream)?, connected))
}

fn from_client(client: IpAddr, backend: IpAddr) -> Result<From, NotFromClient> {
    // A PROXY header may announce anything.
    let is_an_address = !client.is_unspecified() && !client.is_multicast();
    if client.is_ipv4() == backend.is_ipv4() && is_an_address {
        Ok(From::Client(client))
    } else {
        Err(NotFromClient { client })
    }
}

/// Writes the first bytes and returns how many were accepted by a backend known to be connected.
async fn give(stream: &BackendStream, first: FirstBytes<'_>, options: &SocketOptions<'_>) -> io::Result<usize> {
    let taken = write_first(stream, first).await?;
    if options.fast_open {
        stream.established().await?;
    }
    Ok(taken)
}

async fn write_first(stream: &BackendStream, first: FirstBytes<'_>) -> io::Result<usize> {
    // The runtime may not know yet that the socket is writable.
    let mut result = stream.write_now(first.header, first.prefix);
    loop {
        match result {
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
        result = stream.try_write(first.header, first.prefix);
    }
}

/// RFC 8305 §5.
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);
