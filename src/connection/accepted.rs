//! What a connection holds from its accept to its end: its metrics, its places under the limits, its entry in the registry.
//!
//! In:  what the listener has taken for it.
//! Out: [`Accepted`]; its drop gives everything back.

use std::sync::Arc;

use crate::client_limits::Place;
use crate::limits::Permit;
use crate::operate::registry::Ticket;
use crate::telemetry::ListenerMetrics;

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

    /// Holds a place of the route besides that of the listener.
    pub(super) fn hold_of_route(&mut self, place: Option<Place>) {
        self.route = place;
    }
}
