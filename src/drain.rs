//! Signals to every worker when to stop accepting, and when to reset what is still open.

use tokio::sync::watch;

/// The phases of the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// No new connections; open ones may finish.
    Draining,
    /// Connections still open are reset.
    Over,
}

/// Starts and ends the drain. Dropping it ends the drain.
#[derive(Debug)]
pub(crate) struct Drain(watch::Sender<Phase>);

/// Receives the phases of the drain.
#[derive(Clone, Debug)]
pub(crate) struct Watch(watch::Receiver<Phase>);

/// Creates both ends.
pub(crate) fn channel() -> (Drain, Watch) {
    let (sender, receiver) = watch::channel(Phase::Serving);
    (Drain(sender), Watch(receiver))
}

impl Drain {
    pub(crate) fn enter(&self, phase: Phase) {
        self.0.send_replace(phase);
    }
}

impl Watch {
    /// Waits until `phase` or a later one is reached.
    pub(crate) async fn reached(&mut self, phase: Phase) {
        // An error means the sender is gone, which ends everything.
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }
}
