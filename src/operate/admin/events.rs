//! The stream of events: what happens, and the status every second.
//!
//! In:  a request, with the id of the last event that its client has seen.
//! Out: an answer without end. Each client gets bytes only as fast as it reads them; one rendering of the status is
//!      shared by all.
//! Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use schemars::JsonSchema;
use serde::Deserialize;

use super::App;
use super::clients::{Asking, MOST_STREAMS, Streaming};
use super::error::{bad_query, error};
use crate::operate::events::{Subscriber, status_frame};

/// The query of `/api/v1/events`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// For clients that cannot set the header `Last-Event-ID`.
    pub last_event_id: Option<String>,
}

pub(super) async fn events(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Asking>,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Response {
    let query = match query {
        Ok(Query(query)) => query,
        Err(rejection) => return bad_query(&rejection),
    };
    let Some(streaming) = client.streams() else {
        let message =
            format!("{MOST_STREAMS} clients follow the events already; read /api/v1/status, or try again later");
        return ([(header::RETRY_AFTER, "5")], error(StatusCode::SERVICE_UNAVAILABLE, &message)).into_response();
    };
    let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).or(query.last_event_id.as_deref());
    let events = app.control.events();
    let subscriber = events.subscribe(last);
    if events.needs_rendering() {
        render(Arc::clone(&app));
    }
    (HEADERS, Body::new(Stream { next: next(subscriber, streaming.clone()), streaming })).into_response()
}

/// Renders the status for all who listen, until nobody does.
fn render(app: Arc<App>) {
    tokio::spawn(async move {
        let status = || {
            let app = Arc::clone(&app);
            async {
                // A panic is reported by the hook. The clients get the next status.
                tokio::task::spawn_blocking(move || status_frame(&app.control.status(MOST_BACKENDS))).await.ok()
            }
        };
        app.control.events().render(status).await;
    });
}

/// The body of the answer.
struct Stream {
    next: Next,
    streaming: Streaming,
}

/// The next bytes and who waits for those after them; `None`: the server is stopping.
type Next = Pin<Box<dyn Future<Output = Option<(Bytes, Subscriber)>> + Send>>;

fn next(mut subscriber: Subscriber, streaming: Streaming) -> Next {
    Box::pin(async move {
        tokio::select! {
            biased;
            () = streaming.ended() => None,
            bytes = subscriber.next() => Some((bytes, subscriber)),
        }
    })
}

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    /// Called when the client has taken what came before.
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some((bytes, subscriber)) = ready!(self.next.as_mut().poll(cx)) else { return Poll::Ready(None) };
        self.streaming.reads();
        self.next = next(subscriber, self.streaming.clone());
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

/// In the status of the stream, as many as the page shows.
const MOST_BACKENDS: usize = 200;
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    // nginx would collect the events.
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
];
