//! Limits how many lines about refused clients are written, since a hostile client costs one with every few bytes.
//!
//! In:  the reason of each connection about to be logged; `log.refusals`.
//! Out: whether its line is written; once a period, a message with the number of lines that were not.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::settings::{Log, Rate};
use crate::telemetry::Reason;

/// The lines wanted since the last report.
pub(super) struct Refusals {
    by_reason: [AtomicU64; Reason::ALL.len()],
    /// About clients over a limit that only counts.
    over_limit: AtomicU64,
    /// The most lines of each, in a period.
    limit: AtomicU64,
    period: Mutex<Period>,
}

struct Period {
    rate: Option<Rate>,
    /// When the next report is due.
    ends: Instant,
}

impl Refusals {
    pub(super) fn new(settings: &Log) -> Self {
        let refusals = Self {
            by_reason: [const { AtomicU64::new(0) }; Reason::ALL.len()],
            over_limit: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            period: Mutex::new(Period { rate: None, ends: Instant::now() }),
        };
        refusals.set(*settings.refusals);
        refusals
    }

    /// From now on, so many lines of each; `None`: all.
    pub(super) fn set(&self, rate: Option<Rate>) {
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        if period.rate != rate {
            // What was counted was counted by the old rate.
            self.report_all(period.rate);
            *period = Period { rate, ends: Instant::now() + length(rate) };
            self.limit.store(limit(rate), Ordering::Relaxed);
        }
    }

    /// Whether a connection that ended for `reason` has a line.
    pub(super) fn admit(&self, reason: Reason) -> bool {
        !reason.is_refusal() || self.admits(&self.by_reason[reason as usize])
    }

    /// Whether a client over a limit that only counts has a message.
    pub(super) fn admit_over_limit(&self) -> bool {
        self.admits(&self.over_limit)
    }

    fn admits(&self, wanted: &AtomicU64) -> bool {
        wanted.fetch_add(1, Ordering::Relaxed) < self.limit.load(Ordering::Relaxed)
    }

    /// Reports what was not written in a period that is over.
    pub(super) fn report_if_due(&self) {
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // This is called once a second, a little early now and then.
        if now + EARLY >= period.ends {
            period.ends = now + length(period.rate);
            self.report_all(period.rate);
        }
    }

    /// Reports what was not written since the last report.
    pub(super) fn report(&self) {
        self.report_all(self.period.lock().unwrap_or_else(PoisonError::into_inner).rate);
    }

    fn report_all(&self, rate: Option<Rate>) {
        let left_out = |wanted: &AtomicU64| wanted.swap(0, Ordering::Relaxed).saturating_sub(limit(rate));
        for (reason, wanted) in Reason::ALL.iter().zip(&self.by_reason) {
            let count = left_out(wanted);
            if let (Some(rate), 1..) = (rate, count) {
                tracing::warn!(
                    event = "refusals_suppressed",
                    reason = reason.as_str(),
                    count,
                    "more connections than {rate} (log.refusals) ended for this reason; the others have no line"
                );
            }
        }
        let count = left_out(&self.over_limit);
        if let (Some(rate), 1..) = (rate, count) {
            tracing::info!(
                event = "client_over_limit_suppressed",
                count,
                "more connections than {rate} (log.refusals) were over a limit that is not enforced; the others have no line"
            );
        }
    }
}

fn limit(rate: Option<Rate>) -> u64 {
    rate.map_or(u64::MAX, |rate| rate.count.into())
}

fn length(rate: Option<Rate>) -> Duration {
    rate.map_or(Duration::from_secs(1), Rate::period)
}

const EARLY: Duration = Duration::from_millis(100);
