//! Reads the stream of events of the Docker API.
//!
//! In:  the body of `GET /events`, one JSON object a line.
//! Out: [`Event`]s that may change a route; the others, such as those of health checks that run, are passed over. A line
//!      that cannot be read is an event about any container.
//! Source: <https://docs.docker.com/reference/api/engine/>, SystemEvents.

use std::collections::BTreeMap;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::task::JoinHandle;

use super::container::MOST_CONTAINER_BYTES;
use super::error::ApiError;

/// The events from now on. Cancelling [`Self::next`] loses none.
pub(super) struct Events {
    body: Incoming,
    lines: Lines,
    _connection: Connection,
}

/// Moves the bytes of a connection; dropping this closes it.
#[derive(Debug)]
pub(super) struct Connection(JoinHandle<()>);

impl Connection {
    pub(super) fn new(task: JoinHandle<()>) -> Self {
        Self(task)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Something about a container may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// The container; empty if it is not known, and any may have changed.
    pub container: String,
}

/// Splits what arrives into lines.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    /// How much of it is known to have no end of a line.
    searched: usize,
    /// The beginning of the line was too long, and is gone.
    is_long: bool,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "Type", default)]
    kind: String,
    #[serde(rename = "Action", default)]
    action: String,
    #[serde(rename = "Actor", default)]
    actor: Actor,
}

#[derive(Default, Deserialize)]
struct Actor {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Attributes", default)]
    attributes: Option<BTreeMap<String, String>>,
}

impl Events {
    pub(super) fn new(body: Incoming, connection: Connection) -> Self {
        Self { body, lines: Lines::default(), _connection: connection }
    }

    /// Waits for the next event that matters.
    ///
    /// # Errors
    /// The stream has ended or is broken; it cannot be used any more then.
    pub(super) async fn next(&mut self) -> Result<Event, ApiError> {
        loop {
            while let Some(line) = self.lines.next() {
                if let Some(event) = event(&line) {
                    return Ok(event);
                }
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.map_err(ApiError::Http)?;
                    self.lines.add(frame.data_ref().map_or(&[][..], |data| data));
                }
                None => return Err(ApiError::EventsEnded),
            }
        }
    }
}

impl Lines {
    /// Whole lines are taken before more is added, so that no more is kept than one line, and what one read brought.
    fn add(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// The next whole line; [`UNREADABLE`] for one that is too long.
    fn next(&mut self) -> Option<Vec<u8>> {
        let end = self.rest[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(end) = end.map(|end| self.searched + end) else {
            if self.rest.len() > MOST_EVENT_BYTES {
                (self.is_long, self.rest) = (true, Vec::new());
            }
            self.searched = self.rest.len();
            return None;
        };
        let rest = self.rest.split_off(end + 1);
        self.searched = 0;
        let line = std::mem::replace(&mut self.rest, rest);
        let is_long = std::mem::take(&mut self.is_long);
        Some(if is_long { UNREADABLE.to_vec() } else { line })
    }
}

fn event(line: &[u8]) -> Option<Event> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return None;
    }
    let Ok(Raw { kind, action, actor }) = serde_json::from_slice(line) else {
        return Some(Event { container: String::new() });
    };
    let mut attributes = actor.attributes.unwrap_or_default();
    let container = match kind.as_str() {
        "container" if matters(&action) => actor.id,
        "network" if ["connect", "disconnect"].contains(&action.as_str()) => {
            attributes.remove("container").unwrap_or_default()
        }
        _ => return None,
    };
    Some(Event { container })
}

/// `health_status: healthy` and its like have their result behind the word. podman has its own words for some.
fn matters(action: &str) -> bool {
    let word = action.split(':').next().unwrap_or_default();
    ACTIONS.contains(&word)
}

const ACTIONS: [&str; 20] = [
    "connect",
    "create",
    "destroy",
    "die",
    "died",
    "disconnect",
    "health_status",
    "init",
    "kill",
    "network connect",
    "network disconnect",
    "pause",
    "remove",
    "rename",
    "restart",
    "start",
    "stop",
    "unpause",
    "unpaused",
    "update",
];
/// An event has all labels of its container, so those of a container that can be inspected can be read.
const MOST_EVENT_BYTES: usize = MOST_CONTAINER_BYTES;
const UNREADABLE: &[u8] = b"too long";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut events) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.add(chunk);
            while let Some(line) = lines.next() {
                events.extend(event(&line).map(|event| event.container));
            }
            assert!(lines.rest.len() <= MOST_EVENT_BYTES, "{} bytes are kept", lines.rest.len());
        }
        events
    }

    /// As in the documentation of the Docker API, and as podman 4 writes them.
    const START: &str = r#"{"Type":"container","Action":"start","Actor":{"ID":"ede5","Attributes":{"image":"alpine"}},"scope":"local","time":1461943101,"timeNano":1461943101381709551}"#;
    const HEALTH: &str = r#"{"status":"health_status: healthy","id":"ab","Type":"container","Action":"health_status: healthy","Actor":{"ID":"ab","Attributes":{}}}"#;
    const CONNECT: &str = r#"{"Type":"network","Action":"connect","Actor":{"ID":"7dc8","Attributes":{"container":"c0ffee","name":"edge","type":"bridge"}}}"#;
    const EXEC: &str = r#"{"Type":"container","Action":"exec_start: /check","Actor":{"ID":"ab","Attributes":{}}}"#;

    #[test]
    fn events_that_may_change_a_route_name_the_container() {
        let text = format!("{START}\n{EXEC}\n\n{HEALTH}\r\n{CONNECT}\n");
        assert_eq!(read(&[text.as_bytes()]), ["ede5", "ab", "c0ffee"]);
    }

    #[test]
    fn a_line_may_arrive_in_any_pieces() {
        let text = format!("{START}\n{CONNECT}\n");
        for size in [1, 2, 7, 64] {
            let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            assert_eq!(read(&chunks), ["ede5", "c0ffee"], "{size}");
        }
        assert!(read(&[START.as_bytes()]).is_empty(), "it may go on");
    }

    #[test]
    fn what_is_no_event_is_one_about_any_container_and_the_next_is_read() {
        for text in ["{", "null", "\u{fffd}", "{\"Type\":3}", "{\"Actor\":{\"ID\":{}}}"] {
            let text = format!("{text}\n{START}\n");
            assert_eq!(read(&[text.as_bytes()]), ["", "ede5"], "{text}");
        }
        assert!(read(&[b"{}\n"]).is_empty());
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_to_its_end() {
        let mut text = vec![b'x'; 3 * MOST_EVENT_BYTES + 7];
        text.extend_from_slice(format!("\n{START}\n").as_bytes());
        for size in [1000, 16 << 10, 1 << 20] {
            let chunks: Vec<&[u8]> = text.chunks(size).collect();
            assert_eq!(read(&chunks), ["", "ede5"], "{size}");
        }
        let with_labels = START.replace("alpine", &"x".repeat(500 << 10)) + "\n";
        assert_eq!(read(&[with_labels.as_bytes()]), ["ede5"], "the labels of its container are in it");
    }
}
