//! Limits how many lines about refused clients are written, since a hostile client costs one with every few bytes.
//!
//! In:  the reason of each connection about to be logged.
//! Out: whether its line is written; once a second, a message with the number of lines that were not.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Reason;

/// The lines wanted since the last report.
pub(super) struct Refusals {
    by_reason: [AtomicU64; Reason::ALL.len()],
    /// About clients over a limit that only counts.
    over_limit: AtomicU64,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { by_reason: [const { AtomicU64::new(0) }; Reason::ALL.len()], over_limit: AtomicU64::new(0) }
    }
}

impl Refusals {
    /// Whether a connection that ended for `reason` has a line.
    pub(super) fn admit(&self, reason: Reason) -> bool {
        !reason.is_refusal() || self.by_reason[reason as usize].fetch_add(1, Ordering::Relaxed) < LINES_PER_REPORT
    }

    /// Whether a client over a limit that only counts has a message.
    pub(super) fn admit_over_limit(&self) -> bool {
        self.over_limit.fetch_add(1, Ordering::Relaxed) < LINES_PER_REPORT
    }

    /// Reports what was not written since the last call, and begins anew.
    pub(super) fn report(&self) {
        for (reason, wanted) in Reason::ALL.iter().zip(&self.by_reason) {
            let count = wanted.swap(0, Ordering::Relaxed).saturating_sub(LINES_PER_REPORT);
            if count > 0 {
                tracing::warn!(
                    event = "refusals_suppressed",
                    reason = reason.as_str(),
                    count,
                    "more than {LINES_PER_REPORT} connections a second ended for this reason; the others have no line"
                );
            }
        }
        let count = self.over_limit.swap(0, Ordering::Relaxed).saturating_sub(LINES_PER_REPORT);
        if count > 0 {
            tracing::info!(
                event = "client_over_limit_suppressed",
                count,
                "more than {LINES_PER_REPORT} connections a second were over a limit that is not enforced; the others have no line"
            );
        }
    }
}

/// For each reason.
const LINES_PER_REPORT: u64 = 100;
