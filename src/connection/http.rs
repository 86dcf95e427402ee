//! Serves a client of a listener that speaks HTTP: reads one request, then relays, redirects or refuses it.
//!
//! In:  a fresh stream; what the listener does with requests.
//! Out: a backend that has the request; or how the client is answered.
//! Source: RFC 8555 §8.3 (HTTP-01 challenges), RFC 9110 §15.4.9 (308).
//!
//! A challenge is passed on byte for byte, and nothing that the client sends after it: other requests must not reach the
//! port of the backend that answers challenges, however the backend frames requests and whatever it keeps alive.

use super::account::Account;
use super::hello::{introduction, no_hello};
use super::{Known, Lead, Relayable, connect_reason, to_pool};
use crate::client_hello::Alpn;
use crate::connect::{ConnectError, OtherPort};
use crate::peek::{Peek, PeekError};
use crate::proxy_header::Header;
use crate::refuse::{self, Answer, Body, Refusal, TurnedAway};
use crate::request_head::RequestHead;
use crate::route::NameForm;
use crate::settings::{AcmeChallenge, Refuse};
use crate::snapshot::{Chosen, Destination, HttpTerms, OtherRequests, Route, RouteQuery, Snapshot};
use crate::socket::ResetUnlessReleased;
use crate::telemetry::{Match, Reason};

/// The path up to the relay.
pub(super) async fn walk(
    client: &mut ResetUnlessReleased,
    account: &mut Account,
    snapshot: &Snapshot,
    terms: &HttpTerms,
) -> Result<Relayable, TurnedAway> {
    let at = account.live(|live| live.at);
    let mut peek = Peek::new(snapshot.terms.hello_memory_bytes, at + snapshot.terms.hello_timeout);
    let header = introduction(client, account, snapshot, &mut peek).await?;
    let read = peek.request_head(client.stream(), snapshot.terms.max_hello_bytes).await;
    let (head, mut prefix) = read.map_err(|error| not_requested(account, error))?;
    account.requested(head.clone());
    let request = Request { head: &head, header };
    let lead = if terms.acme_challenge == AcmeChallenge::Pool && head.is_challenge() {
        prefix.truncate(head.bytes);
        request.challenge(account, snapshot)?
    } else {
        request.other(account, snapshot, &terms.otherwise)?
    };
    let announced = header.and_then(|header| header.addresses);
    let lead = Lead { announced, prefix: &prefix, ..lead };
    let connected =
        to_pool(client, account, snapshot, &lead).await.map_err(|turned_away| match turned_away.reason {
            Reason::LimitRoute => {
                TurnedAway { refusal: Refusal::Answer(Answer::error(503, request.body())), ..turned_away }
            }
            _ => turned_away,
        })?;
    connected.map_err(|error| not_connected(account, error, request.body()))
}

/// A request that was read whole.
struct Request<'r> {
    head: &'r RequestHead,
    /// The PROXY header before it.
    header: Option<Header>,
}

impl Request<'_> {
    /// Leads to the pool of the name, at its port for HTTP.
    fn challenge<'s>(&self, account: &mut Account, snapshot: &'s Snapshot) -> Result<Lead<'s>, TurnedAway> {
        if let Err(error) = self.head.check_challenge() {
            let turned_away = refuse::for_bad_request(&error, self.body());
            account.rejects(error);
            return Err(turned_away);
        }
        let route = self.routed(account, snapshot)?;
        let to = route.next().map_err(|how| refuse::for_request(how, Match::Exact, self.body()))?;
        account.fetches_challenge();
        // Its request was the last that the client may send.
        let mut lead = Lead::to(route, to, snapshot);
        lead.lifetime.idle = lead.lifetime.idle.min(snapshot.relay.half_closed);
        lead.port = Some(OtherPort { port: to.pool.settings.http_port.0, ours: &snapshot.bound });
        Ok(lead)
    }

    fn other<'s>(
        &self,
        account: &mut Account,
        snapshot: &'s Snapshot,
        otherwise: &'s OtherRequests,
    ) -> Result<Lead<'s>, TurnedAway> {
        match otherwise {
            OtherRequests::Pool(route) => {
                let to = route.next().map_err(|how| refuse::for_request(how, Match::Exact, self.body()))?;
                Ok(Lead::to(route, to, snapshot))
            }
            OtherRequests::Refuse => Err(refuse::for_request(Refuse::Alert, Match::Exact, self.body())),
            OtherRequests::Redirect => {
                let route = self.routed(account, snapshot)?;
                // Takes no turn of a split: if each client that is redirected took two, it would always be the same two.
                account.routed(snapshot, route, route.only_pool());
                let location = format!("https://{}{}", self.head.host(), self.head.target);
                let refusal = Refusal::Answer(Answer::redirect(&location, self.body()));
                Err(TurnedAway { reason: Reason::Redirected, refusal })
            }
        }
    }

    /// The route of the name, by the table that clients of TLS have, if it leads to a pool. A request offers no protocols,
    /// so a route that requires one does not match.
    fn routed<'s>(&self, account: &mut Account, snapshot: &'s Snapshot) -> Result<&'s Route, TurnedAway> {
        let (client, listener) = account.live(|live| (live.client, live.listener));
        let known = Known::by(self.header.as_ref());
        let source = (known == Known::Yes).then(|| client.ip().to_canonical());
        let query =
            RouteQuery { sni: Some(&self.head.host), alpn: &Alpn::default(), source, listener, form: NameForm::Clear };
        let Chosen { route, matched } = snapshot.choose(query);
        account.matched(matched);
        account.enters_by_route(snapshot, route, known).map_err(|turned_away| match turned_away.reason {
            Reason::Denied => TurnedAway { refusal: Refusal::Answer(Answer::error(403, self.body())), ..turned_away },
            _ => turned_away,
        })?;
        let Destination::Refuse(how) = route.to else { return Ok(route) };
        let turned_away = refuse::for_request(how, matched, self.body());
        // As for a hello: a refusal by a fallback counts for the listener.
        if turned_away.reason == Reason::Refused {
            account.routed(snapshot, route, None);
        }
        Err(turned_away)
    }

    fn body(&self) -> Body {
        if self.head.is_head() { Body::Head } else { Body::Allowed }
    }
}

/// How a client ends whose request is not whole or cannot be read.
fn not_requested(account: &mut Account, error: PeekError) -> TurnedAway {
    let turned_away = match &error {
        PeekError::TimedOut { got: 1.. } => {
            let refusal = Refusal::Answer(Answer::error(408, Body::Allowed));
            TurnedAway { reason: Reason::HelloTimeout, refusal }
        }
        error => no_hello(error).1,
    };
    account.not_requested(error);
    turned_away
}

/// What a client gets whose request no backend accepted.
fn not_connected(account: &mut Account, error: ConnectError, body: Body) -> TurnedAway {
    let reason = connect_reason(&error);
    let refusal = match reason {
        Reason::ClientReset => Refusal::Reset,
        Reason::NoBackend | Reason::LimitBackend | Reason::LimitPool | Reason::QueueTimeout => {
            Refusal::Answer(Answer::error(503, body))
        }
        Reason::ConnectTimeout => Refusal::Answer(Answer::error(504, body)),
        _ => Refusal::Answer(Answer::error(502, body)),
    };
    account.not_connected(reason, error);
    TurnedAway { reason, refusal }
}
