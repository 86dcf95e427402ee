//! Makes file system calls with a deadline: a network file system that never answers must not stop anything else.
//!
//! In:  a path, and a call that may block on it.
//! Out: the call's result, or an error after [`LIMIT`].
//!
//! Each calling thread has a second one for its calls, which stays until the first one ends. A call that does not return
//! keeps that second thread: it is left alone, and the next call gets another one. While such a call is under way, others
//! in its directory fail at once, so that a file system that is gone keeps one thread for each directory.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

/// The result of `call`, which is about `path`.
///
/// # Errors
/// `call` fails, or does not return in time ([`NoAnswer`]).
pub(crate) fn in_time<T: Send + 'static>(
    path: &Path,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    in_time_of(LIMIT, path, call)
}

/// Ends this thread's second thread and waits for it, unless a call keeps it.
pub(crate) fn end_thread() {
    let thread = THREAD.with_borrow_mut(Option::take);
    if let Some(Caller { calls, thread }) = thread {
        drop(calls);
        // It has no panics.
        let _ = thread.join();
    }
}

fn in_time_of<T: Send + 'static>(
    limit: Duration,
    path: &Path,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let directory = Arc::new(path.parent().unwrap_or(Path::new("")).to_path_buf());
    if waiting().contains(&*directory) {
        return Err(NoAnswer(limit).into());
    }
    let (answer, answered) = mpsc::sync_channel(1);
    let waited = Arc::clone(&directory);
    let call: Call = Box::new(move || {
        let result = call();
        // Locked, so that it is either answered in time or on the list.
        let mut waiting = waiting();
        if answer.send(result).is_err() {
            waiting.remove(&*waited);
        }
    });
    if let Err(call) = queue(call) {
        // No thread is to be had. Most files answer at once.
        call();
    }
    match answered.recv_timeout(limit) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            THREAD.with_borrow_mut(|thread| *thread = None);
            let mut waiting = waiting();
            let result = answered.try_recv().unwrap_or_else(|_| {
                waiting.insert(directory.to_path_buf());
                Err(NoAnswer(limit).into())
            });
            drop(answered);
            result
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("reading {} panicked", path.display()),
    }
}

type Call = Box<dyn FnOnce() + Send>;

struct Caller {
    calls: mpsc::Sender<Call>,
    thread: JoinHandle<()>,
}

/// Hands `call` to this thread's second one; returns it if there is none.
fn queue(call: Call) -> Result<(), Call> {
    THREAD.with_borrow_mut(|thread| {
        let mut call = call;
        if let Some(thread) = thread {
            match thread.calls.send(call) {
                Ok(()) => return Ok(()),
                Err(mpsc::SendError(unsent)) => call = unsent,
            }
        }
        let (calls, queued) = mpsc::channel::<Call>();
        let run = |call: Call| _ = catch_unwind(AssertUnwindSafe(call));
        let begun = thread::Builder::new().name("files".to_owned()).spawn(move || queued.into_iter().for_each(run));
        let Ok(begun) = begun else { return Err(call) };
        calls.send(call).map_err(|unsent| unsent.0)?;
        *thread = Some(Caller { calls, thread: begun });
        Ok(())
    })
}

/// Directories in which a call has not returned in time, and still has not.
fn waiting() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    static WAITING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    static THREAD: RefCell<Option<Caller>> = const { RefCell::new(None) };
}

/// The file system has not answered in time.
#[derive(Debug)]
struct NoAnswer(Duration);

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        write!(
            f,
            "the file system did not answer within {seconds} s; check what is mounted there (`findmnt -T`), or move \
             the file to a local disk"
        )
    }
}

impl std::error::Error for NoAnswer {}

impl From<NoAnswer> for io::Error {
    fn from(error: NoAnswer) -> Self {
        Self::new(io::ErrorKind::TimedOut, error)
    }
}

/// For one call. A disk that spins up, or a server that fails over, may take a few seconds.
const LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> io::Result<thread::ThreadId> {
        in_time_of(Duration::from_secs(60), Path::new(path), || Ok(thread::current().id()))
    }

    #[test]
    fn a_call_that_does_not_return_costs_a_thread_and_its_directory() {
        let first = at("/a/one").unwrap();
        assert_eq!(at("/b/one").unwrap(), first);
        let (go_on, blocks) = mpsc::channel::<()>();
        let (returned, returns) = mpsc::channel();
        let stuck = move || {
            let _ = blocks.recv();
            let _ = returned.send(());
            Ok(())
        };
        let error = in_time_of(Duration::from_millis(1), Path::new("/a/two"), stuck).unwrap_err();
        assert!(error.to_string().starts_with("the file system did not answer within 0.001 s"), "{error}");
        assert_eq!(at("/a/three").unwrap_err().kind(), io::ErrorKind::TimedOut, "at once");
        let second = at("/b/three").unwrap();
        assert_ne!(second, first);
        drop(go_on);
        returns.recv().unwrap();
        while at("/a/four").is_err() {
            thread::yield_now();
        }
        assert_eq!(at("/a/four").unwrap(), second);
        end_thread();
        assert_ne!(at("/a/five").unwrap(), second);
    }

    #[test]
    fn errors_and_panics_of_a_call_are_those_of_the_caller() {
        let missing = || Err::<(), _>(io::ErrorKind::NotFound.into());
        assert_eq!(in_time(Path::new("/c/a"), missing).unwrap_err().kind(), io::ErrorKind::NotFound);
        let panicking = || in_time::<()>(Path::new("/c/a"), || panic!("in the call"));
        assert!(std::panic::catch_unwind(panicking).is_err());
        assert!(at("/c/a").is_ok());
    }
}
