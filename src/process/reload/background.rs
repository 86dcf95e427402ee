//! Does the heavy work of reloads on one thread at low priority, so that connections keep the CPU.
//!
//! In:  work that reads files or uses the CPU for long.
//! Out: its result, when it is done.
//!
//! The thread starts with the first work and stays: a process that has no threads left can still reload.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use rustix::process::setpriority_process;
use tokio::sync::oneshot;

/// The thread. Dropping this ends it after the work under way.
#[derive(Default)]
pub(super) struct Background {
    /// `None`: not started yet, or not to be had.
    work: Option<mpsc::Sender<Work>>,
    has_warned: bool,
}

type Work = Box<dyn FnOnce() + Send>;

impl Background {
    /// Queues `work` at once; the future waits for its result.
    ///
    /// The future's error is a panic of `work`.
    pub(super) fn run<T: Send + 'static, W: FnOnce() -> T + Send + 'static>(
        &mut self,
        work: W,
    ) -> impl Future<Output = Result<T, Box<dyn Any + Send>>> + use<T, W> {
        let (answer, answered) = oneshot::channel();
        self.queue(Box::new(move || _ = answer.send(catch_unwind(AssertUnwindSafe(work)))));
        async { answered.await.unwrap_or_else(|gone| Err(Box::new(gone.to_string()))) }
    }

    fn queue(&mut self, work: Work) {
        let unsent = match &self.work {
            Some(thread) => thread.send(work).err().map(|unsent| unsent.0),
            None => Some(work),
        };
        let Some(work) = unsent else { return };
        match start() {
            Ok(thread) => {
                // It has just started, and ends only when its sender is gone.
                let _ = thread.send(work);
                self.work = Some(thread);
                self.has_warned = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.has_warned, true) {
                    tracing::warn!(
                        event = "reload_thread_failed",
                        %error,
                        "cannot start a thread for reloads: checks, DNS and signals wait while one is under way"
                    );
                }
                work();
            }
        }
    }
}

fn start() -> std::io::Result<mpsc::Sender<Work>> {
    let (sender, works) = mpsc::channel::<Work>();
    thread::Builder::new().name("reload".to_owned()).spawn(move || {
        // On Linux the priority is per thread. If it cannot be set, the work still runs.
        let _ = setpriority_process(None, NICE);
        works.into_iter().for_each(|work| work());
    })?;
    Ok(sender)
}

/// About a tenth of a worker's share when both compete for a core.
const NICE: i32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_thread_does_all_work_and_survives_a_panic() {
        let mut background = Background::default();
        let first = background.run(|| thread::current().id()).await.unwrap();
        let panic = background.run(|| std::panic::panic_any(7_u8)).await.unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&7_u8));
        assert_eq!(background.run(|| thread::current().id()).await.unwrap(), first);
        assert_ne!(first, thread::current().id());
    }
}
