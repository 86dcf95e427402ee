//! Formats an instant as a date.
//!
//! In:  seconds since 1970.
//! Out: `2026-03-01`, in UTC.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use crate::telemetry::Timestamp;

/// Days before 1970 are shown as 1970-01-01.
#[derive(Clone, Copy)]
pub(super) struct Date(pub i64);

impl Date {
    /// With the time of day, in RFC 3339 format.
    pub(super) fn in_full(self) -> String {
        let since = Duration::from_secs(u64::try_from(self.0).unwrap_or_default());
        // Years past 9999 are invalid in RFC 5280, and some are beyond the range of the clock.
        UNIX_EPOCH.checked_add(since).map(|at| Timestamp(at).to_string()).unwrap_or_default()
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.in_full().split('T').next().unwrap_or_default())
    }
}
