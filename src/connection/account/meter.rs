//! Notes what the relay reports, and holds its client to a second hello that asks for the same.
//!
//! In:  the bytes of either way, and how the relay ended.
//! Out: the bytes to pass on; the reason.

use std::sync::Arc;
use std::task::Context;

use tokio::time::Instant;

use super::Account;
use crate::connect::{first_record, undecided};
use crate::connection::failure::Failure;
use crate::connection::second_hello::{self, SecondHello, SecondHelloError};
use crate::refuse::{Refusal, TurnedAway};
use crate::relay::{End, Heard, Meter};
use crate::telemetry::{EchResult, FirstRecord, Match, Reason};
use crate::way::Way;

impl Meter for Account {
    fn began(&self) -> Instant {
        self.live(|live| live.at)
    }

    fn carried(&mut self, way: Way, bytes: u64) {
        self.accepted.live.carried(way, bytes);
        self.accepted.listener_metrics.carried(way, bytes);
        if let Some(routed) = &self.routed {
            routed.metrics.bytes(way, bytes);
        }
    }

    fn spliced(&mut self, way: Way, bytes: u64) {
        if let Some(routed) = &self.routed {
            routed.metrics.spliced(way, bytes);
        }
    }

    fn first_bytes(&mut self, bytes: &[u8]) -> Heard {
        let begun = self.second_hello.as_mut().map(|hello| std::mem::take(hello.answer())).unwrap_or_default();
        if !begun.is_empty() {
            return self.next_bytes(begun, bytes).and(self.confirmed_by(bytes));
        }
        if self.speaks_tls() && self.answer.is_some() {
            // It has been judged; only whether it has accepted an inner hello is not known yet.
            return self.confirmed_by(bytes);
        }
        if let Some(reached) = &mut self.reached {
            reached.first_byte = Some(reached.at.elapsed());
        }
        let (kind, alert) = first_record(bytes);
        self.answered(kind, alert, bytes);
        self.expects(kind, undecided(bytes)).and(self.confirmed_by(bytes))
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
            End::Finished if self.is_left_unanswered() => Some(Reason::NoAnswer),
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

impl Account {
    /// Whether the backend closed before the client did, and sent nothing to a client that had said what it wants.
    fn is_left_unanswered(&self) -> bool {
        self.backend_closed_first && self.first_byte().is_none() && self.matched != Some(Match::Silent)
    }

    /// Takes what was read together with the hello: a second one may be among it.
    pub(in crate::connection) fn more_than_hello(&mut self, prefix: &mut Vec<u8>) -> Result<(), TurnedAway> {
        let Some(hello) = self.hello().filter(|hello| hello.wire_bytes < prefix.len()) else { return Ok(()) };
        let more = prefix.split_off(hello.wire_bytes);
        prefix.append(&mut self.read_second_hello(&more)?);
        Ok(())
    }

    fn read_second_hello(&mut self, bytes: &[u8]) -> Result<Vec<u8>, TurnedAway> {
        let mut second_hello = self.second_hello.take().unwrap_or_else(|| self.expect_second_hello());
        let was_sealed = second_hello.is_sealed();
        let passed = second_hello.read(bytes, self.hello(), &self.live(|live| Arc::clone(&live.terms)));
        if was_sealed && !second_hello.is_sealed() {
            let result = if passed.is_ok() { EchResult::RetryAccepted } else { EchResult::RetryRefused };
            self.accepted.listener_metrics.ech(result);
        }
        self.second_hello = Some(second_hello);
        passed.map_err(|error| self.second_hello_failed(error))
    }

    /// What is held of a second hello, once no more of it can follow.
    fn take_second_hello(&mut self) -> Result<Vec<u8>, TurnedAway> {
        let held = self.second_hello.take().map_or(Ok(Vec::new()), |mut hello| hello.take_held());
        held.map_err(|error| self.second_hello_failed(error))
    }

    fn second_hello_failed(&mut self, error: SecondHelloError) -> TurnedAway {
        let turned_away = second_hello::turned_away(&error);
        // Frees what it holds before the client has read its answer.
        self.second_hello = None;
        self.error = Some(Box::new(Failure::SecondHello(error)));
        turned_away
    }

    pub(super) fn expect_second_hello(&self) -> Box<SecondHello> {
        Box::new(SecondHello::new(self.live(|live| live.terms.max_hello_bytes)))
    }

    /// How a client is refused during the relay.
    pub(in crate::connection) fn refusal(&self) -> Refusal {
        match self.error.as_deref() {
            Some(Failure::SecondHello(error)) => second_hello::turned_away(error).refusal,
            _ => Refusal::Reset,
        }
    }
}
