//! Implements the admin API.
//!
//! In:  calls of [`Control`].
//! Out: JSON answers from the state in force; reloads.

use std::panic::resume_unwind;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::pools;
use crate::backends::discovery::Discovery;
use crate::ids::ConnectionId;
use crate::operate::admin::{
    Access, Allow, ConnectionsQuery, Control, ExplainQuery, HistoryQuery, Reloaded, RoutesQuery, Soon, WantedState,
};
use crate::operate::events::Events;
use crate::operate::explain::{BadQuestion, Explanation, Question, explain};
use crate::operate::registry::{Filter, Order, Page, Registries, Row};
use crate::operate::status::{
    ChangedBackends, ConnectionStatus, ConnectionsPage, History, RefusalsReport, ReloadAnswer, RoutesPage, Status,
};
use crate::process::reload::{Asker, Outcome, problem_of};
use crate::process::reporter::{FoundBySources, Reporter};
use crate::route::NameForm;
use crate::settings::AllowControl;
use crate::snapshot::Snapshot;
use crate::sources::docker::Containers;
use crate::sources::kubernetes::ClusterFollower;
use crate::telemetry::{Reason, ReloadResult, Trigger};

/// The parts of the process that the admin API uses.
pub(super) struct Controls {
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) discovery: Discovery,
    pub(super) containers: Containers,
    pub(super) cluster: ClusterFollower,
    pub(super) reloads: Asker,
    pub(super) registries: Registries,
    pub(super) reporter: Arc<Reporter>,
}

impl Control for Controls {
    fn access(&self) -> Access {
        let snapshot = self.snapshot.load();
        let allow = match snapshot.config.admin.allow_control {
            AllowControl::Auto => Allow::Auto,
            AllowControl::Token => Allow::Token,
            AllowControl::Never => Allow::Never,
        };
        Access { allow, token: snapshot.config.token.as_ref().map(|token| Arc::clone(token.secret())) }
    }

    fn explain(&self, query: ExplainQuery) -> Result<Explanation, BadQuestion> {
        let ExplainQuery { name, alpn, source, listener, ech } = query;
        let alpn = alpn.unwrap_or_default().split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let form = if ech == Some(true) { NameForm::Encrypted } else { NameForm::Clear };
        let question = Question { name, alpn, source, listener, form };
        explain(&self.snapshot.load(), &question)
    }

    fn status(&self, most_backends: usize) -> Status {
        let found = FoundBySources {
            names: self.discovery.status(),
            docker: self.containers.status(),
            kubernetes: self.cluster.status(),
        };
        self.reporter.status(found, most_backends)
    }

    fn routes(&self, query: &RoutesQuery) -> RoutesPage {
        self.reporter.routes(query)
    }

    fn history(&self, query: &HistoryQuery) -> History {
        self.reporter.history(query)
    }

    fn refusals(&self) -> RefusalsReport {
        self.reporter.refusals()
    }

    fn events(&self) -> &Arc<Events> {
        self.reporter.events()
    }

    fn set_backend_state(&self, pool: &str, backend: &str, wanted: WantedState) -> Result<ChangedBackends, String> {
        pools::set_state(&self.snapshot.load(), pool, backend, wanted)
    }

    fn set_backend_weight(&self, pool: &str, backend: &str, weight: Option<u32>) -> Result<ChangedBackends, String> {
        pools::set_weight(&self.snapshot.load(), pool, backend, weight)
    }

    fn reload(&self) -> Soon<'_, Reloaded> {
        Box::pin(async {
            match self.reloads.outcome(Trigger::Api).await {
                None => Reloaded::Ending,
                Some(outcome) if outcome.result == ReloadResult::Rejected => Reloaded::Rejected(reported(&outcome)),
                Some(outcome) => Reloaded::InForce(reported(&outcome)),
            }
        })
    }

    fn config(&self) -> Soon<'_, Option<String>> {
        let snapshot = self.snapshot.load_full();
        Box::pin(async move {
            match tokio::task::spawn_blocking(move || snapshot.effective().to_text()).await {
                Ok(text) => Some(text),
                Err(error) => match error.try_into_panic() {
                    // Ends the client's connection, and is counted there.
                    Ok(panic) => resume_unwind(panic),
                    Err(_) => None,
                },
            }
        })
    }

    fn connections(&self, query: ConnectionsQuery, limit: usize) -> Soon<'_, ConnectionsPage> {
        Box::pin(async move {
            let (order, offset) = (query.sort, query.offset);
            if order != Order::Id || offset > 0 {
                let Page { rows, matching } = self.registries.list_in_order(&filter(query), order, offset, limit).await;
                return ConnectionsPage { connections: rows.iter().map(row).collect(), matching, next: None, offset };
            }
            let after = query.after.unwrap_or_default();
            let Page { rows, matching } = self.registries.list(&filter(query), after, limit).await;
            // A full page is followed by another, possibly empty.
            let next = rows.last().filter(|_| rows.len() == limit).map(|row| row.id.to_string());
            ConnectionsPage { connections: rows.iter().map(row).collect(), matching, next, offset: 0 }
        })
    }

    fn end_connections(&self, query: ConnectionsQuery) -> Soon<'_, usize> {
        Box::pin(self.end(filter(query)))
    }

    fn end_connection(&self, id: ConnectionId) -> Soon<'_, usize> {
        Box::pin(self.end(Filter { id: Some(id), ..Filter::default() }))
    }
}

impl Controls {
    async fn end(&self, filter: Filter) -> usize {
        let ended = self.registries.end(&filter, Reason::Killed).await;
        let Filter { id, listener, route, pool, backend, client, name, part } = filter;
        if ended > 0 {
            tracing::info!(
                event = "connections_killed",
                ended,
                id = id.map(display),
                listener,
                route,
                pool,
                backend,
                client = client.map(display),
                name,
                part,
                "operator ended connections"
            );
        }
        ended
    }
}

fn filter(query: ConnectionsQuery) -> Filter {
    let ConnectionsQuery { listener, route, pool, backend, client, name, q, .. } = query;
    // Names on the wire are in lower case.
    let [name, part] = [name, q].map(|text| text.map(|text| text.to_ascii_lowercase()));
    Filter { id: None, listener, route, pool, backend, client, name, part }
}

fn row(row: &Row) -> ConnectionStatus {
    let text = |text: &Arc<str>| text.to_string();
    ConnectionStatus {
        id: row.id.to_string(),
        client: row.client.to_string(),
        peer: row.peer.to_string(),
        listener: row.listener.to_string(),
        sni: row.sni.as_deref().map(str::to_owned),
        route: row.route.as_ref().map(text),
        pool: row.pool.as_ref().map(text),
        backend: row.backend.as_ref().map(text),
        state: row.state.as_str().into(),
        age_ms: u64::try_from(row.age.as_millis()).unwrap_or(u64::MAX),
        bytes_to_backend: row.bytes_to_backend,
        bytes_to_client: row.bytes_to_client,
    }
}

fn reported(outcome: &Outcome) -> ReloadAnswer {
    let Outcome { result, hash, took, why, problems } = outcome;
    ReloadAnswer {
        result: result.as_str().into(),
        hash: hash.clone(),
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        problems: problems.iter().map(|problem| problem_of(problem, None)).collect(),
        error: why.clone(),
        problems_left_off: problems.left_off(),
    }
}
