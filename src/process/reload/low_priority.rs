//! Runs the heavy work of a reload at low priority, so that connections keep the CPU.
//!
//! In:  CPU-bound work.
//! Out: its result, from a thread that yields to the workers when there are fewer cores than threads.

use std::thread;

use rustix::process::setpriority_process;
use tokio::sync::oneshot;

/// Starts `work` at once; the future waits for its result. `None`: it panicked, or the thread could not be started.
pub(super) fn low_priority<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Option<T>> {
    let (answer, answered) = oneshot::channel();
    let begun = thread::Builder::new().name("reload".to_owned()).spawn(move || {
        // On Linux the priority is per thread. If it cannot be set, the work still runs.
        let _ = setpriority_process(None, NICE);
        let _ = answer.send(work());
    });
    if let Err(error) = begun {
        tracing::error!(event = "reload_thread_failed", %error, "cannot start a thread for the reload");
    }
    async { answered.await.ok() }
}

/// About a tenth of a worker's share when both compete for a core.
const NICE: i32 = 10;
