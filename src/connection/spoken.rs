//! What a client said first: a hello, a request, or nothing that could be read.
//!
//! In:  the hello or the head of the request, as the path reads them.
//! Out: the name that the client asked for, and the features of its hello that have a metric.

use std::time::Duration;

use crate::client_hello::{ClientHello, Session};
use crate::request_head::RequestHead;
use crate::telemetry::Feature;

/// What the client sent first.
pub(super) enum Spoken {
    /// Nothing that could be read.
    Nothing,
    Hello(Greeting),
    /// On a listener that speaks HTTP.
    Request(Box<Request>),
}

impl Spoken {
    pub(super) fn greeting(&self) -> Option<&Greeting> {
        if let Self::Hello(greeting) = self { Some(greeting) } else { None }
    }

    pub(super) fn request(&self) -> Option<&Request> {
        if let Self::Request(request) = self { Some(request) } else { None }
    }

    pub(super) fn request_mut(&mut self) -> &mut Request {
        if self.request().is_none() {
            *self = Self::Request(Box::default());
        }
        match self {
            Self::Request(request) => request,
            Self::Nothing | Self::Hello(_) => unreachable!("it was just set"),
        }
    }

    /// The name that the client asked for.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Nothing => None,
            Self::Hello(greeting) => greeting.hello.name(),
            Self::Request(request) => request.head.as_ref()?.name(),
        }
    }
}

/// The client's hello.
pub(super) struct Greeting {
    pub(super) hello: ClientHello,
    /// Since the connection was accepted.
    pub(super) after: Duration,
}

/// The client's request.
#[derive(Default)]
pub(super) struct Request {
    /// `None`: it is malformed.
    pub(super) head: Option<RequestHead>,
    /// Of the answer, if it does not come from a backend.
    pub(super) status: Option<u16>,
    /// It fetches a challenge at another port of a backend, about whose own port this says nothing. No other request
    /// may follow.
    pub(super) is_challenge: bool,
}

/// The features of a hello that have a metric.
pub(super) fn features(hello: &ClientHello) -> impl Iterator<Item = Feature> {
    let offers = &hello.offers;
    let asked = [
        (offers.tls13(), Feature::Tls13),
        (offers.version_name() == "1.2", Feature::Tls12Only),
        (offers.x25519mlkem768, Feature::X25519MlKem768),
        (offers.ech, Feature::Ech),
        (offers.h2, Feature::H2),
        (offers.http11, Feature::Http11),
        (offers.acme_tls, Feature::AcmeTls),
        (offers.session >= Session::Resumed, Feature::Resumption),
        (offers.session == Session::EarlyData, Feature::EarlyData),
    ];
    asked.into_iter().filter_map(|(offered, feature)| offered.then_some(feature))
}
