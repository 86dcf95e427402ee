//! Makes the answers that take time or memory one at a time, so that many clients cost no more than one.
//!
//! In:  requests other than probes.
//! Out: answers. Clients that ask for the same page while it is being made share the next answer, with
//!      whatever query if the page has none. What is written to
//!      clients at one time is bounded; a client that does not read its answer makes room when others wait.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, Method, StatusCode, header, response};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::accept;
use super::clients::{Answered, Asking, Clients};
use super::error::{PROBLEM_JSON, error};
use super::page;

pub(super) struct Answers {
    /// Held while an answer is made.
    turn: Mutex<Option<Latest>>,
    /// In KiB.
    room: Arc<Semaphore>,
    /// One clone for each request in progress.
    requests: Arc<()>,
    clients: Arc<Clients>,
}

/// The last answer, kept while others wait.
struct Latest {
    page: String,
    begun: Instant,
    answer: (response::Parts, Arc<Whole>),
}

/// A body and the room that it takes, until the last client that it is written to has read it.
struct Whole {
    body: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Answers {
    pub(super) fn new(clients: Arc<Clients>) -> Self {
        let room = Arc::new(Semaphore::new(MOST_KIB as usize));
        Self { turn: Mutex::default(), room, requests: Arc::default(), clients }
    }

    /// The answer to a request that only reads.
    async fn make(&self, request: Request, next: Next) -> (response::Parts, Arc<Whole>) {
        let (asked, _in_hand) = (Instant::now(), Arc::clone(&self.requests));
        let mut latest = self.turn.lock().await;
        let shared = (request.method() == Method::GET).then(|| page_of(&request));
        // An answer that was begun before the request could be older than what the client has seen elsewhere.
        let is_it = |latest: &Latest| Some(&latest.page) == shared.as_ref() && latest.begun >= asked;
        let begun = Instant::now();
        let (begun, (parts, body)) = match latest.take().filter(is_it) {
            Some(latest) => (latest.begun, latest.answer),
            None => {
                let (parts, body) = whole(next.run(request).await).await;
                // In turn, so that only one answer waits for room, and all who ask meanwhile share the next.
                let _room = self.room(body.len()).await;
                (begun, (parts, Arc::new(Whole { body, _room })))
            }
        };
        if let Some(page) = shared.filter(|_| Arc::strong_count(&self.requests) > 2) {
            *latest = Some(Latest { page, begun, answer: (parts.clone(), Arc::clone(&body)) });
        }
        (parts, body)
    }

    /// Waits until `bytes` may be written; clients that do not read are disconnected meanwhile.
    async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).min(MOST_KIB);
        loop {
            match timeout(PATIENCE, Arc::clone(&self.room).acquire_many_owned(kib)).await {
                Ok(room) => return room.ok(),
                Err(_elapsed) => self.clients.evict_stalled(PATIENCE),
            }
        }
    }
}

/// Answers requests that only read one at a time. The others come from clients that are authorized.
pub(super) async fn in_turn(
    State(answers): State<Arc<Answers>>,
    Extension(client): Extension<Asking>,
    mut request: Request,
    next: Next,
) -> Response {
    let answered = client.answered();
    if !request.method().is_safe() {
        return next.run(request).await;
    }
    let is_head = request.method() == Method::HEAD;
    if is_head {
        *request.method_mut() = Method::GET;
    }
    let (mut parts, whole) = answers.make(request, next).await;
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.body.len()));
    if is_head {
        return Response::from_parts(parts, Body::empty());
    }
    answered.reads();
    // Released when the last byte has been written.
    let held = Held { whole, _answered: answered };
    Response::from_parts(parts, Body::from(Bytes::from_owner(held)))
}

/// Requests for the same page get the same answer. A query that the page does not use does not make it another one:
/// otherwise a client that appends a number to each request would have each of them answered alone.
fn page_of(request: &Request) -> String {
    let uri = request.uri();
    let page = match uri.path() {
        // Scrapers append a query of their own. The pages of the API refuse one that they do not know.
        path @ "/metrics" => return format!("{path} {:?}", accept::format(request.headers())),
        path @ "/" if page::is_default_query(uri.query().unwrap_or_default()) => path,
        path => uri.path_and_query().map_or(path, PathAndQuery::as_str),
    };
    // Compressed, it is another answer.
    let is_compressed = uri.path() == "/" && page::Encoding::of(request.headers()) == page::Encoding::Gzip;
    if is_compressed { format!("{page} gzip") } else { page.to_owned() }
}

/// Turns an error response of a library, such as for a body that is too large, into JSON like our own.
pub(super) async fn errors_in_json(response: Response) -> Response {
    let is_error = response.status().is_client_error() || response.status().is_server_error();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_json = kind.is_some_and(|kind| kind == "application/json" || kind == PROBLEM_JSON);
    if !is_error || is_json {
        return response;
    }
    let (parts, body) = whole(response).await;
    let mut answer = error(parts.status, String::from_utf8_lossy(&body).trim());
    parts.headers.get(header::ALLOW).map(|allow| answer.headers_mut().insert(header::ALLOW, allow.clone()));
    answer
}

async fn whole(response: Response) -> (response::Parts, Bytes) {
    let (parts, body) = response.into_parts();
    match to_bytes(body, usize::MAX).await {
        Ok(body) => (parts, body),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR.into_response().into_parts().0, Bytes::new()),
    }
}

struct Held {
    whole: Arc<Whole>,
    _answered: Answered,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.whole.body
    }
}

/// The most that may be in transit to all clients together. A larger answer is sent alone.
const MOST_KIB: u32 = 16 << 10;
/// How long a client may take for an answer while others wait for room.
const PATIENCE: Duration = Duration::from_secs(1);
