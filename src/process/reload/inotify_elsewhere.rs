//! Stands in for inotify(7) where there is none: only polling finds changes.

use std::io;
use std::path::Path;

pub(super) struct Inotify;

/// See the module for Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "nothing is ever reported here")]
pub(super) enum Change {
    Written,
    Closed,
    Replaced,
    Other,
}

impl Inotify {
    /// # Errors
    /// Always.
    pub(super) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn watch<'p>(&mut self, _: impl Iterator<Item = &'p Path>) -> io::Result<()> {
        Ok(())
    }

    pub(super) async fn ready(&self) {
        std::future::pending().await
    }

    pub(super) fn read(&self, _: impl FnMut(Option<(&Path, Change)>)) {}
}
