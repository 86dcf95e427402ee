//! Decides whether a client may come in, as soon as its address is known, and again once it has a route.
//!
//! In:  the terms of the listener, or the route; the client's address, unless a PROXY header hides it.
//! Out: nothing, or why the client is turned away.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::client_hello::ClientHello;
use crate::proxy_header::{Command, Header};
use crate::refuse::{self, Offer, Refusal, TurnedAway};
use crate::settings::Denied;
use crate::snapshot::{ListenerTerms, Route};
use crate::telemetry::Reason;

/// Why a client may not come in.
#[derive(Debug)]
pub(crate) enum NotAdmitted {
    Denied(Denied),
    /// The listener has as many connections as it may have.
    Full,
}

impl NotAdmitted {
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Denied(_) => Reason::Denied,
            Self::Full => Reason::LimitListener,
        }
    }
}

/// Decides for a listener. Where clients send a PROXY header first, call it once that was read.
///
/// # Errors
/// [`NotAdmitted`]: the client is to be reset.
pub(crate) fn by_listener(terms: &ListenerTerms, client: Option<IpAddr>) -> Result<(), NotAdmitted> {
    terms.access.as_ref().map_or(Ok(()), |access| access.decide(client)).map_err(NotAdmitted::Denied)
}

/// Decides for a route.
///
/// # Errors
/// [`NotAdmitted`]: the client is to be turned away as [`turned_away`] says.
pub(super) fn by_route(route: &Route, client: Option<IpAddr>) -> Result<(), NotAdmitted> {
    route.access.as_ref().map_or(Ok(()), |access| access.decide(client)).map_err(NotAdmitted::Denied)
}

/// How a client is turned away that has sent a hello.
pub(super) fn turned_away(not_admitted: &NotAdmitted, hello: Option<&ClientHello>) -> TurnedAway {
    match (not_admitted, hello) {
        (NotAdmitted::Denied(_), Some(hello)) => refuse::denied(Offer::of(hello)),
        _ => TurnedAway { reason: not_admitted.reason(), refusal: Refusal::Reset },
    }
}

/// The address of `client`. A client whose address the proxy did not pass on has none: the proxy's own must not stand for
/// it.
pub(super) fn address(client: SocketAddr, header: Option<&Header>) -> Option<IpAddr> {
    let is_known = header.is_none_or(|header| header.addresses.is_some() || header.command == Command::Local);
    is_known.then(|| client.ip().to_canonical())
}

impl fmt::Display for NotAdmitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(denied) => denied.fmt(f),
            Self::Full => f.write_str("the listener has `max_connections` open"),
        }
    }
}

impl std::error::Error for NotAdmitted {}
