//! Decides whether connections with the same ClientHello are one connection that comes back, by holding them for a while.
//!
//! In:  each arrival of such a connection, each end of one, the time.
//! Out: for each connection, [`Next`]: pass it to its backend, hold it, or end it.
//!
//! In a loop, a connection arrives because the previous one was passed on, and for no other reason. So all are held until
//! none has arrived for a while, and then one is passed on. If it comes back, and the same happens again and again, it is a
//! loop. Clients that send one hello many times (load tests, checks) do not know what is held, and soon send another one
//! while all are held, or none after one was passed on; then all are passed on. Nothing has to be known about the proxies
//! that the loop leads through.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

/// The connections of one hello, while it is not known whether they are a loop.
#[derive(Debug)]
pub(super) struct Suspicion {
    /// The hash of the hello.
    pub key: u64,
    state: State,
    began: Instant,
    /// How many connections came back after another one was passed on.
    returns: u32,
    /// The longest that one took to come back.
    longest: Duration,
    /// How many connections arrived while others were held.
    joined: u32,
}

#[derive(Debug)]
enum State {
    /// All are held until then.
    Held { until: Instant },
    /// One was passed on, and the others are held.
    Passed { at: Instant, token: u16 },
    /// It is a loop.
    Proven { at: Instant },
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is passed on, and nothing speaks for a loop.
    Clear,
    /// It is passed on, to see whether it comes back.
    Pass,
    /// It is held, and must ask again then.
    Wait(Instant),
    /// It is a loop: end it.
    Loops,
}

impl Suspicion {
    /// The first connection arrived, and is held.
    pub(super) fn begin(key: u64, now: Instant, rng: &mut Rng) -> (Self, Next) {
        let until = now + between(FIRST_HOLD, rng);
        let state = State::Held { until };
        (Self { key, state, began: now, returns: 0, longest: Duration::ZERO, joined: 0 }, Next::Wait(until))
    }

    /// Another connection arrived, while `in_flight` of this hello are unanswered.
    pub(super) fn arrives(&mut self, in_flight: u32, now: Instant, rng: &mut Rng) -> Next {
        match self.state {
            State::Held { .. } if self.returns == 0 && self.may_join(in_flight, now) => {
                // Several loops of one hello are held one after another.
                self.joined += 1;
                self.hold(between(FIRST_HOLD, rng), now)
            }
            State::Passed { at, .. } if self.may_return(at, now) => {
                self.returned(now - at);
                if self.returns == ENOUGH_RETURNS {
                    self.state = State::Proven { at: now };
                    return Next::Loops;
                }
                // Longer than it takes to come back: one that arrives in that time has another cause. Sometimes much
                // longer, which no sender survives by chance, be it as regular as a clock.
                let length = self.longest.max(SHORTEST_RETURN);
                let times = if matches!(self.returns, 3 | 5) { (15, 20) } else { (3, 5) };
                self.hold(between((times.0 * length, times.1 * length), rng).min(LONGEST_HOLD), now)
            }
            State::Proven { at } if now < at + REMEMBERED => Next::Loops,
            _ => Next::Clear,
        }
    }

    /// A connection that is held asks again; `token` identifies it.
    pub(super) fn asks(&mut self, token: u16, now: Instant) -> Next {
        match self.state {
            State::Held { until } if now < until => Next::Wait(until.min(now + LOOK)),
            State::Held { .. } => {
                self.state = State::Passed { at: now, token };
                Next::Pass
            }
            State::Passed { at, .. } if now <= at + LONGEST_RETURN => Next::Wait((at + LONGEST_RETURN).min(now) + LOOK),
            // The next one to arrive is ended, if this one too comes back.
            State::Proven { .. } => Next::Pass,
            State::Passed { .. } => Next::Clear,
        }
    }

    /// Whether this connection, which has ended or been answered, is the one that was passed on: then it is not in a
    /// loop, in which none is answered.
    pub(super) fn is_refuted_by(&self, token: u16) -> bool {
        matches!(self.state, State::Passed { token: passed, .. } if passed == token)
    }

    /// Whether one was passed on, and has not come back.
    pub(super) fn waits(&self) -> bool {
        matches!(self.state, State::Passed { .. })
    }

    /// Nothing has happened for longer than anything takes.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        match self.state {
            State::Held { until } => now > until + REMEMBERED,
            State::Passed { at, .. } => now > at + LONGEST_RETURN,
            State::Proven { at } => now >= at + REMEMBERED,
        }
    }

    fn hold(&mut self, length: Duration, now: Instant) -> Next {
        let until = now + length;
        self.state = State::Held { until };
        Next::Wait(until)
    }

    fn returned(&mut self, after: Duration) {
        if 4 * after + JITTER < self.longest {
            // Whoever else held connections has given up: begin again, with shorter holds.
            (self.returns, self.longest) = (0, Duration::ZERO);
        }
        self.returns += 1;
        self.longest = self.longest.max(after);
    }

    /// If it suddenly takes much longer, another instance in the loop holds connections too: leave it to that one.
    fn may_return(&self, passed: Instant, now: Instant) -> bool {
        let after = now - passed;
        let is_as_before = self.returns == 0 || after <= 4 * self.longest + JITTER;
        after <= LONGEST_RETURN && is_as_before && now < self.began + LONGEST_IN_ALL
    }

    /// A loop has as many heads as clients have started it with the same hello, however many connections it has by now.
    fn may_join(&self, in_flight: u32, now: Instant) -> bool {
        self.joined < (in_flight / CONNECTIONS_PER_HEAD).min(MOST_HEADS) && now < self.began + LONGEST_GATHERING
    }
}

fn between((least, most): (Duration, Duration), rng: &mut Rng) -> Duration {
    least + (most - least).mul_f64(rng.f64())
}

/// For connections that arrive at random, so many are less likely than one in 10 million.
const ENOUGH_RETURNS: u32 = 6;
/// A round trip through other proxies, over any distance.
const LONGEST_RETURN: Duration = Duration::from_millis(400);
const JITTER: Duration = Duration::from_millis(10);
const SHORTEST_RETURN: Duration = Duration::from_micros(2_500);
const LONGEST_HOLD: Duration = Duration::from_secs(3);
const FIRST_HOLD: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(10));
/// How often those that are held look whether they may go.
const LOOK: Duration = Duration::from_millis(20);
const CONNECTIONS_PER_HEAD: u32 = 8;
const MOST_HEADS: u32 = 64;
const LONGEST_IN_ALL: Duration = Duration::from_secs(20);
const LONGEST_GATHERING: Duration = Duration::from_secs(1);
const REMEMBERED: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
