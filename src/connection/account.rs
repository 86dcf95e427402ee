//! Keeps everything known about one connection, and counts and logs it once, when it ends.
//!
//! In:  what each stage of the path found; the bytes the relay reports; how it ended.
//! Out: one reason, one log line, and the result the backend is judged by.
//!
//! An account is dropped however a connection ends: normally, at a deadline, or by a panic. Its drop is the only place
//! that counts, so accepted = active + the sum over reasons always holds.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use super::admission::{self, Known, Newcomer, NotAdmitted};
use super::second_hello::{SecondHello, SecondHelloError};
use crate::alert::Alert;
use crate::client_hello::ClientHello;
use crate::client_limits::Place;
use crate::connect::{
    Attempts, BackendStream, ConnectError, Connected, NotTls, Said, UNDECIDED_BYTES, first_record, undecided,
};
use crate::limits::Permit;
use crate::operate::registry::{LiveConnection, Ticket};
use crate::peek::{First, PeekError};
use crate::pool::{Blame, Lease, Pool};
use crate::proxy_header::{self, Addresses, Header, Values, Version};
use crate::refuse::{self, Refusal, TurnedAway};
use crate::relay::{End, Heard, Meter, Opening};
use crate::request_head::{BadRequest, RequestHead};
use crate::self_loop::in_flight::InFlight;
use crate::snapshot::{AtLimit, Route, Snapshot, ToPool};
use crate::telemetry::{
    Active, Alpn, Asked, ConnectResult, ConnectionLine, Enforced, Feature, FirstRecord, HelloResult, LimitScope,
    ListenerMetrics, MAX_ALPN_NAME_BYTES, MAX_ALPN_NAMES, Match, ProxyHeaderResult, Reason, RequestLine, RouteMetrics,
    Saw, State,
};
use crate::way::Way;

/// What a connection has when it is accepted. Its identity (id, client, listener) is in the registry.
pub(crate) struct Accepted {
    pub listener_metrics: Arc<ListenerMetrics>,
    /// In total, and of the listener; a client that is not admitted has only the first.
    #[expect(dead_code, reason = "held for their `Drop`, which gives both places back")]
    pub permits: (Permit, Option<Permit>),
    /// Under the limits per client. Boxed, since most connections have none.
    pub places: Option<Box<Places>>,
    pub live: Ticket,
}

/// The places of a connection under the limits per client.
#[derive(Default)]
#[expect(dead_code, reason = "held for their `Drop`, which gives both places back")]
pub(crate) struct Places {
    listener: Option<Place>,
    route: Option<Place>,
}

impl Places {
    /// `None` if there is none to hold.
    pub(crate) fn of_listener(place: Option<Place>) -> Option<Box<Self>> {
        place.map(|place| Box::new(Self { listener: Some(place), route: None }))
    }
}

/// Everything known about a connection. Its drop is the only place where a connection is counted and logged.
///
/// What a stage found is `None` until the connection has passed it.
pub(super) struct Account {
    accepted: Accepted,
    active: Active,
    spoken: Spoken,
    /// What the client speaks, if it is not TLS.
    saw: Option<Saw>,
    matched: Option<Match>,
    routed: Option<RouteTaken>,
    attempts: Attempts,
    reached: Option<Reached>,
    /// The backend sent FIN before the client did. Not in `Reached`, which has no room for it in 56 bytes.
    backend_closed_first: bool,
    /// The backend's first record, as soon as the backend is judged by it.
    answer: Option<(FirstRecord, Option<Alert>)>,
    /// Why there was no hello, or no backend, or what is wrong with its answer.
    error: Option<Box<Failure>>,
    /// Set once the client sends more before the backend has answered, or the backend requests another hello.
    second_hello: Option<Box<SecondHello>>,
    reason: Option<Reason>,
}

/// The cause of an end, for the log.
enum Failure {
    NotAdmitted(NotAdmitted),
    Peek(PeekError),
    Connect(ConnectError),
    Answer(NotTls),
    SecondHello(SecondHelloError),
    Loop,
}

/// What the client sent first.
enum Spoken {
    /// Nothing that could be read.
    Nothing,
    Hello(Greeting),
    /// On a listener that speaks HTTP.
    Request(Box<Request>),
}

impl Spoken {
    fn greeting(&self) -> Option<&Greeting> {
        if let Self::Hello(greeting) = self { Some(greeting) } else { None }
    }

    fn request(&self) -> Option<&Request> {
        if let Self::Request(request) = self { Some(request) } else { None }
    }

    fn request_mut(&mut self) -> &mut Request {
        if self.request().is_none() {
            *self = Self::Request(Box::default());
        }
        match self {
            Self::Request(request) => request,
            Self::Nothing | Self::Hello(_) => unreachable!("it was just set"),
        }
    }

    /// The name that the client asked for.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Nothing => None,
            Self::Hello(greeting) => greeting.hello.name(),
            Self::Request(request) => request.head.as_ref()?.name(),
        }
    }
}

/// The client's hello.
struct Greeting {
    hello: ClientHello,
    /// Since the connection was accepted.
    after: Duration,
}

/// The client's request.
#[derive(Default)]
struct Request {
    /// `None`: it is malformed.
    head: Option<RequestHead>,
    /// Of the answer, if it does not come from a backend.
    status: Option<u16>,
    /// It fetches a challenge at another port of a backend, about whose own port this says nothing. No other request
    /// may follow.
    is_challenge: bool,
}

/// The route that counts this connection.
struct RouteTaken {
    metrics: Arc<RouteMetrics>,
    /// `None`: the route refuses the connection.
    pool: Option<Arc<Pool>>,
    /// A place under the limit of the route, if it has one.
    permit: Option<Permit>,
}

/// The backend, once it has accepted the first bytes.
struct Reached {
    lease: Lease,
    /// In four bytes, since every idle relay pays for the size; an attempt takes an hour at most.
    connect_micros: u32,
    at: Instant,
    /// From `at` to the first byte of its answer.
    first_byte: Option<Duration>,
}

impl Account {
    /// Boxed because it moves from stage to stage.
    pub(super) fn open(accepted: Accepted) -> Box<Self> {
        Box::new(Self {
            active: accepted.listener_metrics.accepted(),
            accepted,
            spoken: Spoken::Nothing,
            saw: None,
            matched: None,
            routed: None,
            attempts: Attempts::default(),
            reached: None,
            backend_closed_first: false,
            answer: None,
            error: None,
            second_hello: None,
            reason: None,
        })
    }

    /// The connection's entry in the registry.
    pub(super) fn live<R>(&self, look: impl FnOnce(&LiveConnection) -> R) -> R {
        self.accepted.live.see(look)
    }

    pub(super) fn enter(&mut self, state: State) {
        self.accepted.live.update(|live| live.state = state);
        self.active.enter(state);
    }

    /// A PROXY header from a peer that is not trusted.
    pub(super) fn distrusted(&self) {
        self.accepted.listener_metrics.proxy_header(ProxyHeaderResult::Untrusted);
    }

    /// The client's PROXY header was read.
    pub(super) fn introduced(&self, header: &Header) {
        self.accepted.listener_metrics.proxy_header(match (header.addresses, header.version) {
            (None, _) => ProxyHeaderResult::Local,
            (Some(_), Version::V1) => ProxyHeaderResult::V1,
            (Some(_), Version::V2) => ProxyHeaderResult::V2,
        });
        if let Some(addresses) = header.addresses {
            let client = SocketAddr::new(addresses.client.ip().to_canonical(), addresses.client.port());
            self.accepted.live.update(|live| live.client = client);
        }
    }

    /// The first bytes, `prefix`, were read, `after` the connection was accepted.
    pub(super) fn greeted(&mut self, first: First, after: Duration, prefix: &[u8]) {
        let metrics = &self.accepted.listener_metrics;
        match first {
            First::Hello(hello) => {
                metrics.hello(HelloResult::Whole, after, hello.wire_bytes, hello.records);
                self.spoken = Spoken::Hello(Greeting { hello, after });
            }
            First::NotTls => {
                metrics.hello(HelloResult::NotTls, after, 0, 0);
                self.saw = Some(refuse::saw(prefix));
            }
            First::Silence => metrics.hello(HelloResult::Silent, after, 0, 0),
        }
    }

    /// There is no hello, `after` the connection was accepted. `None`: the PROXY header is malformed.
    pub(super) fn not_greeted(&mut self, result: Option<HelloResult>, after: Duration, error: PeekError) {
        let metrics = &self.accepted.listener_metrics;
        match result {
            Some(result) => metrics.hello(result, after, 0, 0),
            None => metrics.proxy_header(ProxyHeaderResult::Malformed),
        }
        if let PeekError::Starttls { first_bytes, .. } = &error {
            self.saw = Some(refuse::saw(first_bytes));
        }
        self.error = Some(Box::new(Failure::Peek(error)));
    }

    /// The head of a request was read.
    pub(super) fn requested(&mut self, head: RequestHead) {
        self.spoken.request_mut().head = Some(head);
    }

    /// There is no request that can be answered.
    pub(super) fn not_requested(&mut self, error: PeekError) {
        self.error = Some(Box::new(Failure::Peek(error)));
    }

    /// The request is not for a backend, for this reason.
    pub(super) fn rejects(&mut self, error: BadRequest) {
        self.not_requested(PeekError::Request(error));
    }

    /// The request goes to another port of a backend, and no other may follow.
    pub(super) fn fetches_challenge(&mut self) {
        self.spoken.request_mut().is_challenge = true;
    }

    fn is_challenge(&self) -> bool {
        self.spoken.request().is_some_and(|request| request.is_challenge)
    }

    /// The name that the client asked for.
    fn name(&self) -> Option<&str> {
        self.spoken.name()
    }

    /// Takes what was read together with the hello: a second one may be among it.
    pub(super) fn more_than_hello(&mut self, prefix: &mut Vec<u8>) -> Result<(), TurnedAway> {
        let Some(hello) = self.hello().filter(|hello| hello.wire_bytes < prefix.len()) else { return Ok(()) };
        let more = prefix.split_off(hello.wire_bytes);
        prefix.append(&mut self.read_second_hello(&more)?);
        Ok(())
    }

    fn read_second_hello(&mut self, bytes: &[u8]) -> Result<Vec<u8>, TurnedAway> {
        let mut second_hello = self.second_hello.take().unwrap_or_else(|| self.expect_second_hello());
        let passed = second_hello.read(bytes, self.hello(), &self.live(|live| Arc::clone(&live.terms)));
        self.second_hello = Some(second_hello);
        passed.map_err(|error| self.second_hello_failed(error))
    }

    /// What is held of a second hello, once no more of it can follow.
    fn take_second_hello(&mut self) -> Result<Vec<u8>, TurnedAway> {
        let held = self.second_hello.take().map_or(Ok(Vec::new()), |mut hello| hello.take_held());
        held.map_err(|error| self.second_hello_failed(error))
    }

    fn second_hello_failed(&mut self, error: SecondHelloError) -> TurnedAway {
        let turned_away = for_second_hello(&error);
        // Frees what it holds before the client has read its answer.
        self.second_hello = None;
        self.error = Some(Box::new(Failure::SecondHello(error)));
        turned_away
    }

    fn expect_second_hello(&self) -> Box<SecondHello> {
        Box::new(SecondHello::new(self.live(|live| live.terms.max_hello_bytes)))
    }

    /// The routing decision.
    pub(super) fn matched(&mut self, matched: Match) {
        self.matched = Some(matched);
        if let Some(name) = self.name() {
            self.accepted.live.update(|live| live.sni = Some(name.into()));
        }
        self.accepted.listener_metrics.selected(matched);
    }

    /// The connection counts for `route`. `to` is the pool it goes to; `None`: it is refused.
    pub(super) fn routed(&mut self, snapshot: &Snapshot, route: &Route, to: Option<ToPool<'_>>) {
        let metrics = Arc::clone(snapshot.metrics_of(route, to));
        if let Some(hello) = self.hello() {
            features(hello).for_each(|feature| metrics.offers(feature));
        }
        let pool = to.map(|to| Arc::clone(to.pool));
        self.accepted.live.update(|live| {
            live.route = Some(Arc::clone(&route.name));
            live.pool = pool.as_ref().map(|pool| Arc::clone(&pool.name));
        });
        self.routed = Some(RouteTaken { metrics, pool, permit: None });
    }

    /// Takes a place under the limit of `route`, if it has one.
    pub(super) fn takes_place(&mut self, route: &Route) -> Result<(), TurnedAway> {
        match (route.permit(), &mut self.routed) {
            (Ok(permit), Some(routed)) => routed.permit = permit,
            (Ok(_), None) => {}
            (Err(AtLimit), _) => {
                self.live(|live| live.terms.metrics.limit_rejected(LimitScope::Route, Enforced::Yes));
                // As from a backend at its limit.
                return Err(TurnedAway { reason: Reason::LimitRoute, refusal: Refusal::Reset });
            }
        }
        Ok(())
    }

    /// The connection is about to be passed to a backend.
    pub(super) fn in_flight(&self, in_flight: InFlight) {
        self.accepted.live.update(|live| live.in_flight = Some(in_flight));
    }

    /// The connection has come back from a backend.
    pub(super) fn loops(&mut self) {
        self.error = Some(Box::new(Failure::Loop));
    }

    /// No backend accepted the connection.
    pub(super) fn not_connected(&mut self, reason: Reason, error: ConnectError) {
        let scope = match reason {
            Reason::LimitBackend => Some(LimitScope::Backend),
            Reason::LimitPool => Some(LimitScope::Pool),
            _ => None,
        };
        scope.into_iter().for_each(|scope| self.live(|live| live.terms.metrics.limit_rejected(scope, Enforced::Yes)));
        if matches!(error, ConnectError::Closed { .. } | ConnectError::Silent { .. }) {
            self.answer = Some((FirstRecord::None, None));
        }
        self.error = Some(Box::new(Failure::Connect(error)));
    }

    /// Lets the client in through its listener, or turns it away.
    pub(super) fn enters_by_listener(&mut self, snapshot: &Snapshot, known: Known) -> Result<(), TurnedAway> {
        let (listener, at) = self.live(|live| (live.listener, live.at));
        let terms = snapshot.listener(listener);
        if terms.access.is_some() || terms.clients.is_some() {
            let place = self.newcomer(snapshot, known, at).by_listener(terms);
            self.accepted.places = Places::of_listener(place.map_err(|not_admitted| self.refused_for(not_admitted))?);
        }
        Ok(())
    }

    /// The same for its route, which counts the client that it turns away.
    pub(super) fn enters_by_route(
        &mut self,
        snapshot: &Snapshot,
        route: &Route,
        known: Known,
    ) -> Result<(), TurnedAway> {
        if route.access.is_some() || route.clients.is_some() {
            match self.newcomer(snapshot, known, Instant::now()).by_route(route) {
                Ok(None) => {}
                Ok(place) => self.accepted.places.get_or_insert_default().route = place,
                Err(not_admitted) => {
                    self.routed(snapshot, route, None);
                    return Err(self.refused_for(not_admitted));
                }
            }
        }
        Ok(())
    }

    fn newcomer<'a>(&'a self, snapshot: &'a Snapshot, known: Known, at: Instant) -> Newcomer<'a> {
        let client = self.live(|live| SocketAddr::new(live.client.ip().to_canonical(), live.client.port()));
        Newcomer { client, known, at, terms: &snapshot.terms }
    }

    /// The client may not come in; returns how it is turned away.
    pub(super) fn refused_for(&mut self, not_admitted: NotAdmitted) -> TurnedAway {
        let turned_away = admission::turned_away(&not_admitted, self.hello());
        self.error = Some(Box::new(Failure::NotAdmitted(not_admitted)));
        turned_away
    }

    /// The client may not come in, and is gone already.
    pub(super) fn not_admitted(&mut self, not_admitted: NotAdmitted) {
        if matches!(not_admitted, NotAdmitted::Full) {
            self.live(|live| live.terms.metrics.limit_rejected(LimitScope::Listener, Enforced::Yes));
        }
        self.closes_for(not_admitted.reason());
        self.error = Some(Box::new(Failure::NotAdmitted(not_admitted)));
    }

    /// The client is turned away.
    pub(super) fn refuses(&mut self, turned_away: &TurnedAway) {
        self.enter(State::Refusing);
        match &turned_away.refusal {
            Refusal::Alert { alert, .. } => self.live(|live| live.terms.metrics.alert_sent(*alert)),
            Refusal::Answer(answer) => self.spoken.request_mut().status = Some(answer.status),
            _ => {}
        }
        // From here on a drop may send FIN or RST: the client has its answer, and the reason is known.
        self.closes_for(turned_away.reason);
    }

    pub(super) fn closes_for(&mut self, reason: Reason) {
        self.reason = Some(reason);
    }

    fn speaks_tls(&self) -> bool {
        self.spoken.greeting().is_some()
    }

    pub(super) fn hello(&self) -> Option<&ClientHello> {
        self.spoken.greeting().map(|greeting| &greeting.hello)
    }

    /// The name that a backend is picked by, whether `prefix` may be sent to several, and where attempts are recorded.
    pub(super) fn connecting(&mut self, prefix: &[u8]) -> (Option<&str>, Said, &mut Attempts) {
        let hello = self.spoken.greeting().map(|greeting| &greeting.hello);
        let said = match hello {
            Some(hello) if hello.wire_bytes == prefix.len() => Said::HelloAlone,
            None if prefix.is_empty() => Said::Nothing,
            _ => Said::More,
        };
        (self.spoken.name(), said, &mut self.attempts)
    }

    /// The PROXY header that describes the client, whose bytes are `prefix`, to the backend.
    pub(super) fn proxy_header(&self, version: Version, addresses: Addresses, prefix: &[u8]) -> Vec<u8> {
        let hello = self.hello();
        let authority = hello.and_then(|hello| hello.server_name_as_sent(prefix));
        let alpn = hello.and_then(|hello| hello.alpn.only());
        let values = Values { unique_id: Some(self.live(|live| live.id)), authority: authority.as_deref(), alpn };
        proxy_header::encode(version, addresses, &values)
    }

    pub(super) fn connected(&mut self, connected: Connected) -> (BackendStream, Opening) {
        let Connected { stream, lease, rest, taken_bytes, after, took: at, answer } = connected;
        self.enter(State::Relaying);
        // The relay may live for days, and only the log and a second hello need the list from here on.
        let shorten = |hello: &mut Greeting| hello.hello.alpn.shorten(MAX_ALPN_NAMES, MAX_ALPN_NAME_BYTES);
        if let Spoken::Hello(greeting) = &mut self.spoken
            && let Some(whole) = shorten(greeting)
        {
            let mut second_hello = self.second_hello.take().unwrap_or_else(|| self.expect_second_hello());
            second_hello.shortened(&whole);
            self.second_hello = Some(second_hello);
        }
        self.accepted.live.relays_to(Arc::clone(lease.backend()));
        let first_byte = answer.as_ref().map(|answer| answer.at - at);
        let connect_micros = u32::try_from(after.as_micros()).unwrap_or(u32::MAX);
        self.reached = Some(Reached { lease, connect_micros, at, first_byte });
        self.carried(Way::ToBackend, taken_bytes as u64);
        let Some(answer) = answer else { return (stream, Opening { to_backend: rest, ..Opening::default() }) };
        match answer.kind {
            // It has been judged, and no other backend has answered better.
            FirstRecord::Other if self.speaks_tls() => self.heard(FirstRecord::Other, None, answer.rest.unwritten()),
            kind => self.answered(kind, answer.alert, &[]),
        }
        let heard = self.expects(answer.kind, answer.undecided);
        self.carried(Way::ToClient, answer.carried_bytes as u64);
        (stream, Opening { to_backend: rest, to_client: answer.rest, heard })
    }

    /// Notes the backend's first record. `bytes` are needed if it is not TLS.
    fn heard(&mut self, kind: FirstRecord, alert: Option<Alert>, bytes: &[u8]) {
        self.answer = Some((kind, alert));
        self.accepted.live.update(|live| live.in_flight = None);
        if kind == FirstRecord::Other && self.speaks_tls() {
            self.error = Some(Box::new(Failure::Answer(NotTls::new(bytes))));
        }
    }

    /// Notes whether the backend may have requested a second hello. While that is `undecided`, which is how its answer
    /// begins, the meter must hear more.
    fn expects(&mut self, kind: FirstRecord, undecided: Vec<u8>) -> Heard {
        if !self.speaks_tls() {
            return Heard::Yes;
        }
        let heard = if undecided.is_empty() { Heard::Yes } else { Heard::No };
        if kind == FirstRecord::HelloRetry || heard == Heard::No {
            let mut second_hello = self.second_hello.take().unwrap_or_else(|| self.expect_second_hello());
            *second_hello.answer() = undecided;
            self.second_hello = Some(second_hello);
        } else if let Some(second_hello) = &mut self.second_hello {
            second_hello.accepted();
        }
        heard
    }

    /// The backend has been judged by how its answer begins; what follows shows whether it requests a second hello.
    fn next_bytes(&mut self, mut begun: Vec<u8>, bytes: &[u8]) -> Heard {
        begun.extend_from_slice(&bytes[..bytes.len().min(UNDECIDED_BYTES)]);
        let (kind, alert) = first_record(&begun);
        self.answer = Some((kind, alert));
        self.expects(kind, undecided(&begun))
    }

    /// Judges the backend by its first answer.
    fn answered(&mut self, kind: FirstRecord, alert: Option<Alert>, bytes: &[u8]) {
        if self.is_challenge() {
            self.accepted.live.update(|live| live.in_flight = None);
            return;
        }
        let (kind, alert) = match kind {
            // What looks like a record is one only if the client speaks TLS.
            _ if self.speaks_tls() => (kind, alert),
            FirstRecord::None => (kind, None),
            _ => (FirstRecord::Other, None),
        };
        self.heard(kind, alert, bytes);
        let blames_backend = alert.is_some_and(|alert| self.blames_backend(alert));
        let (Some(RouteTaken { pool: Some(pool), .. }), Some(reached)) = (&self.routed, &self.reached) else { return };
        let backend = reached.lease.backend();
        if self.speaks_tls() {
            backend.metrics.first_record(kind);
        }
        let (result, now) = (self.connect_result(kind), Instant::now());
        backend.metrics.connect(result);
        let said = if self.matched == Some(Match::Silent) { Said::Nothing } else { Said::More };
        let refused = match (kind, alert, self.error.as_deref()) {
            (FirstRecord::Alert, Some(alert), _) if blames_backend => {
                Some(Some(format!("the backend answered with the alert {alert}")))
            }
            (FirstRecord::Alert, ..) => {
                backend.standing.heard();
                Some(None)
            }
            // If the client ended it, no answer says little about the backend.
            (FirstRecord::None, ..) => {
                Some((result != ConnectResult::Ok).then(|| ConnectError::Closed { said }.to_string()))
            }
            (FirstRecord::Other, _, Some(Failure::Answer(not_tls))) => {
                pool.failed(backend, Blame::Backend, not_tls, now);
                None
            }
            (FirstRecord::Other | FirstRecord::ServerHello | FirstRecord::HelloRetry, ..) => {
                pool.answered(backend, now);
                None
            }
        };
        let is_refused = refused.is_some();
        if let Some(why) = refused {
            self.attempts.refused(backend, why);
        }
        let Some(refusals) = self.attempts.refusals() else { return };
        let client = self.accepted.live.see(|live| live.client.ip());
        if is_refused { refusals.end(pool, client, now) } else { refusals.charge(pool, client, now) }
    }

    /// How an attempt to connect is counted if its answer arrives during the relay.
    fn connect_result(&self, kind: FirstRecord) -> ConnectResult {
        match kind {
            FirstRecord::Other if self.speaks_tls() => ConnectResult::NotTls,
            // Otherwise the silence may be the client's doing.
            FirstRecord::None if self.reason == Some(Reason::BackendReset) => ConnectResult::Reset,
            FirstRecord::None if self.backend_closed_first => ConnectResult::Closed,
            _ => ConnectResult::Ok,
        }
    }

    /// Whether an alert reflects the backend's state. Most alerts are about what the client offered, and a client that
    /// offers nonsense must not be able to get a backend ejected (RFC 8446 §6.2).
    fn blames_backend(&self, alert: Alert) -> bool {
        match alert {
            Alert::INTERNAL_ERROR => true,
            // A client can invent names under a wildcard, but not one that is in the configuration.
            Alert::UNRECOGNIZED_NAME => self.matched == Some(Match::Exact),
            _ => false,
        }
    }
}

impl Meter for Account {
    fn began(&self) -> Instant {
        self.live(|live| live.at)
    }

    fn carried(&mut self, way: Way, bytes: u64) {
        self.accepted.live.carried(way, bytes);
        if let Some(routed) = &self.routed {
            routed.metrics.bytes(way, bytes);
        }
    }

    fn spliced(&mut self, way: Way, bytes: u64) {
        self.live(|live| live.terms.metrics.spliced(way, bytes));
    }

    fn first_bytes(&mut self, bytes: &[u8]) -> Heard {
        let begun = self.second_hello.as_mut().map(|hello| std::mem::take(hello.answer())).unwrap_or_default();
        if !begun.is_empty() {
            return self.next_bytes(begun, bytes);
        }
        if let Some(reached) = &mut self.reached {
            reached.first_byte = Some(reached.at.elapsed());
        }
        let (kind, alert) = first_record(bytes);
        self.answered(kind, alert, bytes);
        self.expects(kind, undecided(bytes))
    }

    fn refuses_now(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(error) = self.second_hello.as_mut().and_then(|hello| hello.poll_limits(cx)) else { return false };
        let turned_away = self.second_hello_failed(error);
        self.refuses(&turned_away);
        true
    }

    fn inspects(&mut self) -> bool {
        if self.is_challenge() {
            return true;
        }
        let is_over = self.second_hello.as_ref().map_or(self.first_byte().is_some(), |hello| hello.is_over());
        if is_over {
            self.second_hello = None;
        }
        self.speaks_tls() && !is_over
    }

    fn inspect(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.is_challenge() {
            return Some(Vec::new());
        }
        let passed = if bytes.is_empty() { self.take_second_hello() } else { self.read_second_hello(bytes) };
        match passed {
            Ok(passed) => Some(passed),
            Err(turned_away) => {
                self.refuses(&turned_away);
                None
            }
        }
    }

    fn ends_client(&self) -> bool {
        self.is_challenge()
    }

    fn half_closed(&mut self, way: Way) {
        self.backend_closed_first |= way == Way::ToClient;
    }

    fn ended(&mut self, end: End) {
        self.reason = match end {
            End::Finished => Some(Reason::Ok),
            End::ClientReset => Some(Reason::ClientReset),
            End::BackendReset => Some(Reason::BackendReset),
            End::IdleTimeout => Some(Reason::IdleTimeout),
            End::HalfCloseTimeout => Some(Reason::HalfCloseTimeout),
            End::MaxAge => Some(Reason::MaxAge),
            End::PeerDead => Some(Reason::PeerDead),
            End::Refused => self.reason,
        };
        if self.first_byte().is_none() {
            self.answered(FirstRecord::None, None, &[]);
        }
    }
}

fn for_second_hello(error: &SecondHelloError) -> TurnedAway {
    match error {
        SecondHelloError::NameChanged { .. } | SecondHelloError::AlpnChanged => refuse::NAME_CHANGED,
        SecondHelloError::Hello(error) => refuse::for_not_hello(error),
        SecondHelloError::Memory => TurnedAway { reason: Reason::Memory, refusal: Refusal::Reset },
        SecondHelloError::TimedOut => TurnedAway { reason: Reason::HelloTimeout, refusal: Refusal::Leave },
    }
}

/// The features of a hello that have a metric.
fn features(hello: &ClientHello) -> impl Iterator<Item = Feature> {
    let offers = &hello.offers;
    let asked = [
        (offers.tls13(), Feature::Tls13),
        (offers.version_name() == "1.2", Feature::Tls12Only),
        (offers.x25519mlkem768, Feature::X25519MlKem768),
        (offers.ech, Feature::Ech),
        (offers.h2, Feature::H2),
        (offers.http11, Feature::Http11),
        (offers.acme_tls, Feature::AcmeTls),
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
        let lived = live.at.elapsed();
        match &self.routed {
            Some(routed) => routed.metrics.closed(live.listener, reason, lived),
            None => self.accepted.listener_metrics.closed_unrouted(reason),
        }
        if let (Some(reached), None) = (&self.reached, self.answer)
            && !self.is_challenge()
        {
            reached.lease.backend().metrics.connect(ConnectResult::Ok);
        }
        if let Some(RouteTaken { pool: Some(pool), .. }) = &self.routed
            && let Some(after) = self.first_byte()
        {
            pool.metrics.first_byte(after);
        }
        if live.terms.connection_log.wants(reason) {
            self.log(&live, reason, lived);
        }
    }
}

impl Account {
    fn log(&self, live: &LiveConnection, reason: Reason, lived: Duration) {
        let hello = self.hello();
        let pool = self.routed.as_ref().and_then(|routed| routed.pool.as_ref());
        let backend = self.attempts.last.as_ref();
        live.terms.connection_log.line(&ConnectionLine {
            id: live.id,
            listener: live.terms.listener(live.listener),
            client: live.client,
            peer: live.peer,
            sni: hello.and_then(ClientHello::name_or_literal),
            alpn: hello.map_or(Alpn::Absent, |hello| Alpn::Wire(hello.alpn.as_wire())),
            tls: hello.map(|hello| hello.offers.version_name()),
            offers: &hello.map(|hello| features(hello).collect::<Vec<_>>()).unwrap_or_default(),
            hello_bytes: hello.map(|hello| hello.wire_bytes),
            hello_records: hello.map(|hello| hello.records),
            hello_ms: self.spoken.greeting().map(|greeting| greeting.after),
            saw: self.saw,
            request: self.spoken.request().map(|request| request.line()),
            route: live.route.as_deref(),
            matched: self.matched,
            pool: pool.map(|pool| &*pool.name),
            backend: backend.map(|backend| &*backend.name),
            address: backend.map(|backend| &backend.address as &dyn std::fmt::Display),
            attempts: self.attempts.count(),
            failed: self.attempts.failed(),
            answer: self.answer.filter(|_| hello.is_some()),
            connect_ms: self.reached.as_ref().map(|reached| Duration::from_micros(reached.connect_micros.into())),
            first_byte_ms: self.first_byte(),
            duration_ms: lived,
            bytes_to_backend: live.bytes[Way::ToBackend as usize],
            bytes_to_client: live.bytes[Way::ToClient as usize],
            phase: live.state,
            reason,
            config: &live.terms.hash,
            error: self.error.as_ref().map(|error| error as &dyn std::fmt::Display),
        });
    }

    /// How a client is refused during the relay.
    pub(super) fn refusal(&self) -> Refusal {
        match self.error.as_deref() {
            Some(Failure::SecondHello(error)) => for_second_hello(error).refusal,
            _ => Refusal::Reset,
        }
    }

    fn first_byte(&self) -> Option<Duration> {
        self.reached.as_ref()?.first_byte
    }
}

impl Request {
    fn line(&self) -> RequestLine<'_> {
        let head = self.head.as_ref();
        let asked = head.map(|head| Asked { host: head.host(), method: &head.method, path: head.path() });
        RequestLine { asked, status: self.status }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAdmitted(error) => error.fmt(f),
            Self::Peek(error) => error.fmt(f),
            Self::Connect(error) => error.fmt(f),
            Self::Answer(error) => error.fmt(f),
            Self::SecondHello(error) => error.fmt(f),
            Self::Loop => f.write_str("the connection came back from the backends to one of our own listeners"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::ids::{ConnectionId, ListenerIndex};
    use crate::limits::Permits;
    use crate::operate::registry;
    use crate::telemetry::Metrics;

    fn accepted(metrics: &Arc<Metrics>, permits: &Arc<Permits>) -> Accepted {
        let text = "listeners: [{ name: l, bind: \"127.0.0.1:0\" }]\nunmatched: { pool: p }\n\
                    pools: { p: { backends: [127.0.0.1:1] } }\nlog: { connections: off }\n";
        let config = Config::parse(text, Path::new("f.yaml")).unwrap_or_else(|problems| panic!("{problems}")).config;
        let (peer, at) = (([127, 0, 0, 1], 1).into(), Instant::now());
        Accepted {
            listener_metrics: metrics.listener("l"),
            permits: (permits.acquire(), Some(permits.acquire())),
            places: None,
            live: registry::enter(
                ConnectionId(1),
                peer,
                at,
                Arc::clone(&Snapshot::build(config, None, metrics).terms),
                ListenerIndex(0),
            ),
        }
    }

    fn closed(metrics: &Metrics, reason: &str) -> bool {
        let line = format!("snigate_connections_closed_total{{listener=\"l\",route=\"\",reason=\"{reason}\",");
        metrics.render().lines().any(|series| series.starts_with(&line) && series.ends_with(" 1"))
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_short_is_drained_and_gives_its_places_back() {
        let (metrics, permits) = (Metrics::new(), Arc::<Permits>::default());
        drop(Account::open(accepted(&metrics, &permits)));
        assert!(closed(&metrics, "drained"), "{}", metrics.render());
        assert_eq!(permits.open(), 0);
    }

    #[tokio::test(flavor = "local")]
    async fn a_panic_is_one_connection_and_is_counted() {
        let (metrics, permits) = (Metrics::new(), Arc::<Permits>::default());
        let accepted = accepted(&metrics, &permits);
        let task = tokio::task::spawn_local(async move {
            let _account = Account::open(accepted);
            panic!("injected");
        });
        assert!(task.await.is_err_and(|error| error.is_panic()));
        assert!(closed(&metrics, "panic"), "{}", metrics.render());
        assert_eq!(permits.open(), 0);
    }
}
