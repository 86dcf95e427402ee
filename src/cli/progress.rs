//! Shows that a command is still working, if it takes longer than a second.
//!
//! In:  what it does; how many steps there are, if that is known.
//! Out: a bar, or a mark that turns, on standard error; nothing if that is not a terminal. It is gone at the end.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shown until it is dropped.
pub(super) struct Progress {
    steps: Arc<AtomicU64>,
    shown: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// `steps`: how many there are; `None`: unknown.
    pub(super) fn start(what: impl Into<String>, steps: Option<u64>) -> Self {
        let (what, done) = (what.into(), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&done);
        let shown = io::stderr().is_terminal().then(|| {
            let (end, ended) = channel();
            (end, thread::spawn(move || show(what, steps, &counted, &ended)))
        });
        Self { steps: done, shown }
    }

    /// Counts one step.
    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.shown.take() {
            drop(end);
            // So that nothing is drawn over what the command prints next.
            let _ = thread.join();
        }
    }
}

fn show(what: String, steps: Option<u64>, counted: &AtomicU64, ended: &Receiver<()>) {
    let goes_on = |pause| ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout);
    if !goes_on(PATIENCE) {
        return;
    }
    let (bar, template) = match steps {
        Some(steps) => (ProgressBar::new(steps), "{msg} [{bar:30}] {pos} of {len}, {elapsed}"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}, {elapsed}"),
    };
    let style = ProgressStyle::with_template(template).expect("the templates are constants");
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(what);
    bar.set_elapsed(PATIENCE);
    loop {
        bar.set_position(counted.load(Ordering::Relaxed));
        bar.tick();
        if !goes_on(STEP) {
            break;
        }
    }
    bar.finish_and_clear();
}

const PATIENCE: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(100);
