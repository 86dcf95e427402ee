//! Reads the files of a configuration from disk, with a size limit for each.
//!
//! In:  the path of a routing file; the globs of its `include`.
//! Out: the text of each, or a problem that says why it could not be read; a hash over all of them.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata, OpenOptions};
use std::hash::Hasher;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use siphasher::sip::SipHasher13;

use super::at::{At, Spot};
use super::in_time::in_time;
use super::problem::Problems;
use crate::sandbox;

/// Reads a whole file.
pub(super) fn read(path: &Path, problems: &mut Problems) -> Option<String> {
    let file: Arc<Path> = path.into();
    let at = At::top(&file);
    match bytes(path, MAX_FILE_BYTES) {
        Ok(bytes) => decode(bytes, &at, problems),
        Err(error) => {
            problems.error(&at, error);
            None
        }
    }
}

/// Reads a whole regular file of at most `most` bytes. Every file that the configuration names is read here.
///
/// # Errors
/// It cannot be read, is larger, or its file system does not answer in time. What is not a regular file is refused by
/// its type: opening a FIFO or a device must neither block nor have an effect.
pub(crate) fn bytes(path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    bytes_and_mode(path, most).map(|(bytes, _)| bytes)
}

/// As [`bytes`]; also returns the mode of the file that was read: one that replaces it may have another.
pub(super) fn bytes_and_mode(path: &Path, most: u64) -> Result<(Vec<u8>, u32), FileError> {
    let file = path.to_path_buf();
    in_time(path, move || Ok(bytes_of(&file, most))).map_err(FileError::Io)?
}

/// The size is checked first, so that a huge file costs nothing, and again while reading, since the file can grow.
fn bytes_of(path: &Path, most: u64) -> Result<(Vec<u8>, u32), FileError> {
    check_type(&fs::metadata(path).map_err(FileError::Io)?)?;
    // It may have been replaced: by a FIFO, for which an open without O_NONBLOCK waits.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).expect("O_NONBLOCK and O_NOCTTY are small");
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(FileError::Io)?;
    let metadata = file.metadata().map_err(FileError::Io)?;
    check_type(&metadata)?;
    let expected = metadata.len();
    if expected > most {
        return Err(FileError::TooLarge { most });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or_default());
    let mut file = file.take(expected);
    file.read_to_end(&mut bytes).map_err(FileError::Io)?;
    // A file that is being written is read again: growing the buffer as it grows could take twice its size.
    match file.into_inner().read(&mut [0]).map_err(FileError::Io)? {
        0 => Ok((bytes, metadata.permissions().mode() & 0o7777)),
        _ => Err(FileError::Growing),
    }
}

fn check_type(metadata: &Metadata) -> Result<(), FileError> {
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() => Ok(()),
        () if kind.is_dir() => Err(FileError::Directory),
        () if kind.is_fifo() => Err(FileError::NoRegularFile("a FIFO")),
        () if kind.is_socket() => Err(FileError::NoRegularFile("a socket")),
        () => Err(FileError::NoRegularFile("a device")),
    }
}

pub(super) fn decode(bytes: Vec<u8>, at: &At<'_>, problems: &mut Problems) -> Option<String> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        problems.error(at, "the file is written in UTF-16; save it as UTF-8");
        return None;
    }
    String::from_utf8(bytes)
        .map_err(|error| {
            let (good, bad) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
            let line_start = good.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
            let line = good.iter().filter(|&&byte| byte == b'\n').count() + 1;
            let column = String::from_utf8_lossy(&good[line_start..]).chars().count() + 1;
            let spot = Spot { line: count(line), column: count(column) };
            let byte = bad.first().copied().unwrap_or_default();
            problems.error(&at.moved(spot), format_args!("the file is not UTF-8: found the byte 0x{byte:02x}"));
        })
        .ok()
}

/// Checks that `text` can be read as YAML at all. A byte order mark is invisible in an editor, so it gets a message of
/// its own.
pub(super) fn check_start(text: &str, at: &At<'_>, problems: &mut Problems) -> Option<()> {
    if text.len() as u64 > MAX_FILE_BYTES {
        problems.error(at, FileError::TooLarge { most: MAX_FILE_BYTES });
        return None;
    }
    if text.starts_with('\u{feff}') {
        problems.error(at, "the file begins with a byte order mark; save it as UTF-8 without one");
        return None;
    }
    Some(())
}

/// The directory in which [`find`] looks for `pattern`.
pub(super) fn directory(pattern: &str, beside: &Path) -> PathBuf {
    let path = beside.parent().unwrap_or(Path::new("")).join(pattern);
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}

/// Finds the files that match `pattern`, relative to the directory of `beside`, sorted by name.
///
/// # Errors
/// [`IncludeError`], if the pattern cannot be used or its directory cannot be read.
pub(crate) fn find(pattern: &str, beside: &Path) -> Result<Vec<PathBuf>, IncludeError> {
    let path = beside.parent().unwrap_or(Path::new("")).join(pattern);
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
        return Err(IncludeError::NoFileName);
    };
    if directory.as_os_str().as_encoded_bytes().contains(&b'*') {
        return Err(IncludeError::StarInDirectory);
    }
    if !name.contains(['*', '?']) {
        return Ok(vec![path.clone()]);
    }
    let listed = if directory.as_os_str().is_empty() { Path::new(".") } else { directory }.to_path_buf();
    let name = name.to_owned();
    let names = match in_time(&path, move || list(&listed, &name)) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(IncludeError::Io(error)),
    };
    if names.len() > MAX_FILES {
        return Err(IncludeError::TooMany);
    }
    Ok(names.iter().map(|name| directory.join(name)).collect())
}

/// The names in `directory` that match `pattern`, sorted; at most one more than [`MAX_FILES`].
fn list(directory: &Path, pattern: &str) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let found = entry?.file_name();
        // Hidden files are skipped, as in every shell: they belong to editors or the file system.
        let fits =
            found.to_str().is_some_and(|found| !found.starts_with('.') && fits(pattern.as_bytes(), found.as_bytes()));
        if fits {
            names.push(found);
        }
        if names.len() > MAX_FILES {
            break;
        }
    }
    names.sort();
    Ok(names)
}

/// Matches `name` against a pattern with `*` and `?`, in time proportional to at most the product of their lengths.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // The position of the last star, and how much of the name it matches so far.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&wanted) if wanted == b'?' || wanted == name[n] => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((star_at, stretched)) = star else { return false };
                star = Some((star_at, stretched + 1));
                (p, n) = (star_at + 1, stretched + 1);
            }
        }
    }
    pattern[p..].iter().all(|&rest| rest == b'*')
}

/// A hash over texts, the same on every machine: SipHash-1-3 with a zero key. It detects changes.
#[derive(Debug, Default)]
pub(super) struct Hash(SipHasher13);

impl Hash {
    /// Adds a text. The length is hashed too, so that moving a line from one file to the next changes the hash.
    pub(super) fn add(&mut self, text: &str) {
        self.0.write(text.as_bytes());
        self.0.write(&(text.len() as u64).to_le_bytes());
    }

    pub(super) fn finish(&self) -> String {
        format!("{:016x}", self.0.finish())
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Why a file could not be read.
#[derive(Debug)]
pub enum FileError {
    Io(io::Error),
    Directory,
    /// What it is instead.
    NoRegularFile(&'static str),
    TooLarge {
        most: u64,
    },
    Growing,
}

/// Why an `include` pattern failed.
#[derive(Debug)]
pub(crate) enum IncludeError {
    Io(io::Error),
    NoFileName,
    StarInDirectory,
    TooMany,
}

impl FileError {
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

impl std::fmt::Display for FileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let user = rustix::process::geteuid();
                write!(
                    f,
                    "permission denied: user {user} may not read the file, or not enter a directory on the way to it"
                )?;
                if sandbox::restricts_files() { write!(f, "; {}", sandbox::ADVICE) } else { Ok(()) }
            }
            Self::Io(error) => write!(f, "the file cannot be read: {error}"),
            Self::Directory => f.write_str("this is a directory, not a file"),
            Self::NoRegularFile(what) => {
                write!(f, "this is {what}, not a regular file; name a file that can be read again")
            }
            Self::Growing => f.write_str("the file grew while it was read; it is read again when it is complete"),
            Self::TooLarge { most } => write!(f, "the file is larger than {} MiB", most >> 20),
        }
    }
}

impl std::fmt::Display for IncludeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => {
                write!(f, "the directory cannot be read: {error}")?;
                let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
                if is_denied && sandbox::restricts_files() { write!(f, "; {}", sandbox::ADVICE) } else { Ok(()) }
            }
            Self::NoFileName => f.write_str("this does not name a file; write it as `routes.d/*.yaml`"),
            Self::StarInDirectory => f.write_str("a `*` is allowed in the file name only, not in the directory"),
            Self::TooMany => write!(f, "this matches more than {MAX_FILES} files"),
        }
    }
}

impl std::error::Error for FileError {}
impl std::error::Error for IncludeError {}

/// Enough for half a million routes with their names.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 20;
/// In total, including included files.
pub(super) const MAX_FILES: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_run_and_a_question_mark_any_byte() {
        let fits = |pattern: &str, name: &str| super::fits(pattern.as_bytes(), name.as_bytes());
        for (pattern, name) in [("*.yaml", "a.yaml"), ("*", "a"), ("a*b*c", "aXbYbc"), ("?.y", "a.y"), ("a**", "a")] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.yaml", "a.yaml~"), ("?.y", ".y"), ("a*b", "ba"), ("", "a"), ("a", "")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_line_moved_to_the_next_file_changes_the_hash() {
        let hash = |texts: [&str; 2]| {
            let mut hash = Hash::default();
            texts.iter().for_each(|text| hash.add(text));
            hash.finish()
        };
        assert_eq!(hash(["a", "b"]), hash(["a", "b"]));
        assert_ne!(hash(["ab", ""]), hash(["a", "b"]));
        assert_eq!(hash(["a", "b"]).len(), 16);
    }
}
