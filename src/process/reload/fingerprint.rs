//! Fingerprints files: a hash of their content, and when it last changed.
//!
//! In:  paths.
//! Out: a [`Fingerprint`]; comparing two shows whether anything changed.
//!
//! Only the content counts: a modification time can stay the same when the content changes, and change when it does
//! not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::hash::Hasher;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use siphasher::sip::SipHasher13;

use crate::config::in_time;

/// The content of some files at one moment. Taking it blocks, so do it on a thread that may wait for a disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Fingerprint(BTreeMap<PathBuf, Option<FileState>>);

/// A file that can be read.
#[derive(Clone, Copy, Debug)]
struct FileState {
    stamp: Stamp,
    content: u64,
}

/// File metadata, available without reading the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// Fingerprints `paths`. A large file whose stamp is the same as in `before` is not read again.
    pub(super) fn of(paths: BTreeSet<PathBuf>, before: &Self) -> Self {
        let now = SystemTime::now();
        let fingerprint = |path: PathBuf| {
            let (file, before) = (path.clone(), before.0.get(&path).copied().flatten());
            // What does not answer counts as missing.
            let seen = in_time(&path, move || Ok(FileState::of(&file, before, now))).ok().flatten();
            (path, seen)
        };
        Self(paths.into_iter().map(fingerprint).collect())
    }

    /// The part for `paths`.
    pub(super) fn only(mut self, paths: &BTreeSet<PathBuf>) -> Self {
        self.0.retain(|path, _| paths.contains(path));
        self
    }

    /// Whether both have the same files with the same content.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let content = |seen: &Option<FileState>| seen.map(|seen| seen.content);
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|((a, x), (b, y))| a == b && content(x) == content(y))
    }

    /// Whether, according to file metadata, nothing happened in between.
    pub(super) fn is_untouched(&self, other: &Self) -> bool {
        let stamp = |seen: &Option<FileState>| seen.map(|seen| seen.stamp);
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|((a, x), (b, y))| a == b && stamp(x) == stamp(y))
    }

    /// Whether a file is missing, or empty since less than `recently`, as happens while it is being replaced. A list of
    /// networks may be empty for good: it must not delay each reload.
    pub(super) fn has_gap(&self, recently: Duration) -> bool {
        let now = SystemTime::now();
        let is_recent = |at| now.duration_since(time(at)).is_ok_and(|age| age < recently);
        self.0.values().any(|seen| seen.is_none_or(|seen| seen.stamp.size == 0 && is_recent(seen.stamp.changed)))
    }

    /// How long nothing has changed, according to the file system and assuming its clock agrees with ours.
    pub(super) fn quiet_for(&self) -> Duration {
        let latest = self.0.values().flatten().map(|seen| seen.stamp.changed).max().unwrap_or_default();
        SystemTime::now().duration_since(time(latest)).unwrap_or_default()
    }
}

impl FileState {
    fn of(path: &Path, before: Option<Self>, now: SystemTime) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let stamp = Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        // A stamp younger than the clock's resolution could belong to two different contents.
        let is_settled = now.duration_since(time(stamp.changed)).is_ok_and(|age| age > COARSEST_CLOCK);
        if let Some(before) = before
            && before.stamp == stamp
            && is_settled
            && stamp.size > LARGE_BYTES
        {
            return Some(before);
        }
        if !metadata.is_file() || stamp.size > LARGEST_BYTES {
            // It will be rejected, whatever its content.
            return Some(Self { stamp, content: stamp.size });
        }
        Some(Self { stamp, content: content(path)? })
    }
}

fn content(path: &Path) -> Option<u64> {
    let mut file = File::open(path).ok()?.take(LARGEST_BYTES + 1);
    let mut hasher = SipHasher13::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match file.read(&mut chunk).ok()? {
            0 => return Some(hasher.finish()),
            bytes => hasher.write(&chunk[..bytes]),
        }
    }
}

fn time((seconds, nanoseconds): (i64, i64)) -> SystemTime {
    let since = |seconds, nanoseconds| Duration::new(seconds, u32::try_from(nanoseconds).unwrap_or_default());
    u64::try_from(seconds).map_or(UNIX_EPOCH, |seconds| UNIX_EPOCH + since(seconds, nanoseconds))
}

/// Smaller files are read every time.
const LARGE_BYTES: u64 = 1 << 20;
/// A larger file cannot be a configuration.
const LARGEST_BYTES: u64 = 64 << 20;
/// Some file systems have a resolution of two seconds.
const COARSEST_CLOCK: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    const RECENTLY: Duration = Duration::from_secs(3600);

    #[test]
    fn the_content_counts_and_not_the_time() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        let fingerprint = |before: &Fingerprint| Fingerprint::of(BTreeSet::from([file.clone()]), before);
        let missing = fingerprint(&Fingerprint::default());
        assert!(missing.has_gap(RECENTLY) && missing.is_same(&missing));
        fs::write(&file, "one").unwrap();
        let one = fingerprint(&missing);
        assert!(!one.has_gap(RECENTLY) && !one.is_same(&missing));
        let time = fs::metadata(&file).unwrap().modified().unwrap();

        // Same size, inode and modification time.
        fs::write(&file, "two").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        let two = fingerprint(&one);
        assert!(!two.is_same(&one) && !two.is_untouched(&one));

        // Different inode and time, same content.
        fs::write(directory.path().join("b"), "two").unwrap();
        fs::rename(directory.path().join("b"), &file).unwrap();
        let again = fingerprint(&two);
        assert!(again.is_same(&two) && !again.is_untouched(&two));

        fs::write(&file, "").unwrap();
        assert!(fingerprint(&again).has_gap(RECENTLY), "it may be about to be written");
        assert!(!fingerprint(&again).has_gap(Duration::ZERO), "it is meant to be empty");
        assert!(missing.has_gap(Duration::ZERO));
        assert!(fingerprint(&again).quiet_for() < Duration::from_secs(20));
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let (file, before) = (directory.path().join("a"), Fingerprint::default());
        fs::create_dir(&file).unwrap();
        let fingerprint = Fingerprint::of(BTreeSet::from([file.clone()]), &before);
        assert!(fingerprint.is_same(&Fingerprint::of(BTreeSet::from([file.clone()]), &before)));
        fs::remove_dir(&file).unwrap();
        File::create(&file).unwrap().set_len(LARGEST_BYTES + 1).unwrap();
        assert!(!fingerprint.is_same(&Fingerprint::of(BTreeSet::from([file]), &before)));
    }
}
