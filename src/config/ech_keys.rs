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
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::files::{self, FileError};
use super::in_time::in_time;
use crate::ech::{Key, KeyFileError, read_key_file};

/// What the files hold.
#[derive(Debug, Default)]
pub(crate) struct KeyFiles {
    pub keys: Vec<Arc<Key>>,
    pub skipped: Vec<Skipped>,
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
    for path in paths {
        match key_files_in(path)? {
            None => read.add(path)?,
            Some(files) => files.iter().try_for_each(|file| match read.add(file) {
                // It was removed in the meantime.
                Err(KeyFilesError::Unreadable { error, .. }) if error.is_not_found() => Ok(()),
                added => added,
            })?,
        }
    }
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
/// A key and the largest list.
const MAX_BYTES: u64 = 128 << 10;
const MAX_FILES: usize = 256;
