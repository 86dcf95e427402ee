//! The reports of the API: status, routes, history, refusals.
//!
//! In:  queries; the app.
//! Out: JSON, made on a thread of its own, since much of it may take long.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::{bad_parameter, bad_query};
use super::{App, aside, with_json};
use crate::operate::status::SeriesKind;

/// The query of `/api/v1/status`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StatusQuery {
    /// The most backends to report, of all pools together: first those that are not up. All if absent.
    #[schemars(range(max = 4_294_967_295_u32))]
    pub backends: Option<u32>,
}

pub(super) async fn status(State(app): State<Arc<App>>, query: Result<Query<StatusQuery>, QueryRejection>) -> Response {
    match query {
        Err(rejection) => bad_query(&rejection),
        Ok(Query(query)) => {
            report(move || app.control.status(query.backends.map_or(usize::MAX, |most| most as usize))).await
        }
    }
}

/// The query of `/api/v1/routes`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RoutesQuery {
    /// Part of the name, a pattern or the pool.
    pub q: Option<String>,
    pub sort: RouteOrder,
    pub state: RouteUse,
    /// How many to skip.
    #[schemars(range(max = 4_294_967_295_u32))]
    pub offset: u32,
    /// The most to report.
    #[schemars(range(min = 1, max = 1000))]
    pub limit: usize,
}

impl Default for RoutesQuery {
    fn default() -> Self {
        let (q, sort, state) = Default::default();
        Self { q, sort, state, offset: 0, limit: USUAL_PAGE }
    }
}

/// The order of routes. By figures, the largest come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RouteOrder {
    #[default]
    File,
    Name,
    Connections,
    PerSecond,
    Active,
    Errors,
}

/// Which routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RouteUse {
    #[default]
    All,
    /// Those that have had a connection since the start.
    Used,
    Unused,
}

pub(super) async fn routes(State(app): State<Arc<App>>, query: Result<Query<RoutesQuery>, QueryRejection>) -> Response {
    match query {
        Err(rejection) => bad_query(&rejection),
        Ok(Query(query)) if !(1..=LARGEST_PAGE).contains(&query.limit) => bad_limit(),
        Ok(Query(query)) => report(move || app.control.routes(&query)).await,
    }
}

pub(super) fn bad_limit() -> Response {
    bad_parameter("limit", &format!("`limit` is 1 to {LARGEST_PAGE}"))
}

/// The query of `/api/v1/history`. A series must match every field that is set.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HistoryQuery {
    pub kind: Option<SeriesKind>,
    pub name: Option<String>,
    /// Of a backend.
    pub pool: Option<String>,
}

pub(super) async fn history(
    State(app): State<Arc<App>>,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Response {
    match query {
        Err(rejection) => bad_query(&rejection),
        Ok(Query(query)) => report(move || app.control.history(&query)).await,
    }
}

pub(super) async fn refusals(State(app): State<Arc<App>>, query: Result<Query<NoQuery>, QueryRejection>) -> Response {
    match query {
        Err(rejection) => bad_query(&rejection),
        Ok(_) => report(move || app.control.refusals()).await,
    }
}

/// The query of a page without parameters: a filter that does not exist must not look like one that matched everything.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NoQuery {}

async fn report<T: Serialize>(make: impl FnOnce() -> T + Send + 'static) -> Response {
    aside(move || with_json(StatusCode::OK, make())).await
}

pub(super) const USUAL_PAGE: usize = 100;
pub(super) const LARGEST_PAGE: usize = 1000;
