//! The settings of a listener that speaks HTTP in the clear.
//!
//! In:  nothing.
//! Out: [`ListenerProtocol`], [`AcmeChallenge`], [`Otherwise`], [`HttpPort`].

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::text::{Word, serde_as_word};
use super::word_or_pool::{WordOrPool, serde_as_word_or_pool};

/// What the clients of a listener speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListenerProtocol {
    /// TLS, which is routed by its server name and passed through.
    #[default]
    Tls,
    /// HTTP in the clear, of which one request is read.
    Http,
    /// Not supported yet.
    #[schemars(skip)]
    Quic,
}

/// What happens to requests below `/.well-known/acme-challenge/`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AcmeChallenge {
    /// The same as to any other request.
    Off,
    /// They go to the pool of their name, to each backend's `http_port`.
    #[default]
    Pool,
}

/// What happens to all other requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Otherwise {
    /// They are redirected to https, if their name has a route.
    #[default]
    Redirect,
    /// They are answered with 404.
    Refuse,
    /// They go to the pool of this name, to the port of each backend.
    Pool(Arc<str>),
}

impl WordOrPool for Otherwise {
    const DESCRIPTION: &'static str = "`redirect`, `refuse`, or the pool that all other requests go to.";
    const WORDS: &'static [(&'static str, Self)] = &[("redirect", Self::Redirect), ("refuse", Self::Refuse)];

    fn pool(name: Arc<str>) -> Self {
        Self::Pool(name)
    }

    fn name_of_pool(&self) -> Option<&str> {
        if let Self::Pool(name) = self { Some(name) } else { None }
    }
}

serde_as_word_or_pool!(Otherwise as "Otherwise");

/// The port on which the backends of a pool serve HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpPort(pub u16);

impl Default for HttpPort {
    fn default() -> Self {
        Self(80)
    }
}

impl Word for HttpPort {
    const EXPECTED: &'static str = u16::EXPECTED;
    const SCHEMA: &'static str = u16::SCHEMA;

    fn read(text: &str) -> Result<Self, String> {
        u16::read(text).map(Self)
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl fmt::Display for HttpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

serde_as_word!(HttpPort as "HttpPort");
