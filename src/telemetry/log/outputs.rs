//! Keeps the outputs of a log, which are stdout and, if the settings name one, a file.
//!
//! In:  records; the settings.
//! Out: each [`Output`] formats the records and writes them on a thread of its own.

use std::env;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::file::LogFile;
use super::format::{Colour, Formatter, Medium, Style};
use super::output::{Output, Sink};
use super::refusals::Refusals;
use crate::settings::Log;

/// Where the log goes: what all logs of the process share.
pub(super) struct Outputs {
    stdout: Arc<Output>,
    medium: Medium,
    pub(super) file: ArcSwapOption<FileOutput>,
    formatter: Formatter,
    pub(super) refusals: Refusals,
    pub(super) lost: Arc<AtomicU64>,
}

pub(super) struct FileOutput {
    pub(super) path: Box<Path>,
    pub(super) output: Arc<Output>,
}

impl Outputs {
    pub(super) fn shared() -> &'static Self {
        static SHARED: OnceLock<Outputs> = OnceLock::new();
        SHARED.get_or_init(|| {
            // Not `std::io::stdout`, whose buffer keeps what could not be written.
            let write = |bytes: &[u8]| Ok(rustix::io::write(rustix::stdio::stdout(), bytes)?);
            Self::new(Sink::Stdout(Box::new(write)), stdout_medium(), &Log::default())
        })
    }

    pub(super) fn new(sink: Sink, medium: Medium, settings: &Log) -> Self {
        let (formatter, lost) = (Formatter::default(), Arc::<AtomicU64>::default());
        let stdout = Output::start(sink, Style::new(settings, medium), formatter.clone(), Arc::clone(&lost));
        let refusals = Refusals::new(settings);
        Self { stdout, medium, file: ArcSwapOption::empty(), formatter, refusals, lost }
    }

    pub(super) fn push(&self, record: &[u8]) {
        self.stdout.push(record);
        if let Some(file) = &*self.file.load() {
            file.output.push(record);
        }
    }

    pub(super) fn set(&self, settings: &Log, opened: Option<LogFile>) {
        self.stdout.show(Style::new(settings, self.medium));
        self.refusals.set(*settings.refusals);
        let style = Style::new(settings, Medium::Other);
        let current = self.file.load_full();
        match (current, opened) {
            (Some(current), Some(file)) => {
                let path = file.path().into();
                current.output.show(style);
                current.output.switch(file);
                self.file.store(Some(Arc::new(FileOutput { path, output: Arc::clone(&current.output) })));
            }
            (None, Some(file)) => {
                let path = file.path().into();
                let output = Output::start(Sink::File(file), style, self.formatter.clone(), Arc::clone(&self.lost));
                self.file.store(Some(Arc::new(FileOutput { path, output })));
            }
            (Some(current), None) if settings.file.is_some() => current.output.show(style),
            (Some(current), None) => {
                self.file.store(None);
                current.output.end();
            }
            (None, None) => {}
        }
    }

    pub(super) fn flush(&self) {
        self.stdout.flush(FLUSH_LIMIT);
        if let Some(file) = &*self.file.load() {
            file.output.flush(FLUSH_LIMIT);
        }
    }
}

/// What stdout is, and whether colors are wanted there (<https://no-color.org>).
fn stdout_medium() -> Medium {
    if !io::stdout().is_terminal() {
        return Medium::Other;
    }
    let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    Medium::Terminal(if no_colour || is_dumb { Colour::None } else { Colour::Ansi })
}

const FLUSH_LIMIT: Duration = Duration::from_millis(1500);
