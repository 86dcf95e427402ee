//! One inotify instance that watches a set of paths, which can change, until it is dropped.
//!
//! In:  paths.
//! Out: what happened to them and to the files in them. It needs no thread: the control runtime waits for it.
//! Source: inotify(7).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

pub(super) struct Inotify {
    events: AsyncFd<OwnedFd>,
    /// The paths by watch descriptor. Paths that lead to the same inode share one.
    watched: BTreeMap<i32, BTreeSet<PathBuf>>,
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Its content changed, through a descriptor that is still open.
    Written,
    /// A descriptor that could write to it was closed.
    Closed,
    /// It is another file now, or none.
    Replaced,
    Other,
}

impl Inotify {
    /// Starts without paths.
    ///
    /// # Errors
    /// The user has too many instances, or the process too many descriptors.
    pub(super) fn new() -> io::Result<Self> {
        let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        #[allow(
            deprecated,
            reason = "for types whose descriptor may close or change; an `OwnedFd` does neither, and the replacement is an \
                      `unsafe fn`"
        )]
        let events = AsyncFd::new(descriptor)?;
        Ok(Self { events, watched: BTreeMap::new() })
    }

    /// Watches exactly `paths` from now on, by whatever they lead to now. Missing ones are left out.
    ///
    /// # Errors
    /// The first error about a path that exists. The other paths are watched.
    pub(super) fn watch<'p>(&mut self, paths: impl Iterator<Item = &'p Path>) -> io::Result<()> {
        let descriptor = self.events.get_ref();
        let (mut watched, mut result) = (BTreeMap::<i32, BTreeSet<PathBuf>>::new(), Ok(()));
        for path in paths {
            // Idempotent: a path that is watched already keeps its watch.
            match inotify::add_watch(descriptor, path, wanted()) {
                Ok(watch) => _ = watched.entry(watch).or_default().insert(path.to_path_buf()),
                // Found by the poll once it appears.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => result = result.and(Err(error.into())),
            }
        }
        for watch in self.watched.keys().filter(|watch| !watched.contains_key(watch)) {
            // Fails if the kernel has removed it, because its inode is gone.
            let _ = inotify::remove_watch(descriptor, *watch);
        }
        self.watched = watched;
        result
    }

    /// Waits until [`Self::read`] may have something to report.
    pub(super) async fn ready(&self) {
        match self.events.readable().await {
            // It is set again by the next event, since `read` takes all there are.
            Ok(mut ready) => ready.clear_ready(),
            // The runtime is shutting down.
            Err(_) => std::future::pending().await,
        }
    }

    /// Calls `note` for each change since the last call; with `None` when some were lost.
    pub(super) fn read(&self, mut note: impl FnMut(Option<(&Path, Change)>)) {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(self.events.get_ref().as_fd(), &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(_) => return,
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                note(None);
            }
            let Some(paths) = self.watched.get(&event.wd()) else { continue };
            let change = change(event.events());
            for path in paths {
                match event.file_name() {
                    Some(name) => note(Some((&path.join(OsStr::from_bytes(name.to_bytes())), change))),
                    None => note(Some((path, change))),
                }
            }
        }
    }
}

/// Opening and reading change nothing.
fn wanted() -> WatchFlags {
    let content = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB;
    let names = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
    content | names | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF
}

fn change(events: ReadFlags) -> Change {
    let replaced = ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
    let replaced = replaced | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED;
    if events.contains(ReadFlags::CLOSE_WRITE) {
        Change::Closed
    } else if events.contains(ReadFlags::MODIFY) {
        Change::Written
    } else if events.intersects(replaced) {
        Change::Replaced
    } else {
        Change::Other
    }
}

/// For at least 15 events with names of 255 bytes.
const BUFFER_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    fn changes(inotify: &Inotify, of: &Path) -> Vec<Change> {
        let mut changes = Vec::new();
        inotify.read(|event| {
            let (path, change) = event.expect("nothing is lost");
            changes.extend((path == of).then_some(change));
        });
        changes.dedup();
        changes
    }

    #[tokio::test]
    async fn one_instance_watches_what_it_is_told_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&two).unwrap();
        let mut inotify = Inotify::new().unwrap();
        inotify.watch([&*one, &*directory.path().join("missing")].into_iter()).unwrap();
        let mut file = File::create(one.join("a")).unwrap();
        inotify.ready().await;
        assert_eq!(changes(&inotify, &one.join("a")), [Change::Other]);
        file.write_all(b"x").unwrap();
        assert_eq!(changes(&inotify, &one.join("a")), [Change::Written]);
        drop(file);
        assert_eq!(changes(&inotify, &one.join("a")), [Change::Closed]);
        fs::read(one.join("a")).unwrap();
        assert_eq!(changes(&inotify, &one.join("a")), []);

        inotify.watch([&*two].into_iter()).unwrap();
        // The kernel reports that a watch is gone, which is of no interest.
        fs::write(one.join("a"), "y").unwrap();
        assert_eq!(changes(&inotify, &one.join("a")), []);
        fs::rename(one.join("a"), two.join("a")).unwrap();
        assert_eq!(changes(&inotify, &two.join("a")), [Change::Replaced]);

        // Another directory of the same name.
        fs::rename(&two, directory.path().join("three")).unwrap();
        fs::create_dir(&two).unwrap();
        inotify.watch([&*two].into_iter()).unwrap();
        fs::write(two.join("b"), "").unwrap();
        assert_eq!(changes(&inotify, &two.join("b")), [Change::Other, Change::Closed]);
    }

    #[tokio::test]
    async fn two_paths_of_one_inode_are_both_reported() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::create_dir(&real).unwrap();
        symlink("real", &link).unwrap();
        let mut inotify = Inotify::new().unwrap();
        inotify.watch([&*real, &*link].into_iter()).unwrap();
        fs::write(real.join("a"), "").unwrap();
        let mut seen = BTreeSet::new();
        inotify.read(|event| seen.extend(event.map(|(path, _)| path.to_path_buf())));
        assert_eq!(seen, BTreeSet::from([real.join("a"), link.join("a")]));
    }
}
