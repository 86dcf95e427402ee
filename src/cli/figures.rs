//! Writes quantities for people.
//!
//! In:  bytes, rates, durations.
//! Out: three significant digits at most, with a unit: `1.25 MB`, `4.2 Mbit/s`, `3 d 4 h`, `850 µs`.

use std::time::Duration;

/// Decimal units, as network equipment counts.
pub(super) fn bytes(count: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    scaled(count as f64, "B")
}

/// In bits per second.
pub(super) fn bit_rate(per_second: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    scaled(per_second as f64, "bit/s")
}

/// Events per second.
pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        none if none <= 0.0 => "0/s".to_owned(),
        few if few < 0.01 => "<0.01/s".to_owned(),
        some => format!("{}/s", digits(some)),
    }
}

/// The two largest units of a time that passed: `12 s`, `4 min`, `2 h 5 min`, `3 d 4 h`.
pub(super) fn age(passed: Duration) -> String {
    let seconds = passed.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let with = |whole: u64, unit: &str, rest: u64, small: &str| match rest {
        0 => format!("{whole} {unit}"),
        rest => format!("{whole} {unit} {rest} {small}"),
    };
    match () {
        () if days >= 10 => format!("{days} d"),
        () if days > 0 => with(days, "d", hours % 24, "h"),
        () if hours > 0 => with(hours, "h", minutes % 60, "min"),
        () if minutes >= 10 => format!("{minutes} min"),
        () if minutes > 0 => with(minutes, "min", seconds % 60, "s"),
        () => format!("{seconds} s"),
    }
}

/// A short time, as of one network round trip.
pub(super) fn latency(seconds: f64) -> String {
    match seconds {
        long if long >= 1.0 => format!("{} s", digits(long)),
        middle if middle >= 0.001 => format!("{} ms", digits(middle * 1e3)),
        short => format!("{} µs", digits(short * 1e6)),
    }
}

/// `1 route`, `2 routes`.
pub(super) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn scaled(mut value: f64, unit: &str) -> String {
    for prefix in ["", "k", "M", "G", "T"] {
        if value < 999.5 {
            let value = if prefix.is_empty() { format!("{value:.0}") } else { digits(value) };
            return format!("{value} {prefix}{unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.0} P{unit}")
}

/// Three significant digits, without zeros behind the point.
fn digits(value: f64) -> String {
    let decimals = match value {
        large if large >= 99.95 => 0,
        middle if middle >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_unit() {
        let shown = [0, 999, 1000, 1250, 99_949, 999_499, 999_500, 1 << 30, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "999 B", "1 kB", "1.25 kB", "99.9 kB", "999 kB", "1 MB", "1.07 GB", "18447 PB"]);
        assert_eq!([0, 1_500_000].map(bit_rate), ["0 bit/s", "1.5 Mbit/s"]);
        assert_eq!([0.0, 0.001, 0.25, 12.34, 1234.0].map(rate), ["0/s", "<0.01/s", "0.25/s", "12.3/s", "1234/s"]);
        assert_eq!([0.000_05, 0.0123, 2.5].map(latency), ["50 µs", "12.3 ms", "2.5 s"]);
    }

    #[test]
    fn a_time_has_its_two_largest_units() {
        let shown = [0, 59, 60, 61, 599, 601, 3600, 7500, 86_400, 97_200, 864_001].map(|s| age(Duration::from_secs(s)));
        assert_eq!(
            shown,
            ["0 s", "59 s", "1 min", "1 min 1 s", "9 min 59 s", "10 min", "1 h", "2 h 5 min", "1 d", "1 d 3 h", "10 d"]
        );
    }
}
