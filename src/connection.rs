//! Follows one client from its first byte to its last.
//!
//! In:  an accepted stream, the snapshot in force at that moment.
//! Out: exactly one outcome, which its account counts and logs.

mod accepted;
mod account;
mod admission;
mod ech;
mod failure;
mod hello;
mod http;
mod second_hello;
mod self_loop;
mod spoken;
mod stage;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

pub(crate) use self::accepted::{Accepted, Extras};
use self::account::Account;
pub(crate) use self::admission::{Known, Newcomer, NotAdmitted};
use self::hello::hello;
use crate::connect::{self, Ask, BackendStream, ConnectError, Connected, FirstBytes, OtherPort, Place};
use crate::pool::{PickRequest, Pool};
use crate::proxy_header::Addresses;
use crate::refuse::{self, Offer, Refusal, TurnedAway, refuse};
use crate::relay::{End, Lifetime, Relay, Stream};
use crate::route::NameForm;
use crate::settings::{Refuse, Starttls};
use crate::snapshot::{Chosen, Route, RouteQuery, Snapshot, ToPool};
use crate::socket::ResetUnlessReleased;
use crate::telemetry::{ConnectResult, Match, Reason, State};

/// Serves `client` to its end. If dropped earlier, the connection is counted as drained, or as panicked.
///
/// Not an `async fn`: that would reserve space for its arguments for its whole life.
pub(crate) fn serve(client: TcpStream, accepted: Accepted, snapshot: Arc<Snapshot>) -> impl Future<Output = ()> {
    // Both are boxed, so that a relay, which may live for days, takes up only its own space.
    let established = Box::pin(establish(client, Account::open(accepted), snapshot));
    async {
        match established.await {
            Some(Established::Tcp(relay)) => relayed(relay).await,
            Some(Established::Unix(relay)) => relayed(relay).await,
            None => {}
        }
    }
}

async fn relayed<B: Stream>(mut relay: Pin<Box<Relay<TcpStream, B, Box<Account>>>>) {
    if relay.as_mut().await == End::Refused {
        let (client, account) = relay.as_mut().refused();
        // Boxed, since it is rare and large.
        let refusal = account.refusal();
        Box::pin(async move { refuse(client, &refusal).await }).await;
    }
}

/// Counts and logs a client that is not served at all.
pub(crate) fn turned_away(accepted: Accepted, not_admitted: NotAdmitted) {
    Account::open(accepted).not_admitted(not_admitted);
}

/// A relay, boxed before it is first polled, so that it is not moved through the futures that led to it.
enum Established {
    Tcp(Pin<Box<Relay<TcpStream, TcpStream, Box<Account>>>>),
    Unix(Pin<Box<Relay<TcpStream, UnixStream, Box<Account>>>>),
}

/// A connection that has a backend, which has answered or at least been sent the first bytes.
struct Relayable {
    connected: Connected,
    lifetime: Lifetime,
}

/// Walks the path and builds the relay. Returns `None` if the connection was turned away.
///
/// Not an `async fn`, as [`serve`].
fn establish(
    client: TcpStream,
    mut account: Box<Account>,
    snapshot: Arc<Snapshot>,
) -> impl Future<Output = Option<Established>> {
    let mut client = ResetUnlessReleased::new(client);
    async move {
        let turned_away = match walk(&mut client, &mut account, &snapshot).await {
            Ok(relayable) => return Some(Established::new(relayable, client, account, &snapshot)),
            Err(turned_away) => turned_away,
        };
        turn_away(client, account, turned_away).await;
        None
    }
}

/// The path up to the relay: each stage takes what the previous one returned.
async fn walk(
    client: &mut ResetUnlessReleased,
    account: &mut Account,
    snapshot: &Snapshot,
) -> Result<Relayable, TurnedAway> {
    let listener = account.live(|live| live.listener);
    if let Some(terms) = &snapshot.listener(listener).http {
        // Boxed, since it is rare.
        return Box::pin(http::walk(client, account, snapshot, terms)).await;
    }
    let (mut prefix, header) = hello(client, account, snapshot).await?;
    let outer = ech::open(account, snapshot, &mut prefix)?;
    account.more_than_hello(&mut prefix)?;
    let known = Known::by(header.as_ref());
    let mut chosen = choose(snapshot, account, known, &prefix);
    let mut to = chosen.route.next();
    if let (Some(outer), Ok(ToPool { pool, .. })) = (outer, &to)
        && !pool.may_confirm(Instant::now())
    {
        prefix = outer.falls_back(account);
        account.more_than_hello(&mut prefix)?;
        chosen = choose(snapshot, account, known, &prefix);
        to = chosen.route.next();
    }
    let Chosen { route, matched } = chosen;
    account.matched(matched);
    account.enters_by_route(snapshot, route, known)?;
    let to = to.map_err(|how| refused(account, snapshot, route, how, matched, &prefix))?;
    let announced = header.and_then(|header| header.addresses);
    let lead = Lead { announced, prefix: &prefix, ..Lead::to(route, to, snapshot) };
    // Boxed, so that a client that sends nothing takes up no room for it.
    let connected = Box::pin(to_pool(client, account, snapshot, &lead)).await?;
    connected.map_err(|error| not_connected(account, error))
}

/// Where a connection goes, and what a backend reads first.
struct Lead<'a> {
    route: &'a Route,
    to: ToPool<'a>,
    /// From a PROXY header.
    announced: Option<Addresses>,
    prefix: &'a [u8],
    /// No PROXY header is sent there.
    port: Option<OtherPort<'a>>,
    lifetime: Lifetime,
}

impl<'a> Lead<'a> {
    fn to(route: &'a Route, to: ToPool<'a>, snapshot: &Snapshot) -> Self {
        Self { route, to, announced: None, prefix: &[], port: None, lifetime: lifetime(snapshot, route, to.pool) }
    }
}

/// Connects to a backend of the pool; the inner error is for the caller to answer.
async fn to_pool(
    client: &mut ResetUnlessReleased,
    account: &mut Account,
    snapshot: &Snapshot,
    lead: &Lead<'_>,
) -> Result<Result<Relayable, ConnectError>, TurnedAway> {
    let &Lead { route, to, announced, prefix, port, .. } = lead;
    account.routed(snapshot, route, Some(to));
    account.takes_place(route)?;
    let pool = to.pool;
    account.enter(State::Connecting);
    self_loop::end(account, &pool.name, prefix).await?;
    let version = pool.settings.send_proxy_protocol.version().filter(|_| port.is_none());
    let header = version.map(|version| {
        let addresses = announced.unwrap_or_else(|| addresses(client, account.live(|live| live.peer)));
        account.proxy_header(version, &pool.settings.send_proxy_protocol, addresses, prefix)
    });
    let first_bytes = FirstBytes { header: header.as_deref().unwrap_or_default(), prefix };
    let connected = connected(lead, client.stream(), first_bytes, snapshot, account).await;
    Ok(connected.map(|connected| Relayable { connected, lifetime: lead.lifetime }))
}

/// Connects to a backend of the pool, after a wait in its queue if it is full and has one.
async fn connected(
    lead: &Lead<'_>,
    client: &TcpStream,
    first_bytes: FirstBytes<'_>,
    snapshot: &Snapshot,
    account: &mut Account,
) -> Result<Connected, ConnectError> {
    let &Lead { to: ToPool { pool, .. }, port, lifetime: Lifetime { idle, .. }, .. } = lead;
    let (source, listener) = account.live(|live| (live.client.ip(), live.listener));
    let (nodelay, starttls) = (snapshot.relay.tcp.nodelay, snapshot.listener(listener).starttls);
    let starttls = if account.hello().is_some() { starttls } else { Starttls::None };
    let is_inner = account.name_form() == NameForm::Encrypted;
    let mut place: Option<Place> = None;
    loop {
        let (server_name, said, attempts) = account.connecting(first_bytes.prefix);
        let request = PickRequest { client: source, server_name, is_inner };
        let ask = Ask { request, client, first_bytes, said, starttls, port, nodelay, idle };
        // While it waited, a reload may have replaced the pool.
        let (waited, lease) = place.take().map_or((None, None), |Place { pool, lease }| (Some(pool), Some(lease)));
        match connect::to_any(waited.as_ref().unwrap_or(pool), lease, &ask, attempts).await {
            // Challenges are short, and what they wait for may be a certificate.
            Err(ConnectError::Full) if pool.has_queue() && port.is_none() => {}
            connected => return connected,
        }
        account.enter(State::Queued);
        let (server_name, said, _) = account.connecting(first_bytes.prefix);
        let request = PickRequest { client: source, server_name, is_inner };
        // Boxed, since it is rare.
        place = Some(Box::pin(connect::wait(pool, request, client, said)).await?);
        account.enter(State::Connecting);
    }
}

impl Established {
    fn new(
        Relayable { connected, lifetime }: Relayable,
        client: ResetUnlessReleased,
        mut account: Box<Account>,
        snapshot: &Snapshot,
    ) -> Self {
        let (backend, first) = account.connected(connected);
        let (client, settings) = (client.release(), Arc::clone(&snapshot.relay));
        match backend {
            BackendStream::Tcp(backend) => {
                Self::Tcp(Box::pin(Relay::new(client, backend, first, settings, lifetime, account)))
            }
            BackendStream::Unix(backend) => {
                Self::Unix(Box::pin(Relay::new(client, backend, first, settings, lifetime, account)))
            }
        }
    }
}

/// How long a relay of `route` to `pool` may last.
fn lifetime(snapshot: &Snapshot, route: &Route, pool: &Pool) -> Lifetime {
    Lifetime {
        idle: pool.settings.idle_timeout.or(route.idle_timeout()).map_or(snapshot.relay.idle, |idle| *idle),
        max_age: route.max_age().map_or(snapshot.relay.max_age, |max_age| max_age.map(|max_age| *max_age)),
    }
}

/// How a connection ends whose route or fallback has no pool.
fn refused(
    account: &mut Account,
    snapshot: &Snapshot,
    route: &Route,
    how: Refuse,
    matched: Match,
    prefix: &[u8],
) -> TurnedAway {
    let turned_away = match account.hello() {
        Some(hello) => refuse::for_hello(how, matched, Offer::of(hello)),
        None => refuse::for_not_tls(how, prefix),
    };
    // A refusal by a route counts for that route; a refusal by a fallback counts for the listener.
    if turned_away.reason == Reason::Refused {
        account.routed(snapshot, route, None);
    }
    turned_away
}

/// What a client gets that no backend accepted: a reset, as if it had come from the backend.
fn not_connected(account: &mut Account, error: ConnectError) -> TurnedAway {
    let reason = connect_reason(&error);
    account.not_connected(reason, error);
    TurnedAway { reason, refusal: Refusal::Reset }
}

/// Finds the route; [`Snapshot::choose`] makes the decision. The address of a proxy that did not pass its client's on must
/// not satisfy a `source` condition.
fn choose<'a>(snapshot: &'a Snapshot, account: &Account, known: Known, prefix: &[u8]) -> Chosen<'a> {
    let silent = account.live(|live| snapshot.listener(live.listener).silent.as_ref());
    match (account.hello(), silent) {
        (None, Some(silent)) if prefix.is_empty() => Chosen { route: &silent.route, matched: Match::Silent },
        (None, _) => {
            let listener = account.live(|live| live.listener);
            Chosen { route: snapshot.not_tls_of(listener), matched: Match::NotTls }
        }
        (Some(hello), _) => {
            let (client, listener) = account.live(|live| (live.client.ip().to_canonical(), live.listener));
            let source = (known == Known::Yes).then_some(client);
            let (sni, alpn, form) = (hello.server_name.as_ref(), &hello.alpn, account.name_form());
            snapshot.choose(RouteQuery { sni, alpn, source, listener, form })
        }
    }
}

/// Refuses a client; the account closes once the client has been answered.
async fn turn_away(client: ResetUnlessReleased, mut account: Box<Account>, turned_away: TurnedAway) {
    account.refuses(&turned_away);
    refuse(&mut client.release(), &turned_away.refusal).await;
}

/// The two addresses of the client's connection, for a PROXY header to the backend.
fn addresses(client: &mut ResetUnlessReleased, peer: SocketAddr) -> Addresses {
    Addresses { client: peer, local: client.stream().local_addr().unwrap_or(peer) }
}

fn connect_reason(error: &ConnectError) -> Reason {
    match (error, error.result()) {
        (ConnectError::NoBackend, _) => Reason::NoBackend,
        (ConnectError::Full, _) => Reason::LimitBackend,
        (ConnectError::QueueFull { .. }, _) => Reason::LimitPool,
        (ConnectError::QueueTimeout { .. }, _) => Reason::QueueTimeout,
        (ConnectError::ClientLeft, _) => Reason::ClientGone,
        (ConnectError::ClientGone(_), _) => Reason::ClientReset,
        (_, ConnectResult::Refused) => Reason::ConnectRefused,
        (_, ConnectResult::TimedOut | ConnectResult::Silent) => Reason::ConnectTimeout,
        (_, ConnectResult::Unreachable) => Reason::ConnectUnreachable,
        (
            _,
            ConnectResult::Ok
            | ConnectResult::Overtaken
            | ConnectResult::Exhausted
            | ConnectResult::Closed
            | ConnectResult::Reset
            | ConnectResult::NotTls
            | ConnectResult::Starttls
            | ConnectResult::Failed,
        ) => Reason::ConnectFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<F>(_: impl Fn(TcpStream, Accepted, Arc<Snapshot>) -> F) -> usize {
        size_of::<F>()
    }

    fn size_until_relayed<F>(_: impl FnOnce(TcpStream, Box<Account>, Arc<Snapshot>) -> F) -> usize {
        size_of::<F>()
    }

    /// What a client that has sent nothing yet takes up, with its account.
    #[test]
    fn a_client_that_says_nothing_takes_up_little() {
        let bytes = size_until_relayed(establish);
        assert!(bytes <= 1000, "{bytes} bytes until there is a relay");
    }

    /// Each open connection is one of these futures: every idle relay pays for any growth.
    #[test]
    fn the_future_of_a_connection_stays_small() {
        let task = size_of_future(serve);
        let (relay, account) = (size_of::<Relay<TcpStream, TcpStream, Box<Account>>>(), size_of::<Account>());
        let reported = format!("a task of {task} bytes, a relay of {relay}, an account of {account}");
        assert!(task <= 64 && relay <= 384 && account <= 256, "{reported}");
    }
}
