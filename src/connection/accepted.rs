//! What a connection holds from its accept to its end: its metrics, its places under the limits, its entry in the registry.
//!
//! In:  what the listener has taken for it.
//! Out: [`Accepted`]; its drop gives everything back.

use std::sync::Arc;

use super::stage::Stage;
use crate::client_limits::Place;
use crate::ech::Awaited;
use crate::limits::Permit;
use crate::operate::registry::Ticket;
use crate::proxy_header::Received;
use crate::telemetry::ListenerMetrics;

/// What a connection has when it is accepted. Its identity (id, client, listener) is in the registry.
pub(crate) struct Accepted {
    pub listener_metrics: Arc<ListenerMetrics>,
    /// In total, and of the listener; a client that is not admitted has only the first.
    #[expect(dead_code, reason = "held for their `Drop`, which gives both places back")]
    pub permits: (Permit, Option<Permit>),
    /// Boxed, since most connections have none.
    pub extras: Option<Box<Extras>>,
    pub live: Ticket,
}

/// What few connections have.
#[derive(Default)]
pub(crate) struct Extras {
    /// The places under the limits per client, of the listener and of the route. Held for their `Drop`.
    places: (Option<Place>, Option<Place>),
    /// What the PROXY header says besides addresses.
    pub(super) received: Option<Box<Received>>,
    /// At level debug.
    pub(super) stage: Stage,
    /// The name that everybody could read, of a client whose hello was opened.
    pub(super) outer_name: Option<Box<str>>,
    /// The inner hello of such a client, until the backend's answer shows whether it was accepted.
    pub(super) awaited: Option<Box<Awaited>>,
}

impl Extras {
    /// `None` if there is nothing to hold.
    pub(crate) fn of_listener(place: Option<Place>) -> Option<Box<Self>> {
        place.map(|place| Box::new(Self { places: (Some(place), None), ..Self::default() }))
    }

    /// Holds a place of the listener.
    pub(super) fn hold_of_listener(&mut self, place: Place) {
        self.places.0 = Some(place);
    }

    /// Holds a place of the route besides that of the listener.
    pub(super) fn hold_of_route(&mut self, place: Option<Place>) {
        self.places.1 = place;
    }
}
