//! Senders and loops, simulated: what arrives is all that a suspicion sees.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    /// The connection of that token, which was held.
    Asks(u16),
}

/// What one run came to.
#[derive(Debug, Default)]
struct Outcome {
    loops: bool,
    arrivals: u32,
    /// The longest that any connection was held.
    longest: Duration,
}

/// Feeds arrivals to a suspicion, a new one after each that is cleared, as a table does without its patience.
struct World {
    start: Instant,
    events: BinaryHeap<Reverse<(Duration, Event)>>,
    suspicion: Option<Suspicion>,
    rng: Rng,
    held: Vec<(u16, Duration)>,
    outcome: Outcome,
}

impl World {
    fn new(seed: u64, arrivals: impl IntoIterator<Item = Duration>) -> Self {
        Self {
            start: Instant::now(),
            events: arrivals.into_iter().map(|at| Reverse((at, Event::Arrives))).collect(),
            suspicion: None,
            rng: Rng::with_seed(seed),
            held: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    /// Runs until a loop is found or nothing happens any more. `passed` says after what time a connection that is
    /// passed on causes another one, if it does.
    fn run(mut self, mut passed: impl FnMut(&mut Rng) -> Option<Duration>) -> Outcome {
        while let Some(Reverse((at, event))) = self.events.pop()
            && self.outcome.arrivals < 3_000
        {
            let now = self.start + at;
            let (token, next) = match event {
                Event::Arrives => {
                    self.outcome.arrivals += 1;
                    let token = u16::try_from(self.outcome.arrivals).expect("few");
                    self.held.push((token, at));
                    (token, self.arrives(now))
                }
                Event::Asks(token) => {
                    (token, self.suspicion.as_mut().map_or(Next::Clear, |suspicion| suspicion.asks(token, now)))
                }
            };
            match next {
                Next::Wait(until) => {
                    self.events.push(Reverse((until - self.start, Event::Asks(token))));
                    continue;
                }
                Next::Loops => {
                    self.outcome.loops = true;
                    return self.outcome;
                }
                Next::Clear => self.suspicion = None,
                Next::Pass => {}
            }
            let index = self.held.iter().position(|(held, _)| *held == token).expect("it arrived");
            self.outcome.longest = self.outcome.longest.max(at - self.held.swap_remove(index).1);
            if let Some(after) = passed(&mut self.rng) {
                self.events.push(Reverse((at + after, Event::Arrives)));
            }
        }
        self.outcome
    }

    fn arrives(&mut self, now: Instant) -> Next {
        if let Some(suspicion) = &mut self.suspicion {
            return suspicion.arrives(8 + self.outcome.arrivals, now, &mut self.rng);
        }
        let (suspicion, next) = Suspicion::begin(1, now, &mut self.rng);
        self.suspicion = Some(suspicion);
        next
    }
}

fn millis(count: f64) -> Duration {
    Duration::from_secs_f64(count / 1e3)
}

#[test]
fn a_loop_is_found_after_a_few_returns_however_long_they_take() {
    for seed in 0..200 {
        for return_ms in [0.1, 1.0, 10.0, 80.0, 240.0] {
            let outcome =
                World::new(seed, [Duration::ZERO]).run(|rng| Some(millis(return_ms * (0.7 + 0.8 * rng.f64()))));
            assert!(
                outcome.loops && outcome.arrivals == ENOUGH_RETURNS + 1,
                "{return_ms} ms, seed {seed}: {outcome:?}"
            );
        }
    }
}

#[test]
fn several_loops_of_one_hello_are_found_once_each_has_a_few_connections() {
    for seed in 0..200 {
        for heads in [2, 5, 20] {
            let starts = (0..heads).map(|number| millis(0.3 * f64::from(number)));
            let outcome = World::new(seed, starts).run(|rng| Some(millis(0.5 + rng.f64())));
            assert!(outcome.loops && outcome.arrivals < 20 * heads, "{heads} heads, seed {seed}: {outcome:?}");
        }
    }
}

#[test]
fn whoever_sends_a_hello_again_and_again_is_never_taken_for_a_loop() {
    for seed in 0..10 {
        let mut rng = Rng::with_seed(seed);
        for rate in [0.5, 2.0, 10.0, 50.0, 100.0, 200.0, 1_000.0, 20_000.0] {
            let mut at = 0.0;
            let at_random: Vec<Duration> = (0..500)
                .map(|_| {
                    at -= (1.0 - rng.f64()).ln() / rate;
                    Duration::from_secs_f64(at)
                })
                .collect();
            let regular = (0..500).map(|number| Duration::from_secs_f64(f64::from(number) / rate));
            let bursts = (0..500).map(|number| Duration::from_secs_f64(f64::from(number / 64) * 64.0 / rate));
            for (kind, sent) in [("random", at_random), ("regular", regular.collect()), ("bursts", bursts.collect())] {
                let outcome = World::new(seed, sent).run(|_| None);
                assert!(!outcome.loops, "{kind}, {rate} a second, seed {seed}: {outcome:?}");
                assert!(outcome.longest < millis(5_000.0), "{kind}, {rate} a second, seed {seed}: {outcome:?}");
            }
        }
    }
}

#[test]
fn a_connection_that_passes_through_us_a_few_times_is_not_a_loop() {
    for seed in 0..200 {
        let mut passes = 0;
        let outcome = World::new(seed, [Duration::ZERO]).run(|_| {
            passes += 1;
            (passes < ENOUGH_RETURNS).then_some(millis(1.0))
        });
        assert!(!outcome.loops, "seed {seed}: {outcome:?}");
    }
}

#[test]
fn the_one_that_was_passed_on_refutes_it_when_it_ends() {
    let now = Instant::now();
    let (mut suspicion, next) = Suspicion::begin(1, now, &mut Rng::with_seed(0));
    let Next::Wait(until) = next else { panic!("{next:?}") };
    assert!(!suspicion.is_refuted_by(1));
    assert_eq!(suspicion.asks(1, until), Next::Pass);
    assert!(suspicion.is_refuted_by(1) && !suspicion.is_refuted_by(2));
}
