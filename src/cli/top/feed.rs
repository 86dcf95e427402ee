//! Asks the process for what `top` shows, on a thread of its own.
//!
//! In:  the stream `/api/v1/events`, or the status once per second where there is none; which connections are wanted.
//! Out: [`Update`]s. After a lost connection it tries again every second, so that a restart is survived.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::de::DeserializeOwned;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::action::Action;
use crate::cli::remote::Remote;
use crate::cli::remote_failure::{reason, said};
use crate::cli::reported::{Connections, History, Status};

/// What arrived.
pub(super) enum Update {
    Status(Box<Status>),
    History(History),
    Connections(Connections),
    /// Why there is no list of connections.
    NoConnections(String),
    /// There is no answer, and why.
    Lost(String),
    /// What a change has led to, or why there was none.
    Changed(Result<String, String>),
    /// A signal asks the command to end, or the terminal is gone.
    End,
}

/// Which connections to ask for; `None`: none.
pub(super) type Wanted = Option<String>;

pub(super) struct Feed {
    wanted: watch::Sender<Wanted>,
    remote: Arc<Remote>,
    updates: Sender<Update>,
}

impl Feed {
    /// Starts the thread; it ends with the process.
    pub(super) fn start(remote: Remote) -> io::Result<(Self, Receiver<Update>)> {
        let (wanted, asked) = watch::channel(None);
        let (updates, arrivals) = channel();
        let remote = Arc::new(remote);
        let feed = Self { wanted, remote: Arc::clone(&remote), updates: updates.clone() };
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("feed".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::join!(
                    states(&remote, &updates),
                    histories(&remote, &updates),
                    connections(&remote, asked, &updates),
                    signals(&updates),
                )
            });
        })?;
        Ok((feed, arrivals))
    }

    /// Says which connections are shown: the query of the list.
    pub(super) fn ask(&self, wanted: &Wanted) {
        self.wanted.send_if_modified(|now| {
            let is_new = now != wanted;
            now.clone_from(wanted);
            is_new
        });
    }

    /// Carries out `action` on a thread of its own; the result is an [`Update::Changed`].
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn carry_out(&self, action: Action) -> io::Result<()> {
        let (remote, updates) = (Arc::clone(&self.remote), self.updates.clone());
        let run = move || _ = updates.send(Update::Changed(action.carry_out(&remote)));
        thread::Builder::new().name("change".to_owned()).spawn(run).map(drop)
    }
}

async fn states(remote: &Remote, updates: &Sender<Update>) {
    loop {
        let why = match timeout(LIMIT, remote.open("/api/v1/events")).await {
            Err(_elapsed) => "it did not answer in time".to_owned(),
            Ok(Err(error)) => reason(&error),
            Ok(Ok(response)) if response.status().is_success() => match follow(response, updates).await {
                Ok(()) => "the connection has ended".to_owned(),
                Err(error) => reason(&error),
            },
            // No place for another stream, or a version without it.
            Ok(Ok(response)) => match get::<Status>(remote, "/api/v1/status?backends=200").await {
                Ok(status) => {
                    let _ = updates.send(Update::Status(Box::new(status)));
                    sleep(RETRY).await;
                    continue;
                }
                Err(_) => refusal(response).await,
            },
        };
        let _ = updates.send(Update::Lost(why));
        sleep(RETRY).await;
    }
}

/// Reads the stream to its end; each status in it is sent on.
async fn follow(response: Response<Incoming>, updates: &Sender<Update>) -> io::Result<()> {
    let (mut body, mut events) = (response.into_body(), EventReader::default());
    loop {
        let frame = match timeout(SILENCE, body.frame()).await {
            Err(_elapsed) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(None) => return Ok(()),
            Ok(Some(frame)) => frame.map_err(io::Error::other)?,
        };
        let Ok(bytes) = frame.into_data() else { continue };
        for (name, data) in events.take(&bytes)? {
            if name == "status" {
                let status = serde_json::from_slice(&data).map_err(io::Error::other)?;
                let _ = updates.send(Update::Status(Box::new(status)));
            }
        }
    }
}

async fn histories(remote: &Remote, updates: &Sender<Update>) {
    loop {
        if let Ok(history) = get(remote, "/api/v1/history").await {
            let _ = updates.send(Update::History(history));
        }
        sleep(HISTORY).await;
    }
}

/// Asks for connections while any are wanted: at once when others are, and every second.
async fn connections(remote: &Remote, mut wanted: watch::Receiver<Wanted>, updates: &Sender<Update>) {
    loop {
        let query = wanted.borrow_and_update().clone();
        if let Some(query) = &query {
            let _ = updates.send(match get(remote, &format!("/api/v1/connections?{query}")).await {
                Ok(page) => Update::Connections(page),
                Err(error) => Update::NoConnections(reason(&error)),
            });
        }
        let pause = async { if query.is_some() { sleep(RETRY).await } else { std::future::pending().await } };
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = pause => {}
        }
    }
}

/// In raw mode Ctrl-C is a key; these come from elsewhere.
async fn signals(updates: &Sender<Update>) {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = kinds.map(signal) else { return };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
        () = terminal_closed() => {}
    }
    let _ = updates.send(Update::End);
    // If the terminal itself is gone, reading its keys never ends.
    sleep(AFTER_SIGNAL).await;
    let _ = ratatui::try_restore();
    std::process::exit(0);
}

/// Waits until the terminal is gone. Without a controlling terminal no signal says so.
async fn terminal_closed() {
    let is_gone = || {
        let stdin = rustix::stdio::stdin();
        let mut wanted = [PollFd::new(&stdin, PollFlags::IN)];
        let polled = poll(&mut wanted, Some(&Timespec::default()));
        polled.is_ok_and(|_| wanted[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL))
    };
    while !is_gone() {
        sleep(LOOK).await;
    }
}

async fn get<T: DeserializeOwned>(remote: &Remote, path: &str) -> io::Result<T> {
    let whole = async {
        let response = remote.open(path).await?;
        if !response.status().is_success() {
            return Err(io::Error::other(refusal(response).await));
        }
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await.map_err(io::Error::other)?;
        serde_json::from_slice(&body.to_bytes()).map_err(io::Error::other)
    };
    timeout(LIMIT, whole).await.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn refusal(response: Response<Incoming>) -> String {
    let status = response.status();
    let body = timeout(LIMIT, Limited::new(response.into_body(), 64 << 10).collect()).await;
    let body = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
    match said(&String::from_utf8_lossy(&body)) {
        Some(said) if status != StatusCode::NOT_FOUND => said,
        _ => format!("it does not answer as snigate's admin server does ({status})"),
    }
}

/// Puts events together from the pieces in which a stream arrives.
/// Source: the section "Server-sent events" of the HTML standard; with line feeds only, as our server writes them.
#[derive(Default)]
struct EventReader {
    pending: Vec<u8>,
}

impl EventReader {
    /// Returns the events that `bytes` complete: their names and data.
    ///
    /// # Errors
    /// One event is larger than any answer may be.
    fn take(&mut self, bytes: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut events = Vec::new();
        // A blank line may begin with the last byte that was there before.
        let mut from = self.pending.len().saturating_sub(1);
        self.pending.extend_from_slice(bytes);
        while let Some(at) = self.pending[from..].windows(2).position(|two| two == b"\n\n") {
            let rest = self.pending.split_off(from + at + 2);
            events.extend(event(&self.pending));
            (self.pending, from) = (rest, 0);
        }
        if self.pending.len() > MOST_BYTES { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(events) }
    }
}

/// The name and data of one event; `None` for a comment.
fn event(text: &[u8]) -> Option<(String, Vec<u8>)> {
    let (mut name, mut data) = (None, Vec::new());
    for line in text.split(|byte| *byte == b'\n') {
        if let Some(value) = line.strip_prefix(b"event: ") {
            name = Some(String::from_utf8_lossy(value).into_owned());
        } else if let Some(value) = line.strip_prefix(b"data: ") {
            data.extend_from_slice(value);
        }
    }
    name.map(|name| (name, data))
}

/// Between two attempts, and between two questions.
const RETRY: Duration = Duration::from_secs(1);
/// The step of the history.
const HISTORY: Duration = Duration::from_secs(10);
/// For an answer.
const LIMIT: Duration = Duration::from_secs(5);
/// The server writes every second.
const SILENCE: Duration = Duration::from_secs(15);
/// Between two looks at the terminal.
const LOOK: Duration = Duration::from_millis(200);
/// More than the terminal takes to be restored in the usual way.
const AFTER_SIGNAL: Duration = Duration::from_secs(1);
const MOST_BYTES: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_in_whatever_pieces_they_arrive() {
        let stream =
            b"retry: 2000\n\nid: 1-2\nevent: backend\ndata: {}\n\n: still here\n\nevent: status\ndata: {\"a\":1}\n\n";
        let expected = vec![("backend".to_owned(), b"{}".to_vec()), ("status".to_owned(), b"{\"a\":1}".to_vec())];
        for piece in 1..=stream.len() {
            let mut reader = EventReader::default();
            let read = stream.chunks(piece).flat_map(|piece| reader.take(piece).unwrap());
            assert_eq!(read.collect::<Vec<_>>(), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut reader = EventReader::default();
        assert!(reader.take(&vec![b'x'; MOST_BYTES]).unwrap().is_empty());
        assert!(reader.take(b"x").is_err());
    }
}
