//! Orders the backends of a pool.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Weighted round robin, smooth: the turns of a backend are spread evenly over the round.
#[derive(Debug)]
pub struct RoundRobin {
    /// One round: the number of a backend for each turn.
    round: Vec<u32>,
    next: AtomicUsize,
}

impl RoundRobin {
    /// Lays out one round for `weights`, one a backend, each at least 1.
    pub fn new(weights: &[u32]) -> Self {
        let divisor = weights.iter().copied().fold(0, gcd).max(1);
        // A round beyond the bound is scaled down; every backend keeps a turn.
        let sum: u64 = weights.iter().map(|&weight| u64::from(weight / divisor)).sum();
        let scale = sum.div_ceil(MOST_TURNS).max(1);
        let mut turns = Vec::new();
        for (number, &weight) in (0_u32..).zip(weights) {
            let count = (u64::from(weight / divisor) / scale).max(1);
            // The k-th of n turns belongs in the middle of the k-th n-th of the round.
            turns.extend((0..count).map(|turn| ((2 * turn + 1) * TICKS / (2 * count), number)));
        }
        turns.sort_unstable();
        Self { round: turns.into_iter().map(|(_, number)| number).collect(), next: AtomicUsize::new(0) }
    }

    /// Takes the next turn.
    pub fn turn(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The numbers of the backends from `turn` on, once round; a number may come more than once.
    pub fn order(&self, turn: usize) -> impl Iterator<Item = usize> {
        let start = if self.round.is_empty() { 0 } else { turn % self.round.len() };
        self.round[start..].iter().chain(&self.round[..start]).map(|&number| number as usize)
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A round has no more turns than this, unless there are more backends.
const MOST_TURNS: u64 = 1 << 16;
const TICKS: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn round(weights: &[u32]) -> Vec<usize> {
        RoundRobin::new(weights).order(0).collect()
    }

    #[test]
    fn turns_are_spread_over_the_round() {
        assert_eq!(round(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(round(&[4, 2]), [0, 1, 0]);
        let heavy = round(&[5, 1, 1]);
        assert_eq!(heavy.len(), 7);
        assert!(heavy.windows(4).all(|four| four != [0, 0, 0, 0]));
    }

    #[test]
    fn a_huge_round_is_scaled_down_and_leaves_no_one_out() {
        let weights: Vec<u32> = (0..1000).map(|i| 1 + i % 997).collect();
        let round = round(&weights);
        assert!(round.len() <= 1 << 17);
        assert!((0..1000).all(|number| round.contains(&number)));
    }
}
