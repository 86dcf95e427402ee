//! The JSON API under `/api/v1`.
//!
//! In:  the app.
//! Out: which route matches a name; the result of a reload; open connections.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::error::{bad_parameter, bad_query, error};
use super::reports::{LARGEST_PAGE, NoQuery, USUAL_PAGE, bad_limit};
use super::{App, Reloaded, WantedState, with_json};
use crate::ids::ConnectionId;
use crate::operate::status::{ChangedBackends, Ended};
use crate::settings::MAX_WEIGHT;

/// The query of `/api/v1/explain`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExplainQuery {
    pub name: String,
    /// Protocols that the client would offer, comma-separated.
    pub alpn: Option<String>,
    pub source: Option<IpAddr>,
    pub listener: Option<String>,
}

pub(super) async fn explain(
    State(app): State<Arc<App>>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Response {
    let query = match query {
        Ok(Query(query)) => query,
        Err(rejection) => return bad_query(&rejection),
    };
    // It may read files of networks.
    super::aside(move || match app.control.explain(query) {
        Ok(value) => with_json(StatusCode::OK, value),
        Err(problem) => error(StatusCode::BAD_REQUEST, &problem),
    })
    .await
}

/// The body is the plain state, as in `curl -X PUT -d drain …`, or `{"state": "drain"}`.
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
    changed(app.control.set_backend_state(&pool, &backend, wanted))
}

/// The body is the plain number, or `{"weight": 5}`.
pub(super) async fn set_backend_weight(
    State(app): State<Arc<App>>,
    Path((pool, backend)): Path<(String, String)>,
    body: String,
) -> Response {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        weight: u32,
    }
    let weight = match body.trim() {
        map if map.starts_with('{') => serde_json::from_str(map).map(|Body { weight }| weight).ok(),
        number => number.parse().ok(),
    };
    let Some(weight) = weight.filter(|weight| *weight <= MAX_WEIGHT) else {
        let problem =
            format!("the body must be a weight from 0 to {MAX_WEIGHT}; DELETE restores that of the configuration");
        return error(StatusCode::BAD_REQUEST, &problem);
    };
    changed(app.control.set_backend_weight(&pool, &backend, Some(weight)))
}

/// The weight of the configuration applies again.
pub(super) async fn reset_backend_weight(
    State(app): State<Arc<App>>,
    Path((pool, backend)): Path<(String, String)>,
) -> Response {
    changed(app.control.set_backend_weight(&pool, &backend, None))
}

fn changed(backends: Result<ChangedBackends, String>) -> Response {
    match backends {
        Ok(value) => with_json(StatusCode::OK, value),
        Err(problem) => error(StatusCode::NOT_FOUND, &problem),
    }
}

pub(super) async fn config(State(app): State<Arc<App>>, query: Result<Query<NoQuery>, QueryRejection>) -> Response {
    if let Err(rejection) = query {
        return bad_query(&rejection);
    }
    match app.control.config().await {
        Some(text) => (JSON, text).into_response(),
        None => error(StatusCode::INTERNAL_SERVER_ERROR, "the configuration could not be written"),
    }
}

pub(super) async fn reload(State(app): State<Arc<App>>) -> Response {
    match app.control.reload().await {
        Reloaded::InForce(value) => with_json(StatusCode::OK, value),
        Reloaded::Rejected(value) => with_json(StatusCode::UNPROCESSABLE_ENTITY, value),
        Reloaded::Ending => error(StatusCode::SERVICE_UNAVAILABLE, "snigate is stopping and no longer reloads"),
    }
}

/// Filter of `/api/v1/connections`. A connection must match every field that is set.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConnectionsQuery {
    pub listener: Option<String>,
    pub route: Option<String>,
    pub pool: Option<String>,
    pub backend: Option<String>,
    /// A network, or a single address.
    #[serde(deserialize_with = "network")]
    #[schemars(with = "Option<String>")]
    pub client: Option<IpNet>,
    /// The name that the client asked for.
    pub name: Option<String>,
    /// GET: part of the name, the client's address, the route, the pool or the backend.
    pub q: Option<String>,
    /// GET
    pub sort: ConnectionOrder,
    /// GET: how many to skip, at most 100000.
    pub offset: usize,
    /// GET: page size.
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<usize>,
    /// GET: return ids greater than this.
    #[serde(deserialize_with = "id")]
    #[schemars(with = "Option<String>")]
    pub after: Option<ConnectionId>,
    /// DELETE: required to end every connection.
    pub all: bool,
}

/// The order of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ConnectionOrder {
    #[default]
    Id,
    /// Oldest first.
    Age,
    /// Most bytes in both directions first.
    Bytes,
    Client,
    Name,
    Backend,
}

pub(super) async fn connections(
    State(app): State<Arc<App>>,
    query: Result<Query<ConnectionsQuery>, QueryRejection>,
) -> Response {
    let query = match query {
        Err(rejection) => return bad_query(&rejection),
        Ok(Query(query)) if query.all => return bad_parameter("all", "`all` is for DELETE"),
        Ok(Query(query)) => query,
    };
    let limit = query.limit.unwrap_or(USUAL_PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return bad_limit();
    }
    if query.offset > LARGEST_OFFSET {
        return bad_parameter("offset", &format!("`offset` is at most {LARGEST_OFFSET}: search for what you need"));
    }
    if query.after.is_some() && (query.sort != ConnectionOrder::Id || query.offset > 0) {
        return bad_parameter(
            "after",
            "`after` goes on in the order of ids: with `sort` or `offset`, use `offset` alone",
        );
    }
    with_json(StatusCode::OK, app.control.connections(query, limit).await)
}

pub(super) async fn end_connections(
    State(app): State<Arc<App>>,
    query: Result<Query<ConnectionsQuery>, QueryRejection>,
) -> Response {
    let query = match query {
        Ok(Query(query)) => query,
        Err(rejection) => return bad_query(&rejection),
    };
    let ConnectionsQuery { limit: None, after: None, q: None, sort: ConnectionOrder::Id, offset: 0, all, .. } = query
    else {
        return error(StatusCode::BAD_REQUEST, "`q`, `sort`, `offset`, `limit` and `after` are for GET");
    };
    let given = ConnectionsQuery { all: false, ..query };
    if all != (given == ConnectionsQuery::default()) {
        return error(StatusCode::BAD_REQUEST, "give a filter, or `all=true` alone to end every connection");
    }
    let ended = app.control.end_connections(given).await;
    with_json(StatusCode::OK, Ended { ended })
}

pub(super) async fn end_connection(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse() else {
        return error(StatusCode::BAD_REQUEST, NO_ID);
    };
    match app.control.end_connection(id).await {
        0 => error(StatusCode::NOT_FOUND, "there is no open connection with this id"),
        ended => with_json(StatusCode::OK, Ended { ended }),
    }
}

fn network<'de, D: Deserializer<'de>>(from: D) -> Result<Option<IpNet>, D::Error> {
    let text = String::deserialize(from)?;
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| ip.to_canonical().into()));
    network.map(Some).map_err(|_| serde::de::Error::custom("`client` is an address, or a network as `10.0.0.0/8`"))
}

fn id<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ConnectionId>, D::Error> {
    String::deserialize(from)?.parse().map(Some).map_err(|_| serde::de::Error::custom(NO_ID))
}

const JSON: [(HeaderName, HeaderValue); 2] = [
    (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];
/// Each worker ranks that many.
const LARGEST_OFFSET: usize = 100_000;
const NO_ID: &str = "an id is hexadecimal, as in the log: `000000000000002a`";
