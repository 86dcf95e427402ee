use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::*;

const PACE: Pace = Pace {
    gather: Duration::from_millis(5),
    apart: Duration::from_millis(40),
    settle: Duration::from_secs(3600),
    resync: Duration::from_secs(3600),
};

/// An engine with one container, whose events are those that `events` sends.
struct Engine {
    _directory: tempfile::TempDir,
    api: Api,
    events: watch::Sender<Vec<u8>>,
    lists: Arc<AtomicUsize>,
    inspections: Arc<AtomicUsize>,
}

impl Engine {
    fn start(inspected: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (events, _) = watch::channel(Vec::new());
        let (lists, inspections) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (sent, listed, looked) = (events.clone(), Arc::clone(&lists), Arc::clone(&inspections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sent, listed, looked) = (sent.subscribe(), Arc::clone(&listed), Arc::clone(&looked));
                tokio::spawn(serve(stream, inspected, sent, listed, looked));
            }
        });
        Self { _directory: directory, api: Api::new(socket), events, lists, inspections }
    }

    fn event(&self, line: &str) {
        self.events.send_replace(format!("{line}\n").into_bytes());
    }
}

async fn serve(
    mut stream: UnixStream,
    inspected: &str,
    mut events: watch::Receiver<Vec<u8>>,
    lists: Arc<AtomicUsize>,
    inspections: Arc<AtomicUsize>,
) {
    let mut head = vec![0; 4096];
    let length = stream.read(&mut head).await.unwrap_or_default();
    let head = String::from_utf8_lossy(&head[..length]).into_owned();
    let json = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    if head.starts_with("GET /events") {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        while events.changed().await.is_ok() {
            let line = events.borrow_and_update().clone();
            let chunk = [format!("{:x}\r\n", line.len()).as_bytes(), &line, b"\r\n"].concat();
            if stream.write_all(&chunk).await.is_err() {
                return;
            }
        }
    } else if head.starts_with("GET /containers/json?all=true&filters=%7B%22label%22%3A%5B%22snigate.sni%22%5D%7D ") {
        lists.fetch_add(1, Ordering::SeqCst);
        let _ = stream
            .write_all(
                json(r#"[{"Id":"c0ffee","Names":["/the-name"],"Created":7},{"Id":"../x","Created":1}]"#).as_bytes(),
            )
            .await;
    } else if head.starts_with("GET /containers/c0ffee/json ") {
        inspections.fetch_add(1, Ordering::SeqCst);
        let _ = stream.write_all(json(inspected).as_bytes()).await;
    }
}

const INSPECTED: &str = r#"{"Name":"/web","State":{"Status":"running"},"Config":{"Labels":{"snigate.sni":"a.test","other":"x"},
    "ExposedPorts":{"443/tcp":{},"53/udp":{}}},"NetworkSettings":{"Networks":{"edge":{"IPAddress":"10.0.0.2","GlobalIPv6Address":""}}}}"#;

/// What `follow` finds, and its end.
fn followed(engine: &Engine, pace: Pace) -> (mpsc::UnboundedReceiver<Seen>, tokio::task::JoinHandle<String>) {
    let (to, seen) = mpsc::unbounded_channel();
    let api = engine.api.clone();
    let end = tokio::spawn(async move { follow(&api, pace, |found| _ = to.send(found)).await.to_string() });
    (seen, end)
}

async fn next(seen: &mut mpsc::UnboundedReceiver<Seen>) -> Seen {
    timeout(Duration::from_secs(10), seen.recv()).await.expect("in time").expect("goes on")
}

#[tokio::test]
async fn the_containers_are_found_at_first_and_again_after_each_event() {
    let engine = Engine::start(INSPECTED);
    let (mut seen, _end) = followed(&engine, PACE);
    let first = next(&mut seen).await;
    let [container] = &*first.containers else { panic!("{first:?}") };
    assert_eq!((container.name.as_str(), container.created), ("web", 7));
    assert_eq!(container.exposed, [443].into());
    assert_eq!(container.labels.keys().collect::<Vec<_>>(), ["snigate.sni"]);
    assert_eq!(container.networks["edge"], ["10.0.0.2".parse::<std::net::IpAddr>().unwrap()]);

    engine.event(r#"{"Type":"container","Action":"start","Actor":{"ID":"other"}}"#);
    next(&mut seen).await;
    assert_eq!(engine.inspections.load(Ordering::SeqCst), 1, "another one has changed");
    engine.event(r#"{"Type":"container","Action":"die","Actor":{"ID":"c0ffee"}}"#);
    next(&mut seen).await;
    assert_eq!(engine.inspections.load(Ordering::SeqCst), 2);
    engine.event(r#"{"Type":"network","Action":"connect","Actor":{"ID":"net"}}"#);
    next(&mut seen).await;
    assert_eq!(engine.inspections.load(Ordering::SeqCst), 3, "any may have changed");
}

#[tokio::test]
async fn after_an_event_a_container_is_looked_at_once_more() {
    let engine = Engine::start(INSPECTED);
    let (mut seen, _end) = followed(&engine, Pace { settle: Duration::from_millis(50), ..PACE });
    next(&mut seen).await;
    engine.event(r#"{"Type":"container","Action":"start","Actor":{"ID":"c0ffee"}}"#);
    next(&mut seen).await;
    next(&mut seen).await;
    assert_eq!(engine.inspections.load(Ordering::SeqCst), 3);
    assert!(timeout(Duration::from_millis(200), seen.recv()).await.is_err(), "and then no more");
}

#[tokio::test]
async fn a_flood_of_events_costs_few_looks() {
    let engine = Engine::start(INSPECTED);
    let (mut seen, _end) = followed(&engine, PACE);
    next(&mut seen).await;
    let began = Instant::now();
    for number in 0..2000 {
        engine.event(&format!(r#"{{"Type":"container","Action":"start","Actor":{{"ID":"{number}"}}}}"#));
        tokio::task::yield_now().await;
    }
    next(&mut seen).await;
    let most = usize::try_from(began.elapsed().as_millis() / PACE.apart.as_millis()).unwrap() + 3;
    let looks = engine.lists.load(Ordering::SeqCst);
    assert!(looks <= most, "{looks} of at most {most}");
}

#[tokio::test]
async fn all_are_looked_at_again_though_no_event_says_so() {
    let engine = Engine::start(INSPECTED);
    let (mut seen, _end) = followed(&engine, Pace { resync: Duration::from_millis(20), ..PACE });
    for inspections in 1..=3 {
        next(&mut seen).await;
        assert!(engine.inspections.load(Ordering::SeqCst) >= inspections);
    }
}

#[tokio::test]
async fn an_inspection_that_cannot_be_used_is_reported_and_does_not_end_the_session() {
    let large: &str = Box::leak(format!("\"{}\"", "x".repeat(2 << 20)).into_boxed_str());
    let labels = r#"{"State":{"Status":"running"},"Config":{"Labels":["x"]}}"#;
    for (inspected, reason) in [
        ("{", "not the expected JSON"),
        ("[]", "not the expected JSON"),
        (r#"{"Name":"/web"}"#, "missing field `State`"),
        (labels, "not the expected JSON"),
        (large, "more than 1048576 bytes"),
    ] {
        let engine = Engine::start(inspected);
        let (mut seen, _end) = followed(&engine, PACE);
        for _ in 0..2 {
            let found = next(&mut seen).await;
            let [container] = &*found.containers else { panic!("{found:?}") };
            assert_eq!((container.name.as_str(), container.created), ("the-name", 7));
            assert!(container.unreadable.as_ref().unwrap().contains(reason), "{reason}: {container:?}");
            engine.event(r#"{"Type":"container","Action":"start","Actor":{"ID":"c0ffee"}}"#);
        }
    }
}

#[tokio::test]
async fn after_an_event_that_cannot_be_read_all_are_looked_at() {
    let engine = Engine::start(INSPECTED);
    let (mut seen, _end) = followed(&engine, PACE);
    next(&mut seen).await;
    for (inspections, line) in [(2, "no JSON"), (3, &*"x".repeat(3 << 20))] {
        engine.event(line);
        next(&mut seen).await;
        assert_eq!(engine.inspections.load(Ordering::SeqCst), inspections);
    }
}

#[tokio::test]
async fn what_is_not_the_api_ends_the_session_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let none = follow(&Api::new(directory.path().join("none")), PACE, |_| {}).await.to_string();
    assert!(none.contains("there is no socket"), "{none}");
}
