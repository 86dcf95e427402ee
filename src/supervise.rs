//! Watches everything that runs in the background: what panics is started again, or ends the process.
//!
//! In:  a function that starts a task's future, or a future that has to end.
//! Out: the future's end. A panic is logged and counted, and the future is started again after a pause; where that is not
//!      possible, the process ends, since whoever supervises it starts it again, whole.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::sleep;

use crate::telemetry::{Metrics, Task, log};

/// Runs the future that `start` makes until one ends without a panic. State that outlives a future must be usable after
/// a panic in it: locks must not stay poisoned.
pub(crate) async fn supervise<F: Future<Output = ()>>(task: Task, metrics: &Metrics, mut start: impl FnMut() -> F) {
    let mut pause = SHORTEST_PAUSE;
    while let Err(panic) = caught(start()).await {
        report(task, metrics, &*panic, pause);
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Runs `future` to its end. A panic is logged and counted; it is not started again.
pub(crate) async fn observed(task: Task, metrics: &Metrics, future: impl Future<Output = ()>) {
    if let Err(panic) = caught(future).await {
        log_panic(task, metrics, &*panic);
    }
}

/// Logs and counts a panic of one part of `task`, which ends with it.
pub(crate) fn log_panic(task: Task, metrics: &Metrics, panic: &(dyn Any + Send)) {
    metrics.task_panicked(task);
    let (task, error) = (task.as_str(), message(panic));
    tracing::error!(event = "task_panicked", task, error, "part of a background task panicked: its work is not done");
}

/// Runs `future`, without which the process cannot serve; a panic in it ends the process.
pub(crate) async fn vital<F: Future>(what: &str, future: F) -> F::Output {
    caught(future).await.unwrap_or_else(|panic| end_process(what, &*panic))
}

/// Runs the code of a whole thread, without which the process cannot serve; a panic in it ends the process.
pub(crate) fn vital_thread<T>(what: &str, run: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| end_process(what, &*panic))
}

/// The rest of the process could go on, but not serve: half a proxy is worse than one that is started again.
fn end_process(what: &str, panic: &(dyn Any + Send)) -> ! {
    let error = message(panic);
    tracing::error!(
        event = "thread_died",
        thread = what,
        error,
        "a part that snigate cannot do without panicked: exiting"
    );
    log::flush();
    eprintln!("snigate: {what} panicked: {error}; this is a bug, please report it. Exiting, so that it is restarted.");
    std::process::exit(BROKEN)
}

/// The exit code of a process that ends without having drained, because a part of it is broken.
pub(crate) const BROKEN: i32 = 8;

/// Counts and logs a panic of `task`, which is started again after `pause`.
pub(crate) fn report(task: Task, metrics: &Metrics, panic: &(dyn Any + Send), pause: Duration) {
    metrics.task_panicked(task);
    let (task, error, again_in_s) = (task.as_str(), message(panic), pause.as_secs_f64());
    tracing::error!(event = "task_panicked", task, error, again_in_s, "background task panicked: it is started again");
}

/// The output of `future`, or its panic.
pub(crate) async fn caught<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_panics_is_counted_and_started_again_until_it_ends() {
        let (metrics, begun, mut starts) = (Metrics::new(), Instant::now(), 0);
        supervise(Task::Health, &metrics, || {
            starts += 1;
            let number = starts;
            async move {
                tokio::task::yield_now().await;
                assert!(number > 3, "start {number}");
            }
        })
        .await;
        assert_eq!((starts, begun.elapsed()), (4, Duration::from_secs(1 + 2 + 4)));
        let text = metrics.render();
        assert!(text.contains("snigate_task_panics_total{task=\"health\"} 3"), "{text}");
        assert!(text.contains("snigate_task_panics_total{task=\"discovery\"} 0"), "{text}");
    }

    #[test]
    fn the_text_of_a_panic_is_kept() {
        for (panic, text) in [
            (catch_unwind(|| panic!("constant")), "constant"),
            (catch_unwind(|| panic!("of {}", 2)), "of 2"),
            (catch_unwind(|| std::panic::panic_any(3)), "a panic without a message"),
        ] {
            assert_eq!(message(&*panic.unwrap_err()), text);
        }
    }
}
