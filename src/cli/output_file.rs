//! Writes what a command makes: to standard output, or to a file.
//!
//! In:  the text, and the options `--output` and `--force`.
//! Out: nothing is overwritten without `--force`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use clap::ValueHint;

/// Where the result goes.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Output {
    /// Writes the result to this file instead of standard output
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Overwrites the file
    #[arg(long, requires = "output")]
    force: bool,
}

impl Output {
    /// Writes `text`.
    ///
    /// # Errors
    /// Why it could not be written.
    pub(super) fn write(&self, text: &str) -> Result<(), String> {
        let Some(path) = &self.output else {
            let written = io::stdout().lock().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
            return written.map_err(|error| format!("cannot write: {error}"));
        };
        let written = self.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => format!("{} exists; --force overwrites it", path.display()),
            _ => format!("{}: {error}", path.display()),
        })
    }

    fn open(&self, path: &PathBuf) -> io::Result<File> {
        let mut options = OpenOptions::new();
        if self.force {
            options.create(true).truncate(true)
        } else {
            options.create_new(true)
        };
        options.write(true).open(path)
    }
}
