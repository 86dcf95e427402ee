//! Keeps figures of the last fifteen minutes, the current rates, and since when backends are in their state.
//!
//! In:  readings of all counters, once a second; pure otherwise.
//! Out: rates over the last second, series of 10 s steps, quantiles of the last minutes, changes of state.
//!
//! Memory is bounded: names without a series of their own in the metrics are not read (at most 1,024 listeners, 1,024
//! pools, 8,192 backends and 4,096 routes are), and [`MOST_RINGS`] of all have a history, which takes 1.1 kB each. One
//! that was idle for fifteen minutes makes room. A name that is gone is kept as long, so that it survives being renamed
//! and back, or a faulty reload.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::status::{Quantiles, Series, SeriesKind};
use crate::pool::latencies::{BUCKETS, Counts, upper_ms};

/// What a reading is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub kind: SeriesKind,
    /// Of a backend.
    pub pool: Option<Arc<str>>,
    pub name: Arc<str>,
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Since the start.
    pub connections: u64,
    /// Now.
    pub active: u64,
    /// Since the start.
    pub errors: u64,
}

/// Counters of the process that show that something is wrong, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Troubles {
    pub accepted: u64,
    pub no_route: u64,
    pub client_limits: u64,
    pub queue_full: u64,
    pub log_lines_dropped: u64,
    pub task_panics: u64,
}

/// How often something happened lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Episode {
    pub count: u64,
    /// When it was first seen, to ten seconds.
    pub since: SystemTime,
}

/// A state, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateSince<S> {
    pub state: S,
    pub since: SystemTime,
}

pub(crate) struct Tracker {
    began: Instant,
    ticks: u64,
    last_tick: Option<Instant>,
    /// When the last whole step ended.
    step_ended: SystemTime,
    tracked: HashMap<Key, Tracked, RandomState>,
    rings: usize,
    troubles: VecDeque<(SystemTime, Troubles)>,
}

struct Tracked {
    /// At the last tick.
    last: Figures,
    /// At the end of the last step.
    at_step: Figures,
    per_second: f64,
    errors_per_second: f64,
    ring: Option<Box<Ring>>,
    seen: u64,
    latencies: Option<Box<Windows>>,
}

/// The last steps. Wraps.
struct Ring {
    /// Connections, active, errors.
    values: [[u32; STEPS]; 3],
    /// How many have been written.
    written: usize,
    /// Steps in a row without anything.
    idle: usize,
}

/// The counts of both stages when the current window and the one before it began.
struct Windows {
    began: Instant,
    before: [Counts; 2],
    current: [Counts; 2],
}

impl Key {
    pub(crate) fn all() -> Self {
        Self::of(SeriesKind::All, &"".into())
    }

    pub(crate) fn of(kind: SeriesKind, name: &Arc<str>) -> Self {
        Self { kind, pool: None, name: Arc::clone(name) }
    }

    pub(crate) fn backend(pool: &Arc<str>, name: &Arc<str>) -> Self {
        Self { kind: SeriesKind::Backend, pool: Some(Arc::clone(pool)), name: Arc::clone(name) }
    }
}

impl Tracker {
    pub(crate) fn new(now: Instant, at: SystemTime) -> Self {
        Self {
            began: now,
            ticks: 0,
            last_tick: None,
            step_ended: at,
            tracked: HashMap::default(),
            rings: 0,
            troubles: VecDeque::from([(at, Troubles::default())]),
        }
    }

    /// Takes a reading. To be called once a second; every tenth ends a step.
    pub(crate) fn tick(
        &mut self,
        now: Instant,
        at: SystemTime,
        troubles: Troubles,
        reading: impl IntoIterator<Item = (Key, Figures)>,
    ) {
        let elapsed = (now - self.last_tick.unwrap_or(self.began)).as_secs_f64();
        let is_first = self.last_tick.replace(now).is_none();
        self.ticks += 1;
        for (key, figures) in reading {
            // What comes with a reload may have been counted before. A route is first read when it is first used.
            let base = if is_first || key.kind == SeriesKind::Route { Figures::default() } else { figures };
            let tracked = self.tracked.entry(key).or_insert_with(|| Tracked::new(base));
            tracked.read(figures, elapsed, self.ticks);
        }
        if self.has_ended_step() {
            self.end_step(at);
            self.troubles.push_back((at, troubles));
            let surplus = self.troubles.len().saturating_sub(STEPS);
            self.troubles.drain(..surplus);
        }
    }

    fn end_step(&mut self, at: SystemTime) {
        self.step_ended = at;
        let Self { tracked, rings, ticks, .. } = self;
        tracked.retain(|key, tracked| {
            if *ticks - tracked.seen >= TICKS_PER_STEP {
                // Routes may be read only once a step.
                tracked.rest();
            }
            let had = tracked.ring.is_some();
            let may_have = had || *rings < MOST_RINGS || key.kind == SeriesKind::All;
            tracked.end_step(may_have);
            match (had, tracked.ring.is_some()) {
                (false, true) => *rings += 1,
                (true, false) => *rings -= 1,
                _ => {}
            }
            let stays = *ticks - tracked.seen < STEPS as u64 * TICKS_PER_STEP;
            *rings -= usize::from(!stays && tracked.ring.is_some());
            stays
        });
    }

    /// Whether the latest tick ended a step.
    pub(crate) fn has_ended_step(&self) -> bool {
        self.ticks.is_multiple_of(TICKS_PER_STEP)
    }

    /// Connections and errors in the last second.
    pub(crate) fn rates(&self, key: &Key) -> (f64, f64) {
        let rounded = |rate: f64| (rate * 10.0).round() / 10.0;
        self.tracked.get(key).map_or((0.0, 0.0), |of| (rounded(of.per_second), rounded(of.errors_per_second)))
    }

    /// Keeps what a backend's latencies were, so that quantiles cover the last minutes only.
    pub(crate) fn keep_latencies(&mut self, key: &Key, counts: [Counts; 2], now: Instant) {
        let Some(tracked) = self.tracked.get_mut(key) else { return };
        let none = || Box::new(Windows { began: now, before: [[0; BUCKETS]; 2], current: [[0; BUCKETS]; 2] });
        let windows = tracked.latencies.get_or_insert_with(none);
        if now - windows.began >= WINDOW {
            windows.before = std::mem::replace(&mut windows.current, counts);
            windows.began = now;
        }
    }

    /// Adds what a backend counted in the last five to ten minutes, less in the first minutes, to `sums`.
    pub(crate) fn add_latencies(&self, key: &Key, counts: [Counts; 2], sums: &mut [[u64; BUCKETS]; 2]) {
        let windows = self.tracked.get(key).and_then(|tracked| tracked.latencies.as_ref());
        for stage in 0..2 {
            for at in 0..BUCKETS {
                let before = windows.map_or(0, |windows| windows.before[stage][at]);
                sums[stage][at] += u64::from(counts[stage][at].wrapping_sub(before));
            }
        }
    }

    /// What happened in the last five minutes, if anything did.
    pub(crate) fn episode(&self, now: Troubles, at: SystemTime, of: impl Fn(&Troubles) -> u64) -> Option<Episode> {
        let oldest = self.troubles.len().saturating_sub(STEPS_OF_AN_EPISODE);
        let recent = self.troubles.range(oldest..);
        let before = recent.clone().next().map_or(0, |(_, troubles)| of(troubles));
        let count = of(&now).saturating_sub(before);
        let steps = recent.clone().zip(recent.skip(1));
        let since = steps.clone().find(|((_, one), (_, next))| of(one) < of(next)).map(|((at, _), _)| *at);
        (count > 0).then(|| Episode { count, since: since.or(self.troubles.back().map(|last| last.0)).unwrap_or(at) })
    }

    /// The series that `wants` accepts, in a stable order, and the end of their last step.
    pub(crate) fn series(&self, wants: impl Fn(&Key) -> bool) -> (SystemTime, Vec<Series>) {
        let with_ring = self
            .tracked
            .iter()
            .filter(|(key, _)| wants(key))
            .filter_map(|(key, tracked)| tracked.ring.as_ref().map(|ring| (key, ring)));
        let mut found: Vec<_> = with_ring.collect();
        found.sort_unstable_by_key(|(key, _)| *key);
        let series = found.into_iter().map(|(key, ring)| {
            let [connections, active, errors] = ring.read();
            let pool = key.pool.as_deref().map(str::to_owned);
            Series { kind: key.kind, name: key.name.to_string(), pool, connections, active, errors }
        });
        (self.step_ended, series.collect())
    }
}

impl Tracked {
    fn new(base: Figures) -> Self {
        Self {
            last: base,
            at_step: base,
            per_second: 0.0,
            errors_per_second: 0.0,
            ring: None,
            seen: 0,
            latencies: None,
        }
    }

    fn read(&mut self, figures: Figures, elapsed: f64, tick: u64) {
        let rate = |now: u64, before: u64| {
            if elapsed > 0.1 { since(now, before) as f64 / elapsed } else { 0.0 }
        };
        // Read once a step, what happened in a step is spread over it.
        let ticks = if self.seen == 0 { 1 } else { tick - self.seen };
        self.per_second = rate(figures.connections, self.last.connections) / ticks as f64;
        self.errors_per_second = rate(figures.errors, self.last.errors) / ticks as f64;
        (self.last, self.seen) = (figures, tick);
    }

    /// It is not read any more.
    fn rest(&mut self) {
        (self.per_second, self.errors_per_second) = (0.0, 0.0);
        self.last.active = 0;
    }

    fn end_step(&mut self, may_have_ring: bool) {
        let (last, before) = (self.last, std::mem::replace(&mut self.at_step, self.last));
        let step = [since(last.connections, before.connections), last.active, since(last.errors, before.errors)];
        let is_idle = step == [0; 3];
        if self.ring.is_none() && !is_idle && may_have_ring {
            self.ring = Some(Box::new(Ring { values: [[0; STEPS]; 3], written: 0, idle: 0 }));
        }
        let Some(ring) = &mut self.ring else { return };
        ring.push(step.map(|value| u32::try_from(value).unwrap_or(u32::MAX)));
        ring.idle = if is_idle { ring.idle + 1 } else { 0 };
        if ring.idle >= STEPS {
            self.ring = None;
        }
    }
}

/// A counter that is lower than before has begun again.
fn since(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

impl Ring {
    fn push(&mut self, step: [u32; 3]) {
        let at = self.written % STEPS;
        self.values.iter_mut().zip(step).for_each(|(values, value)| values[at] = value);
        self.written += 1;
    }

    fn read(&self) -> [Vec<u32>; 3] {
        let first = self.written.saturating_sub(STEPS);
        self.values.map(|values| (first..self.written).map(|at| values[at % STEPS]).collect())
    }
}

/// Quantiles of counts in buckets, in milliseconds.
pub(crate) fn quantiles(counts: &[u64; BUCKETS]) -> Quantiles {
    let count: u64 = counts.iter().sum();
    let quantile = |q: f64| {
        let wanted = q * count as f64;
        let mut below = 0.0;
        for (at, of_bucket) in counts.iter().enumerate() {
            let of_bucket = *of_bucket as f64;
            if of_bucket > 0.0 && below + of_bucket >= wanted {
                let lower = if at == 0 { 0.0 } else { upper_ms(at - 1) };
                let value = lower + (upper_ms(at) - lower) * (wanted - below) / of_bucket;
                return (value * 1000.0).round() / 1000.0;
            }
            below += of_bucket;
        }
        upper_ms(BUCKETS - 1)
    };
    let found = |q| (count > 0).then(|| quantile(q));
    Quantiles { p50: found(0.5), p99: found(0.99), count }
}

/// When each of a set of things entered its state.
pub(crate) struct StatesSince<K, S> {
    states: HashMap<K, (u64, StateSince<S>), RandomState>,
    /// The number of the latest look, which those that exist have seen.
    look: u64,
}

impl<K, S> Default for StatesSince<K, S> {
    fn default() -> Self {
        Self { states: HashMap::default(), look: 0 }
    }
}

impl<K: Clone + Eq + Hash, S: PartialEq> StatesSince<K, S> {
    /// Notes the states of all there are now. Returns the changes: what changed, and the state before; `None`: it is new.
    pub(crate) fn note(&mut self, states: impl IntoIterator<Item = (K, S)>, at: SystemTime) -> Vec<(K, Option<S>)> {
        self.look += 1;
        let mut changes = Vec::new();
        for (key, state) in states {
            match self.states.get_mut(&key) {
                Some((look, known)) => {
                    *look = self.look;
                    if known.state != state {
                        let before = std::mem::replace(known, StateSince { state, since: at });
                        changes.push((key, Some(before.state)));
                    }
                }
                None => {
                    self.states.insert(key.clone(), (self.look, StateSince { state, since: at }));
                    changes.push((key, None));
                }
            }
        }
        let now = self.look;
        self.states.retain(|_, (look, _)| *look == now);
        changes
    }

    pub(crate) fn get(&self, key: &K) -> Option<&StateSince<S>> {
        self.states.get(key).map(|(_, known)| known)
    }
}

/// Seconds that a step lasts.
pub(crate) const STEP_SECONDS: u64 = 10;
const TICKS_PER_STEP: u64 = STEP_SECONDS;
/// Fifteen minutes.
const STEPS: usize = 90;
const STEPS_OF_AN_EPISODE: usize = 30;
const MOST_RINGS: usize = 2048;
const WINDOW: Duration = Duration::from_secs(300);

#[cfg(test)]
#[path = "history/tests.rs"]
mod tests;
