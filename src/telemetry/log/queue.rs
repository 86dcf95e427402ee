//! Holds log records until a thread of its own has written them, so that no caller waits for a slow reader or a full
//! disk.
//!
//! In:  whole records, of which at most 8 MiB wait.
//! Out: the same records in order, in chunks. Those that do not fit are counted.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::record::Record;

/// The records that wait, and what else the writer is asked to do. `C` are its commands.
pub(super) struct Queue<C> {
    waiting: Mutex<Waiting<C>>,
    changed: Condvar,
    /// Records that were lost; of all outputs together.
    lost: Arc<AtomicU64>,
}

struct Waiting<C> {
    records: Vec<u8>,
    command: Option<C>,
    /// The bytes that have been taken from here and are not written yet.
    writing_bytes: usize,
    /// The writer has nothing to do, and must be woken.
    is_idle: bool,
}

/// What the writer has to do next: first write the records, then obey the command.
pub(super) struct Work<C> {
    pub(super) records: Vec<u8>,
    pub(super) command: Option<C>,
}

impl<C> Queue<C> {
    pub(super) fn new(lost: Arc<AtomicU64>) -> Self {
        let waiting =
            Waiting { records: Vec::with_capacity(CHUNK_BYTES), command: None, writing_bytes: 0, is_idle: false };
        Self { waiting: Mutex::new(waiting), changed: Condvar::new(), lost }
    }

    /// Queues one record, or drops and counts it.
    pub(super) fn push(&self, record: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.writing_bytes + waiting.records.len() + record.len() > QUEUE_BYTES {
            self.lose(1);
            return;
        }
        waiting.records.extend_from_slice(record);
        self.wake(waiting);
    }

    /// Gives the writer a command in place of one that it has not obeyed yet.
    pub(super) fn command(&self, command: C) {
        let mut waiting = self.waiting();
        waiting.command = Some(command);
        self.wake(waiting);
    }

    /// Gives the writer a command, unless it has another one to obey.
    pub(super) fn command_if_none(&self, command: C) {
        let mut waiting = self.waiting();
        waiting.command.get_or_insert(command);
        self.wake(waiting);
    }

    /// Counts records that could not be written.
    pub(super) fn lose(&self, records: usize) {
        self.lost.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// Waits until everything is written, for at most `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let busy =
            |waiting: &mut Waiting<C>| !waiting.is_idle || !waiting.records.is_empty() || waiting.command.is_some();
        let _ = self.changed.wait_timeout_while(self.waiting(), limit, busy);
    }

    /// Waits for work. The records of the last call count as written; their buffer is used again.
    pub(super) fn take(&self, mut written: Vec<u8>) -> Work<C> {
        written.clear();
        let mut waiting = self.waiting();
        waiting.writing_bytes = 0;
        if waiting.records.is_empty() && waiting.command.is_none() {
            // Gives the memory of a burst back.
            written.shrink_to(CHUNK_BYTES);
            waiting.records.shrink_to(CHUNK_BYTES);
            waiting.is_idle = true;
            self.changed.notify_all();
            let idle = |waiting: &mut Waiting<C>| waiting.is_idle;
            let woken = self.changed.wait_while(waiting, idle).unwrap_or_else(PoisonError::into_inner);
            // Waking costs its caller a system call. Whatever comes in the next moment costs none.
            drop(woken);
            thread::sleep(GATHERING);
            waiting = self.waiting();
        }
        waiting.writing_bytes = waiting.records.len();
        Work { records: mem::replace(&mut waiting.records, written), command: waiting.command.take() }
    }

    fn wake(&self, mut waiting: MutexGuard<'_, Waiting<C>>) {
        let was_idle = mem::replace(&mut waiting.is_idle, false);
        drop(waiting);
        if was_idle {
            self.changed.notify_all();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<C>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Work<C> {
    /// The records, one by one.
    pub(super) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut rest = &self.records[..];
        std::iter::from_fn(move || Record::next(&mut rest))
    }
}

const QUEUE_BYTES: usize = 8 << 20;
/// A power of two, so that a buffer that doubles never grows beyond `QUEUE_BYTES`.
const CHUNK_BYTES: usize = 64 << 10;
/// How long the first line after a pause waits for others.
const GATHERING: Duration = Duration::from_millis(1);
