//! Random choices that can be repeated.

/// xorshift64: enough to choose by, and to choose the same again.
pub struct Dice(u64);

impl Dice {
    /// `SNIGATE_SEED`, or another seed in each process.
    pub fn seed() -> u64 {
        let seed = std::env::var("SNIGATE_SEED").ok().and_then(|seed| seed.parse().ok());
        seed.unwrap_or_else(|| u64::from(std::process::id()) << 8 | 1)
    }

    /// Each `number` of a seed has choices of its own.
    pub fn new(seed: u64, number: u64) -> Self {
        Self(seed.wrapping_mul(2 * number + 1))
    }

    pub fn of(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}
