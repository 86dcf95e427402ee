//! Logs to stdout, and to a file if there is one, without ever blocking the caller.
//!
//! In:  operator messages (tracing events); one line per connection.
//! Out: records, which each [`Output`] formats and writes on a thread of its own; of connections that were refused, at
//!      most `log.refusals` for each reason.
//! Source: docs/logs.md.

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use std::{env, panic, thread};

use arc_swap::ArcSwapOption;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, reload};

use super::event::Messages;
use super::format::Formatter;
use super::line::ConnectionLine;
use super::log_file::LogFile;
use super::open_line::OpenConnectionLine;
use super::output::{Output, Sink};
use super::refusals::Refusals;
use super::style::{Colour, Medium, Style};
use super::{Fault, LimitScope, Reason};
use crate::settings::{Level, Log, LogConnections};

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

/// The connection log of a configuration. Clones write to the same outputs.
#[derive(Clone)]
pub struct ConnectionLog {
    outputs: To,
    which: LogConnections,
    probes: bool,
}

#[derive(Clone)]
enum To {
    Shared(&'static Outputs),
    Own(Arc<Outputs>),
}

impl ConnectionLog {
    /// Lines go to the outputs of the process, like the operator messages.
    pub fn shared(settings: &Log) -> Self {
        Self { outputs: To::Shared(Outputs::shared()), which: settings.connections, probes: settings.probes }
    }

    /// Lines go to `write`, for tests and benches. It is called as write(2) would be.
    pub fn to(write: impl FnMut(&[u8]) -> io::Result<usize> + Send + 'static, settings: &Log) -> Self {
        let outputs = Outputs::new(Sink::Stdout(Box::new(write)), Medium::Other, settings);
        Self { outputs: To::Own(Arc::new(outputs)), which: settings.connections, probes: settings.probes }
    }

    /// Whether a connection with this reason is logged; check it first to avoid recording a line in vain.
    pub fn wants(&self, reason: Reason) -> bool {
        match self.which {
            LogConnections::All => self.probes || reason != Reason::Probe,
            // Clients that left before their ClientHello, port scans and TCP checks are no fault: there are thousands.
            LogConnections::Failed => reason.fault() != Fault::None,
            LogConnections::Off => false,
        }
    }

    /// Notes a client that a limit which only counts would have refused, and not one too many of them. `of` is what has
    /// the limit, and its name.
    pub fn over_limit(&self, client: SocketAddr, (kind, name): (&str, &str), limit: LimitScope) {
        if self.outputs().refusals.admit_over_limit() {
            tracing::info!(
                event = "client_over_limit",
                %client,
                of = format_args!("{kind} {name}"),
                limit = limit.as_str(),
                "a client is over a limit that is not enforced"
            );
        }
    }

    /// Writes the line if it is wanted, and not one too many about refused clients.
    pub fn line(&self, line: &ConnectionLine<'_>) {
        if self.wants(line.reason) && self.outputs().refusals.admit(line.reason) {
            self.push(|record| line.record(record, SystemTime::now()));
        }
    }

    /// Writes the line of a connection that is still open.
    pub fn open_line(&self, line: &OpenConnectionLine<'_>) {
        self.push(|record| line.record(record, SystemTime::now()));
    }

    /// Waits until all lines are written, for at most a second and a half.
    pub fn flush(&self) {
        self.outputs().flush();
    }

    fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        thread_local! {
            /// Used again for each line of the thread.
            static RECORD: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
        }
        let mut record = RECORD.take();
        record.clear();
        write(&mut record);
        // A connection cannot handle a write error; the queue counts the lines it drops.
        self.outputs().push(&record);
        RECORD.set(record);
    }

    fn outputs(&self) -> &Outputs {
        match &self.outputs {
            To::Shared(outputs) => outputs,
            To::Own(outputs) => outputs,
        }
    }
}

/// Where the log goes: what all logs of the process share.
struct Outputs {
    stdout: Arc<Output>,
    medium: Medium,
    file: ArcSwapOption<FileOutput>,
    formatter: Formatter,
    refusals: Refusals,
    lost: Arc<AtomicU64>,
}

struct FileOutput {
    path: Box<Path>,
    output: Arc<Output>,
}

impl Outputs {
    fn shared() -> &'static Self {
        static SHARED: OnceLock<Outputs> = OnceLock::new();
        SHARED.get_or_init(|| {
            // Not `std::io::stdout`, whose buffer keeps what could not be written.
            let write = |bytes: &[u8]| Ok(rustix::io::write(rustix::stdio::stdout(), bytes)?);
            Self::new(Sink::Stdout(Box::new(write)), stdout_medium(), &Log::default())
        })
    }

    fn new(sink: Sink, medium: Medium, settings: &Log) -> Self {
        let (formatter, lost) = (Formatter::default(), Arc::<AtomicU64>::default());
        let stdout = Output::start(sink, Style::new(settings, medium), formatter.clone(), Arc::clone(&lost));
        let refusals = Refusals::new(settings);
        Self { stdout, medium, file: ArcSwapOption::empty(), formatter, refusals, lost }
    }

    fn push(&self, record: &[u8]) {
        self.stdout.push(record);
        if let Some(file) = &*self.file.load() {
            file.output.push(record);
        }
    }

    fn set(&self, settings: &Log, opened: Option<LogFile>) {
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

    fn flush(&self) {
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

/// Our own messages at `level`. Of the libraries only errors: the rest is their view of what we report ourselves, such
/// as a nameserver that "forges" answers because it does not understand a query.
fn ours(level: Level) -> Targets {
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

const FLUSH_LIMIT: Duration = Duration::from_millis(1500);

#[cfg(test)]
#[path = "log/tests.rs"]
mod tests;
