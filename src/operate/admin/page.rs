//! The status page: HTML without scripts.
//!
//! In:  the app.
//! Out: HTML, in which every value is escaped.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};

use super::App;
use crate::operate::status::{BackendStatus, PoolStatus, Status};
use crate::telemetry::{REVISION, Timestamp, VERSION};

pub(super) async fn status(State(app): State<Arc<App>>) -> Response {
    super::aside(move || (HEADERS, Html(render(&app))).into_response()).await
}

fn render(app: &App) -> String {
    let reload = app.metrics.last_reload();
    let (hash, reload) = match &reload {
        Some(last) => {
            let reported = format!("{} ({}) at {}", last.result.as_str(), last.trigger.as_str(), Timestamp(last.at));
            (last.hash.as_str(), reported)
        }
        None => ("none yet", "none yet".to_owned()),
    };
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>snigate</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem; max-width: 40rem; color-scheme: light dark }}
dt {{ font-weight: bold }}
dd {{ margin: 0 0 .5rem; overflow-wrap: anywhere }}
th, td {{ text-align: left; padding-right: 1rem }}
</style>
</head>
<body>
<h1>snigate</h1>
<dl>
<dt>Version</dt><dd>{version}, revision {revision}</dd>
<dt>State</dt><dd>{stage}</dd>
<dt>Up since</dt><dd>{uptime_s} s ago</dd>
<dt>Configuration in force</dt><dd>{hash}</dd>
<dt>Last reload</dt><dd>{reload}</dd>
</dl>
<table>
<tr><th>Pool</th><th>Backend</th><th>State</th><th>Connections</th></tr>
{backends}</table>
<ul>
<li><a href="/metrics">/metrics</a>: metrics for Prometheus</li>
<li><a href="/healthz">/healthz</a>: whether the process is running</li>
<li><a href="/readyz">/readyz</a>: whether it takes new connections</li>
<li><a href="/api/v1/status">/api/v1/status</a>: this page as JSON</li>
</ul>
</body>
</html>
"#,
        version = Escaped(VERSION),
        revision = Escaped(REVISION),
        stage = app.ready.stage().as_str(),
        uptime_s = app.metrics.uptime().as_secs(),
        hash = Escaped(hash),
        reload = Escaped(&reload),
        backends = rows(&app.control.status(MAX_ROWS)),
    )
}

/// A row for each backend, those that are not in order first.
fn rows(status: &Status) -> String {
    let in_pool =
        |pool: &PoolStatus| pool.backends.iter().map(|of| (pool.name.clone(), of.clone())).collect::<Vec<_>>();
    let mut all: Vec<(String, BackendStatus)> = status.pools.iter().flat_map(in_pool).collect();
    all.sort_by_key(|(_, backend)| backend.state == "up");
    let rows = all.iter().map(|(pool, backend)| {
        let [pool, name, state] = [pool, &backend.name, &*backend.state].map(Escaped);
        format!("<tr><td>{pool}</td><td>{name}</td><td>{state}</td><td>{}</td></tr>\n", backend.active)
    });
    let more: usize = status.pools.iter().map(|pool| pool.backends_left_off).sum();
    let more = (more > 0).then(|| format!("<tr><td colspan=4>{more} more are in /api/v1/status</td></tr>\n"));
    rows.chain(more).collect()
}

/// Text escaped for use inside an HTML element.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '&' => f.write_str("&amp;"),
            '"' => f.write_str("&quot;"),
            c => write!(f, "{c}"),
        })
    }
}

/// A page is for people.
const MAX_ROWS: usize = 200;

const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
];
