//! Opens the file that `log.file` names.
//!
//! In:  its path.
//! Out: [`LogFile`], which lines are appended to. A new file can be read by its owner and its group (0640), whatever the
//!      umask of the process is.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// An open log file.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: File,
    path: PathBuf,
}

impl LogFile {
    /// Opens the file for appending, or makes it.
    ///
    /// # Errors
    /// As of open(2).
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        // A FIFO that nobody reads must not hold anyone up.
        options.append(true).mode(MODE).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = match options.clone().create_new(true).open(path) {
            Ok(file) => {
                file.set_permissions(Permissions::from_mode(MODE))?;
                file
            }
            // Without `create_new`, since that does not follow links. Another process may remove it in between.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.create(true).open(path)?,
            Err(error) => return Err(error),
        };
        Ok(Self { file, path: path.to_path_buf() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }
}

const MODE: u32 = 0o640;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_new_file_is_for_its_owner_and_group_and_an_old_one_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        LogFile::open(&path).unwrap().write(b"one\n").unwrap();
        assert_eq!(mode(), MODE);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        LogFile::open(&path).unwrap().write(b"two\n").unwrap();
        assert_eq!((mode(), fs::read_to_string(&path).unwrap()), (0o600, "one\ntwo\n".to_owned()));
        let error = LogFile::open(&directory.path().join("none/a.log")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
