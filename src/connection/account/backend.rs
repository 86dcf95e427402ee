//! Notes which backend was reached, and judges it by its first answer.
//!
//! In:  the connected backend; how its answer begins.
//! Out: the result that the backend is judged by; whether the answer may request a second hello.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Account, Reached, RouteTaken};
use crate::alert::Alert;
use crate::connect::{BackendStream, ConnectError, Connected, NotTls, Said, UNDECIDED_BYTES, first_record, undecided};
use crate::connection::failure::Failure;
use crate::connection::spoken::{Greeting, Spoken};
use crate::ech::Confirmation;
use crate::pool::Blame;
use crate::relay::{Heard, Meter, Opening};
use crate::telemetry::{
    ConnectResult, EchResult, FirstRecord, MAX_ALPN_NAME_BYTES, MAX_ALPN_NAMES, Match, Reason, State,
};
use crate::way::Way;

impl Account {
    pub(in crate::connection) fn connected(&mut self, connected: Connected) -> (BackendStream, Opening) {
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
        if let Some(RouteTaken { pool: Some(pool), .. }) = &self.routed {
            pool.metrics.connected(after, self.live(|live| live.id));
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
        let heard = self.expects(answer.kind, answer.undecided).and(self.confirmed_by(&answer.beginning));
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
    pub(super) fn expects(&mut self, kind: FirstRecord, undecided: Vec<u8>) -> Heard {
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

    /// Reads the next bytes of the backend's answer to an inner hello, until they show whether it has accepted it.
    pub(super) fn confirmed_by(&mut self, bytes: &[u8]) -> Heard {
        let Some(extras) = self.accepted.extras.as_mut() else { return Heard::Yes };
        let Some(awaited) = &mut extras.awaited else { return Heard::Yes };
        let Some(confirmation) = awaited.read(bytes) else { return Heard::No };
        extras.awaited = None;
        if confirmation == Confirmation::Unconfirmed {
            self.notes_ech(EchResult::Unconfirmed);
        }
        Heard::Yes
    }

    /// The backend has been judged by how its answer begins; what follows shows whether it requests a second hello.
    pub(super) fn next_bytes(&mut self, mut begun: Vec<u8>, bytes: &[u8]) -> Heard {
        begun.extend_from_slice(&bytes[..bytes.len().min(UNDECIDED_BYTES)]);
        let (kind, alert) = first_record(&begun);
        self.answer = Some((kind, alert));
        self.expects(kind, undecided(&begun))
    }

    /// Judges the backend by its first answer.
    pub(super) fn answered(&mut self, kind: FirstRecord, alert: Option<Alert>, bytes: &[u8]) {
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
            alert.into_iter().for_each(|alert| backend.metrics.alert(alert));
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

    /// From the connect to the first byte of the backend's answer.
    pub(super) fn first_byte(&self) -> Option<Duration> {
        self.reached.as_ref()?.first_byte
    }
}
