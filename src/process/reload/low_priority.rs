//! Does the long work of a reload where it takes no time from connections.
//!
//! In:  work that computes.
//! Out: its result, from a thread that yields to the workers when there are fewer cores than threads.

use std::thread;

use rustix::process::setpriority_process;
use tokio::sync::oneshot;

/// Begins `work` at once, and waits for it; `None`: it panicked, or there was no thread to be had.
pub(super) fn low_priority<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Option<T>> {
    let (answer, answered) = oneshot::channel();
    let begun = thread::Builder::new().name("reload".to_owned()).spawn(move || {
        // To Linux a priority is one thread's own. Without it the work is done all the same.
        let _ = setpriority_process(None, NICE);
        let _ = answer.send(work());
    });
    if let Err(error) = begun {
        tracing::error!(event = "reload_thread_failed", %error, "cannot start a thread for the reload");
    }
    async { answered.await.ok() }
}

/// A tenth of what a worker gets where both want the same core.
const NICE: i32 = 10;
