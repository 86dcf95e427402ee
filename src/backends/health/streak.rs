//! Turns check results into a verdict that changes after enough consecutive results.

use crate::pool::Health;

/// The state of one backend's checks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streak {
    rise: u32,
    fall: u32,
    verdict: Health,
    /// Consecutive results that contradict the verdict.
    contradictions: u32,
}

impl Streak {
    /// Starts from `verdict`. If that is `Unchecked`, the first check decides alone; after that, `rise` consecutive
    /// passes or `fall` consecutive failures are needed.
    pub(super) fn new(rise: u32, fall: u32, verdict: Health) -> Self {
        Self { rise, fall, verdict, contradictions: 0 }
    }

    /// Records one result; returns the verdict if it changes.
    pub(super) fn after(&mut self, passed: bool) -> Option<Health> {
        let (says, needed) = if passed { (Health::Up, self.rise) } else { (Health::Down, self.fall) };
        if says == self.verdict {
            self.contradictions = 0;
            return None;
        }
        self.contradictions += 1;
        if self.verdict != Health::Unchecked && self.contradictions < needed {
            return None;
        }
        self.contradictions = 0;
        self.verdict = says;
        Some(says)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_check_decides_and_then_so_many_in_a_row() {
        let mut streak = Streak::new(2, 3, Health::Unchecked);
        assert_eq!(streak.after(false), Some(Health::Down));
        assert_eq!([true, false, true].map(|passed| streak.after(passed)), [None; 3]);
        assert_eq!(streak.after(true), Some(Health::Up));
        assert_eq!([false, false, true, false, false].map(|passed| streak.after(passed)), [None; 5]);
        assert_eq!(streak.after(false), Some(Health::Down));
        assert_eq!(Streak::new(2, 3, Health::Unchecked).after(true), Some(Health::Up));
        assert_eq!(Streak::new(2, 3, Health::Down).after(true), None);
    }
}
