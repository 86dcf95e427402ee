//! Passes what happens to everybody who listens: reloads, backends that change their state, stages of the process, and
//! the status every second.
//!
//! In:  events, and the status while anybody listens.
//! Out: for each subscriber, what it has not seen yet, as lines of an event stream. The latest [`MOST_KEPT`] events are
//!      kept, so that a client that connects again misses none; of the status only the latest, so that a slow client
//!      skips and costs no memory.
//! Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// The events of the process.
pub(crate) struct Events {
    /// Of the process: numbers begin again with each.
    epoch: u64,
    kept: Mutex<Kept>,
    /// The number of the latest event.
    newest: watch::Sender<u64>,
    status: watch::Sender<Bytes>,
    is_rendering: AtomicBool,
    /// Somebody has begun to listen.
    wanted: Notify,
}

#[derive(Default)]
struct Kept {
    newest: u64,
    events: VecDeque<(u64, Bytes)>,
}

/// Somebody who listens.
pub(crate) struct Subscriber {
    events: Arc<Events>,
    /// The latest number that it has seen.
    seen: u64,
    newest: watch::Receiver<u64>,
    status: watch::Receiver<Bytes>,
    has_begun: bool,
}

impl Events {
    pub(crate) fn new(started: SystemTime) -> Arc<Self> {
        let epoch = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Arc::new(Self {
            epoch: u64::try_from(epoch).unwrap_or(u64::MAX),
            kept: Mutex::default(),
            newest: watch::Sender::new(0),
            status: watch::Sender::new(Bytes::new()),
            is_rendering: AtomicBool::new(false),
            wanted: Notify::new(),
        })
    }

    pub(crate) fn publish(&self, kind: &str, data: &impl Serialize) {
        let mut kept = self.kept();
        kept.newest += 1;
        let number = kept.newest;
        let frame = format!("id: {:x}-{number}\n{}", self.epoch, frame(kind, data));
        kept.events.push_back((number, frame.into()));
        if kept.events.len() > MOST_KEPT {
            kept.events.pop_front();
        }
        drop(kept);
        self.newest.send_replace(number);
    }

    /// Listens from the event after `last_id` on; with an id of another process or without one, to what is new.
    pub(crate) fn subscribe(self: &Arc<Self>, last_id: Option<&str>) -> Subscriber {
        let seen = last_id.and_then(|id| self.number(id)).unwrap_or_else(|| self.kept().newest);
        let mut status = self.status.subscribe();
        // The one that it may hold is old.
        status.mark_unchanged();
        self.wanted.notify_one();
        let newest = self.newest.subscribe();
        Subscriber { events: Arc::clone(self), seen, newest, status, has_begun: false }
    }

    fn number(&self, id: &str) -> Option<u64> {
        let (epoch, number) = id.split_once('-')?;
        let number = number.parse().ok()?;
        (u64::from_str_radix(epoch, 16) == Ok(self.epoch) && number <= self.kept().newest).then_some(number)
    }

    /// Whether the caller should start [`Self::render`]; true only if nobody does it.
    pub(crate) fn needs_rendering(&self) -> bool {
        !self.is_rendering.swap(true, Ordering::AcqRel)
    }

    /// Renders the status every second, and soon after somebody has begun to listen, as long as anybody does.
    /// `status` makes it as [`status_frame`] does; `None`: it could not.
    pub(crate) async fn render<F: Future<Output = Option<Bytes>>>(&self, mut status: impl FnMut() -> F) {
        loop {
            let rendering = Rendering(&self.is_rendering);
            // Those who listen already get the first.
            let _ = timeout(Duration::ZERO, self.wanted.notified()).await;
            while self.status.receiver_count() > 0 {
                let began = Instant::now();
                if let Some(status) = status().await {
                    self.status.send_replace(status);
                }
                tokio::select! {
                    () = sleep_until(began + EVERY) => {}
                    () = async { self.wanted.notified().await; sleep_until(began + SOON).await } => {}
                }
            }
            drop(rendering);
            // Somebody may have begun to listen just before, and seen that it is being rendered.
            if self.status.receiver_count() == 0 || !self.needs_rendering() {
                return;
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the rendering however its task ends.
struct Rendering<'a>(&'a AtomicBool);

impl Drop for Rendering<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Subscriber {
    /// Waits for something to send. After a while without anything, a comment, which shows that the connection lives.
    pub(crate) async fn next(&mut self) -> Bytes {
        if !std::mem::replace(&mut self.has_begun, true) {
            return Bytes::from_static(RETRY.as_bytes());
        }
        loop {
            self.newest.mark_unchanged();
            if let Some(unseen) = self.unseen() {
                return unseen;
            }
            tokio::select! {
                biased;
                // Neither ends before this subscriber, which holds the events.
                _ = self.newest.changed() => {}
                _ = self.status.changed() => return self.status.borrow_and_update().clone(),
                () = sleep_until(Instant::now() + HEARTBEAT) => return Bytes::from_static(STILL_HERE.as_bytes()),
            }
        }
    }

    /// The events that it has not seen.
    fn unseen(&mut self) -> Option<Bytes> {
        let kept = self.events.kept();
        if self.seen >= kept.newest {
            return None;
        }
        let oldest = kept.events.front().map_or(kept.newest, |(number, _)| *number);
        let mut frames = Vec::new();
        if oldest > self.seen + 1 {
            let missed = oldest - self.seen - 1;
            frames.extend_from_slice(frame("missed", &serde_json::json!({ "events": missed })).as_bytes());
        }
        kept.events
            .iter()
            .filter(|(number, _)| *number > self.seen)
            .for_each(|(_, frame)| frames.extend_from_slice(frame));
        self.seen = kept.newest;
        Some(frames.into())
    }
}

/// The status as it is sent to all.
pub(crate) fn status_frame(status: &impl Serialize) -> Bytes {
    frame("status", status).into()
}

/// JSON has no line breaks outside of strings, and escapes those within.
fn frame(kind: &str, data: &impl Serialize) -> String {
    let mut frame = String::with_capacity(256);
    let data = serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned());
    let _ = write!(frame, "event: {kind}\ndata: {data}\n\n");
    frame
}

const RETRY: &str = "retry: 2000\n\n";
const STILL_HERE: &str = ": still here\n\n";
/// An event takes a few hundred bytes; a reload that was rejected up to 100 kB.
const MOST_KEPT: usize = 256;
const EVERY: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_millis(200);
const HEARTBEAT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).expect("text")
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_comes_back_misses_nothing() {
        let events = Events::new(UNIX_EPOCH + Duration::from_millis(0xabc));
        events.publish("backend", &json!({ "n": 1 }));
        let mut subscriber = events.subscribe(None);
        assert_eq!(text(&subscriber.next().await), "retry: 2000\n\n");
        events.publish("backend", &json!({ "n": "<2>\n" }));
        assert_eq!(text(&subscriber.next().await), "id: abc-2\nevent: backend\ndata: {\"n\":\"<2>\\n\"}\n\n");
        assert_eq!(text(&subscriber.next().await), ": still here\n\n", "after ten seconds without anything");
        drop(subscriber);
        events.publish("reload", &json!({ "n": 3 }));
        events.publish("reload", &json!({ "n": 4 }));
        let mut again = events.subscribe(Some("abc-2"));
        again.next().await;
        let seen = again.next().await;
        assert!(text(&seen).starts_with("id: abc-3\n") && text(&seen).contains("id: abc-4\n"), "{seen:?}");
        for other in ["abd-2", "abc-9", "", "abc", "-", "x-1", "abc--1"] {
            let mut other = events.subscribe(Some(other));
            other.next().await;
            assert_eq!(text(&other.next().await), ": still here\n\n");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_bounded_and_the_lost_are_counted() {
        let events = Events::new(UNIX_EPOCH);
        (0..1000).for_each(|n| events.publish("backend", &json!({ "n": n })));
        assert_eq!(events.kept().events.len(), 256);
        let mut late = events.subscribe(Some("0-100"));
        late.next().await;
        let frames = late.next().await;
        assert!(text(&frames).starts_with("event: missed\ndata: {\"events\":644}\n\nid: 0-745\n"), "{frames:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_skips_and_all_share_one_rendering() {
        let events = Events::new(UNIX_EPOCH);
        let mut subscribers = [events.subscribe(None), events.subscribe(None)];
        assert!(events.needs_rendering() && !events.needs_rendering());
        let rendered = Arc::new(Mutex::new(0));
        let task = tokio::spawn({
            let (events, rendered) = (Arc::clone(&events), Arc::clone(&rendered));
            async move {
                let count = || {
                    let mut rendered = rendered.lock().unwrap();
                    *rendered += 1;
                    std::future::ready(Some(status_frame(&*rendered)))
                };
                events.render(count).await;
            }
        });
        for subscriber in &mut subscribers {
            subscriber.next().await;
            assert_eq!(text(&subscriber.next().await), "event: status\ndata: 1\n\n");
        }
        tokio::time::sleep(Duration::from_millis(10_500)).await;
        let skipped = subscribers[0].next().await;
        assert_eq!(text(&skipped), format!("event: status\ndata: {}\n\n", rendered.lock().unwrap()));
        assert!(*rendered.lock().unwrap() <= 13, "one a second for both");
        drop(subscribers);
        task.await.expect("it ends when nobody listens");
        assert!(events.needs_rendering());
    }
}
