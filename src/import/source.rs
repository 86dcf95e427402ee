//! Opens the files of an import, within bounds.
//!
//! In:  [`Files`], which reads a file and lists those that match a pattern.
//! Out: [`Library`]: the text of each file, or a [`Failure`] with its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::finding::Failure;
use super::model::Origin;

/// How files are opened: from disk, or in a test from memory.
pub(crate) trait Files {
    /// Reads a whole file of at most `most_bytes`.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read(&self, path: &Path, most_bytes: u64) -> Result<Vec<u8>, String>;

    /// The files that match `pattern`, sorted. Stars are allowed in the file name only.
    ///
    /// # Errors
    /// Why they cannot be listed.
    fn matching(&self, pattern: &Path) -> Result<Vec<PathBuf>, String>;

    /// The absolute path without symbolic links.
    ///
    /// # Errors
    /// There is no such file.
    fn real(&self, path: &Path) -> Result<PathBuf, String>;
}

/// Whether files may be read that lie outside of the directories of the files that the user has named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outside {
    Allowed,
    Refused,
}

/// The text of a file.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub name: Arc<str>,
    pub text: Arc<str>,
}

impl Text {
    pub(super) fn origin(&self, line: usize) -> Origin {
        Origin { file: Arc::clone(&self.name), line }
    }

    /// The lines with their origins. A line ends with LF or CRLF.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&str, Origin)> {
        self.text.lines().zip(1..).map(|(line, number)| (line, self.origin(number)))
    }
}

/// Opens files, and counts them.
pub(super) struct Library<'f> {
    files: &'f dyn Files,
    named: &'f [PathBuf],
    outside: Outside,
    opened: usize,
    bytes_left: u64,
}

impl<'f> Library<'f> {
    /// `named` are the files that the user has named.
    pub(super) fn new(files: &'f dyn Files, named: &'f [PathBuf], outside: Outside) -> Self {
        Self { files, named, outside, opened: 0, bytes_left: MOST_BYTES }
    }

    /// Whether a file may be read: the report quotes its lines, and a foreign configuration can name any file.
    fn may_read(&self, path: &Path) -> Result<(), String> {
        if self.outside == Outside::Allowed || self.named.iter().any(|named| named == path) {
            return Ok(());
        }
        let real = self.files.real(path)?;
        let holds = |directory: &Path| match directory.parent() {
            Some(_) => real.starts_with(directory),
            // Everything is below the root.
            None => real.parent() == Some(directory),
        };
        let directory = |named: &PathBuf| match named.to_str() {
            Some("-") => self.files.real(Path::new(".")).ok(),
            _ => self.files.real(named).ok()?.parent().map(Path::to_path_buf),
        };
        if real.starts_with(PACKAGES) || self.named.iter().filter_map(directory).any(|directory| holds(&directory)) {
            return Ok(());
        }
        Err("it is outside the directories of the files that you named; if you trust it, add --allow-outside"
            .to_owned())
    }

    /// Reads a text.
    ///
    /// # Errors
    /// It cannot be read, is not text, or the bound on all files together is reached.
    pub(super) fn open(&mut self, path: &Path) -> Result<Text, Failure> {
        let name: Arc<str> = path.display().to_string().into();
        self.opened += 1;
        if self.opened > MOST_FILES {
            let message = format!("more than {MOST_FILES} files are read; does a file include itself?");
            return Err(Failure::at(name, message));
        }
        self.may_read(path).map_err(|error| Failure::at(&name, error))?;
        let bytes = self.files.read(path, self.bytes_left).map_err(|error| Failure::at(&name, error))?;
        self.bytes_left = self.bytes_left.saturating_sub(bytes.len() as u64);
        let text = decode(bytes).map_err(|(line, message)| Failure::at(format_args!("{name}:{line}"), message))?;
        Ok(Text { name, text: text.into() })
    }

    /// The files that match a pattern.
    ///
    /// # Errors
    /// They cannot be listed.
    pub(super) fn matching(&self, pattern: &Path) -> Result<Vec<PathBuf>, String> {
        self.files.matching(pattern)
    }
}

/// Text without NUL bytes and without very long lines. Otherwise, the line and what is wrong with it.
fn decode(bytes: Vec<u8>) -> Result<String, (usize, String)> {
    let line_of = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
    if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
        return Err((line_of(&bytes[..at]), "this is not a text file: it contains a NUL byte".to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let byte = error.as_bytes()[good];
        (line_of(&error.as_bytes()[..good]), format!("this is not UTF-8 text: found the byte 0x{byte:02x}"))
    })?;
    match text.lines().position(|line| line.len() > MOST_LINE_BYTES) {
        Some(at) => Err((at + 1, format!("the line is longer than {MOST_LINE_BYTES} bytes"))),
        None => Ok(text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned)),
    }
}

/// Of all files together: enough for half a million entries of a map.
const MOST_BYTES: u64 = 32 << 20;
/// What packages install, such as the modules that Debian's nginx includes; it holds no secrets.
const PACKAGES: &str = "/usr/share/";
const MOST_FILES: usize = 1_000;
/// HAProxy's own limit for a line is 2,048 bytes.
const MOST_LINE_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_text_is_refused_with_its_line() {
        assert_eq!(decode(b"a\nb\0".to_vec()).map_err(|(line, _)| line), Err(2));
        assert_eq!(decode(b"a\n\n\xff".to_vec()).map_err(|(line, _)| line), Err(3));
        let long = [b"a\n".to_vec(), vec![b'x'; MOST_LINE_BYTES + 1]].concat();
        assert_eq!(decode(long).map_err(|(line, _)| line), Err(2));
        assert_eq!(decode("\u{feff}a".as_bytes().to_vec()).as_deref(), Ok("a"));
    }
}
