//! The status page: what is wrong first, then every figure that operators ask for; without scripts as plain tables,
//! with its script up to date.
//!
//! In:  the app; what the reader searches for.
//! Out: HTML, in which every value is escaped. The script asks for the sections that have changed each time
//!      `/api/v1/events` reports something, so there is one template for the first answer and for all later ones.

mod backends;
mod compress;
mod containers;
mod data;
pub(crate) mod escape;
mod format;
mod kubernetes;
mod live;
mod names;
mod query;
mod sections;
mod shell;
mod sparkline;
mod tone;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

pub(super) use self::compress::Encoding;
use self::data::Data;
pub(super) use self::live::Live;
use self::live::Rendering;
use self::query::PageQuery;
use self::sections::{CONNECTIONS, ROUTES};
use self::shell::MayChange;
use super::{Allow, App, ConnectionsQuery, ExplainQuery, HistoryQuery, RouteOrder, RoutesQuery, aside};
use crate::operate::explain;
use crate::operate::status::{ConnectionsPage, SeriesKind};

/// The whole page, always as it is now.
pub(super) async fn page(
    State(app): State<Arc<App>>,
    Extension(live): Extension<Arc<Live>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = PageQuery::parse(query.as_deref().unwrap_or_default());
    let encoding = Encoding::of(&headers);
    let connections = connections(&app, &query).await;
    aside(move || {
        let may_change = may_change(&app);
        let data = data(&app, query, connections);
        let page = rendered(&live, &data).and_then(|(generation, sections)| {
            shell::page(
                &data.status,
                may_change,
                &shell::main(generation, sections.iter().map(|(_, html)| html.as_str())),
            )
        });
        answer(page, encoding)
    })
    .await
}

/// The sections for the script of an open page: those that are newer than the generation `since`, or all with `all`.
pub(super) async fn changed(
    State(app): State<Arc<App>>,
    Extension(live): Extension<Arc<Live>>,
    RawQuery(query): RawQuery,
) -> Response {
    let text = query.unwrap_or_default();
    let value =
        |key: &str| form_urlencoded::parse(text.as_bytes()).find(|(name, _)| name == key).map(|(_, value)| value);
    let (since, all) = (value("since").and_then(|since| since.parse().ok()).unwrap_or(0), value("all").is_some());
    let query = PageQuery::parse(&text);
    let is_shared = query.is_default() && !all;
    if is_shared && let Some((title, mood, main)) = live.since(since) {
        return answer(shell::fragment(&title, mood, &main), Encoding::Identity);
    }
    let connections = connections(&app, &query).await;
    aside(move || {
        let data = data(&app, query, connections);
        let (title, mood) = (sections::title(&data.status), sections::mood(&data.status));
        let main = rendered(&live, &data).map(|(generation, sections)| match live.since(since).filter(|_| is_shared) {
            Some((_, _, main)) => main,
            None => {
                let wanted = sections.iter().filter(|(name, _)| all || *name != EXPLAIN);
                shell::main(generation, wanted.map(|(_, html)| html.as_str()))
            }
        });
        answer(main.and_then(|main| shell::fragment(&title, mood, &main)), Encoding::Identity)
    })
    .await
}

/// Whether everybody who asks with this query gets the same page.
pub(super) fn is_default_query(query: &str) -> bool {
    PageQuery::parse(query).is_default()
}

/// All sections, and the generation of what the page shows to everybody; 0 if it is for one reader.
fn rendered(live: &Live, data: &Data) -> askama::Result<(u64, Vec<(&'static str, String)>)> {
    let sections = sections::render(data)?;
    if !data.query.is_default() {
        return Ok((0, sections));
    }
    let kept = sections.iter().filter(|(name, _)| *name != EXPLAIN).cloned().collect();
    let (title, mood) = (sections::title(&data.status), sections::mood(&data.status));
    Ok((live.keep(Rendering { title, mood, sections: kept }), sections))
}

fn data(app: &App, query: PageQuery, connections: ConnectionsPage) -> Data {
    let wanted = RoutesQuery {
        q: Some(query.routes.clone()).filter(|text| !text.is_empty()),
        sort: RouteOrder::Connections,
        offset: u32::try_from(query.routes_from).unwrap_or(u32::MAX),
        limit: ROUTES,
        ..RoutesQuery::default()
    };
    let routes = app.control.routes(&wanted);
    let history = |kind, name| app.control.history(&HistoryQuery { kind: Some(kind), name, pool: None });
    let mut graphs = history(SeriesKind::Listener, None);
    for kind in [SeriesKind::Pool, SeriesKind::Backend] {
        graphs.series.extend(history(kind, None).series);
    }
    for route in &routes.routes {
        graphs.series.extend(history(SeriesKind::Route, Some(route.name.clone())).series);
    }
    Data {
        status: app.control.status(MOST_BACKENDS),
        refusals: app.control.refusals(),
        explained: explained(app, &query),
        may_change: may_change(app) == MayChange::WithToken,
        history: graphs,
        routes,
        connections,
        query,
    }
}

async fn connections(app: &App, query: &PageQuery) -> ConnectionsPage {
    let wanted = ConnectionsQuery {
        q: Some(query.connections.clone()).filter(|text| !text.is_empty()),
        offset: query.connections_from,
        ..ConnectionsQuery::default()
    };
    app.control.connections(wanted, CONNECTIONS).await
}

/// The answer as the command line writes it.
fn explained(app: &App, query: &PageQuery) -> Option<Result<String, String>> {
    if query.name.is_empty() {
        return None;
    }
    let source = match query.source.as_str() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("`{text}` is not an IP address")),
    };
    let answer = source.and_then(|source| {
        let alpn = Some(query.alpn.clone()).filter(|alpn| !alpn.is_empty());
        let asked = ExplainQuery { name: query.name.clone(), alpn, source, listener: None, ech: None };
        app.control.explain(asked).map_err(|problem| problem.to_string())
    });
    Some(answer.map(|explanation| explain::text(&explanation)))
}

fn may_change(app: &App) -> MayChange {
    let access = app.control.access();
    match (access.allow, access.token) {
        (Allow::Never, _) => MayChange::Never,
        (_, None) => MayChange::NoToken,
        (_, Some(_)) => MayChange::WithToken,
    }
}

fn answer(html: askama::Result<String>, encoding: Encoding) -> Response {
    let Ok(html) = html else {
        // A template fails only if a value cannot be formatted.
        return super::error(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be written");
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(policy) = HeaderValue::from_str(&shell::POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    let body = compress::body(html, encoding, &mut headers);
    (headers, body).into_response()
}

/// An open page gets this section only when its reader asks: the answer to an earlier question stays.
const EXPLAIN: &str = "explain";
/// Of all pools together. What is left off is up.
const MOST_BACKENDS: usize = 10_000;

#[cfg(test)]
mod tests;
