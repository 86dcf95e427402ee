//! Reads the files with the keys of Encrypted ClientHello.
//!
//! In:  paths of key files, or of directories that hold them.
//! Out: the keys in the order in which they are published, and warnings about files that were skipped.
//! Source: RFC 9934.
//!
//! A file that cannot be used is skipped with a warning: it may be one that is being written. A file that every user may
//! read is an error, since its key is no secret.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::files::{self, FileError};
use super::in_time::in_time;
use crate::ech::{Key, KeyFileError, read_key_file};

/// What the files hold.
#[derive(Debug, Default)]
pub(crate) struct KeyFiles {
    pub keys: Vec<Arc<Key>>,
    pub skipped: Vec<Skipped>,
    pub remarks: Vec<Remark>,
}

/// What an operator should change although the keys are used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Remark {
    /// Every user may put keys into the directory, or take them away.
    OpenDirectory { directory: PathBuf, mode: u32 },
    /// The name of the file says until when its key was to be used.
    Expired { file: PathBuf, until: String },
}

/// A key file, or a configuration in it, that is not used.
#[derive(Debug)]
pub(crate) struct Skipped {
    file: PathBuf,
    error: KeyFileError,
}

/// Why no keys could be read.
#[derive(Debug)]
pub(crate) enum KeyFilesError {
    Unreadable { path: PathBuf, error: FileError },
    OthersMayRead { file: PathBuf, mode: u32 },
    Empty { directory: PathBuf },
    TooMany { directory: PathBuf },
    NoKey { skipped: Vec<Skipped> },
}

/// Reads the key files at `paths`: those that are named in their order, those of a directory in the reverse order of their
/// names, so that names which are dates put the newest first.
///
/// # Errors
/// [`KeyFilesError`], if a file cannot be read or is not secret, or if there is no usable key at all.
pub(crate) fn read(paths: &[PathBuf]) -> Result<KeyFiles, KeyFilesError> {
    let mut read = KeyFiles::default();
    let today = date(SystemTime::now());
    for path in paths {
        match key_files_in(path)? {
            None => read.add(path)?,
            Some(files) => {
                read.remarks.extend(open_to_all(path));
                files.iter().try_for_each(|file| match read.add(file) {
                    // It was removed in the meantime.
                    Err(KeyFilesError::Unreadable { error, .. }) if error.is_not_found() => Ok(()),
                    added => added,
                })?;
            }
        }
    }
    let files = read.keys.iter().map(|key| Path::new(&*key.file));
    read.remarks.extend(files.filter_map(|file| expired(file, &today)).collect::<Vec<_>>());
    read.remarks.dedup();
    if read.keys.is_empty() { Err(KeyFilesError::NoKey { skipped: read.skipped }) } else { Ok(read) }
}

/// The config_ids of the keys in `directory`, also of those that are not secret. What cannot be read has none.
///
/// # Errors
/// [`KeyFilesError::TooMany`].
pub(crate) fn ids_in(directory: &Path) -> Result<Vec<u8>, KeyFilesError> {
    let files = match key_files_in(directory) {
        Ok(files) => files.unwrap_or_default(),
        Err(error @ KeyFilesError::TooMany { .. }) => return Err(error),
        Err(_) => Vec::new(),
    };
    let ids = files.iter().flat_map(|file| {
        let pem = files::bytes(file, MAX_BYTES).map(Zeroizing::new).unwrap_or_default();
        let read = read_key_file("", &pem).map(|read| read.keys).unwrap_or_default();
        read.into_iter().map(|key| key.config.id)
    });
    Ok(ids.collect())
}

/// The key files that would be read now for `path`; itself, if it is a file or missing.
pub(super) fn present(path: &Path) -> Vec<PathBuf> {
    match key_files_in(path) {
        Ok(Some(files)) => files,
        Err(KeyFilesError::Empty { .. }) => Vec::new(),
        _ => vec![path.to_path_buf()],
    }
}

impl KeyFiles {
    fn add(&mut self, file: &Path) -> Result<(), KeyFilesError> {
        let (pem, mode) = files::bytes_and_mode(file, MAX_BYTES).map_err(|error| unreadable(file, error))?;
        let pem = Zeroizing::new(pem);
        if mode & OTHERS_READ_OR_WRITE != 0 {
            return Err(KeyFilesError::OthersMayRead { file: file.to_path_buf(), mode });
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let skip = |error| Skipped { file: file.to_path_buf(), error };
        match read_key_file(&name, &pem) {
            Ok(read) => {
                self.keys.extend(read.keys);
                self.skipped.extend(read.skipped.into_iter().map(skip));
            }
            Err(error) => self.skipped.push(skip(error)),
        }
        Ok(())
    }
}

/// The key files in a directory, by name from the last to the first; `None` if `path` is no directory.
fn key_files_in(path: &Path) -> Result<Option<Vec<PathBuf>>, KeyFilesError> {
    let directory = path.to_path_buf();
    let list = move || {
        if !fs::metadata(&directory)?.is_dir() {
            return Ok(None);
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let file = entry?.path();
            if is_key_file(&file) && files.len() <= MAX_FILES {
                files.push(file);
            }
        }
        files.sort();
        files.reverse();
        Ok(Some(files))
    };
    // Only in_time's own file: a directory is listed under its own name.
    let listed = in_time(&path.join("."), list).map_err(|error| unreadable(path, FileError::Io(error)))?;
    match &listed {
        Some(files) if files.is_empty() => Err(KeyFilesError::Empty { directory: path.to_path_buf() }),
        Some(files) if files.len() > MAX_FILES => Err(KeyFilesError::TooMany { directory: path.to_path_buf() }),
        _ => Ok(listed),
    }
}

/// A directory that every user may change. One on a file system that is mounted read-only is none, such as the volume of a
/// secret in Kubernetes.
fn open_to_all(directory: &Path) -> Option<Remark> {
    let mode = fs::metadata(directory).ok()?.mode() & 0o7777;
    let read_only = || {
        let mounted = rustix::fs::statvfs(directory);
        mounted.is_ok_and(|mounted| mounted.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    };
    let open = mode & OTHERS_WRITE != 0 && !read_only();
    open.then(|| Remark::OpenDirectory { directory: directory.to_path_buf(), mode })
}

/// As `YYYY-MM-DD`, in UTC.
fn date(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let at = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let (year, month, day) = at.unwrap_or(OffsetDateTime::UNIX_EPOCH).to_calendar_date();
    format!("{year:04}-{:02}-{day:02}", u8::from(month))
}

/// Whether the name of the file without its extension ends in `until-YYYY-MM-DD` or `until-YYYY-MM`, and that day or month
/// is over. `today` is a date as well.
fn expired(file: &Path, today: &str) -> Option<Remark> {
    let (_, until) = file.file_stem()?.to_str()?.rsplit_once("until-")?;
    let is_date = matches!(until.len(), 7 | 10)
        && until
            .bytes()
            .enumerate()
            .all(|(at, byte)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() });
    let over = is_date && today.get(..until.len())? > until;
    over.then(|| Remark::Expired { file: file.to_path_buf(), until: until.to_owned() })
}

/// Hidden files belong to editors, or are being written.
pub(crate) fn is_key_file(file: &Path) -> bool {
    let hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && file.extension().is_some_and(|extension| extension == "pem" || extension == "ech")
}

fn unreadable(path: &Path, error: FileError) -> KeyFilesError {
    KeyFilesError::Unreadable { path: path.to_path_buf(), error }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is skipped: {}", self.file.display(), self.error)
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenDirectory { directory, mode } => write!(
                f,
                "every user may add keys to `{directory}` or remove them (mode {mode:04o}); run `chmod o-w {directory}`",
                directory = directory.display()
            ),
            Self::Expired { file, until } => write!(
                f,
                "the key in `{}` was to be used until {until}, as its name says, and still is: publish a newer one, then remove \
                 the file",
                file.display()
            ),
        }
    }
}

impl fmt::Display for KeyFilesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error: FileError::Io(error) }
                if error.kind() != io::ErrorKind::PermissionDenied =>
            {
                write!(f, "`{}` cannot be read: {error}", path.display())
            }
            Self::Unreadable { path, error } => write!(f, "`{}` cannot be used: {error}", path.display()),
            Self::OthersMayRead { file, mode } => write!(
                f,
                "every user may read or change `{file}` (mode {mode:04o}), so its key is not secret; run `chmod o= {file}`, \
                 or make a new key",
                file = file.display()
            ),
            Self::Empty { directory } => write!(
                f,
                "`{}` has no file whose name ends in .pem or .ech; `snigate ech keygen` makes one",
                directory.display()
            ),
            Self::TooMany { directory } => write!(f, "`{}` has more than {MAX_FILES} key files", directory.display()),
            Self::NoKey { skipped } => {
                f.write_str("there is no usable key")?;
                skipped.iter().try_for_each(|skipped| write!(f, "; {skipped}"))
            }
        }
    }
}

impl std::error::Error for KeyFilesError {}

const OTHERS_READ_OR_WRITE: u32 = 0o006;
const OTHERS_WRITE: u32 = 0o002;
/// A key and the largest list.
const MAX_BYTES: u64 = 128 << 10;
const MAX_FILES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_expired_once_the_day_or_the_month_in_the_name_of_its_file_is_over() {
        let until = |file: &str, today: &str| match expired(Path::new(file), today) {
            Some(Remark::Expired { until, .. }) => Some(until),
            _ => None,
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(date(UNIX_EPOCH + std::time::Duration::from_secs(951_782_400)), "2000-02-29");
        for (file, today, expected) in [
            ("2026-12.until-2027-02-28.pem", "2027-02-28", None),
            ("2026-12.until-2027-02-28.pem", "2027-03-01", some("2027-02-28")),
            ("a-until-2027-02.ech", "2027-02-28", None),
            ("a-until-2027-02.ech", "2027-03-01", some("2027-02")),
            ("until-2027-02.pem", "2028-01-01", some("2027-02")),
            // A date alone says since when.
            ("2026-12.pem", "2028-01-01", None),
            ("until-2027.pem", "2028-01-01", None),
            ("until-2027-2-28.pem", "2028-01-01", None),
            ("until-20270228xx.pem", "2028-01-01", None),
            ("until-2027-02-28-b.pem", "2028-01-01", None),
            ("until-.pem", "2028-01-01", None),
        ] {
            assert_eq!(until(file, today), expected, "{file} on {today}");
        }
    }
}
