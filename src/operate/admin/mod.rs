//! Answers operators and their tools over HTTP: metrics, probes, status.
//!
//! In:  requests on the admin address; the process, through [`Control`], and telemetry handles.
//! Out: text for Prometheus, JSON for programs, one page for people; state changes, for authorised clients.

mod accept;
mod access;
mod answers;
mod api;
mod clients;
mod control;
mod error;
mod events;
mod openapi;
mod page;
mod reports;
mod schemas;
mod serve;
pub(crate) mod sockets;

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get, post, put};
use axum::{Extension, Router};
use serde::Serialize;

pub(crate) use self::access::{Access, Allow, NEEDS_PROOF, Peer};
use self::answers::Answers;
pub(crate) use self::api::{ConnectionsQuery, ExplainQuery};
use self::clients::Clients;
pub(crate) use self::control::{Control, Reloaded, Soon, WantedState};
use self::error::error;
pub(crate) use self::reports::{HistoryQuery, RouteOrder, RouteUse, RoutesQuery};
use crate::limits::Pause;
use crate::telemetry::Metrics;

/// The data behind the admin pages.
pub(crate) struct App {
    pub metrics: Arc<Metrics>,
    pub ready: Readiness,
    pub control: Box<dyn Control>,
}

fn router(app: Arc<App>, clients: Arc<Clients>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/sections", get(page::changed))
        .layer(Extension(Arc::new(page::Live::new())))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(reports::status))
        .route("/api/v1/routes", get(reports::routes))
        .route("/api/v1/history", get(reports::history))
        .route("/api/v1/refusals", get(reports::refusals))
        .route("/api/v1/explain", get(api::explain))
        .route("/api/v1/openapi.json", get(openapi::document))
        .route("/api/v1/config", get(api::config))
        .route("/api/v1/reload", post(api::reload))
        .route("/api/v1/pools/{pool}/backends/{backend}/state", put(api::set_backend_state))
        .route(
            "/api/v1/pools/{pool}/backends/{backend}/weight",
            put(api::set_backend_weight).delete(api::reset_backend_weight),
        )
        .route("/api/v1/connections", get(api::connections).delete(api::end_connections))
        .route("/api/v1/connections/{id}", delete(api::end_connection))
        .fallback(async |uri: Uri| error(StatusCode::NOT_FOUND, &format!("no such page: {}", uri.path())))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::map_response(answers::errors_in_json))
        .layer(middleware::from_fn_with_state(Arc::new(Answers::new(clients)), answers::in_turn))
        // Has no end, so it takes no turn.
        .route("/api/v1/events", get(events::events))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), access::guard))
        // Probes: neither other clients nor access rules can block them.
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(async |method: Method| {
            error(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} is not supported here"))
        })
        .with_state(app)
}

async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let format = accept::format(&headers);
    aside(move || {
        let kind = [(header::CONTENT_TYPE, format.media_type()), (header::VARY, "accept")];
        (kind, app.metrics.render_as(format)).into_response()
    })
    .await
}

/// Makes an answer that may take long on a thread of its own.
async fn aside(make: impl FnOnce() -> Response + Send + 'static) -> Response {
    tokio::task::spawn_blocking(make).await.unwrap_or_else(|error| match error.try_into_panic() {
        // Ends the client's connection, and is counted there.
        Ok(panic) => resume_unwind(panic),
        Err(_) => self::error(StatusCode::INTERNAL_SERVER_ERROR, "the process is stopping"),
    })
}

/// Answers as long as the process is alive.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(app): State<Arc<App>>) -> Response {
    match app.ready.stage() {
        Stage::Ready => match app.ready.stuck() {
            None => "ready\n".into_response(),
            Some(stuck) => {
                let reason =
                    format!("{FULL}: limits.max_connections is reached, nobody accepted for {} s\n", stuck.as_secs());
                (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
            }
        },
        stage => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", stage.as_str())).into_response(),
    }
}

fn with_json(status: StatusCode, value: impl Serialize) -> Response {
    (status, NEVER_CACHED, Json(value)).into_response()
}

/// Whether new connections should be sent to this process. Clones share the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness {
    stage: Arc<AtomicU8>,
    pause: Arc<Pause>,
}

/// The lifecycle of the process, as `/readyz` reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    Starting,
    Ready,
    Draining,
}

impl Readiness {
    /// `pause`: that of the accept loops.
    pub(crate) fn new(pause: Arc<Pause>) -> Self {
        Self { stage: Arc::default(), pause }
    }

    /// How long nobody has been accepted because the limit is reached, if that is too long to be sent clients.
    pub(crate) fn stuck(&self) -> Option<Duration> {
        self.pause.is_stuck()
    }

    /// Since when accepting has paused at the global limit.
    pub(crate) fn paused_since(&self) -> Option<SystemTime> {
        self.pause.since().map(|(since, _)| since)
    }

    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            stage if stage == Stage::Ready as u8 => Stage::Ready,
            stage if stage == Stage::Draining as u8 => Stage::Draining,
            _ => Stage::Starting,
        }
    }
}

impl Stage {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// How the answer of `/readyz` begins at the limit of connections.
pub(crate) const FULL: &str = "full";
/// For a state, as plain text or in JSON.
const MAX_BODY_BYTES: usize = 4 << 10;
const NEVER_CACHED: [(HeaderName, HeaderValue); 1] = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];

#[cfg(test)]
mod tests;
