//! Opens the log of the process, and changes its settings while it is open.
//!
//! In:  `log` of the settings; operator messages (tracing events); panics.
//! Out: records of these messages, in the outputs that all logs of the process share.
//! Source: docs/logs.md.

use std::sync::atomic::Ordering;
use std::{io, panic, thread};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, reload};

use super::event::Messages;
use super::file::LogFile;
use super::outputs::Outputs;
use crate::settings::{Level, Log};

/// Logs operator messages as `settings` want it from now on; `file` is that of `settings`, if they name one. A process
/// has one such log: a second call changes nothing but also returns a guard.
pub(crate) fn init(settings: &Log, file: Option<LogFile>) -> LogGuard {
    let outputs = Outputs::shared();
    let (filter, level) = reload::Layer::new(ours(settings.level));
    let messages = Messages(move |record: &[u8]| outputs.push(record));
    // Fails if there is a subscriber already: the first one stays.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(filter).with(messages));
    let control = LogControl { level, outputs };
    control.set(settings, file);
    LogGuard { control }
}

/// Logs every panic from now on, wherever it happens, besides what the standard library prints on stderr.
pub(crate) fn log_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let error = panic.payload_as_str().unwrap_or("a panic without a message");
        let thread = thread::current();
        let thread = thread.name().unwrap_or_default();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(event = "panicked", thread, place, error, "snigate panicked; this is a bug, please report it");
        before(panic);
    }));
}

/// Writes the queued lines, for at most a second and a half.
pub(crate) fn flush() {
    Outputs::shared().flush();
}

/// Opens the log file again, as after a rotation.
pub(crate) fn reopen() {
    if let Some(file) = &*Outputs::shared().file.load() {
        file.output.reopen();
    }
}

/// Keeps the log open. Dropping this writes the queued lines, for at most a second and a half.
#[must_use]
pub(crate) struct LogGuard {
    control: LogControl,
}

impl LogGuard {
    /// A handle to change the settings while the log is open.
    pub(crate) fn control(&self) -> LogControl {
        self.control.clone()
    }

    /// Lines of either kind dropped since start, for `Metrics::log_lines_dropped`.
    pub(crate) fn dropped_lines(&self) -> u64 {
        self.control.outputs.lost.load(Ordering::Relaxed)
    }

    /// Logs how many refused connections had no line; to be called once a second.
    pub(crate) fn report_suppressed(&self) {
        self.control.outputs.refusals.report_if_due();
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.control.outputs.refusals.report();
        // A stdout that nobody reads must not keep the process from exiting.
        self.control.outputs.flush();
    }
}

/// Changes the settings of the log.
#[derive(Clone)]
pub(crate) struct LogControl {
    level: reload::Handle<Targets, Registry>,
    outputs: &'static Outputs,
}

impl LogControl {
    /// Opens the file that `settings` name, if it is not the one in use.
    ///
    /// # Errors
    /// As of open(2).
    pub(crate) fn prepare(&self, settings: &Log) -> io::Result<Option<LogFile>> {
        let Some(path) = &*settings.file else { return Ok(None) };
        let current = self.outputs.file.load();
        let is_open = current.as_ref().is_some_and(|current| *current.path == *path.0);
        if is_open { Ok(None) } else { LogFile::open(&path.0).map(Some) }
    }

    /// Puts `settings` in force; `file` is what [`Self::prepare`] has opened for them.
    pub(crate) fn set(&self, settings: &Log, file: Option<LogFile>) {
        self.outputs.set(settings, file);
        // Fails only if the subscriber is gone, and then nothing is logged.
        let _ = self.level.modify(|now| *now = ours(settings.level));
    }
}

/// Our own messages at `level`. Of the libraries only errors: the rest is their view of what we report ourselves, such
/// as a nameserver that "forges" answers because it does not understand a query.
pub(super) fn ours(level: Level) -> Targets {
    Targets::new().with_default(LevelFilter::ERROR).with_target(env!("CARGO_PKG_NAME"), LevelFilter::from(level))
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}
