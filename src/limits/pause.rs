//! Keeps since when the process has accepted nobody because `limits.max_connections` is reached.
//!
//! In:  accept loops, of all listeners and workers, that wait for a place.
//! Out: whether that lasts, for how long no place was had, and whether clients wait for one.
//!
//! A listener uses this only while it waits, so that accepting costs nothing more below the limit.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

/// The pause of all accept loops.
#[derive(Debug)]
pub(crate) struct Pause {
    start: (Instant, SystemTime),
    waiting: AtomicUsize,
    /// When the first of them began, when one of them last had a place, and when one of them last had a client in its
    /// queue; in milliseconds since `start`. 0: never, or not now.
    since: AtomicU64,
    progress: AtomicU64,
    wanted: AtomicU64,
    began: Notify,
}

/// An accept loop that waits for a place, until it is dropped.
pub(crate) struct WaitsForPlace<'p>(&'p Pause);

impl Default for Pause {
    fn default() -> Self {
        Self {
            start: (Instant::now(), SystemTime::now()),
            waiting: AtomicUsize::default(),
            since: AtomicU64::default(),
            progress: AtomicU64::default(),
            wanted: AtomicU64::default(),
            began: Notify::new(),
        }
    }
}

impl Pause {
    /// Call when an accept loop begins to wait for a place.
    pub(crate) fn wait(&self) -> WaitsForPlace<'_> {
        if self.waiting.fetch_add(1, Ordering::SeqCst) == 0 {
            self.began.notify_one();
        }
        WaitsForPlace(self)
    }

    /// Waits until some accept loop waits.
    pub(crate) async fn begins(&self) {
        while self.waiting.load(Ordering::SeqCst) == 0 {
            self.began.notified().await;
        }
    }

    /// Whether some accept loop waits, or did a moment ago: each place that becomes free ends a wait, and the next client
    /// begins another.
    pub(crate) fn lasts(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0 || self.ago(&self.progress) < CALM
    }

    /// Whether a client waits for a place, and has for no longer than `recently`.
    pub(crate) fn is_wanted(&self, recently: Duration) -> bool {
        self.wanted.load(Ordering::Relaxed) > 0 && self.ago(&self.wanted) < recently
    }

    /// Sets whether the pause is reported.
    pub(crate) fn report(&self, is_paused: bool) {
        self.since.store(if is_paused { self.now() } else { 0 }, Ordering::Relaxed);
    }

    /// Since when, and for how long, it has lasted. `None`: there is none.
    pub(crate) fn since(&self) -> Option<(SystemTime, Duration)> {
        match self.since.load(Ordering::Relaxed) {
            0 => None,
            since => Some((self.start.1 + Duration::from_millis(since), self.ago(&self.since))),
        }
    }

    /// How long no client at all has been accepted, if that is so long that others should get the clients.
    pub(crate) fn is_stuck(&self) -> Option<Duration> {
        let (_, lasted) = self.since()?;
        let is_waiting = self.waiting.load(Ordering::SeqCst) > 0;
        let stuck = lasted.min(self.ago(&self.progress));
        (is_waiting && stuck >= STUCK).then_some(stuck)
    }

    /// Never 0.
    fn now(&self) -> u64 {
        u64::try_from(self.start.0.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn ago(&self, at: &AtomicU64) -> Duration {
        Duration::from_millis(self.now().saturating_sub(at.load(Ordering::Relaxed)))
    }
}

impl WaitsForPlace<'_> {
    /// A client is in the queue.
    pub(crate) fn wants(&self) {
        self.0.wanted.store(self.0.now(), Ordering::Relaxed);
    }
}

impl Drop for WaitsForPlace<'_> {
    fn drop(&mut self) {
        self.0.progress.store(self.0.now(), Ordering::Relaxed);
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// So long without a wait, and the pause is over.
const CALM: Duration = Duration::from_secs(1);
/// So long without a place: longer than it takes to end clients that send no hello.
const STUCK: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pause_begins_with_the_first_loop_and_goes_on_between_two_waits() {
        let pause = Pause::default();
        assert!(pause.since().is_none() && !pause.is_wanted(CALM));
        let (first, second) = (pause.wait(), pause.wait());
        pause.begins().await;
        pause.report(true);
        assert!(pause.lasts() && pause.since().is_some());
        first.wants();
        assert!(pause.is_wanted(CALM) && !pause.is_wanted(Duration::ZERO));
        drop((first, second));
        // Somebody had a place just now.
        assert!(pause.lasts() && pause.is_stuck().is_none());
        pause.report(false);
        assert!(pause.since().is_none());
    }

    #[test]
    fn it_is_stuck_only_if_no_place_was_had_for_long() {
        let start = (Instant::now() - Duration::from_secs(60), SystemTime::now() - Duration::from_secs(60));
        let pause = Pause { start, since: 40_000.into(), ..Pause::default() };
        assert_eq!(pause.is_stuck(), None, "nobody waits");
        let _waits = pause.wait();
        assert!(pause.is_stuck().is_some_and(|stuck| stuck >= Duration::from_secs(20)));
        drop(pause.wait());
        assert_eq!(pause.is_stuck(), None, "another had a place");
    }
}
