//! Answers programs in JSON, under `/api/v1`.
//!
//! In:  the app.
//! Out: its status; which route takes a name; what a reload came to.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::{App, Reloaded, Stage, WantedState, error, with_json};
use crate::telemetry::{REVISION, Timestamp, VERSION};

pub(super) async fn status(State(app): State<Arc<App>>) -> Response {
    let reload = app.metrics.last_reload();
    let stage = app.ready.stage();
    let value = json!({
        "version": VERSION,
        "revision": REVISION,
        "uptime_s": app.metrics.uptime().as_secs(),
        "ready": stage == Stage::Ready,
        "stage": stage.as_str(),
        "config": { "hash": reload.as_ref().map(|reload| &reload.hash) },
        "last_reload": reload.as_ref().map(|reload| json!({
            "result": reload.result.as_str(),
            "trigger": reload.trigger.as_str(),
            "at": Timestamp(reload.at).to_string(),
        })),
        "pools": app.control.pools(),
    });
    with_json(StatusCode::OK, value)
}

/// What `/api/v1/explain` is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    pub name: String,
    /// Protocols that the client would offer, separated by commas.
    pub alpn: Option<String>,
    pub source: Option<IpAddr>,
    pub listener: Option<String>,
}

pub(super) async fn explain(
    State(app): State<Arc<App>>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Response {
    let answer = query.map_err(|rejection| rejection.body_text()).and_then(|Query(query)| app.control.explain(query));
    match answer {
        Ok(value) => with_json(StatusCode::OK, value),
        Err(problem) => error(StatusCode::BAD_REQUEST, &problem),
    }
}

/// The body is the state alone, as in `curl -X PUT -d drain …`, or `{"state": "drain"}`.
pub(super) async fn set_backend_state(
    State(app): State<Arc<App>>,
    Path((pool, backend)): Path<(String, String)>,
    body: String,
) -> Response {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        state: WantedState,
    }
    let wanted = match body.trim() {
        map if map.starts_with('{') => serde_json::from_str(map).map(|Body { state }| state),
        word => serde_json::from_value(word.into()),
    };
    let Ok(wanted) = wanted else {
        return error(StatusCode::BAD_REQUEST, "the body must be `ready`, `drain` or `down`");
    };
    match app.control.set_backend_state(&pool, &backend, wanted) {
        Ok(value) => with_json(StatusCode::OK, value),
        Err(problem) => error(StatusCode::NOT_FOUND, &problem),
    }
}

pub(super) async fn reload(State(app): State<Arc<App>>) -> Response {
    match app.control.reload().await {
        Reloaded::InForce(value) => with_json(StatusCode::OK, value),
        Reloaded::Rejected(value) => with_json(StatusCode::UNPROCESSABLE_ENTITY, value),
        Reloaded::Ending => error(StatusCode::SERVICE_UNAVAILABLE, "snigate is ending, and reloads no more"),
    }
}
