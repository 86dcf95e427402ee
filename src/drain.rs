//! Tells every worker when to stop accepting, and when to give up what is still open.

use tokio::sync::watch;

/// The life of the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// No new connections; those that are open may end.
    Draining,
    /// What is still open is reset.
    Over,
}

/// Starts and ends the drain; dropped, the drain is over.
#[derive(Debug)]
pub(crate) struct Drain(watch::Sender<Phase>);

/// Hears of the drain.
#[derive(Clone, Debug)]
pub(crate) struct Watch(watch::Receiver<Phase>);

/// Makes both ends.
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
    /// Waits until `phase` has come, or a later one.
    pub(crate) async fn reached(&mut self, phase: Phase) {
        // An error is a sender that is gone, which ends everything.
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }
}
