//! Formats log lines and queues them for stdout, without ever blocking the caller.
//!
//! In:  operator messages (tracing events); one line per connection.
//! Out: lines in a [`Queue`]; of connections that were refused, at most 100 a second for each reason.
//! Source: docs/logs.md.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};
use std::{env, fmt, panic, thread};

use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};

use super::event::{Colour, OperatorMessage};
use super::line::ConnectionLine;
use super::open_line::OpenConnectionLine;
use super::queue::Queue;
use super::refusals::Refusals;
use super::{Fault, LimitScope, Reason};
use crate::settings::{Level, Log, LogConnections, LogFormat};

/// Sends operator messages to stdout from now on. A process has one such log: a second call changes nothing but also
/// returns a guard.
pub(crate) fn init(settings: Log) -> LogGuard {
    let stdout = Stdout::shared();
    let is_terminal = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let colour = if is_terminal { Colour::Ansi } else { Colour::None };
    let (filter, level) = reload::Layer::new(ours(settings.level));
    let is_text = Arc::new(AtomicBool::new(settings.format == LogFormat::Text));
    let format = EitherFormat { is_text: Arc::clone(&is_text), colour };
    let messages = tracing_subscriber::fmt::layer().event_format(format).with_writer(Arc::clone(&stdout.queue));
    // Fails if there is a subscriber already: the first one stays.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(filter).with(messages));
    LogGuard { control: LogControl { level, is_text }, stdout: stdout.clone() }
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
    Stdout::shared().queue.flush(FLUSH_LIMIT);
}

/// Keeps the log open. Dropping this writes the queued lines, for at most a second and a half.
#[must_use]
pub(crate) struct LogGuard {
    control: LogControl,
    stdout: Stdout,
}

impl LogGuard {
    /// A handle to change level and format while the log is open.
    pub(crate) fn control(&self) -> LogControl {
        self.control.clone()
    }

    /// Lines of either kind dropped since start, for `Metrics::log_lines_dropped`.
    pub(crate) fn dropped_lines(&self) -> u64 {
        self.stdout.queue.dropped_lines()
    }

    /// Logs how many refused connections had no line since the last call; to be called once a second.
    pub(crate) fn report_suppressed(&self) {
        self.stdout.refusals.report();
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.report_suppressed();
        // A stdout that nobody reads must not keep the process from exiting.
        self.stdout.queue.flush(FLUSH_LIMIT);
    }
}

/// Changes the format and level of operator messages.
#[derive(Clone)]
pub(crate) struct LogControl {
    level: reload::Handle<Targets, Registry>,
    is_text: Arc<AtomicBool>,
}

impl LogControl {
    pub(crate) fn set(&self, settings: Log) {
        self.is_text.store(settings.format == LogFormat::Text, Ordering::Relaxed);
        // Fails only if the subscriber is gone, and then nothing is logged.
        let _ = self.level.modify(|now| *now = ours(settings.level));
    }
}

/// Writes each message in the format currently set.
struct EitherFormat {
    is_text: Arc<AtomicBool>,
    colour: Colour,
}

impl<S, N> FormatEvent<S, N> for EitherFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let message = if self.is_text.load(Ordering::Relaxed) {
            OperatorMessage { format: LogFormat::Text, colour: self.colour }
        } else {
            OperatorMessage { format: LogFormat::Json, colour: Colour::None }
        };
        message.format_event(context, writer, event)
    }
}

/// The connection log. Clones write to the same output.
#[derive(Clone)]
pub struct ConnectionLog {
    sink: Sink,
    refusals: Arc<Refusals>,
    format: LogFormat,
    which: LogConnections,
}

#[derive(Clone)]
enum Sink {
    Queued(Arc<Queue>),
    Direct(Arc<Mutex<Box<dyn Write + Send>>>),
}

impl ConnectionLog {
    /// Lines go to stdout, through the same queue as the operator messages.
    pub fn stdout(format: LogFormat, which: LogConnections) -> Self {
        let Stdout { queue, refusals } = Stdout::shared().clone();
        Self { sink: Sink::Queued(queue), refusals, format, which }
    }

    /// Lines go straight to `writer`, for tests.
    pub fn to(writer: impl Write + Send + 'static, format: LogFormat, which: LogConnections) -> Self {
        let sink = Sink::Direct(Arc::new(Mutex::new(Box::new(writer))));
        Self { sink, refusals: Arc::default(), format, which }
    }

    /// Whether a connection with this reason is logged; check it first to avoid formatting a line in vain.
    pub fn wants(&self, reason: Reason) -> bool {
        match self.which {
            LogConnections::All => true,
            // Clients that left before their ClientHello, port scans and TCP checks are no fault: there are thousands.
            LogConnections::Failed => reason.fault() != Fault::None,
            LogConnections::Off => false,
        }
    }

    /// Notes a client that a limit which only counts would have refused, and not one too many of them. `of` is what has
    /// the limit, and its name.
    pub fn over_limit(&self, client: SocketAddr, (kind, name): (&str, &str), limit: LimitScope) {
        if self.refusals.admit_over_limit() {
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
        if !self.wants(line.reason) || !self.refusals.admit(line.reason) {
            return;
        }
        let mut text = String::with_capacity(LINE_BYTES);
        line.write(&mut text, self.format, SystemTime::now());
        self.write(&text);
    }

    /// Writes the line of a connection that is still open.
    pub fn open_line(&self, line: &OpenConnectionLine<'_>) {
        let mut text = String::with_capacity(LINE_BYTES);
        line.write(&mut text, self.format, SystemTime::now());
        self.write(&text);
    }

    fn write(&self, text: &str) {
        // A connection cannot handle a write error; the queue counts the lines it drops.
        match &self.sink {
            Sink::Queued(queue) => queue.push(text.as_bytes()),
            Sink::Direct(writer) => {
                _ = writer.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes());
            }
        }
    }
}

/// What all logs of the process share: there is one stdout.
#[derive(Clone)]
struct Stdout {
    queue: Arc<Queue>,
    refusals: Arc<Refusals>,
}

impl Stdout {
    fn shared() -> &'static Self {
        static SHARED: OnceLock<Stdout> = OnceLock::new();
        SHARED.get_or_init(|| {
            // Not `std::io::stdout`, whose buffer keeps what could not be written.
            let queue = Queue::start(|bytes| Ok(rustix::io::write(rustix::stdio::stdout(), bytes)?));
            Self { queue, refusals: Arc::default() }
        })
    }
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

const LINE_BYTES: usize = 640;
const FLUSH_LIMIT: Duration = Duration::from_millis(1500);

#[cfg(test)]
#[path = "log/tests.rs"]
mod tests;
