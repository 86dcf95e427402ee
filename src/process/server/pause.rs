//! Follows the pause of accepting at `limits.max_connections`: reports it, and makes room.
//!
//! In:  the accept loops that wait for a place.
//! Out: one message when accepting pauses and one when it goes on, for all listeners and workers. While clients wait for
//!      a place, those are ended that have not sent their hello for longest.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::sleep;

use crate::descriptors::Budget;
use crate::limits::{Pause, Permits};
use crate::operate::registry::Registries;
use crate::snapshot::Snapshot;
use crate::supervise::supervise;
use crate::telemetry::{Metrics, Task};

/// What the pause is about.
#[derive(Clone)]
pub(super) struct Followed {
    pub pause: Arc<Pause>,
    pub permits: Arc<Permits>,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub budget: Budget,
    pub registries: Registries,
    pub metrics: Arc<Metrics>,
}

/// Runs until dropped.
pub(super) async fn follow(followed: Followed) {
    let metrics = Arc::clone(&followed.metrics);
    supervise(Task::Upkeep, &metrics, || followed.follow()).await;
}

impl Followed {
    async fn follow(&self) {
        loop {
            self.pause.begins().await;
            self.pause.report(true);
            self.metrics.limit_reached(true);
            let (open, max_connections) = (self.permits.open(), self.most());
            tracing::warn!(
                event = "accept_paused",
                open,
                max_connections,
                "limits.max_connections is reached: no client is accepted until another one leaves"
            );
            let ended = self.make_room().await;
            let paused_s = self.pause.since().map_or(0, |(_, lasted)| lasted.as_secs());
            self.pause.report(false);
            self.metrics.limit_reached(false);
            tracing::warn!(event = "accept_resumed", paused_s, ended, "clients are accepted again");
        }
    }

    /// Returns how many clients it has ended once the pause is over.
    async fn make_room(&self) -> usize {
        let mut ended = 0;
        while self.pause.lasts() {
            if self.pause.is_wanted(WANTED) {
                let most = (self.most() / PART).clamp(1, MOST_AT_ONCE);
                let now = self.registries.end_stalled(GRACE, most).await;
                self.metrics.hellos_ended_early(now);
                ended += now;
            }
            sleep(LOOK).await;
        }
        ended
    }

    fn most(&self) -> usize {
        self.snapshot.load().max_connections.unwrap_or_else(|| self.budget.max_connections())
    }
}

/// How long a client may take for its hello even if others wait for its place.
const GRACE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(100);
/// Longer than the accept loops take between two looks at their queues.
const WANTED: Duration = Duration::from_millis(300);
/// A sixteenth of the places at a time: how many clients wait is not known.
const PART: usize = 16;
const MOST_AT_ONCE: usize = 256;
