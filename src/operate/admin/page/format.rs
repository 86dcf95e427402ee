//! Writes figures as people read them.
//!
//! In:  counts, rates, durations, bytes, times.
//! Out: short text with its unit. Arguments are references where templates call, since they pass nothing else.

use std::fmt;

use super::tone::Tone;
use crate::operate::status::{At, Quantiles};

/// `1,284,411`
pub(super) fn count(number: impl fmt::Display) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Events per second: `0`, `0.4/s`, `61/s`, `12.3k/s`.
pub(super) fn rate(per_second: &f64) -> String {
    match figure(per_second) {
        zero if zero == "0" => zero,
        figure => format!("{figure}/s"),
    }
}

/// `0`, `0.4`, `61`, `12.3k`, `4.5M`
pub(super) fn figure(number: &f64) -> String {
    match *number {
        n if n < 0.05 => "0".to_owned(),
        n if n < 9.95 => format!("{n:.1}").trim_end_matches(".0").to_owned(),
        n if n < 9999.5 => format!("{n:.0}"),
        n if n < 999_950.0 => format!("{:.1}k", n / 1e3),
        n => format!("{:.1}M", n / 1e6),
    }
}

/// `0.41 / 3.2 ms`
pub(super) fn quantiles(of: &Quantiles) -> String {
    match (of.p50, of.p99) {
        (Some(p50), Some(p99)) => format!("{} / {} ms", millis(p50), millis(p99)),
        _ => "–".to_owned(),
    }
}

/// Two significant digits, but whole milliseconds are kept.
fn millis(ms: f64) -> String {
    match ms {
        n if n < 0.995 => format!("{n:.2}"),
        n if n < 9.95 => format!("{n:.1}"),
        n => count(n.round().max(0.0) as u64),
    }
}

/// `512 B`, `48.2 kB`, `88.1 GB`
pub(super) fn bytes(number: &u64) -> String {
    let number = *number;
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let mut size = number as f64 / 1e3;
    let mut unit = 0;
    while size >= 999.5 && unit + 1 < units.len() {
        size /= 1e3;
        unit += 1;
    }
    if size < 99.95 { format!("{size:.1} {}", units[unit]) } else { format!("{size:.0} {}", units[unit]) }
}

/// `12 s`, `5 min 12 s`, `5 h 52 min`, `12 d 3 h`: two units are enough.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// `0.4 s`, then as [`duration`].
pub(super) fn age(ms: &u64) -> String {
    let ms = *ms;
    if ms < 10_000 { format!("{}.{} s", ms / 1000, ms % 1000 / 100) } else { duration(ms / 1000) }
}

/// `1.3 %`
pub(super) fn share(part: &u64, of: &u64) -> String {
    let percent = 100.0 * *part as f64 / *of.max(part).max(&1) as f64;
    if percent < 0.1 { "below 0.1 %".to_owned() } else { format!("{percent:.1} %") }
}

/// `12:03:07`, with the date in front unless it is that of `now`.
pub(super) fn clock(at: &At, now: &At) -> String {
    let (Some((date, time)), Some((today, _))) = (at.0.split_once('T'), now.0.split_once('T')) else {
        return at.0.clone();
    };
    let time = time.get(..8).unwrap_or(time);
    if date == today { time.to_owned() } else { format!("{date} {time}") }
}

/// As the value of a parameter in a URL.
pub(super) fn encoded(text: impl AsRef<str>) -> String {
    form_urlencoded::byte_serialize(text.as_ref().as_bytes()).collect()
}

/// Its first letter in upper case.
pub(super) fn capital(text: impl AsRef<str>) -> String {
    let mut chars = text.as_ref().chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// With a capital at its beginning and a full stop at its end, unless it ends otherwise.
pub(super) fn sentence(text: &str) -> String {
    let stop = if text.ends_with(['.', '?', '!']) { "" } else { "." };
    format!("{}{stop}", capital(text))
}

/// Of a problem of the configuration.
pub(super) fn severity(word: impl AsRef<str>) -> Tone {
    if word.as_ref() == "error" { Tone::Bad } else { Tone::Warn }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_carry_their_unit() {
        assert_eq!([0_u64, 999, 1000, 1_284_411].map(count), ["0", "999", "1,000", "1,284,411"]);
        assert_eq!([0.0, 0.4, 5.0, 61.2, 12_345.0].map(|n| rate(&n)), ["0", "0.4/s", "5/s", "61/s", "12.3k/s"]);
        assert_eq!(
            [0, 999, 48_211, 999_960, 88_120_033_412].map(|n| bytes(&n)),
            ["0 B", "999 B", "48.2 kB", "1.0 MB", "88.1 GB"]
        );
        assert_eq!([5, 312, 21_151, 1_047_600].map(duration), ["5 s", "5 min 12 s", "5 h 52 min", "12 d 3 h"]);
        assert_eq!([412, 81_573].map(|n| age(&n)), ["0.4 s", "1 min 21 s"]);
        assert_eq!([share(&1, &3), share(&1, &10_000), share(&5, &0)], ["33.3 %", "below 0.1 %", "100.0 %"]);
        let of = Quantiles { p50: Some(0.412), p99: Some(1234.4), count: 9 };
        assert_eq!([quantiles(&of), quantiles(&Quantiles::default())], ["0.41 / 1,234 ms", "–"]);
    }

    #[test]
    fn a_sentence_has_one_stop() {
        assert_eq!(["no pool", "did you mean `b`?", ""].map(sentence), ["No pool.", "Did you mean `b`?", "."]);
    }

    #[test]
    fn a_time_of_another_day_has_its_date() {
        let now = At("2026-11-30T12:04:31.204Z".into());
        let at = |text: &str| clock(&At(text.into()), &now);
        assert_eq!(at("2026-11-30T02:04:31.204Z"), "02:04:31");
        assert_eq!(at("2026-11-29T02:04:31.204Z"), "2026-11-29 02:04:31");
        assert_eq!(at("soon"), "soon");
    }
}
