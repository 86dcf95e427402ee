//! The table of endpoints.
//!
//! In:  the types of their queries and answers.
//! Out: [`Endpoint`]s in the order of the document. A test compares them with the router.

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

use crate::operate::admin::api::{ConnectionsQuery, ExplainQuery};
use crate::operate::admin::events::EventsQuery;
use crate::operate::admin::reports::{HistoryQuery, NoQuery, RoutesQuery, StatusQuery};
use crate::operate::status::{
    ChangedBackends, ConnectionsPage, Ended, History, RefusalsReport, ReloadAnswer, RoutesPage, Status,
};

/// One method of one path.
pub(super) struct Endpoint {
    pub method: &'static str,
    pub path: &'static str,
    pub summary: &'static str,
    pub query: Schema,
    /// Parameters of the query that this method does not take.
    pub without: &'static [&'static str],
    pub answer: Answer,
    /// The statuses of its errors, besides those that every endpoint has.
    pub errors: &'static [u16],
}

pub(super) type Schema = fn(&mut SchemaGenerator) -> Value;

pub(super) enum Answer {
    Json(Schema),
    Text(&'static str),
    /// One of several media types, as the client accepts it.
    Texts(&'static [&'static str]),
}

pub(super) fn endpoints() -> impl Iterator<Item = Endpoint> {
    texts().into_iter().chain(reports()).chain(connections()).chain(changes())
}

/// For people, Prometheus and supervisors.
fn texts() -> [Endpoint; 5] {
    let text = |path, kind, summary| get(path, summary, of::<NoQuery>, Answer::Text(kind));
    let metrics = Answer::Texts(&["text/plain", "application/openmetrics-text"]);
    [
        text("/", "text/html", "The status page"),
        text("/sections", "text/html", "What has changed on the status page; for its script"),
        get("/metrics", "Metrics for Prometheus", of::<NoQuery>, metrics),
        text("/healthz", "text/plain", "Whether the process is running"),
        text("/readyz", "text/plain", "Whether new connections should be sent here").fails(&[503]),
    ]
}

/// What programs read.
fn reports() -> [Endpoint; 8] {
    let json = |path, summary, query, answer| get(path, summary, query, Answer::Json(answer));
    let stream = Answer::Text("text/event-stream");
    [
        json("/api/v1/status", "What is wrong, and the state of everything", of::<StatusQuery>, of::<Status>),
        json("/api/v1/routes", "A page of the routes", of::<RoutesQuery>, of::<RoutesPage>),
        json("/api/v1/history", "Figures of the last fifteen minutes", of::<HistoryQuery>, of::<History>),
        json("/api/v1/refusals", "The latest clients that were refused", of::<NoQuery>, of::<RefusalsReport>),
        get("/api/v1/events", "What happens, as server-sent events", of::<EventsQuery>, stream).fails(&[400, 503]),
        json("/api/v1/explain", "Which route matches a name, and why", of::<ExplainQuery>, any_object)
            .fails(&[400, 404]),
        json("/api/v1/config", "The configuration in force", of::<NoQuery>, any_object),
        json("/api/v1/openapi.json", "This document", of::<NoQuery>, any_object),
    ]
}

fn connections() -> [Endpoint; 3] {
    const PATH: &str = "/api/v1/connections";
    let list = Answer::Json(of::<ConnectionsPage>);
    let end = |path, summary| change("delete", path, summary, of::<Ended>);
    [
        get(PATH, "Lists connections", of::<ConnectionsQuery>, list).without(&["all"]),
        Endpoint {
            query: of::<ConnectionsQuery>,
            ..end(PATH, "Ends the connections that match, or all").fails(&[400])
        }
        .without(&["sort", "offset", "limit", "after"]),
        end("/api/v1/connections/{id}", "Ends a connection").fails(&[400, 404]),
    ]
}

fn changes() -> [Endpoint; 4] {
    const STATE: &str = "/api/v1/pools/{pool}/backends/{backend}/state";
    const WEIGHT: &str = "/api/v1/pools/{pool}/backends/{backend}/weight";
    let backends = |method, path, summary| change(method, path, summary, of::<ChangedBackends>);
    [
        change("post", "/api/v1/reload", "Reloads the configuration", of::<ReloadAnswer>).fails(&[503]),
        backends("put", STATE, "Takes a backend out of service, or puts it back").fails(&[400, 404, 413]),
        backends("put", WEIGHT, "Sets the weight of a backend").fails(&[400, 404, 413]),
        backends("delete", WEIGHT, "Restores the weight of the configuration").fails(&[404]),
    ]
}

fn get(path: &'static str, summary: &'static str, query: Schema, answer: Answer) -> Endpoint {
    Endpoint { method: "get", path, summary, query, without: &[], answer, errors: &[400] }
}

fn change(method: &'static str, path: &'static str, summary: &'static str, answer: Schema) -> Endpoint {
    Endpoint { method, path, summary, query: of::<NoQuery>, without: &[], answer: Answer::Json(answer), errors: &[] }
}

impl Endpoint {
    fn fails(self, errors: &'static [u16]) -> Self {
        Self { errors, ..self }
    }

    fn without(self, without: &'static [&'static str]) -> Self {
        Self { without, ..self }
    }
}

/// The schema of `T`; one that has a name is a reference.
pub(super) fn of<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Value {
    schemas.subschema_for::<T>().to_value()
}

fn any_object(_: &mut SchemaGenerator) -> Value {
    json!({ "type": "object" })
}
