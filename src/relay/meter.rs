//! Is told of what a relay does, as it does it.

use crate::way::Way;

/// Told of what a relay does, as it does it; called often, so counting should be an atomic add. It belongs to the relay
/// and is dropped with it, so that what it was told survives an error, a cancelled relay and a panic.
pub(crate) trait Meter {
    fn carried(&mut self, way: Way, bytes: u64);
    fn spliced(&mut self, way: Way, bytes: u64);
    /// The backend's first bytes were read; called once, unless they were read before the relay began.
    fn first_bytes(&mut self, bytes: &[u8]);
    /// One side said FIN, and the other did not yet: nothing more will come in the direction `way`.
    fn half_closed(&mut self, way: Way);
    fn ended(&mut self, end: End);
}

impl<M: Meter> Meter for Box<M> {
    fn carried(&mut self, way: Way, bytes: u64) {
        (**self).carried(way, bytes);
    }

    fn spliced(&mut self, way: Way, bytes: u64) {
        (**self).spliced(way, bytes);
    }

    fn first_bytes(&mut self, bytes: &[u8]) {
        (**self).first_bytes(bytes);
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
    /// The kernel gave a side up: keepalive or user timeout.
    PeerDead,
}
