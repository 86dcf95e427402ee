use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use serde_json::{Value, json};

use super::*;
use crate::cli::healthcheck::{HealthcheckError, healthcheck};
use crate::ids::ConnectionId;
use crate::operate::events::Events;
use crate::operate::explain::{BadQuestion, Explanation};
use crate::operate::status::{At, ChangedBackends, ConnectionsPage, History, RefusalsReport, RoutesPage, Status};
use crate::socket::AdminSocket;

/// Stands in for the process behind the admin address.
struct Process {
    access: Access,
    events: Arc<Events>,
}

impl Control for Process {
    fn access(&self) -> Access {
        self.access.clone()
    }

    fn explain(&self, query: ExplainQuery) -> Result<Explanation, BadQuestion> {
        match query.listener {
            Some(asked) => Err(BadQuestion::NoListener { asked, known: vec!["https".to_owned()] }),
            None => Ok(serde_json::from_value(json!({
                "name": query.name, "server_name": query.name, "alpn": query.alpn.as_slice(), "source": query.source,
                "listener": "https", "assumed": [], "match": "exact", "route": "a", "taken": null, "passed_over": [],
                "pool": { "name": "p", "backends": [] }, "refusal": null, "hints": [],
                "config": { "file": "config.yaml", "hash": "cafe" }
            }))
            .unwrap()),
        }
    }

    fn status(&self, most_backends: usize) -> Status {
        let backend = |at: usize| {
            let state = if at == 299 { "failing" } else { "up" };
            backend(json!({ "name": format!("b{at}<"), "state": state, "active": at }))
        };
        let mut backends: Vec<Value> = (0..300).map(backend).collect();
        backends.sort_by_key(|backend| backend["state"] == "up");
        let left_off = backends.len().saturating_sub(most_backends);
        backends.truncate(most_backends);
        let status = json!({
            "version": crate::telemetry::VERSION, "revision": "unknown", "pid": 1, "started": "2026-11-30T12:00:00.000Z",
            "at": "2026-11-30T12:00:01.000Z", "uptime_s": 1, "ready": false, "stage": "starting", "accept_paused_since": null, "control": "auto",
            "config": { "hash": "cafe", "file": "config.yaml" }, "problems": [], "problems_left_off": 0,
            "resources": {
                "connections": { "used": 0, "limit": 1 }, "descriptors": { "used": 0, "limit": 1 },
                "hello_memory": { "used": 0, "limit": 1 }, "resident_bytes": 1, "cpu_seconds": 0.1, "workers": 1,
                "log_lines_dropped": 0, "task_panics": 0
            },
            "totals": {
                "accepted": 0, "active": 0, "per_second": 0.0, "refused": 0, "failed": 0, "errors_per_second": 0.0
            },
            "listeners": [], "routes": { "total": 0, "never_matched": 0, "busiest": [] },
            "pools": [{
                "name": "p", "state": "partly_down", "since": null, "why": null, "policy": "random", "active": 0,
                "connections": 0, "per_second": 0.0, "connect_ms": { "p50": null, "p99": null, "count": 0 },
                "first_byte_ms": { "p50": null, "p99": null, "count": 0 }, "queue": null, "backends": backends,
                "backends_left_off": left_off
            }],
            "names": [{
                "name": "shop.internal:443", "pools": [], "addresses": [], "answered": null, "age_s": null,
                "ttl_s": null, "error": null
            }],
            "last_reload": null
        });
        serde_json::from_value(status).expect("a status")
    }

    fn routes(&self, query: &RoutesQuery) -> RoutesPage {
        RoutesPage { routes: Vec::new(), total: query.limit, matching: 0, offset: query.offset as usize }
    }

    fn history(&self, _: &HistoryQuery) -> History {
        History { step_s: 10, ends: At("2026-11-30T12:00:00.000Z".into()), series: Vec::new() }
    }

    fn refusals(&self) -> RefusalsReport {
        RefusalsReport::default()
    }

    fn events(&self) -> &Arc<Events> {
        &self.events
    }

    fn set_backend_state(&self, pool: &str, backend: &str, wanted: WantedState) -> Result<ChangedBackends, String> {
        match backend {
            "[::1]:443" => Ok(changed(json!({ "name": pool, "operator": wanted.as_str() }))),
            _ => Err(format!("no backend {backend}")),
        }
    }

    fn set_backend_weight(&self, pool: &str, backend: &str, weight: Option<u32>) -> Result<ChangedBackends, String> {
        match backend {
            "[::1]:443" => Ok(changed(json!({ "name": pool, "weight_set": weight }))),
            _ => Err(format!("no backend {backend}")),
        }
    }

    fn reload(&self) -> Soon<'_, Reloaded> {
        let answer = json!({ "result": "rejected", "hash": "cafe", "took_ms": 1, "problems": [], "error": "no file" });
        Box::pin(async { Reloaded::Rejected(serde_json::from_value(answer).expect("an answer")) })
    }

    fn config(&self) -> Soon<'_, Option<String>> {
        Box::pin(async { Some(format!("{{\"listeners\":[]{}}}", " ".repeat(CONFIG_BYTES))) })
    }

    /// Shows the query, in the fields of a page.
    fn connections(&self, query: ConnectionsQuery, limit: usize) -> Soon<'_, ConnectionsPage> {
        Box::pin(async move {
            let large = (query.route.as_deref() == Some("large")).then(|| " ".repeat(CONFIG_BYTES));
            let shown = json!({
                "route": query.route, "client": query.client.map(|client| client.to_string()),
                "after": query.after.map(|id| id.0), "limit": limit
            });
            let next = large.unwrap_or_else(|| shown.to_string());
            ConnectionsPage { connections: Vec::new(), matching: limit, next: Some(next), offset: 0 }
        })
    }

    fn end_connections(&self, query: ConnectionsQuery) -> Soon<'_, usize> {
        Box::pin(async move { if query == ConnectionsQuery::default() { 7 } else { 3 } })
    }

    fn end_connection(&self, id: ConnectionId) -> Soon<'_, usize> {
        Box::pin(async move { usize::from(id == ConnectionId(0x2a)) })
    }
}

/// A backend with these values.
fn backend(values: Value) -> Value {
    let latency = json!({ "p50": null, "p99": null, "count": 0 });
    let mut backend = json!({
        "name": "b", "address": "192.0.2.1:443", "state": "up", "since": null, "why": null, "operator": "ready",
        "active": 0, "connections": 0, "per_second": 0.0, "failed": 0, "connect_ms": latency, "first_byte_ms": latency,
        "weight": 1, "weight_set": null, "backup": false, "max_connections": null, "check": null, "certificate": null
    });
    for (key, value) in values.as_object().expect("an object") {
        backend[key] = value.clone();
    }
    backend
}

/// One that was changed.
fn changed(values: Value) -> ChangedBackends {
    serde_json::from_value(json!({ "backends": [backend(values)] })).expect("backends")
}

fn events() -> Arc<Events> {
    Events::new(std::time::SystemTime::now())
}

/// An admin server on loopback.
struct Admin {
    address: SocketAddr,
    app: Arc<App>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Admin {
    async fn start() -> Self {
        Self::behind(Process { access: Access { allow: Allow::Auto, token: Some("t".into()) }, events: events() }).await
    }

    async fn behind(process: Process) -> Self {
        let app = Arc::new(App { metrics: Metrics::new(), ready: Readiness::default(), control: Box::new(process) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let socket = AdminSocket::Tcp(listener.into_std().unwrap());
        let clients = Arc::default();
        let router = router(app.clone(), Arc::clone(&clients));
        let served =
            tokio::spawn(serve::serve(socket, router, clients, Arc::clone(&app.metrics), async { _ = stopped.await }));
        Self { address, app, stop, served }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends a request and reads until the server closes.
    async fn ask(&self, request: &str) -> Answer {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        Answer::read(&mut stream).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).await
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    async fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("the server closes").unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn json(&self) -> Value {
        let kind = if self.status < 400 { "application/json" } else { "application/problem+json" };
        assert!(self.head.contains(&format!("content-type: {kind}")), "{}", self.head);
        serde_json::from_str(&self.body).unwrap()
    }
}

#[tokio::test]
async fn metrics_are_text_for_prometheus() {
    let admin = Admin::start().await;
    let answer = admin.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", answer.head);
    assert!(answer.body.contains("\nsnigate_build_info{version="), "{}", answer.body);
}

#[tokio::test]
async fn readyz_follows_the_life_of_the_process_and_healthz_does_not() {
    let admin = Admin::start().await;
    for (stage, status, body) in
        [(None, 503, "starting\n"), (Some(Stage::Ready), 200, "ready\n"), (Some(Stage::Draining), 503, "draining\n")]
    {
        stage.into_iter().for_each(|stage| admin.app.ready.enter(stage));
        let answer = admin.get("/readyz").await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body));
        assert_eq!(admin.get("/healthz").await.status, 200);
    }
}

#[tokio::test]
async fn healthcheck_asks_readyz() {
    let admin = Admin::start().await;
    let address = crate::settings::Address::Tcp(admin.address);
    let check = || {
        let address = address.clone();
        tokio::task::spawn_blocking(move || healthcheck(&[address]))
    };
    let error = check().await.unwrap().unwrap_err();
    assert!(matches!(&error, HealthcheckError::NotReady { body, .. } if body == "starting"), "{error}");
    admin.app.ready.enter(Stage::Ready);
    check().await.unwrap().unwrap();
}

#[tokio::test]
async fn the_page_is_complete_and_lets_the_browser_load_and_run_nothing_else() {
    let answer = Admin::start().await.get("/").await;
    assert!(answer.head.contains("content-type: text/html"), "{}", answer.head);
    let policy = answer.head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
    for part in ["default-src 'none'", "connect-src 'self'", "base-uri 'none'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    let between = |from: &str, to: &str| answer.body.split(from).nth(1).unwrap().split(to).next().unwrap();
    for (directive, text) in
        [("style-src", between("<style>", "</style>")), ("script-src", between("<script>", "</script>"))]
    {
        let hash = data_encoding::BASE64
            .encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref());
        // Headers of answers are in lower case here.
        let allowed = format!("{directive} 'sha256-{}'", hash.to_ascii_lowercase());
        assert!(policy.contains(&allowed), "{policy} lacks {allowed}");
    }
    for outside in [" src=", "href=\"http", "href=\"//", "url(", "@import", " style=\"", " onclick="] {
        assert!(!answer.body.contains(outside), "{outside}");
    }
}

#[tokio::test]
async fn the_page_shows_backends_those_that_fail_first() {
    let page = Admin::start().await.get("/").await.body;
    let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("no {text}"));
    assert!(at("data-key=\"b299&lt;\"") < at("data-key=\"b0&lt;\""));
    assert!(!page.contains("data-key=\"b49&lt;\"") && page.contains("250 more backends"));
}

#[tokio::test]
async fn an_open_page_gets_only_what_has_changed() {
    let admin = Admin::start().await;
    let page = admin.get("/").await.body;
    let generation = page.split("data-generation=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let sections = async |query: &str| {
        let body = admin.get(&format!("/sections?{query}")).await.body;
        body.matches("<section").count()
    };
    let all = page.matches("<section").count();
    assert_eq!(sections(&format!("since={generation}")).await, 0);
    assert_eq!(sections("since=0").await, all - 1, "the answer to a question stays as it is");
    assert_eq!(sections("all=1").await, all);
    assert_eq!(
        sections(&format!("since={generation}&routes=x")).await,
        all - 1,
        "what is for one reader is not shared"
    );
}

#[tokio::test]
async fn the_page_offers_changes_only_where_they_are_allowed() {
    for (allow, token, offers, says) in [
        (Allow::Auto, Some("t"), true, "Change</button>"),
        (Allow::Auto, None, false, "admin.token_file</code>."),
        (Allow::Never, Some("t"), false, "Changes are turned off"),
    ] {
        let access = Access { allow, token: token.map(Into::into) };
        let page = Admin::behind(Process { access, events: events() }).await.get("/").await.body;
        assert_eq!(page.contains("data-change="), offers, "{allow:?}");
        assert!(page.contains(says), "{allow:?}");
    }
}

#[tokio::test]
async fn explain_is_answered_by_the_process() {
    let admin = Admin::start().await;
    let answer = admin.get("/api/v1/explain?name=a.test&alpn=h2,http/1.1&source=10.0.0.1").await;
    assert_eq!(answer.status, 200);
    let explained = answer.json();
    assert_eq!(
        (&explained["route"], &explained["alpn"], &explained["source"]),
        (&json!("a"), &json!(["h2,http/1.1"]), &json!("10.0.0.1"))
    );
    let long = format!("name=a&alpn={}", "x".repeat(256));
    for (query, status, problem) in [
        ("name=a&listener=nowhere", 404, "no listener `nowhere`"),
        ("", 400, "name"),
        ("name=a.test&source=x", 400, "source"),
        ("name=a&nam=b", 400, "nam"),
        ("name=a&alpn=h2,", 400, "`` is not a protocol"),
        ("name=a&alpn=h2,%1b", 400, "`\\u{1b}` is not a protocol"),
        (&*long, 400, "is not a protocol"),
    ] {
        let answer = admin.get(&format!("/api/v1/explain?{query}")).await;
        assert_eq!(answer.status, status, "{query}");
        assert!(answer.json()["error"].as_str().unwrap().contains(problem), "{query}: {}", answer.body);
    }
}

#[tokio::test]
async fn what_changes_state_is_for_those_who_may() {
    let post = |host: &str, more: &str| {
        format!("POST /api/v1/reload HTTP/1.1\r\nhost: {host}\r\n{more}connection: close\r\ncontent-length: 0\r\n\r\n")
    };
    let admin = Admin::behind(Process { access: Access { allow: Allow::Auto, token: None }, events: events() }).await;
    for more in ["", "x-snigate-control: 1\r\n", "origin: http://127.0.0.1\r\n"] {
        let answer = admin.ask(&post("127.0.0.1", more)).await;
        assert_eq!(answer.status, 403, "loopback proves nothing");
        assert!(answer.json()["error"].as_str().unwrap().contains("`admin.token_file`"), "{}", answer.body);
    }
    let answer = admin.get("/api/v1/reload").await;
    assert_eq!(answer.status, 405, "a reader changes nothing");
    for path in ["/", "/metrics", "/api/v1/status", "/api/v1/connections", "/nothing"] {
        let get = |host: &str| format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        assert_eq!(admin.ask(&get("rebound.example")).await.status, 403, "{path}");
        assert_ne!(admin.ask(&get("snigate:9901")).await.status, 403, "{path}");
    }
    let probe = "GET /readyz HTTP/1.1\r\nhost: probe.example\r\nconnection: close\r\n\r\n";
    assert_eq!(admin.ask(probe).await.body, "starting\n", "probes are for everybody");

    let access = Access { allow: Allow::Token, token: Some("abc".into()) };
    let admin = Admin::behind(Process { access, events: events() }).await;
    let answer = admin.ask(&post("127.0.0.1", "")).await;
    assert_eq!(answer.status, 401);
    assert!(answer.head.contains("\r\nwww-authenticate: bearer"), "{}", answer.head);
    assert!(answer.json()["error"].as_str().unwrap().contains("Bearer TOKEN"), "{}", answer.body);
    assert_eq!(admin.ask(&post("127.0.0.1", "authorization: Bearer abd\r\n")).await.status, 401);
    // With the token, a name that resolves to this host does not matter.
    assert_eq!(admin.ask(&post("lb.example", "authorization: Bearer abc\r\n")).await.status, 422);
}

#[tokio::test]
async fn a_backend_is_set_to_what_the_body_says() {
    let admin = Admin::start().await;
    let put = async |backend: &str, body: &str| {
        let path = format!("/api/v1/pools/a%20pool/backends/{backend}/state");
        let length = body.len();
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer t\r\nconnection: close\r\ncontent-length: {length}"
        );
        admin.ask(&format!("{head}\r\n\r\n{body}")).await
    };
    for body in ["drain", "drain\n", "{\"state\": \"drain\"}"] {
        let answer = put("%5B::1%5D:443", body).await;
        assert_eq!(
            (answer.status, answer.json()["backends"][0].clone()),
            (200, backend(json!({ "name": "a pool", "operator": "drain" }))),
            "{body}"
        );
    }
    for body in ["", "up", "{}", "{\"state\": \"drain\", \"x\": 1}", "{\"state\": 1}"] {
        assert_eq!(put("[::1]:443", body).await.status, 400, "{body}");
    }
    let answer = put("other:443", "ready").await;
    assert_eq!((answer.status, &answer.json()["error"]), (404, &json!("no backend other:443")));
    assert_eq!(admin.get("/api/v1/status").await.json()["pools"][0]["name"], "p");
}

#[tokio::test]
async fn a_weight_is_set_to_the_number_of_the_body_and_removed_by_delete() {
    let admin = Admin::start().await;
    let send = async |method: &str, backend: &str, body: &str| {
        let path = format!("/api/v1/pools/p/backends/{backend}/weight");
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer t\r\nconnection: close\r\ncontent-length: {length}"
        );
        admin.ask(&format!("{head}\r\n\r\n{body}")).await
    };
    for (body, weight) in [("0", 0), ("250\n", 250), ("1000", 1000), ("{\"weight\": 7}", 7), ("{\"weight\": 7.0}", 7)] {
        let answer = send("PUT", "%5B::1%5D:443", body).await;
        assert_eq!((answer.status, &answer.json()["backends"][0]["weight_set"]), (200, &json!(weight)), "{body}");
    }
    for body in [
        "",
        "-1",
        "1001",
        "1.5",
        "10%",
        "{}",
        "{\"weight\": null}",
        "{\"weight\": 7.5}",
        "{\"weight\": -1}",
        "{\"weight\": 1e99}",
        "{\"weight\": 7, \"x\": 1}",
        "99999999999",
    ] {
        let answer = send("PUT", "[::1]:443", body).await;
        let problem = answer.json()["error"].to_string();
        assert!(answer.status == 400 && problem.contains("0 to 1000; DELETE restores"), "{body}: {problem}");
    }
    let answer = send("DELETE", "[::1]:443", "").await;
    assert_eq!((answer.status, &answer.json()["backends"][0]["weight_set"]), (200, &Value::Null));
    assert_eq!(send("PUT", "other:443", "1").await.status, 404);
    assert_eq!(send("DELETE", "other:443", "").await.status, 404);
    assert_eq!(admin.get("/api/v1/pools/p/backends/other:443/weight").await.status, 405);
}

#[tokio::test]
async fn connections_are_listed_by_what_is_asked_for() {
    let admin = Admin::start().await;
    let shown = |answer: &Answer| -> Value {
        serde_json::from_str(answer.json()["next"].as_str().expect("what the process was asked")).expect("JSON")
    };
    let answer = admin.get("/api/v1/connections?route=a&client=10.0.0.1&after=2a&limit=5").await;
    assert_eq!(shown(&answer), json!({ "route": "a", "client": "10.0.0.1/32", "after": 42, "limit": 5 }));
    let usual = json!({ "route": null, "client": null, "after": null, "limit": 100 });
    assert_eq!(shown(&admin.get("/api/v1/connections").await), usual);
    for (query, problem) in [
        ("limit=0", "1 to 1000"),
        ("limit=1001", "1 to 1000"),
        ("client=x", "network"),
        ("after=x", "hexadecimal"),
        ("all=true", "DELETE"),
        ("sort=size", "unknown variant"),
        ("offset=100001", "100000"),
        ("offset=-1", "invalid digit"),
        ("sort=age&after=2a", "order of ids"),
        ("rout=a", "rout"),
    ] {
        let answer = admin.get(&format!("/api/v1/connections?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.json()["error"].as_str().unwrap().contains(problem), "{query}: {}", answer.body);
    }
}

#[tokio::test]
async fn connections_are_ended_by_id_or_filter_and_never_all_by_mistake() {
    let admin = Admin::start().await;
    for (path, status, ended) in [
        ("/2a", 200, json!(1)),
        ("/000000000000002a", 200, json!(1)),
        ("/2b", 404, Value::Null),
        ("/x", 400, Value::Null),
        ("", 400, Value::Null),
        ("?limit=1", 400, Value::Null),
        ("?name=a.test", 200, json!(3)),
        ("?q=a", 200, json!(3)),
        ("?q=", 400, Value::Null),
        ("?q=%20", 400, Value::Null),
        ("?name=&route=a", 400, Value::Null),
        ("?listener=", 400, Value::Null),
        ("?route=", 400, Value::Null),
        ("?pool=", 400, Value::Null),
        ("?backend=+", 400, Value::Null),
        ("?all=true&q=", 400, Value::Null),
        ("?sort=age&q=a", 400, Value::Null),
        ("?all=true&route=a", 400, Value::Null),
        ("?route=a", 200, json!(3)),
        ("?all=true", 200, json!(7)),
    ] {
        let request = format!("DELETE /api/v1/connections{path} HTTP/1.1\r\nhost: [::1]\r\n{PROOF}\r\n");
        let answer = admin.ask(&request).await;
        assert_eq!((answer.status, &answer.json()["ended"]), (status, &ended), "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn what_is_not_there_is_an_error_in_json() {
    let admin = Admin::start().await;
    let answer = admin.get("/nothing%22here").await;
    assert_eq!(
        (answer.status, answer.json()),
        (
            404,
            json!({
                "type": "about:blank", "title": "Not Found", "status": 404,
                "detail": "no such page: /nothing%22here", "error": "no such page: /nothing%22here"
            })
        )
    );
    let answer =
        admin.ask(&format!("POST /metrics HTTP/1.1\r\nhost: localhost\r\n{PROOF}content-length: 0\r\n\r\n")).await;
    assert_eq!((answer.status, &answer.json()["detail"]), (405, &json!("POST is not supported here")));
    assert!(answer.head.contains("\r\nallow: get,head"), "{}", answer.head);
    let answer = admin.ask("HEAD /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
}

#[tokio::test]
async fn a_query_that_a_page_does_not_know_is_refused_by_the_api_and_nowhere_else() {
    let admin = Admin::start().await;
    for path in
        ["/api/v1/status?pool=a", "/api/v1/config?x", "/api/v1/connections?x=1", "/api/v1/explain?name=a.test&x"]
    {
        let answer = admin.get(path).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.json()["error"].as_str().unwrap().contains("unknown field"), "{path}: {}", answer.body);
    }
    for path in ["/?x=1", "/metrics?x=1", "/healthz?x", "/readyz?", "/api/v1/status?", "/api/v1/config?"] {
        assert_ne!(admin.get(path).await.status, 400, "{path}");
    }
}

#[tokio::test]
async fn junk_and_a_huge_header_are_refused() {
    let admin = Admin::start().await;
    assert_eq!(admin.ask("\x16\x03\x01 junk\r\n\r\n").await.status, 400);

    // Far more than the server reads: it answers and closes, and the rest is sent to a closed socket.
    let mut stream = admin.connect().await;
    let header = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(10 << 20));
    let sent = timeout(LONG, stream.write_all(header.as_bytes())).await.expect("it is not kept waiting");
    let mut answer = Vec::new();
    let read = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the server closes");
    assert!(sent.is_err() || read.is_err() || answer.starts_with(b"HTTP/1.1 431 "), "{answer:?}");
    assert_eq!(admin.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn no_crowd_keeps_a_probe_out() {
    let admin = Admin::start().await;
    let (greedy, mut held) = (METRICS.repeat(50), Vec::new());
    for number in 0..300 {
        let mut stream = admin.connect().await;
        // Silent, halfway, idle after an answer, and greedy.
        let said = ["", "GET / HT", "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n", &*greedy][number % 4];
        stream.write_all(said.as_bytes()).await.unwrap();
        held.push(stream);
        if number % 10 == 0 {
            assert_eq!(admin.get("/healthz").await.status, 200, "{number}");
        }
    }
    for path in ["/healthz", "/metrics", "/api/v1/status"] {
        assert_eq!(admin.get(path).await.status, 200, "{path}");
    }
}

/// Even while an answer is being made, which takes as long as it takes.
#[tokio::test]
async fn who_asks_while_an_answer_is_made_shares_the_next() {
    let admin = Admin::start().await;
    let ((begun, mut is_begun), (go_on, may_go_on)) = (tokio::sync::mpsc::unbounded_channel(), channel());
    let may_go_on = std::sync::Mutex::new(may_go_on);
    admin.app.metrics.collect_with(move |_| {
        begun.send(()).unwrap();
        may_go_on.lock().unwrap().recv().unwrap();
    });
    let ask = async |number: usize| {
        let mut stream = admin.connect().await;
        let request =
            [format!("GET /metrics?x={number}"), "GET /metrics".to_owned(), format!("HEAD /metrics?{number}")];
        let request = format!("{} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", request[number % 3]);
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    };
    let mut waiting = vec![ask(0).await];
    is_begun.recv().await.unwrap();
    for number in 1..31 {
        waiting.push(ask(number).await);
    }
    // When these are answered, those before them have been read.
    for _ in 0..3 {
        assert_eq!(admin.get("/healthz").await.status, 200);
    }
    (0..40).for_each(|_| go_on.send(()).unwrap());
    for (number, mut stream) in waiting.into_iter().enumerate() {
        let answer = Answer::read(&mut stream).await;
        let is_whole = answer.body.contains("\nsnigate_build_info{");
        assert!(answer.status == 200 && is_whole == (number % 3 != 2), "{}", answer.head);
        let length = answer.head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        assert!(length.is_some_and(|length: usize| length > 1000), "{}", answer.head);
    }
    let mut renders = 1;
    while is_begun.try_recv().is_ok() {
        renders += 1;
    }
    assert!(renders <= 3, "{renders} renders for 31 clients");
}

/// With its own clock, see below.
#[tokio::test(start_paused = true)]
async fn who_does_not_read_makes_room_for_who_does() {
    let admin = Admin::start().await;
    let mut held = Vec::new();
    for number in 0..6 {
        let mut stream = admin.connect().await;
        // With another query each, so that none is shared.
        let page = format!("/api/v1/connections?route=large&limit={}", number + 1);
        let request = format!("GET {page} HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        held.push(stream);
    }
    let answer = admin.get("/api/v1/config").await;
    assert_eq!((answer.status, answer.json()["listeners"].clone()), (200, json!([])));
    let mut whole = 0;
    for mut stream in held {
        let mut answer = Vec::new();
        whole += usize::from(stream.read_to_end(&mut answer).await.is_ok() && answer.len() > CONFIG_BYTES);
    }
    assert!(whole <= 2, "{whole} large answers were kept for clients that did not read");
}

/// They share the answers that they do not read, and are ended together.
#[tokio::test(start_paused = true)]
async fn a_crowd_that_does_not_read_keeps_nobody_waiting_long() {
    let admin = Admin::start().await;
    let mut held = Vec::new();
    for _ in 0..50 {
        let mut stream = admin.connect().await;
        stream.write_all(b"GET /api/v1/config HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        held.push(stream);
    }
    let begun = Instant::now();
    assert_eq!(admin.get("/api/v1/config").await.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn errors_of_libraries_are_json_too() {
    let admin = Admin::start().await;
    let put = |path: &str, body: &str| {
        let length = body.len();
        format!(
            "PUT /api/v1/pools/{path}/state HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer t\r\n\
             connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let large = "x".repeat(5000);
    for (path, body, status) in
        [("p/backends/b", &*large, 413), ("p/backends/b", "\u{0}", 400), ("%ff/backends/b", "up", 400)]
    {
        let answer = admin.ask(&put(path, body)).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.json()["error"].as_str().is_some_and(|error| !error.is_empty()), "{}", answer.body);
    }
}

/// With its own clock: a test's sleep takes no real time once all tasks are idle.
#[tokio::test(start_paused = true)]
async fn who_says_nothing_or_only_half_is_closed() {
    let admin = Admin::start().await;
    for half in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: a\r\n", "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let mut stream = admin.connect().await;
        stream.write_all(half.as_bytes()).await.unwrap();
        let asked = Instant::now();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let waited = asked.elapsed();
        assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&waited), "{half:?}: {waited:?}");
    }
}

/// A header that arrives slowly, and endless requests.
#[tokio::test(start_paused = true)]
async fn who_keeps_talking_is_closed_too() {
    let admin = Admin::start().await;
    let began = Instant::now();
    let mut drip = admin.connect().await;
    drip.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    while drip.write_all(b"x").await.is_ok() && began.elapsed() < Duration::from_secs(60) {
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

    let began = Instant::now();
    let mut chatty = admin.connect().await;
    while chatty.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.is_ok() {
        match chatty.read(&mut [0; 4096]).await {
            Ok(1..) => tokio::time::advance(Duration::from_secs(3)).await,
            _ => break,
        }
        assert!(began.elapsed() < Duration::from_secs(200));
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_closes_idle_clients_at_once() {
    let admin = Admin::start().await;
    let mut idle = admin.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 512]).await.unwrap() > 0);
    admin.stop.send(()).unwrap();
    let stopping = Instant::now();
    timeout(LONG, admin.served).await.expect("serve returns").unwrap();
    assert!(stopping.elapsed() < Duration::from_millis(900), "{:?}", stopping.elapsed());
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(TcpStream::connect(admin.address).await.is_err());
}

const PROOF: &str = "authorization: Bearer t\r\nconnection: close\r\n";
const METRICS: &str = "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n";
/// More than the kernel takes for a client that does not read.
const CONFIG_BYTES: usize = 12 << 20;
const LONG: Duration = Duration::from_secs(20);
