//! Reads the token that authorises state changes through the admin address.
//!
//! In:  the path of a file that contains only the token.
//! Out: [`Token`], which never appears in a log or a dump of the configuration.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{self, FileError};

/// A secret of visible ASCII characters, so that it fits into a header.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    secret: Arc<str>,
    file: Arc<Path>,
}

/// Why a token could not be read.
#[derive(Debug)]
pub enum TokenError {
    Unreadable { file: PathBuf, error: FileError },
    Empty { file: PathBuf },
    TooLong { file: PathBuf },
    NotVisibleAscii { file: PathBuf },
}

impl Token {
    /// Reads `file`; whitespace around the token is ignored.
    ///
    /// # Errors
    /// The file cannot be read, or its token is empty, too long, or has characters that are not allowed in a header.
    pub fn read(file: &Path) -> Result<Self, TokenError> {
        let path = || file.to_path_buf();
        let bytes = files::bytes(file, MAX_BYTES).map_err(|error| match error {
            FileError::TooLarge { .. } => TokenError::TooLong { file: path() },
            error => TokenError::Unreadable { file: path(), error },
        })?;
        Self::parse(&bytes, file)
    }

    /// Takes the token from `bytes`, which were read from `file`.
    ///
    /// # Errors
    /// It is empty, or has characters that are not allowed in a header.
    pub(crate) fn parse(bytes: &[u8], file: &Path) -> Result<Self, TokenError> {
        let path = || file.to_path_buf();
        match bytes.trim_ascii() {
            [] => Err(TokenError::Empty { file: path() }),
            token if token.iter().all(u8::is_ascii_graphic) => {
                let secret = String::from_utf8_lossy(token).into();
                Ok(Self { secret, file: file.into() })
            }
            _ => Err(TokenError::NotVisibleAscii { file: path() }),
        }
    }

    pub fn secret(&self) -> &Arc<str> {
        &self.secret
    }

    /// The file it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("file", &self.file).finish_non_exhaustive()
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, error: FileError::Io(error) } if error.kind() != ErrorKind::PermissionDenied => {
                write!(f, "`{}` cannot be read: {error}", file.display())
            }
            Self::Unreadable { file, error } => write!(f, "`{}` cannot be used: {error}", file.display()),
            Self::Empty { file } => write!(f, "`{}` is empty; write the token into it", file.display()),
            Self::TooLong { file } => {
                write!(f, "`{}` is longer than {MAX_BYTES} bytes; write the token alone into it", file.display())
            }
            Self::NotVisibleAscii { file } => write!(
                f,
                "`{}` must contain one token of visible ASCII without spaces, such as `openssl rand -hex 32` prints",
                file.display()
            ),
        }
    }
}

impl std::error::Error for TokenError {}

const MAX_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_is_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let read = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            Token::read(&file)
        };
        let token = read(b"  s3cret-word\n").unwrap();
        assert_eq!(&**token.secret(), "s3cret-word");
        assert!(!format!("{token:?}").contains("s3cret"), "{token:?}");
        for (bytes, reported) in [
            (&b""[..], "is empty"),
            (b" \n", "is empty"),
            (b"two words", "without spaces"),
            ("schl\u{fc}ssel".as_bytes(), "visible ASCII"),
            (&[b'x'; 4097], "longer than 4096"),
        ] {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.contains(reported) && error.contains("/token`"), "{error}");
        }
        let missing = Token::read(&directory.path().join("nothing")).unwrap_err().to_string();
        assert!(missing.contains("/nothing` cannot be read: No such file"), "{missing}");
    }
}
