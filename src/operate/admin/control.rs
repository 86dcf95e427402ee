//! What the admin API reads and changes in the rest of the process, as a trait, so that it does not depend on it.
//!
//! To add a call: a method here; a handler in `api` that calls [`App::control`](super::App::control); its route in
//! `router`. Requests other than GET pass `access` first, so a handler does not check permissions. The shapes of
//! what it reports are in [`status`](crate::operate::status).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::Deserialize;

use super::access::Access;
use super::api::{ConnectionsQuery, ExplainQuery};
use super::reports::{HistoryQuery, RoutesQuery};
use crate::ids::ConnectionId;
use crate::operate::events::Events;
use crate::operate::explain::{BadQuestion, Explanation};
use crate::operate::status::{
    ChangedBackends, ConnectionsPage, History, RefusalsReport, ReloadAnswer, RoutesPage, Status,
};

/// The process behind the admin address.
pub(crate) trait Control: Send + Sync {
    /// Who may change state, as configured now.
    fn access(&self) -> Access;

    /// Which route matches a name.
    ///
    /// # Errors
    /// Why the query is invalid.
    fn explain(&self, query: ExplainQuery) -> Result<Explanation, BadQuestion>;

    /// The state of the process, with at most `most_backends` backends in all pools together. May take long.
    fn status(&self, most_backends: usize) -> Status;

    /// A page of the routes. May take long.
    fn routes(&self, query: &RoutesQuery) -> RoutesPage;

    /// The figures of the last fifteen minutes.
    fn history(&self, query: &HistoryQuery) -> History;

    /// The latest clients that were turned away.
    fn refusals(&self) -> RefusalsReport;

    /// What happens.
    fn events(&self) -> &Arc<Events>;

    /// Sets the administrative state of a backend, by its name or address.
    ///
    /// # Errors
    /// The backend does not exist.
    fn set_backend_state(&self, pool: &str, backend: &str, wanted: WantedState) -> Result<ChangedBackends, String>;

    /// Sets the weight of a backend, by its name or address; `None`: that of the configuration.
    ///
    /// # Errors
    /// The backend does not exist.
    fn set_backend_weight(&self, pool: &str, backend: &str, weight: Option<u32>) -> Result<ChangedBackends, String>;

    /// Reloads the configuration and waits for the result.
    fn reload(&self) -> Soon<'_, Reloaded>;

    /// The configuration in force as a routing file in JSON; `None` if it could not be written.
    fn config(&self) -> Soon<'_, Option<String>>;

    /// The first `limit` connections that match.
    fn connections(&self, query: ConnectionsQuery, limit: usize) -> Soon<'_, ConnectionsPage>;

    /// Ends the connections that match; returns the number ended.
    fn end_connections(&self, query: ConnectionsQuery) -> Soon<'_, usize>;

    /// Ends the connection with this id, if it exists; returns the number ended.
    fn end_connection(&self, id: ConnectionId) -> Soon<'_, usize>;
}

/// The result of [`Control::reload`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reloaded {
    /// The configuration is in force, newly or already before.
    InForce(ReloadAnswer),
    /// The configuration was rejected.
    Rejected(ReloadAnswer),
    /// The process is shutting down and no longer reloads.
    Ending,
}

/// The administrative state of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WantedState {
    Ready,
    /// No new connections; open ones continue.
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

/// A boxed future.
pub(crate) type Soon<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
