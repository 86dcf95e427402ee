//! Formats a time as RFC 3339 in UTC with milliseconds, for the start of every log line.
//!
//! In:  a `SystemTime`.
//! Out: `2026-03-01T12:34:56.789Z`.
//! Source: RFC 3339 §5.6; the civil-from-days algorithm of Howard Hinnant.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Times before 1970 are shown as 1970-01-01T00:00:00.
pub(crate) struct Timestamp(pub SystemTime);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since_1970 = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since_1970.as_secs();
        let (year, month, day) = civil_from_days(seconds / 86_400);
        let of_day = seconds % 86_400;
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        let millis = since_1970.subsec_millis();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// Uses eras of 400 years that begin on 1 March, so that the leap day is the last day of its year.
fn civil_from_days(since_1970: u64) -> (u64, u64, u64) {
    let days = since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

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
    fn days_follow_each_other_through_four_centuries() {
        let mut before = civil_from_days(0);
        for day in 1..146_097 {
            let now = civil_from_days(day);
            let next_day = now.2 == before.2 + 1 && now.1 == before.1 && now.0 == before.0;
            let next_month = now.2 == 1 && (now.1 == before.1 + 1 || (now.1, before.1, now.0) == (1, 12, before.0 + 1));
            assert!((next_day || next_month) && before.2 <= 31, "{before:?} then {now:?}");
            before = now;
        }
    }
}
