//! Detects through the kernel that files changed, and whether one is still being written.
//!
//! In:  [`WatchPaths`].
//! Out: a wake-up, when the last change was, whether a writer still has a file open.
//! Source: inotify(7), through the notify crate.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::watch_paths::WatchPaths;

/// File events of the watched paths.
pub(super) struct Triggers {
    events: Arc<Events>,
    paths: WatchPaths,
    /// `None`: there is no watch; only polling finds changes.
    watcher: Option<RecommendedWatcher>,
    has_warned: bool,
}

#[derive(Default)]
struct Events {
    so_far: Mutex<SoFar>,
    more: Notify,
}

#[derive(Default)]
struct SoFar {
    /// There was an event since the last [`Triggers::changed`].
    is_news: bool,
    last: Option<Instant>,
    /// Files that were written to and not closed since.
    open: HashSet<PathBuf>,
}

/// Whether inotify is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watching {
    On,
    Off,
}

impl Triggers {
    pub(super) fn new() -> Self {
        Self { events: Arc::default(), paths: WatchPaths::default(), watcher: None, has_warned: false }
    }

    /// Watches `paths` instead of the previous ones, if they differ.
    pub(super) fn watch(&mut self, paths: WatchPaths, watching: Watching) {
        if watching == Watching::Off {
            self.watcher = None;
            self.paths = WatchPaths::default();
        } else if self.watcher.is_none() || self.paths != paths {
            match watch(&paths, &self.events) {
                Ok(watcher) => {
                    self.watcher = Some(watcher);
                    self.has_warned = false;
                }
                Err(error) => {
                    self.watcher = None;
                    if !std::mem::replace(&mut self.has_warned, true) {
                        tracing::warn!(event = "file_watch_failed", %error, "cannot watch files: they are only polled");
                    }
                }
            }
            self.paths = paths;
            // The new watch reports open writers again at their next write; until then their files count as quiet.
            self.so_far().open.clear();
        }
    }

    /// Waits for an event since the last call.
    pub(super) async fn changed(&self) {
        loop {
            let more = self.events.more.notified();
            if std::mem::take(&mut self.so_far().is_news) {
                return;
            }
            more.await;
        }
    }

    /// How long ago the last event was; `None`: there was none yet.
    pub(super) fn quiet_for(&self) -> Option<Duration> {
        self.so_far().last.map(|last| last.elapsed())
    }

    pub(super) fn has_writer(&self) -> bool {
        !self.so_far().open.is_empty()
    }

    fn so_far(&self) -> MutexGuard<'_, SoFar> {
        self.events.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn watch(paths: &WatchPaths, events: &Arc<Events>) -> notify::Result<RecommendedWatcher> {
    let (events, which) = (Arc::clone(events), paths.clone());
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| events.note(event, &which))?;
    for path in paths.to_watch() {
        match watcher.watch(path, RecursiveMode::NonRecursive) {
            // A missing path is found by the poll once it appears.
            Err(error) if path.exists() => return Err(error),
            _ => {}
        }
    }
    Ok(watcher)
}

impl Events {
    fn note(&self, event: notify::Result<Event>, paths: &WatchPaths) {
        let mut so_far = self.so_far.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = match event {
            // Events were lost; any of them may have been a change.
            Err(_) => true,
            Ok(event) if event.need_rescan() => true,
            Ok(event) => {
                let mut counting = event.paths.into_iter().filter(|path| paths.counts(path)).peekable();
                match event.kind {
                    _ if counting.peek().is_none() => false,
                    EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                        counting.for_each(|path| _ = so_far.open.remove(&path));
                        true
                    }
                    // Reads change nothing.
                    EventKind::Access(_) => false,
                    EventKind::Modify(ModifyKind::Data(_)) => {
                        so_far.open.extend(counting);
                        true
                    }
                    EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                        counting.for_each(|path| _ = so_far.open.remove(&path));
                        true
                    }
                    _ => true,
                }
            }
        };
        if is_news {
            so_far.is_news = true;
            so_far.last = Some(Instant::now());
            drop(so_far);
            self.more.notify_waiters();
        }
    }
}
