//! Writes the log to one place: stdout, or a file.
//!
//! In:  records, through a [`Queue`]; how to show them; for a file, when to open it again.
//! Out: whole lines. Those that cannot be written are counted, and the first failure is reported.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::file::LogFile;
use super::format::{Formatter, Style};
use super::queue::Queue;

/// One place that the log goes to, with a thread that writes it.
pub(super) struct Output {
    queue: Queue<Command>,
    style: Mutex<Style>,
}

/// Called as write(2) would be.
pub(super) type Write2 = Box<dyn FnMut(&[u8]) -> io::Result<usize> + Send>;

/// What lines are written to.
pub(super) enum Sink {
    Stdout(Write2),
    File(LogFile),
}

/// What a writer does after the records that came before.
enum Command {
    /// Opens its file again.
    Reopen,
    /// Goes on in another file.
    Switch(LogFile),
    /// Ends.
    End,
}

impl Output {
    /// Starts the thread. Lines that are lost are added to `lost`.
    pub(super) fn start(sink: Sink, style: Style, formatter: Formatter, lost: Arc<AtomicU64>) -> Arc<Self> {
        let name = if matches!(sink, Sink::File(_)) { "log-file" } else { "log" };
        let output = Arc::new(Self { queue: Queue::new(lost), style: Mutex::new(style) });
        let mut writer = Writer { sink, formatter, last: b'\n', is_failing: false };
        let of = Arc::clone(&output);
        let run = move || {
            // A panic is a bug, but no reason to lose the lines that follow.
            while catch_unwind(AssertUnwindSafe(|| of.write_always(&mut writer))).is_err() {
                let _ = writeln!(io::stderr(), "snigate: writing the log panicked: lines are lost");
            }
        };
        if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(run) {
            report_stdout(&error);
        }
        output
    }

    /// Queues one record, or drops and counts it.
    pub(super) fn push(&self, record: &[u8]) {
        self.queue.push(record);
    }

    pub(super) fn show(&self, style: Style) {
        *self.style.lock().unwrap_or_else(PoisonError::into_inner) = style;
    }

    pub(super) fn reopen(&self) {
        // What else it may have to do opens a file, too, or ends it.
        self.queue.command_if_none(Command::Reopen);
    }

    pub(super) fn switch(&self, file: LogFile) {
        self.queue.command(Command::Switch(file));
    }

    /// Writes what is queued, and ends the thread.
    pub(super) fn end(&self) {
        self.queue.command(Command::End);
    }

    /// Waits until everything is written, for at most `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        self.queue.flush(limit);
    }

    fn write_always(&self, writer: &mut Writer) {
        let (mut records, mut lines) = (Vec::new(), String::new());
        loop {
            let work = self.queue.take(records);
            let style = *self.style.lock().unwrap_or_else(PoisonError::into_inner);
            for record in work.records() {
                writer.formatter.write(&mut lines, record, style);
                if lines.len() >= CHUNK_BYTES {
                    self.queue.lose(writer.write_lines(lines.as_bytes()));
                    lines.clear();
                }
            }
            if !lines.is_empty() {
                self.queue.lose(writer.write_lines(lines.as_bytes()));
                lines.clear();
            }
            match work.command {
                Some(Command::Reopen) => writer.reopen(),
                Some(Command::Switch(file)) => writer.go_on(Sink::File(file)),
                Some(Command::End) => return,
                None => {}
            }
            records = work.records;
        }
    }
}

struct Writer {
    sink: Sink,
    formatter: Formatter,
    /// The last byte written.
    last: u8,
    is_failing: bool,
}

impl Writer {
    /// Writes `lines` and returns how many of them were lost.
    fn write_lines(&mut self, lines: &[u8]) -> usize {
        // What follows a line that was cut off begins on a line of its own.
        let begun =
            if self.last == b'\n' { Ok(()) } else { self.write_all(b"\n").map_err(|(_, error)| (lines, error)) };
        let Err((lost, error)) = begun.and_then(|()| self.write_all(lines)) else {
            self.is_failing = false;
            return 0;
        };
        if !std::mem::replace(&mut self.is_failing, true) {
            self.report(&error);
        }
        lost.iter().filter(|byte| **byte == b'\n').count()
    }

    /// An error comes with the bytes that were not written.
    fn write_all<'a>(&mut self, mut bytes: &'a [u8]) -> Result<(), (&'a [u8], io::Error)> {
        while !bytes.is_empty() {
            let written = match &mut self.sink {
                Sink::Stdout(write) => write(bytes),
                Sink::File(file) => file.write(bytes),
            };
            match written {
                Ok(0) => return Err((bytes, io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    self.last = bytes[written - 1];
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Whoever shares our stdout has made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(FULL_PIPE_PAUSE),
                Err(error) => return Err((bytes, error)),
            }
        }
        Ok(())
    }

    /// Opens the file again. If that fails, the lines still go to the old one.
    fn reopen(&mut self) {
        let Sink::File(file) = &self.sink else { return };
        let path = file.path().display();
        match LogFile::open(file.path()) {
            Ok(again) => {
                tracing::info!(event = "log_file_opened", file = %path, "the log file was opened again");
                self.go_on(Sink::File(again));
            }
            Err(error) => tracing::error!(
                event = "log_file_failed",
                file = %path,
                %error,
                "the log file cannot be opened again; the lines go to the file that was there before"
            ),
        }
    }

    fn go_on(&mut self, sink: Sink) {
        (self.sink, self.last, self.is_failing) = (sink, b'\n', false);
    }

    /// In the other output: this one is what fails.
    fn report(&self, error: &io::Error) {
        match &self.sink {
            Sink::Stdout(_) => report_stdout(error),
            Sink::File(file) => tracing::error!(
                event = "log_file_failed",
                file = %file.path().display(),
                %error,
                "the log file cannot be written; lines are lost until this is mended, and \
                 snigate_log_lines_dropped_total counts them"
            ),
        }
    }
}

fn report_stdout(error: &io::Error) {
    let _ = writeln!(
        io::stderr(),
        "snigate: cannot write the log to stdout: {error}. Lines are lost until this is mended; \
         snigate_log_lines_dropped_total counts them."
    );
}

const CHUNK_BYTES: usize = 64 << 10;
const FULL_PIPE_PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests;
