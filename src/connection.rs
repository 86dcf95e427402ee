//! Walks one client from its first byte to its last.
//!
//! In:  an accepted stream, the snapshot of that moment.
//! Out: exactly one outcome, counted and logged: accepted = active + the sum over reasons (DESIGN §4).

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use crate::client_hello::{ClientHello, NotHello};
use crate::config::Refuse;
use crate::connect::{self, Ask, Attempts, BackendStream, ConnectError, Connected, FirstBytes, Said, first_record};
use crate::limits::Permit;
use crate::peek::{self, First, PeekError, ProxyHeader};
use crate::pool::{Lease, Pool, Request};
use crate::proxy_header::{self, Addresses, Values, Version};
use crate::refuse::{self, Alert, Refusal, refuse};
use crate::relay::{End, Heard, Meter, Opening, Relay, Way};
use crate::roster::{Entry, Ticket};
use crate::server_name::Sni;
use crate::snapshot::{Asked, Chosen, Destination, Route, Snapshot, is_trusted};
use crate::socket::ResetUnlessReleased;
use crate::telemetry::{
    Active, Alpn, ConnectResult, ConnectionLine, Direction, Enforced, Feature, FirstRecord, HelloResult, LimitScope,
    ListenerMetrics, Match, Metrics, ProxyHeaderResult, Reason, RouteMetrics, State,
};

/// What a connection has from its acceptance on.
pub struct Accepted {
    pub id: u64,
    pub peer: SocketAddr,
    pub at: Instant,
    pub listener: usize,
    pub listener_metrics: Arc<ListenerMetrics>,
    pub metrics: Arc<Metrics>,
    pub permits: (Permit, Permit),
    pub live: Ticket,
}

/// Serves `client` to its end. Dropped before, the connection is counted as drained, or as panicked.
pub async fn serve(client: TcpStream, accepted: Accepted, snapshot: Arc<Snapshot>) {
    // Both are boxed, so that a relay, which may live for days, holds room for itself alone.
    let established = Box::pin(establish(client, Account::open(accepted), snapshot)).await;
    match established {
        Some(Established::Tcp(relay)) => _ = relay.await,
        Some(Established::Unix(relay)) => _ = relay.await,
        None => {}
    }
}

/// A relay, boxed before it is first polled: it does not move through the tasks before it.
enum Established {
    Tcp(Pin<Box<Relay<TcpStream, TcpStream, Account>>>),
    Unix(Pin<Box<Relay<TcpStream, UnixStream, Account>>>),
}

/// The path up to the relay: each stage takes what the one before it gave. `None` is a connection that was refused.
async fn establish(client: TcpStream, mut account: Account, snapshot: Arc<Snapshot>) -> Option<Established> {
    let mut client = ResetUnlessReleased::new(client);
    let (prefix, told) = match hello(&mut client, &mut account, &snapshot).await {
        Ok(read) => read,
        Err((reason, refusal)) => return turn_away(client, account, reason, refusal).await,
    };
    let Chosen { route, matched } = choose(&snapshot, &mut account);
    let pool = match &route.to {
        Destination::Pool(pool) => Arc::clone(pool),
        Destination::Refuse(how) => {
            let reason = match matched {
                Match::NoSni => Reason::NoSni,
                Match::Unmatched => Reason::NoRoute,
                Match::NotTls => Reason::NotTls,
                _ => Reason::Refused,
            };
            let refusal = refusal(*how, matched, account.hello.as_ref(), &prefix);
            if reason == Reason::Refused {
                account.routed(&snapshot, route);
            }
            return turn_away(client, account, reason, refusal).await;
        }
    };
    account.routed(&snapshot, route);
    account.enter(State::Connecting);
    let header = pool.connect.send_proxy_protocol.map(|version| {
        let addresses = told.unwrap_or_else(|| addresses(&mut client, account.accepted.peer));
        account.proxy_header(version, addresses, &prefix)
    });
    let first_bytes = FirstBytes { header: header.as_deref().unwrap_or_default(), prefix: &prefix };
    let ask = Ask {
        request: Request { client: account.client.ip(), server_name: server_name(account.hello.as_ref()) },
        client: client.stream(),
        first_bytes,
        said: said(account.hello.as_ref(), &prefix),
        nodelay: snapshot.relay.tcp.nodelay,
    };
    match connect::to_any(&pool, ask, &mut account.attempts).await {
        Ok(connected) => {
            let idle = route.idle_timeout.unwrap_or(snapshot.relay.idle);
            let (backend, first) = account.connected(connected);
            let (client, settings) = (client.release(), Arc::clone(&snapshot.relay));
            Some(match backend {
                BackendStream::Tcp(backend) => {
                    Established::Tcp(Box::pin(Relay::new(client, backend, first, settings, idle, account)))
                }
                BackendStream::Unix(backend) => {
                    Established::Unix(Box::pin(Relay::new(client, backend, first, settings, idle, account)))
                }
            })
        }
        Err(error) => {
            let reason = connect_reason(&error);
            if reason == Reason::LimitBackend {
                account.accepted.metrics.limit_rejected(LimitScope::Backend, Enforced::Yes);
            }
            account.error = Some(error);
            turn_away(client, account, reason, Refusal::Reset).await
        }
    }
}

/// Reads the PROXY header and the hello, and counts what came of it; gives what the backend must read first, and who
/// the PROXY header says speaks to whom.
async fn hello(
    client: &mut ResetUnlessReleased,
    account: &mut Account,
    snapshot: &Snapshot,
) -> Result<(Vec<u8>, Option<Addresses>), (Reason, Refusal)> {
    let Accepted { peer, at, listener, listener_metrics, .. } = &account.accepted;
    let metrics = Arc::clone(listener_metrics);
    let trusted = snapshot.config.listeners[*listener].trusted_proxies.as_deref();
    if trusted.is_some_and(|trusted| !is_trusted(trusted, peer.ip().to_canonical())) {
        metrics.proxy_header(ProxyHeaderResult::Untrusted);
        return Err((Reason::ProxyUntrusted, Refusal::Close));
    }
    let proxy_header = if trusted.is_some() { ProxyHeader::Required } else { ProxyHeader::None };
    let max_hello_bytes = snapshot.config.limits.max_hello_bytes;
    let deadline = *at + snapshot.config.timeouts.hello;
    let peeked = peek::client_hello(client.stream(), proxy_header, max_hello_bytes, deadline).await;
    let after = at.elapsed();
    match peeked {
        Ok(peeked) => {
            if let Some(header) = peeked.proxy_header {
                metrics.proxy_header(match (header.addresses, header.version) {
                    (None, _) => ProxyHeaderResult::Local,
                    (Some(_), Version::V1) => ProxyHeaderResult::V1,
                    (Some(_), Version::V2) => ProxyHeaderResult::V2,
                });
                account.client = header.addresses.map_or(account.client, |addresses| addresses.client);
                account.accepted.live.update(|live| live.client = account.client);
            }
            match peeked.first {
                First::Hello(hello) => {
                    metrics.hello(HelloResult::Whole, after, hello.wire_bytes, hello.records);
                    account.hello = Some(hello);
                    account.hello_after = Some(after);
                }
                First::NotTls => metrics.hello(HelloResult::NotTls, after, 0, 0),
            }
            Ok((peeked.prefix, peeked.proxy_header.and_then(|header| header.addresses)))
        }
        Err(error) => {
            let (result, reason, refusal) = no_hello(&error);
            if let Some(result) = result {
                metrics.hello(result, after, 0, 0);
            } else {
                metrics.proxy_header(ProxyHeaderResult::Malformed);
            }
            account.peek_error = Some(error);
            Err((reason, refusal))
        }
    }
}

/// DESIGN §4 for a connection without a hello: what is counted, why it ended, what the client sees.
fn no_hello(error: &PeekError) -> (Option<HelloResult>, Reason, Refusal) {
    let alert = |alert| Refusal::Alert { version: 0x0303, alert };
    let (result, reason, refusal) = match error {
        PeekError::ProxyHeader(_) => return (None, Reason::ProxyHeader, Refusal::Close),
        PeekError::TimedOut { got: 0 } | PeekError::Gone { got: 0 } | PeekError::Io { got: 0, .. } => {
            (HelloResult::Probe, Reason::Probe, Refusal::Leave)
        }
        PeekError::TimedOut { .. } => (HelloResult::TimedOut, Reason::HelloTimeout, Refusal::Leave),
        PeekError::Gone { .. } | PeekError::Io { .. } => (HelloResult::ClientGone, Reason::ClientGone, Refusal::Leave),
        PeekError::Hello { error, .. } => match error {
            NotHello::NotTls => (HelloResult::NotTls, Reason::NotTls, Refusal::Close),
            NotHello::Malformed(_) => (HelloResult::BadHello, Reason::BadHello, alert(Alert::DecodeError)),
            NotHello::Name(_) | NotHello::TwoNames => {
                (HelloResult::InvalidSni, Reason::InvalidSni, alert(Alert::IllegalParameter))
            }
            NotHello::TooLong { .. } | NotHello::TooManyRecords => {
                (HelloResult::TooLarge, Reason::HelloTooLarge, alert(Alert::RecordOverflow))
            }
        },
    };
    (Some(result), reason, refusal)
}

/// Finds the route; the decision itself is [`Snapshot::choose`].
fn choose<'a>(snapshot: &'a Snapshot, account: &mut Account) -> Chosen<'a> {
    let chosen = match &account.hello {
        None => Chosen { route: &snapshot.not_tls, matched: Match::NotTls },
        Some(hello) => snapshot.choose(Asked {
            sni: hello.server_name.as_ref(),
            alpn: &hello.alpn,
            source: account.client.ip().to_canonical(),
            listener: account.accepted.listener,
        }),
    };
    account.matched = Some(chosen.matched);
    if let Some(Sni::Name(name)) = account.hello.as_ref().and_then(|hello| hello.server_name.as_ref()) {
        account.accepted.live.update(|live| live.sni = Some(name.as_str().into()));
    }
    account.accepted.listener_metrics.selected(chosen.matched);
    chosen
}

/// What "refuse" means on the wire for this client.
fn refusal(how: Refuse, matched: Match, hello: Option<&ClientHello>, first_bytes: &[u8]) -> Refusal {
    match (how, hello) {
        (Refuse::Reset, _) => Refusal::Reset,
        (Refuse::Close | Refuse::Alert, None) if refuse::looks_like_http(first_bytes) => Refusal::Http,
        (Refuse::Close, _) | (Refuse::Alert, None) => Refusal::Close,
        (Refuse::Alert, Some(hello)) => {
            let alert = match matched {
                // RFC 8446 §9.2: missing_extension is what a server says that requires server_name.
                Match::NoSni if hello.offers.tls13() => Alert::MissingExtension,
                Match::NoSni => Alert::HandshakeFailure,
                _ => Alert::UnrecognizedName,
            };
            Refusal::Alert { version: hello.alert_version(), alert }
        }
    }
}

/// Refuses; the account closes when the client has had its answer.
async fn turn_away<T>(
    client: ResetUnlessReleased,
    mut account: Account,
    reason: Reason,
    refusal: Refusal,
) -> Option<T> {
    account.enter(State::Refusing);
    if let Refusal::Alert { alert, .. } = refusal {
        account.accepted.metrics.alert_sent(alert as u8);
    }
    // From here on a drop may say FIN or RST: the answer is the same, and the reason is known.
    account.reason = Some(reason);
    refuse(client.release(), refusal).await;
    None
}

/// Who speaks to whom, for a PROXY header towards the backend.
fn addresses(client: &mut ResetUnlessReleased, peer: SocketAddr) -> Addresses {
    Addresses { client: peer, local: client.stream().local_addr().unwrap_or(peer) }
}

fn connect_reason(error: &ConnectError) -> Reason {
    match (error, error.result()) {
        (ConnectError::NoBackend, _) => Reason::NoBackend,
        (ConnectError::Full, _) => Reason::LimitBackend,
        (ConnectError::ClientGone(_), _) => Reason::ClientReset,
        (_, ConnectResult::Refused) => Reason::ConnectRefused,
        (_, ConnectResult::TimedOut | ConnectResult::Silent) => Reason::ConnectTimeout,
        (_, ConnectResult::Unreachable) => Reason::ConnectUnreachable,
        (
            _,
            ConnectResult::Ok
            | ConnectResult::Exhausted
            | ConnectResult::Closed
            | ConnectResult::Reset
            | ConnectResult::NotTls
            | ConnectResult::Failed,
        ) => Reason::ConnectFailed,
    }
}

/// All that is known of a connection. Its drop is the one place where a connection is counted and logged.
struct Account {
    accepted: Accepted,
    active: Active,
    /// Told by a PROXY header, else the peer.
    client: SocketAddr,
    hello: Option<ClientHello>,
    hello_after: Option<Duration>,
    peek_error: Option<PeekError>,
    matched: Option<Match>,
    route: Option<(Arc<str>, Arc<RouteMetrics>)>,
    pool: Option<Arc<Pool>>,
    attempts: Attempts,
    error: Option<ConnectError>,
    lease: Option<Lease>,
    connect_after: Option<Duration>,
    connected_at: Option<Instant>,
    first_byte: Option<Duration>,
    /// The backend said FIN while the client had not.
    backend_closed_first: bool,
    reason: Option<Reason>,
}

impl Account {
    fn open(accepted: Accepted) -> Self {
        Self {
            active: accepted.listener_metrics.accepted(),
            client: accepted.peer,
            accepted,
            hello: None,
            hello_after: None,
            peek_error: None,
            matched: None,
            route: None,
            pool: None,
            attempts: Attempts::default(),
            error: None,
            lease: None,
            connect_after: None,
            connected_at: None,
            first_byte: None,
            backend_closed_first: false,
            reason: None,
        }
    }

    fn enter(&mut self, state: State) {
        self.accepted.live.update(|live| live.state = state);
        self.active.enter(state);
    }

    fn routed(&mut self, snapshot: &Snapshot, route: &Route) {
        let metrics = Arc::clone(snapshot.metrics_of(route));
        if let Some(hello) = &self.hello {
            features(hello).for_each(|feature| metrics.offers(feature));
        }
        if let Destination::Pool(pool) = &route.to {
            self.pool = Some(Arc::clone(pool));
        }
        self.accepted.live.update(|live| {
            live.route = Some(Arc::clone(&route.name));
            live.pool = self.pool.as_ref().map(|pool| Arc::clone(&pool.name));
        });
        self.route = Some((Arc::clone(&route.name), metrics));
    }

    /// What the backend is told of the client, whose bytes are `prefix`.
    fn proxy_header(&self, version: Version, addresses: Addresses, prefix: &[u8]) -> Vec<u8> {
        let hello = self.hello.as_ref();
        let authority = hello.and_then(|hello| hello.server_name_as_sent(prefix));
        let alpn = hello.and_then(|hello| hello.alpn.only());
        let values = Values { unique_id: Some(self.accepted.id), authority: authority.as_deref(), alpn };
        proxy_header::encode(version, addresses, &values)
    }

    fn connected(&mut self, connected: Connected) -> (BackendStream, Opening) {
        let Connected { stream, lease, rest, taken_bytes, after, answer } = connected;
        self.enter(State::Relaying);
        self.accepted.live.relays_to(Arc::clone(&lease.backend().name));
        self.connect_after = Some(after);
        // Until now the answer was waited for, if there is one.
        let connected_at = answer.as_ref().map_or_else(Instant::now, |answer| answer.took);
        self.connected_at = Some(connected_at);
        self.lease = Some(lease);
        self.carried(Way::ToBackend, taken_bytes as u64);
        let Some(answer) = answer else { return (stream, Opening { to_backend: rest, ..Opening::default() }) };
        self.first_byte = Some(answer.at - connected_at);
        self.answered(answer.kind, answer.alert);
        self.carried(Way::ToClient, answer.carried_bytes as u64);
        (stream, Opening { to_backend: rest, to_client: answer.rest, heard: Heard::Yes })
    }

    /// Has the backend be judged by what it said first.
    fn answered(&mut self, kind: FirstRecord, alert: Option<u8>) {
        let (Some(pool), Some(lease)) = (&self.pool, &self.lease) else { return };
        if self.hello.is_some() {
            lease.backend().metrics.first_record(kind);
        }
        match kind {
            FirstRecord::Alert if !self.blames_backend(alert) => {}
            FirstRecord::Alert => pool.failed(lease.backend(), Instant::now()),
            // Silence may be the client's doing.
            FirstRecord::None if !self.backend_closed_first => {}
            FirstRecord::None => pool.failed(lease.backend(), Instant::now()),
            FirstRecord::Other if self.hello.is_some() => pool.failed(lease.backend(), Instant::now()),
            FirstRecord::Other | FirstRecord::ServerHello | FirstRecord::HelloRetry => {
                pool.answered(lease.backend(), Instant::now());
            }
        }
    }

    /// Whether an alert speaks of the backend's state. Most alerts speak of what the client offered, and a client that
    /// offers nonsense must not be able to have a backend ejected. (RFC 8446 §6.2)
    fn blames_backend(&self, alert: Option<u8>) -> bool {
        match alert {
            Some(INTERNAL_ERROR) => true,
            // A client can make up names under a wildcard, but not one that stands in the configuration.
            Some(UNRECOGNIZED_NAME) => self.matched == Some(Match::Exact),
            _ => false,
        }
    }
}

impl Meter for Account {
    fn carried(&mut self, way: Way, bytes: u64) {
        self.accepted.live.carried(way, bytes);
        if let Some((_, metrics)) = &self.route {
            metrics.bytes(direction(way), bytes);
        }
    }

    fn spliced(&mut self, way: Way, bytes: u64) {
        self.accepted.metrics.spliced(direction(way), bytes);
    }

    fn first_bytes(&mut self, bytes: &[u8]) {
        self.first_byte = self.connected_at.map(|connected| connected.elapsed());
        let (kind, alert) = first_record(bytes);
        self.answered(kind, alert);
    }

    fn half_closed(&mut self, way: Way) {
        self.backend_closed_first |= way == Way::ToClient;
    }

    fn ended(&mut self, end: End) {
        if self.first_byte.is_none() {
            self.backend_closed_first |= end == End::BackendReset;
            self.answered(FirstRecord::None, None);
        }
        self.reason = Some(match end {
            End::Finished => Reason::Ok,
            End::ClientReset => Reason::ClientReset,
            End::BackendReset => Reason::BackendReset,
            End::IdleTimeout => Reason::IdleTimeout,
            End::HalfCloseTimeout => Reason::HalfCloseTimeout,
            End::PeerDead => Reason::PeerDead,
        });
    }
}

/// What of the hello is counted, DESIGN §5.
fn features(hello: &ClientHello) -> impl Iterator<Item = Feature> {
    let offers = &hello.offers;
    let asked = [
        (offers.tls13(), Feature::Tls13),
        (offers.version_name() == "1.2", Feature::Tls12Only),
        (offers.x25519mlkem768, Feature::X25519MlKem768),
        (offers.ech, Feature::Ech),
        (hello.alpn.offers(b"h2"), Feature::H2),
        (hello.alpn.offers(b"http/1.1"), Feature::Http11),
        (hello.alpn.offers(b"acme-tls/1"), Feature::AcmeTls),
    ];
    asked.into_iter().filter_map(|(offered, feature)| offered.then_some(feature))
}

impl Drop for Account {
    fn drop(&mut self) {
        let Some(live) = self.accepted.live.leave() else { return };
        let unfinished = match live.ended_by {
            _ if std::thread::panicking() => Reason::Panic,
            Some(ended_by) => ended_by,
            None => Reason::Drained,
        };
        let reason = self.reason.unwrap_or(unfinished);
        let lived = self.accepted.at.elapsed();
        match &self.route {
            Some((_, metrics)) => metrics.closed(self.accepted.listener, reason, lived),
            None => self.accepted.listener_metrics.closed_unrouted(reason),
        }
        if let (Some(pool), Some(after)) = (&self.pool, self.first_byte) {
            pool.metrics.first_byte(after);
        }
        if live.terms.connection_log.wants(reason) {
            self.log(&live, reason, lived);
        }
    }
}

impl Account {
    fn log(&self, live: &Entry, reason: Reason, lived: Duration) {
        let Accepted { id, peer, listener, .. } = &self.accepted;
        let hello = self.hello.as_ref();
        let backend = self.attempts.last.as_ref();
        let error: Option<&dyn std::fmt::Display> = match (&self.error, &self.peek_error) {
            (Some(error), _) => Some(error),
            (None, Some(error)) => Some(error),
            (None, None) => None,
        };
        live.terms.connection_log.line(&ConnectionLine {
            id: *id,
            listener: &live.terms.listeners[*listener],
            client: self.client,
            peer: *peer,
            sni: server_name(hello),
            alpn: hello.map_or(Alpn::Absent, |hello| Alpn::Wire(hello.alpn.as_wire())),
            tls: hello.map(|hello| hello.offers.version_name()),
            offers: &hello.map(|hello| features(hello).collect::<Vec<_>>()).unwrap_or_default(),
            hello_bytes: hello.map(|hello| hello.wire_bytes),
            hello_records: hello.map(|hello| hello.records),
            hello_ms: self.hello_after,
            route: self.route.as_ref().map(|(name, _)| &**name),
            matched: self.matched,
            pool: self.pool.as_ref().map(|pool| &*pool.name),
            backend: backend.map(|backend| &*backend.name),
            address: backend.map(|backend| &backend.address as &dyn std::fmt::Display),
            attempts: self.attempts.count,
            connect_ms: self.connect_after,
            first_byte_ms: self.first_byte,
            duration_ms: lived,
            bytes_to_backend: live.bytes[Way::ToBackend as usize],
            bytes_to_client: live.bytes[Way::ToClient as usize],
            phase: live.state,
            reason,
            config: &live.terms.hash,
            error,
        });
    }
}

fn server_name(hello: Option<&ClientHello>) -> Option<&str> {
    match hello?.server_name.as_ref()? {
        Sni::Name(name) => Some(name.as_str()),
        Sni::IpLiteral => None,
    }
}

fn said(hello: Option<&ClientHello>, prefix: &[u8]) -> Said {
    match hello {
        Some(hello) if hello.wire_bytes == prefix.len() => Said::HelloAlone,
        _ => Said::More,
    }
}

/// RFC 8446 §6.
const INTERNAL_ERROR: u8 = 80;
/// RFC 6066 §3.
const UNRECOGNIZED_NAME: u8 = 112;

fn direction(way: Way) -> Direction {
    match way {
        Way::ToBackend => Direction::ToBackend,
        Way::ToClient => Direction::ToClient,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::limits::Permits;
    use crate::roster;

    fn size_of_future<F>(_: impl Fn(TcpStream, Accepted, Arc<Snapshot>) -> F) -> usize {
        size_of::<F>()
    }

    /// Each open connection is one such future; what it grows by is paid for every idle relay.
    #[test]
    fn the_future_of_a_connection_stays_small() {
        let (task, relay) = (size_of_future(serve), size_of::<Relay<TcpStream, TcpStream, Account>>());
        assert!(task <= 256 && relay <= 1024, "a task of {task} bytes, a relay of {relay}");
    }

    fn accepted(metrics: &Arc<Metrics>, permits: &Arc<Permits>) -> Accepted {
        let text = "listeners: [{ name: l, bind: \"127.0.0.1:0\" }]\nunmatched: { pool: p }\n\
                    pools: { p: { backends: [127.0.0.1:1] } }\nlog: { connections: off }\n";
        let config = Config::parse(text, Path::new("f.yaml")).unwrap_or_else(|problems| panic!("{problems}")).config;
        let (peer, at) = (([127, 0, 0, 1], 1).into(), Instant::now());
        Accepted {
            id: 1,
            peer,
            at,
            listener: 0,
            listener_metrics: metrics.listener("l"),
            metrics: Arc::clone(metrics),
            permits: (permits.acquire(), permits.acquire()),
            live: roster::enter(1, peer, at, Arc::clone(&Snapshot::build(config, None, metrics).terms), 0),
        }
    }

    fn closed(metrics: &Metrics, reason: &str) -> bool {
        let line = format!("snigate_connections_closed_total{{listener=\"l\",route=\"\",reason=\"{reason}\"}} 1");
        metrics.render().contains(&line)
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_short_is_drained_and_gives_its_places_back() {
        let (metrics, permits) = (Metrics::new(), Arc::<Permits>::default());
        drop(Account::open(accepted(&metrics, &permits)));
        assert!(closed(&metrics, "drained"), "{}", metrics.render());
        assert_eq!(permits.open(), 0);
    }

    #[tokio::test]
    async fn a_panic_is_one_connection_and_is_counted() {
        let (metrics, permits) = (Metrics::new(), Arc::<Permits>::default());
        let accepted = accepted(&metrics, &permits);
        let task = tokio::spawn(async move {
            let _account = Account::open(accepted);
            panic!("injected");
        });
        assert!(task.await.is_err_and(|error| error.is_panic()));
        assert!(closed(&metrics, "panic"), "{}", metrics.render());
        assert_eq!(permits.open(), 0);
    }
}
