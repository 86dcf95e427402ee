//! Has long connections logged while they are open.
//!
//! In:  `log.interval` of the configuration in force.
//! Out: a request to each worker at short intervals; the workers write the lines. None while it is off.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{Instant, timeout};

use crate::operate::registry::Registries;
use crate::snapshot::Snapshot;
use crate::supervise::supervise;
use crate::telemetry::{Metrics, Task};

/// Runs until dropped.
pub(super) async fn log(snapshot: Arc<ArcSwap<Snapshot>>, metrics: Arc<Metrics>, registries: Registries) {
    supervise(Task::Upkeep, &metrics, || request(&snapshot, &registries)).await;
}

async fn request(snapshot: &ArcSwap<Snapshot>, registries: &Registries) {
    let mut since = Instant::now();
    loop {
        let in_force = snapshot.load_full();
        let Some(interval) = *in_force.config.log.interval else {
            in_force.until_replaced().await;
            since = Instant::now();
            continue;
        };
        let _ = timeout(pause(*interval), in_force.until_replaced()).await;
        drop(in_force);
        let until = Instant::now();
        registries.log_open(*interval, since, until).await;
        since = until;
    }
}

/// Between two looks at all connections: what is due is logged at most a tenth of the interval late.
fn pause(interval: Duration) -> Duration {
    (interval / 10).clamp(Duration::from_millis(100), Duration::from_secs(60))
}
