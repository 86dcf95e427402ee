//! Formats a time as RFC 3339 in UTC with milliseconds, for the start of every log line.
//!
//! In:  a `SystemTime`.
//! Out: `2026-03-01T12:34:56.789Z`.
//! Source: RFC 3339 §5.6.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// Times before 1970 are shown as 1970-01-01T00:00:00, and those after 9999 as its last second.
pub(crate) struct Timestamp(pub SystemTime);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since_1970 = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
        let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(LAST);
        let ((year, month, day), (hour, minute, second)) = (at.to_calendar_date(), at.to_hms());
        let (month, millis) = (u8::from(month), since_1970.subsec_millis());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// The time of day in UTC: `12:34:56.789Z`.
pub(super) struct TimeOfDay(pub(super) SystemTime);

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since_1970 = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, millis) = (since_1970.as_secs() % 86_400, since_1970.subsec_millis());
        write!(f, "{:02}:{:02}:{:02}.{millis:03}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}

/// For later times, which RFC 3339 cannot write.
const LAST: OffsetDateTime = OffsetDateTime::new_utc(time::Date::MAX, time::Time::MAX);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn known_instants_read_as_they_should() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (1_767_225_599_001, "2025-12-31T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp(UNIX_EPOCH + Duration::from_millis(millis)).to_string(), text);
        }
    }

    #[test]
    fn what_has_no_four_digit_year_is_clamped() {
        let late = UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(Timestamp(late).to_string(), "9999-12-31T23:59:59.000Z");
        let early = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Timestamp(early).to_string(), "1970-01-01T00:00:00.000Z");
    }
}
