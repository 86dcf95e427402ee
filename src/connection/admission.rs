//! Decides whether a client may come in, as soon as its address is known, and again once it has a route.
//!
//! In:  the terms of the listener, or the route; the client's address, unless a PROXY header hides it.
//! Out: its place under the limits per client, if there are any; or why the client is turned away.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use tokio::time::Instant;

use crate::client_hello::ClientHello;
use crate::client_limits::{ClientLimits, Entered, Exceeded, Over, Place};
use crate::proxy_header::{Command, Header};
use crate::refuse::{self, Offer, Refusal, TurnedAway};
use crate::settings::{Access, Denied};
use crate::snapshot::{ListenerTerms, Route, Terms};
use crate::telemetry::{Enforced, LimitScope, Reason, RouteMetrics};

/// A client that wants to come in.
pub(crate) struct Newcomer<'a> {
    /// Its address, canonical; that of the proxy, if the PROXY header has none.
    pub client: SocketAddr,
    pub known: Known,
    pub at: Instant,
    pub terms: &'a Terms,
}

/// Whether a client's address is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Yes,
    /// It is that of a proxy, which did not pass the client's on.
    No,
}

/// Why a client may not come in.
#[derive(Debug)]
pub(crate) enum NotAdmitted {
    Denied(Denied),
    Client(Over),
    /// The listener has as many connections as it may have.
    Full,
}

impl Newcomer<'_> {
    /// Decides for a listener. Where clients send a PROXY header first, call it once that was read.
    ///
    /// # Errors
    /// [`NotAdmitted`]: the client is to be reset.
    pub(crate) fn by_listener(&self, terms: &ListenerTerms) -> Result<Option<Place>, NotAdmitted> {
        self.decide(terms.access.as_deref(), terms.clients.as_deref(), ("listener", &terms.name), None)
    }

    /// Decides for a route, which counts with `metrics`.
    ///
    /// # Errors
    /// [`NotAdmitted`]: the client is to be turned away as [`turned_away`] says.
    pub(super) fn by_route(&self, route: &Route, metrics: &RouteMetrics) -> Result<Option<Place>, NotAdmitted> {
        self.decide(route.access.as_deref(), route.clients.as_deref(), ("route", &route.name), Some(metrics))
    }

    fn decide(
        &self,
        access: Option<&Access>,
        limits: Option<&ClientLimits>,
        of: (&str, &str),
        route: Option<&RouteMetrics>,
    ) -> Result<Option<Place>, NotAdmitted> {
        if let Some(access) = access {
            access.decide(self.address()).map_err(NotAdmitted::Denied)?;
        }
        let Some(limits) = limits else { return Ok(None) };
        match limits.enter(self.client.ip(), self.at) {
            Ok(Entered::Counted(place)) => Ok(Some(place)),
            Ok(Entered::NotEnforced(place, exceeded)) => {
                self.terms.metrics.limit_rejected(route, scope(exceeded), Enforced::No);
                self.terms.connection_log.over_limit(self.client, of, scope(exceeded));
                Ok(Some(place))
            }
            Ok(Entered::Exempt) => Ok(None),
            Ok(Entered::Untracked) => {
                self.terms.metrics.client_untracked();
                Ok(None)
            }
            Err(Over(exceeded)) => {
                self.terms.metrics.limit_rejected(route, scope(exceeded), Enforced::Yes);
                Err(NotAdmitted::Client(Over(exceeded)))
            }
        }
    }

    /// `None`: unknown. The proxy's own address must not stand for that of its client.
    pub(super) fn address(&self) -> Option<IpAddr> {
        (self.known == Known::Yes).then(|| self.client.ip())
    }
}

impl Known {
    pub(super) fn by(header: Option<&Header>) -> Self {
        match header {
            Some(header) if header.addresses.is_none() && header.command != Command::Local => Self::No,
            _ => Self::Yes,
        }
    }
}

impl NotAdmitted {
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Denied(_) => Reason::Denied,
            Self::Client(_) => Reason::LimitClient,
            Self::Full => Reason::LimitListener,
        }
    }
}

/// How a client is turned away that has sent a PROXY header or a hello.
pub(super) fn turned_away(not_admitted: &NotAdmitted, hello: Option<&ClientHello>) -> TurnedAway {
    match (not_admitted, hello) {
        (NotAdmitted::Denied(_), Some(hello)) => refuse::denied(Offer::of(hello)),
        _ => TurnedAway { reason: not_admitted.reason(), refusal: Refusal::Reset },
    }
}

fn scope(exceeded: Exceeded) -> LimitScope {
    match exceeded {
        Exceeded::Connections => LimitScope::ClientConnections,
        Exceeded::Rate => LimitScope::ClientRate,
    }
}

impl fmt::Display for NotAdmitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(denied) => denied.fmt(f),
            Self::Client(over) => over.fmt(f),
            Self::Full => f.write_str("the listener has `max_connections` open"),
        }
    }
}

impl std::error::Error for NotAdmitted {}
