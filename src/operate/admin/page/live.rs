//! Keeps the latest rendering of the page, so that all who ask within a moment share it, and each gets only the sections
//! that have changed since its last answer.
//!
//! In:  renderings of the page as everybody sees it, without a query.
//! Out: the sections that are newer than a generation.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::shell;
use super::tone::Tone;

/// One rendering.
pub(super) struct Rendering {
    pub title: String,
    pub mood: Tone,
    /// HTML by section.
    pub sections: Vec<(&'static str, String)>,
}

pub(in crate::operate::admin) struct Live {
    /// Of the first rendering: later than all of an earlier process, which renders less than once in a millisecond.
    first: u64,
    latest: Mutex<Option<Latest>>,
}

struct Latest {
    at: Instant,
    generation: u64,
    rendering: Rendering,
    /// In which generation each section became as it is.
    changed: Vec<u64>,
}

impl Live {
    pub(in crate::operate::admin) fn new() -> Self {
        let first = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self { first: u64::try_from(first).unwrap_or(u64::MAX / 2), latest: Mutex::default() }
    }

    /// Keeps `rendering` and returns its generation.
    pub(super) fn keep(&self, rendering: Rendering) -> u64 {
        let mut latest = self.lock();
        let generation = latest.as_ref().map_or(self.first, |latest| latest.generation + 1);
        let was = |at: usize| latest.as_ref().and_then(|was| Some((was.rendering.sections.get(at)?, was.changed[at])));
        let changed = rendering.sections.iter().enumerate().map(|(at, section)| match was(at) {
            Some((before, since)) if before == section => since,
            _ => generation,
        });
        let changed = changed.collect();
        *latest = Some(Latest { at: Instant::now(), generation, rendering, changed });
        generation
    }

    /// What the script of a page gets that has seen generation `since`; `None`: the latest rendering is too old.
    pub(super) fn since(&self, since: u64) -> Option<(String, Tone, String)> {
        let latest = self.lock();
        let latest = latest.as_ref().filter(|latest| latest.at.elapsed() < FRESH)?;
        // What another process has numbered means nothing here.
        let since = if (self.first..=latest.generation).contains(&since) { since } else { 0 };
        Some((latest.rendering.title.clone(), latest.rendering.mood, latest.main(since)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Latest>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Latest {
    /// The sections that changed after generation `since`.
    fn main(&self, since: u64) -> String {
        let newer = self.rendering.sections.iter().zip(&self.changed).filter(|(_, changed)| **changed > since);
        shell::main(self.generation, newer.map(|((_, html), _)| html.as_str()))
    }
}

/// Events come every second.
const FRESH: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn rendering(sections: &[&str]) -> Rendering {
        let named = ["a", "b", "c"].iter().zip(sections).map(|(name, html)| (*name, (*html).to_owned()));
        Rendering { title: "t".into(), mood: Tone::Ok, sections: named.collect() }
    }

    #[test]
    fn a_page_gets_what_has_changed_since_its_last_answer() {
        let live = Live::new();
        assert!(live.since(0).is_none(), "nothing was rendered");
        live.keep(rendering(&["one", "two"]));
        live.keep(rendering(&["one", "TWO"]));
        live.keep(rendering(&["one", "TWO"]));
        let main = |since| live.since(since).unwrap().2;
        assert!(main(live.first).contains(">\nTWO\n<"), "{}", main(live.first));
        assert!(main(live.first + 1).contains(">\n\n<"));
        for foreign in [0, live.first - 1, live.first + 99] {
            assert!(main(foreign).contains(">\noneTWO\n<"), "{foreign} is of another process");
        }
    }
}
