//! Describes the API in OpenAPI, for tools that make clients and tests from it.
//!
//! In:  `docs/openapi.json`.
//! Out: what `/api/v1/openapi.json` serves. A test compares it with the endpoints.
//! Source: OpenAPI 3.1.1, whose schemas are those of JSON Schema 2020-12.

#[cfg(test)]
mod describe;
#[cfg(test)]
mod endpoints;

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::App;
use super::error::bad_query;
use super::reports::NoQuery;

pub(super) async fn document(State(_): State<Arc<App>>, query: Result<Query<NoQuery>, QueryRejection>) -> Response {
    match query {
        Err(rejection) => bad_query(&rejection),
        Ok(_) => (JSON, include_str!("../../../docs/openapi.json")).into_response(),
    }
}

const JSON: [(HeaderName, HeaderValue); 2] = [
    (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];
