//! Reads the stream of events of the Docker API.
//!
//! In:  the body of `GET /events`, one JSON object a line.
//! Out: [`Event`]s that may change a route; the others, such as those of health checks that run, are passed over.
//! Source: <https://docs.docker.com/reference/api/engine/>, SystemEvents.

use std::collections::BTreeMap;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::task::JoinHandle;

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
    /// The container; empty if the event does not say.
    pub container: String,
}

/// Splits what arrives into lines.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    /// How much of it is known to have no end of a line.
    searched: usize,
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
    /// The stream has ended or cannot be read; it cannot be used any more then.
    pub(super) async fn next(&mut self) -> Result<Event, ApiError> {
        loop {
            while let Some(line) = self.lines.next() {
                if let Some(event) = event(&line)? {
                    return Ok(event);
                }
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.map_err(ApiError::Http)?;
                    self.lines.add(frame.data_ref().map_or(&[][..], |data| data))?;
                }
                None => return Err(ApiError::EventsEnded),
            }
        }
    }
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        self.rest.extend_from_slice(bytes);
        // Whole lines are taken before more is added, so this is one line, and what one read brought.
        if self.rest.len() > MOST_EVENT_BYTES + bytes.len() {
            return Err(ApiError::LongEvent { most: MOST_EVENT_BYTES });
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let end = self.rest[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(end) = end.map(|end| self.searched + end) else {
            self.searched = self.rest.len();
            return None;
        };
        let rest = self.rest.split_off(end + 1);
        self.searched = 0;
        Some(std::mem::replace(&mut self.rest, rest))
    }
}

fn event(line: &[u8]) -> Result<Option<Event>, ApiError> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let Raw { kind, action, actor } = serde_json::from_slice(line).map_err(ApiError::Json)?;
    let mut attributes = actor.attributes.unwrap_or_default();
    let container = match kind.as_str() {
        "container" if matters(&action) => actor.id,
        "network" if ["connect", "disconnect"].contains(&action.as_str()) => {
            attributes.remove("container").unwrap_or_default()
        }
        _ => return Ok(None),
    };
    Ok(Some(Event { container }))
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
const MOST_EVENT_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&[u8]]) -> Result<Vec<String>, ApiError> {
        let (mut lines, mut events) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.add(chunk)?;
            while let Some(line) = lines.next() {
                events.extend(event(&line)?.map(|event| event.container));
            }
        }
        Ok(events)
    }

    /// As in the documentation of the Docker API, and as podman 4 writes them.
    const START: &str = r#"{"Type":"container","Action":"start","Actor":{"ID":"ede5","Attributes":{"image":"alpine"}},"scope":"local","time":1461943101,"timeNano":1461943101381709551}"#;
    const HEALTH: &str = r#"{"status":"health_status: healthy","id":"ab","Type":"container","Action":"health_status: healthy","Actor":{"ID":"ab","Attributes":{}}}"#;
    const CONNECT: &str = r#"{"Type":"network","Action":"connect","Actor":{"ID":"7dc8","Attributes":{"container":"c0ffee","name":"edge","type":"bridge"}}}"#;
    const EXEC: &str = r#"{"Type":"container","Action":"exec_start: /check","Actor":{"ID":"ab","Attributes":{}}}"#;

    #[test]
    fn events_that_may_change_a_route_name_the_container() {
        let text = format!("{START}\n{EXEC}\n\n{HEALTH}\r\n{CONNECT}\n");
        assert_eq!(read(&[text.as_bytes()]).unwrap(), ["ede5", "ab", "c0ffee"]);
    }

    #[test]
    fn a_line_may_arrive_in_any_pieces() {
        let text = format!("{START}\n{CONNECT}\n");
        for size in [1, 2, 7, 64] {
            let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            assert_eq!(read(&chunks).unwrap(), ["ede5", "c0ffee"], "{size}");
        }
        assert!(read(&[START.as_bytes()]).unwrap().is_empty(), "it may go on");
    }

    #[test]
    fn what_is_no_event_ends_the_stream() {
        for text in ["{\n", "null\n", "\u{fffd}\n", "{\"Type\":3}\n", "{\"Actor\":{\"ID\":{}}}\n"] {
            assert!(matches!(read(&[text.as_bytes()]), Err(ApiError::Json(_))), "{text}");
        }
        assert!(read(&[b"{}\n"]).unwrap().is_empty());
    }

    #[test]
    fn a_line_without_an_end_is_not_kept_for_ever() {
        let chunk = vec![b'x'; 16 << 10];
        let chunks: Vec<&[u8]> = (0..100).map(|_| chunk.as_slice()).collect();
        assert!(matches!(read(&chunks), Err(ApiError::LongEvent { .. })));
    }
}
