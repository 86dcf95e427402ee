//! Keeps everything known about one connection, and counts and logs it once, when it ends.
//!
//! In:  what each stage of the path found; the bytes the relay reports; how it ended.
//! Out: one reason, one log line, and the result the backend is judged by.
//!
//! An account is dropped however a connection ends: normally, at a deadline, or by a panic. Its drop is the only place
//! that counts, so accepted = active + the sum over reasons always holds.

mod backend;
mod line;
mod meter;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::accepted::Accepted;
use super::admission::{self, Known, Newcomer, NotAdmitted};
use super::failure::Failure;
use super::second_hello::SecondHello;
use super::spoken::{Greeting, Spoken, features};
use super::stage;
use crate::alert::Alert;
use crate::client_hello::ClientHello;
use crate::connect::{Attempts, ConnectError, Said};
use crate::ech::{Awaited, Illegal, Inner};
use crate::limits::Permit;
use crate::operate::registry::LiveConnection;
use crate::peek::{First, PeekError};
use crate::pool::latencies::Wait;
use crate::pool::{Lease, Pool};
use crate::proxy_header::{self, Addresses, Header, Received, Values, Version};
use crate::refuse::{self, Refusal, TurnedAway};
use crate::request_head::{BadRequest, RequestHead};
use crate::route::NameForm;
use crate::self_loop::in_flight::InFlight;
use crate::settings::SendProxyProtocol;
use crate::snapshot::{AtLimit, Route, Snapshot, ToPool};
use crate::telemetry::{
    Active, ConnectResult, EchResult, Enforced, FirstRecord, HelloResult, LimitScope, Match, ProxyHeaderResult, Reason,
    Refused, RouteMetrics, Saw, State,
};

/// Everything known about a connection. Its drop is the only place where a connection is counted and logged.
///
/// What a stage found is `None` until the connection has passed it.
pub(super) struct Account {
    accepted: Accepted,
    active: Active,
    spoken: Spoken,
    /// What the encrypted_client_hello extension of the client turned out to be, on a listener that opens them.
    ech: Option<EchResult>,
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
        let mut account = Box::new(Self {
            active: accepted.listener_metrics.accepted(),
            accepted,
            spoken: Spoken::Nothing,
            ech: None,
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
        });
        account.enters(State::Hello);
        account
    }

    /// The connection's entry in the registry.
    pub(super) fn live<R>(&self, look: impl FnOnce(&LiveConnection) -> R) -> R {
        self.accepted.live.see(look)
    }

    pub(super) fn enter(&mut self, state: State) {
        self.accepted.live.update(|live| live.state = state);
        self.active.enter(state);
        self.enters(state);
    }

    fn enters(&mut self, state: State) {
        if stage::is_wanted() {
            let id = self.live(|live| live.id);
            self.accepted.extras.get_or_insert_default().stage.enter(state, id);
        } else if let Some(extras) = &mut self.accepted.extras {
            extras.stage.end();
        }
    }

    /// A PROXY header from a peer that is not trusted.
    pub(super) fn distrusted(&self) {
        self.accepted.listener_metrics.proxy_header(ProxyHeaderResult::Untrusted);
    }

    /// The client's PROXY header was read.
    pub(super) fn introduced(&mut self, header: &Header, received: Option<Box<Received>>) {
        if received.is_some() {
            self.accepted.extras.get_or_insert_default().received = received;
        }
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
                metrics.whole_hello(self.live(|live| live.id), after, hello.wire_bytes, hello.records);
                self.spoken = Spoken::Hello(Greeting { hello, after });
            }
            First::NotTls => {
                metrics.no_hello(HelloResult::NotTls);
                self.saw = Some(refuse::saw(prefix));
            }
            First::Silence => metrics.no_hello(HelloResult::Silent),
        }
    }

    /// An inner hello was opened, which took so long.
    pub(super) fn took_to_open(&self, took: Duration) {
        self.accepted.listener_metrics.ech_opened(took);
    }

    /// What the encrypted_client_hello extension turned out to be. An inner hello takes the place of the outer one; in this
    /// case, returns that and the bytes that the backend must read first.
    pub(super) fn opened(
        &mut self,
        opened: Result<Option<Box<Inner>>, Illegal>,
    ) -> Result<Option<(ClientHello, Vec<u8>)>, TurnedAway> {
        let result = match &opened {
            Ok(Some(_)) => EchResult::Accepted,
            Ok(None) => EchResult::NotForUs,
            Err(_) => EchResult::Illegal,
        };
        self.accepted.listener_metrics.ech(result);
        self.ech = Some(result);
        let Spoken::Hello(greeting) = &mut self.spoken else { return Ok(None) };
        match opened {
            Ok(None) => Ok(None),
            Ok(Some(inner)) => {
                let Inner { hello, prefix, second, .. } = *inner;
                let outer = std::mem::replace(&mut greeting.hello, hello);
                let extras = self.accepted.extras.get_or_insert_default();
                extras.outer_name = outer.name_or_literal().map(Box::from);
                extras.awaited = Awaited::new(&greeting.hello.message(&prefix)).map(Box::new);
                let mut second_hello = self.expect_second_hello();
                second_hello.is_sealed_for(second);
                self.second_hello = Some(second_hello);
                Ok(Some((outer, prefix)))
            }
            Err(illegal) => {
                let turned_away = refuse::for_illegal_ech(&illegal);
                self.error = Some(Box::new(Failure::Ech(illegal)));
                Err(turned_away)
            }
        }
    }

    /// No backend of the inner name accepts inner hellos: the `outer` one is served.
    pub(super) fn falls_back(&mut self, outer: ClientHello) {
        if let Spoken::Hello(greeting) = &mut self.spoken {
            greeting.hello = outer;
        }
        if let Some(extras) = &mut self.accepted.extras {
            (extras.outer_name, extras.awaited) = (None, None);
        }
        // It was to be sealed as the inner one.
        self.second_hello = None;
        self.notes_ech(EchResult::FellBack);
    }

    /// Counts what became of an inner hello that was opened.
    fn notes_ech(&mut self, result: EchResult) {
        self.accepted.listener_metrics.ech(result);
        self.ech = Some(result);
    }

    /// How the client sent the name that it is served by.
    pub(super) fn name_form(&self) -> NameForm {
        if self.ech.is_some_and(EchResult::is_inner) { NameForm::Encrypted } else { NameForm::Clear }
    }

    /// There is no hello. `None`: the PROXY header is malformed.
    pub(super) fn not_greeted(&mut self, result: Option<HelloResult>, error: PeekError) {
        let metrics = &self.accepted.listener_metrics;
        match result {
            Some(result) => metrics.no_hello(result),
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

    /// The routing decision.
    pub(super) fn matched(&mut self, matched: Match) {
        self.matched = Some(matched);
        if let Some(name) = self.name() {
            let is_inner = self.name_form() == NameForm::Encrypted;
            self.accepted.live.update(|live| (live.sni, live.sni_is_inner) = (Some(name.into()), is_inner));
        }
        self.accepted.listener_metrics.selected(matched);
    }

    /// The connection counts for `route`. `to` is the pool it goes to; `None`: it is refused.
    pub(super) fn routed(&mut self, snapshot: &Snapshot, route: &Route, to: Option<ToPool<'_>>) {
        let metrics = Arc::clone(snapshot.metrics_of(route, to));
        if let Some(hello) = self.hello() {
            features(hello).for_each(|feature| metrics.offers(feature));
        }
        // One that is refused may have been routed before.
        if self.routed.is_none() {
            metrics.routed();
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
                self.over_limit(LimitScope::Route);
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
        scope.into_iter().for_each(|scope| self.over_limit(scope));
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
            if let Some(place) = place.map_err(|not_admitted| self.refused_for(not_admitted))? {
                self.accepted.extras.get_or_insert_default().hold_of_listener(place);
            }
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
            let metrics = snapshot.metrics_of(route, None);
            match self.newcomer(snapshot, known, Instant::now()).by_route(route, metrics) {
                Ok(None) => {}
                Ok(place) => self.accepted.extras.get_or_insert_default().hold_of_route(place),
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

    /// The connection hits a limit, which is that of its route if it has one.
    fn over_limit(&self, scope: LimitScope) {
        self.live(|live| live.terms.metrics.limit_rejected(self.route_metrics(), scope, Enforced::Yes));
    }

    fn route_metrics(&self) -> Option<&RouteMetrics> {
        self.routed.as_ref().map(|routed| &*routed.metrics)
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
            self.over_limit(LimitScope::Listener);
        }
        self.closes_for(not_admitted.reason());
        self.error = Some(Box::new(Failure::NotAdmitted(not_admitted)));
    }

    /// The client is turned away.
    pub(super) fn refuses(&mut self, turned_away: &TurnedAway) {
        self.enter(State::Refusing);
        match &turned_away.refusal {
            Refusal::Alert { alert, .. } => {
                self.live(|live| live.terms.metrics.alert_sent(self.route_metrics(), *alert));
            }
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

    /// What the client's PROXY header says besides addresses.
    fn received(&self) -> Option<&Received> {
        self.accepted.extras.as_ref()?.received.as_deref()
    }

    /// The PROXY header that describes the client, whose bytes are `prefix`, to the backend.
    pub(super) fn proxy_header(
        &self,
        version: Version,
        settings: &SendProxyProtocol,
        addresses: Addresses,
        prefix: &[u8],
    ) -> Vec<u8> {
        let hello = self.hello();
        let authority = hello.and_then(|hello| hello.server_name_as_sent(prefix));
        let values = Values {
            unique_id: Some(self.live(|live| live.id)),
            added: &settings.add.0,
            relayed: self.received().map(|received| (received, settings.relayed())),
            authority: authority.as_deref(),
            alpn: hello.and_then(|hello| hello.alpn.only()),
        };
        proxy_header::encode(version, addresses, &values)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if let Some(extras) = &mut self.accepted.extras {
            extras.stage.end();
        }
        let Some(live) = self.accepted.live.leave() else { return };
        let unfinished = match live.ended_by {
            _ if std::thread::panicking() => Reason::Panic,
            Some(ended_by) => ended_by,
            None => Reason::Drained,
        };
        let reason = self.reason.unwrap_or(unfinished);
        let lived = live.at.elapsed();
        match &self.routed {
            Some(routed) => routed.metrics.closed(live.listener, reason, lived, live.id),
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
            pool.metrics.first_byte(after, live.id);
            if let Some(reached) = &self.reached {
                reached.lease.backend().latencies.record(Wait::FirstByte, after);
            }
        }
        self.accepted.listener_metrics.ended(reason);
        if live.terms.connection_log.wants(reason) {
            self.log(&live, reason, lived);
        }
        if reason.is_turned_away() {
            let listener = Arc::clone(live.terms.listener(live.listener));
            let LiveConnection { client, sni: name, route, terms, .. } = live;
            terms.metrics.refused(Refused { at: SystemTime::now(), reason, listener, client, name, route });
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
            extras: None,
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
