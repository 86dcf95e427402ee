//! Detects through the kernel that files changed, and whether one is still being written.
//!
//! In:  [`WatchPaths`].
//! Out: a wake-up, when the last change was, whether a writer still has a file open.
//!
//! There is one watch for the life of the process, to which a reload adds paths.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::inotify::{Change, Inotify};
use super::watch_paths::WatchPaths;

/// File events of the watched paths.
pub(super) struct Triggers {
    /// `None`: only polling finds changes.
    inotify: Option<Inotify>,
    so_far: Mutex<SoFar>,
    has_warned: bool,
}

#[derive(Default)]
struct SoFar {
    paths: WatchPaths,
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
        Self { inotify: None, so_far: Mutex::default(), has_warned: false }
    }

    /// Watches `paths` instead of the previous ones.
    pub(super) fn watch(&mut self, paths: WatchPaths, watching: Watching) {
        // What happened to the previous ones still counts.
        drop(self.so_far());
        if watching == Watching::Off {
            self.inotify = None;
            self.so_far = Mutex::default();
            return;
        }
        let watched = match &mut self.inotify {
            Some(inotify) => inotify.watch(paths.to_watch().into_iter()),
            none => Inotify::new().and_then(|inotify| none.insert(inotify).watch(paths.to_watch().into_iter())),
        };
        match watched {
            Ok(()) => self.has_warned = false,
            Err(error) if !std::mem::replace(&mut self.has_warned, true) => {
                tracing::warn!(
                    event = "file_watch_failed",
                    %error,
                    "cannot watch all files: changes are found by polling, every reload.poll"
                );
            }
            Err(_) => {}
        }
        let mut so_far = self.so_far();
        so_far.open.retain(|path| paths.counts(path));
        so_far.paths = paths;
    }

    /// Waits for an event since the last call.
    pub(super) async fn changed(&self) {
        while !std::mem::take(&mut self.so_far().is_news) {
            match &self.inotify {
                Some(inotify) => inotify.ready().await,
                None => std::future::pending().await,
            }
        }
    }

    /// How long ago the last event was; `None`: there was none yet.
    pub(super) fn quiet_for(&self) -> Option<Duration> {
        self.so_far().last.map(|last| last.elapsed())
    }

    pub(super) fn has_writer(&self) -> bool {
        !self.so_far().open.is_empty()
    }

    /// The events up to now.
    fn so_far(&self) -> MutexGuard<'_, SoFar> {
        let mut so_far = self.so_far.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inotify) = &self.inotify {
            inotify.read(|event| match event {
                Some((path, change)) => so_far.note(path, change),
                // Any of them may have been a change, or the last one of a writer.
                None => {
                    so_far.open.clear();
                    so_far.is_changed();
                }
            });
        }
        so_far
    }
}

impl SoFar {
    fn note(&mut self, path: &Path, change: Change) {
        if !self.paths.counts(path) {
            return;
        }
        match change {
            Change::Written => _ = self.open.insert(path.to_path_buf()),
            Change::Closed | Change::Replaced => _ = self.open.remove(path),
            Change::Other => {}
        }
        self.is_changed();
    }

    fn is_changed(&mut self) {
        self.is_news = true;
        self.last = Some(Instant::now());
    }
}
