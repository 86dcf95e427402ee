//! Observes one relay.

use std::task::Context;

use tokio::time::Instant;

use super::Heard;
use crate::way::Way;

/// Observes one relay. Called on every transfer, so implementations should do no more than an atomic add. The relay
/// owns the meter and drops it at its end, so the counts survive an error, a cancelled relay and a panic.
pub(crate) trait Meter {
    /// When the connection was accepted. Asked only if its age is limited.
    fn began(&self) -> Instant;
    fn carried(&mut self, way: Way, bytes: u64);
    fn spliced(&mut self, way: Way, bytes: u64);
    /// The backend's first bytes were read. Called again with the next ones until it returns [`Heard::Yes`].
    fn first_bytes(&mut self, bytes: &[u8]) -> Heard;
    /// Whether the meter inspects what the client sends next. Called before each read until it returns `false`.
    fn inspects(&mut self) -> bool {
        false
    }
    /// Takes bytes from the client and returns what to pass to the backend now; empty `bytes` are the client's FIN.
    /// `None`: the client is refused.
    fn inspect(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }
    /// Whether the client has sent its last byte, although it has not closed. Called after each `inspect`.
    fn ends_client(&self) -> bool {
        false
    }
    /// Whether the client is refused for what it has not sent. If not, the task is woken once it is. Called while the
    /// meter inspects.
    fn refuses_now(&mut self, _: &mut Context<'_>) -> bool {
        false
    }
    /// One side sent FIN and the other has not yet: no more bytes will arrive in the direction `way`.
    fn half_closed(&mut self, way: Way);
    fn ended(&mut self, end: End);
}

impl<M: Meter> Meter for Box<M> {
    fn began(&self) -> Instant {
        (**self).began()
    }

    fn carried(&mut self, way: Way, bytes: u64) {
        (**self).carried(way, bytes);
    }

    fn spliced(&mut self, way: Way, bytes: u64) {
        (**self).spliced(way, bytes);
    }

    fn first_bytes(&mut self, bytes: &[u8]) -> Heard {
        (**self).first_bytes(bytes)
    }

    fn inspects(&mut self) -> bool {
        (**self).inspects()
    }

    fn inspect(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        (**self).inspect(bytes)
    }

    fn ends_client(&self) -> bool {
        (**self).ends_client()
    }

    fn refuses_now(&mut self, cx: &mut Context<'_>) -> bool {
        (**self).refuses_now(cx)
    }

    fn half_closed(&mut self, way: Way) {
        (**self).half_closed(way);
    }

    fn ended(&mut self, end: End) {
        (**self).ended(end);
    }
}

/// Why a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides closed with FIN.
    Finished,
    ClientReset,
    BackendReset,
    IdleTimeout,
    HalfCloseTimeout,
    /// The connection has become too old.
    MaxAge,
    /// The kernel gave up on a peer: keepalive or user timeout.
    PeerDead,
    /// The meter refused the client, whose stream stays open so that it gets an answer.
    Refused,
}
