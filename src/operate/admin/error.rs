//! Error answers: problem details in JSON.
//!
//! In:  a status and a sentence, or a query that could not be read.
//! Out: `application/problem+json` with the status in words, the sentence, and the parameter that is to blame.
//! Source: RFC 9457. `error` repeats `detail` for clients that know only that.

use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

/// An error, RFC 9457 §3.1.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct ProblemDetails {
    /// Always `about:blank`: the status says what kind of error it is.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The status in words.
    pub title: &'static str,
    pub status: u16,
    /// What is wrong, and what helps.
    pub detail: String,
    /// The same as `detail`.
    pub error: String,
    /// The parameter of the query that is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
}

pub(super) fn error(status: StatusCode, message: &str) -> Response {
    answer(status, message, None)
}

/// The query is wrong because of `parameter`.
pub(super) fn bad_parameter(parameter: &str, message: &str) -> Response {
    answer(StatusCode::BAD_REQUEST, message, Some(parameter.to_owned()))
}

/// The query could not be read.
pub(super) fn bad_query(rejection: &QueryRejection) -> Response {
    let text = rejection.body_text();
    let text = text.strip_prefix(OF_AXUM).unwrap_or(&text);
    let to_blame = parameter(text);
    // "x: unknown field `x`" names it twice.
    let twice = to_blame.and_then(|name| text.strip_prefix(name)?.strip_prefix(": ")).filter(|rest| rest.contains('`'));
    answer(StatusCode::BAD_REQUEST, twice.unwrap_or(text), to_blame.map(str::to_owned))
}

fn answer(status: StatusCode, message: &str, parameter: Option<String>) -> Response {
    let problem = ProblemDetails {
        kind: "about:blank",
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        detail: message.to_owned(),
        error: message.to_owned(),
        parameter,
    };
    (status, HEADERS, serde_json::to_string(&problem).unwrap_or_default()).into_response()
}

/// The parameter that serde names: "unknown field `x`, expected …", "missing field `x`", or "x: invalid digit …".
fn parameter(text: &str) -> Option<&str> {
    let (before, after) = text.split_once(['`', ':'])?;
    match before.trim_end() {
        "unknown field" | "missing field" | "duplicate field" => after.split('`').next(),
        name if !name.is_empty() && !name.contains(' ') && !before.ends_with(' ') => Some(name),
        _ => None,
    }
}

const OF_AXUM: &str = "Failed to deserialize query string: ";
pub(super) const PROBLEM_JSON: &str = "application/problem+json";
const HEADERS: [(HeaderName, HeaderValue); 2] = [
    (header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON)),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_to_blame_is_found() {
        for (text, expected) in [
            ("unknown field `nme`, expected one of `name`, `alpn`", Some("nme")),
            ("missing field `name`", Some("name")),
            ("duplicate field `limit`", Some("limit")),
            ("limit: invalid digit found in string", Some("limit")),
            ("something else is wrong: really", None),
            ("`client` is an address", None),
        ] {
            assert_eq!(parameter(text), expected, "{text}");
        }
    }
}
