//! Holds log lines until a thread of its own has written them, so that no caller waits for a slow reader or a full disk.
//!
//! In:  whole lines, of which at most 8 MiB wait.
//! Out: the same lines in order, on stdout. Lines that do not fit, or that cannot be written, are counted.

use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    dropped_lines: AtomicU64,
}

struct Waiting {
    lines: VecDeque<u8>,
    /// Whether some lines have been taken from here and are not written yet.
    is_writing: bool,
}

impl Queue {
    /// Starts the thread, which calls `write` as it would write(2).
    pub(super) fn start(write: impl FnMut(&[u8]) -> io::Result<usize> + Send + 'static) -> Arc<Self> {
        let waiting = Waiting { lines: VecDeque::with_capacity(CHUNK_BYTES), is_writing: false };
        let queue = Self { waiting: Mutex::new(waiting), changed: Condvar::new(), dropped_lines: AtomicU64::new(0) };
        let (queue, output) = (Arc::new(queue), Output { write, last: b'\n', is_failing: false });
        let writer = Arc::clone(&queue);
        if let Err(error) = thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_always(output)) {
            report(&error);
        }
        queue
    }

    /// Queues one line, which ends with a newline, or drops and counts it.
    pub(super) fn push(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.lines.len() + line.len() > QUEUE_BYTES {
            self.dropped_lines.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_empty = waiting.lines.is_empty();
        waiting.lines.extend(line);
        drop(waiting);
        // Otherwise the thread is at work. Waking costs a system call.
        if was_empty {
            self.changed.notify_all();
        }
    }

    /// Waits until all lines are written, for at most `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let unwritten = |waiting: &mut Waiting| waiting.is_writing || !waiting.lines.is_empty();
        let _ = self.changed.wait_timeout_while(self.waiting(), limit, unwritten);
    }

    /// Lines that did not fit or could not be written, since the start.
    pub(super) fn dropped_lines(&self) -> u64 {
        self.dropped_lines.load(Ordering::Relaxed)
    }

    /// A panic is a bug, but no reason to lose the lines that follow.
    fn write_always<W: FnMut(&[u8]) -> io::Result<usize>>(&self, mut output: Output<W>) {
        while catch_unwind(AssertUnwindSafe(|| self.write_to(&mut output))).is_err() {
            let _ = writeln!(io::stderr(), "snigate: writing the log panicked: lines are lost");
        }
    }

    fn write_to<W: FnMut(&[u8]) -> io::Result<usize>>(&self, output: &mut Output<W>) {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        loop {
            self.take(&mut chunk);
            let lost = output.write_lines(&chunk);
            self.dropped_lines.fetch_add(lost as u64, Ordering::Relaxed);
        }
    }

    /// Waits for lines, and moves about a chunk of them into `chunk`.
    fn take(&self, chunk: &mut Vec<u8>) {
        chunk.clear();
        let mut waiting = self.waiting();
        waiting.is_writing = false;
        if waiting.lines.is_empty() {
            waiting.lines.shrink_to(CHUNK_BYTES);
            self.changed.notify_all();
        }
        let waited = self.changed.wait_while(waiting, |waiting| waiting.lines.is_empty());
        waiting = waited.unwrap_or_else(PoisonError::into_inner);
        while chunk.len() < CHUNK_BYTES && !waiting.lines.is_empty() {
            // Memory does not fail.
            let _ = waiting.lines.read_until(b'\n', chunk);
        }
        waiting.is_writing = true;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Output<W> {
    write: W,
    /// The last byte written.
    last: u8,
    is_failing: bool,
}

impl<W: FnMut(&[u8]) -> io::Result<usize>> Output<W> {
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
            report(&error);
        }
        lost.iter().filter(|byte| **byte == b'\n').count()
    }

    /// An error comes with the bytes that were not written.
    fn write_all<'a>(&mut self, mut bytes: &'a [u8]) -> Result<(), (&'a [u8], io::Error)> {
        while !bytes.is_empty() {
            match (self.write)(bytes) {
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
}

/// On stderr, since the log itself is what fails.
fn report(error: &io::Error) {
    let _ = writeln!(
        io::stderr(),
        "snigate: cannot write the log to stdout: {error}. Lines are lost until this is mended; \
         snigate_log_lines_dropped_total counts them."
    );
}

const QUEUE_BYTES: usize = 8 << 20;
/// A power of two, so that a buffer that doubles never grows beyond `QUEUE_BYTES`.
const CHUNK_BYTES: usize = 64 << 10;
const FULL_PIPE_PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
#[path = "queue/tests.rs"]
mod tests;
