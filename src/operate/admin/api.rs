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
use super::{App, Reloaded, WantedState, schemas, with_json};
use crate::ids::ConnectionId;
use crate::operate::explain::BadQuestion;
use crate::operate::registry::Order;
use crate::operate::status::{ChangedBackends, Ended};
use crate::settings::MAX_WEIGHT;
use crate::telemetry::readable;

/// The query of `/api/v1/explain`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExplainQuery {
    pub name: String,
    /// Protocols that the client would offer, comma-separated.
    #[schemars(extend("pattern" = schemas::PROTOCOLS))]
    pub alpn: Option<String>,
    #[schemars(schema_with = "schemas::address")]
    pub source: Option<IpAddr>,
    pub listener: Option<String>,
    /// Whether the name is that of an inner hello (Encrypted ClientHello).
    pub ech: Option<bool>,
}

pub(super) async fn explain(
    State(app): State<Arc<App>>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Response {
    let query = match query {
        Ok(Query(query)) => query,
        Err(rejection) => return bad_query(&rejection),
    };
    if let Some(wrong) = query.alpn.as_deref().filter(|list| !list.is_empty()).and_then(wrong_protocol) {
        return bad_parameter("alpn", &wrong);
    }
    // It may read files of networks.
    super::aside(move || match app.control.explain(query) {
        Ok(explanation) => with_json(StatusCode::OK, explanation),
        Err(problem @ (BadQuestion::NoListener { .. } | BadQuestion::NoListenerAtAll)) => {
            error(StatusCode::NOT_FOUND, &problem.to_string())
        }
        Err(problem @ BadQuestion::Protocol { .. }) => error(StatusCode::BAD_REQUEST, &problem.to_string()),
    })
    .await
}

/// What is wrong with a list of protocols.
fn wrong_protocol(list: &str) -> Option<String> {
    let is_one =
        |protocol: &str| (1..=255).contains(&protocol.len()) && protocol.bytes().all(|byte| byte.is_ascii_graphic());
    let wrong = list.split(',').find(|protocol| !is_one(protocol))?;
    let wrong = readable(wrong, 40);
    Some(format!("`{wrong}` is not a protocol: write 1 to 255 visible ASCII characters, with commas between protocols"))
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
        /// 5.0 is an integer, too (JSON Schema 2020-12, section 6.1.1).
        weight: f64,
    }
    let weight = match body.trim() {
        map if map.starts_with('{') => serde_json::from_str(map).ok().and_then(|Body { weight }| whole(weight)),
        number => number.parse().ok(),
    };
    let Some(weight) = weight.filter(|weight| *weight <= MAX_WEIGHT) else {
        let problem =
            format!("the body must be a weight from 0 to {MAX_WEIGHT}; DELETE restores that of the configuration");
        return error(StatusCode::BAD_REQUEST, &problem);
    };
    changed(app.control.set_backend_weight(&pool, &backend, Some(weight)))
}

/// The number, if it is whole and fits.
fn whole(number: f64) -> Option<u32> {
    ((0.0..=f64::from(u32::MAX)).contains(&number) && number.fract() == 0.0).then_some(number as u32)
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
    #[schemars(schema_with = "schemas::network")]
    pub client: Option<IpNet>,
    /// The name that the client asked for.
    pub name: Option<String>,
    /// Part of the name, the client's address, the route, the pool or the backend.
    pub q: Option<String>,
    /// GET
    pub sort: Order,
    /// GET: how many to skip.
    #[schemars(range(max = 100_000))]
    pub offset: usize,
    /// GET: page size.
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<usize>,
    /// GET: return ids greater than this.
    #[serde(deserialize_with = "id")]
    #[schemars(with = "Option<String>", extend("pattern" = schemas::ID))]
    pub after: Option<ConnectionId>,
    /// DELETE: required to end every connection.
    pub all: bool,
}

impl ConnectionsQuery {
    /// A filter without a value, such as an empty `q`, which every connection matches.
    fn blank(&self) -> Option<&'static str> {
        let Self { listener, route, pool, backend, name, q, .. } = self;
        [("listener", listener), ("route", route), ("pool", pool), ("backend", backend), ("name", name), ("q", q)]
            .into_iter()
            .find_map(|(key, value)| value.as_ref().is_some_and(|value| value.trim().is_empty()).then_some(key))
    }
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
    if query.after.is_some() && (query.sort != Order::Id || query.offset > 0) {
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
    let ConnectionsQuery { limit: None, after: None, sort: Order::Id, offset: 0, all, .. } = query else {
        return error(StatusCode::BAD_REQUEST, "`sort`, `offset`, `limit` and `after` are for GET");
    };
    let given = ConnectionsQuery { all: false, ..query };
    if let Some(key) = given.blank() {
        return bad_parameter(
            key,
            &format!("`{key}` is empty: give it a value, or `all=true` alone to end every connection"),
        );
    }
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
