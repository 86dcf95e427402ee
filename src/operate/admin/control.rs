//! What the admin address tells of and changes in the rest of the process, as a trait, so that it knows none of it.
//!
//! A new call: a method here; a handler in `api` that asks [`App::control`](super::App::control); its route in
//! `router`. Whatever is no GET passes `access` first, so that a handler need not ask who may. A new section of
//! `/api/v1/status`: a method here that gives its [`Value`], and a line in `api::status`.

use std::future::Future;
use std::pin::Pin;

use serde::Deserialize;
use serde_json::Value;

use super::access::Access;
use super::api::{ConnectionsQuery, ExplainQuery};

/// The process behind the admin address.
pub(crate) trait Control: Send + Sync {
    /// Who may change state, now.
    fn access(&self) -> Access;

    /// Which route takes a name.
    ///
    /// # Errors
    /// What is wrong with the question.
    fn explain(&self, query: ExplainQuery) -> Result<Value, String>;

    /// The pools with their backends and what is thought of them.
    fn pools(&self) -> Value;

    /// Changes what an operator wants of a backend, by its name or address.
    ///
    /// # Errors
    /// There is no such backend.
    fn set_backend_state(&self, pool: &str, backend: &str, wanted: WantedState) -> Result<Value, String>;

    /// The DNS names among the backends, and what they have.
    fn names(&self) -> Value;

    /// Reads the configuration again and waits for what comes of it.
    fn reload(&self) -> Soon<'_, Reloaded>;

    /// The configuration in force as a routing file in JSON; `None` if that could not be written.
    fn config(&self) -> Soon<'_, Option<String>>;

    /// The first `limit` connections that match.
    fn connections(&self, query: ConnectionsQuery, limit: usize) -> Soon<'_, Value>;

    /// Ends the connections that match; returns the number ended.
    fn end_connections(&self, query: ConnectionsQuery) -> Soon<'_, usize>;

    /// Ends the connection with this id, if there is one; how many that were.
    fn end_connection(&self, id: u64) -> Soon<'_, usize>;
}

/// What [`Control::reload`] came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reloaded {
    /// What was read is in force, now or already.
    InForce(Value),
    /// What was read cannot be used.
    Rejected(Value),
    /// Nothing reloads any more: the process ends.
    Ending,
}

/// What an operator may want of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WantedState {
    Ready,
    /// No new connections; those that are open run on.
    Drain,
    /// No new connections and no checks.
    Down,
}

impl WantedState {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Down => "down",
        }
    }
}

/// An answer that takes a while.
pub(crate) type Soon<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
