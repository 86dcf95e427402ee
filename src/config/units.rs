//! Parses durations and sizes.
//!
//! In:  `500ms`, `5s`, `10m`, `1h`; `512B`, `16KiB`, `1MiB`, `1GiB`.
//! Out: a [`Duration`] or a number of bytes, or an error that shows the correct form.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Why a text is not a usable duration or size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnitError {
    /// `10`, `10 sec`: not a valid duration; with the probable intention.
    NoDuration { text: String, meant: Option<String> },
    /// `64kb`: not a valid size; with the probable intention.
    NoSize { text: String, meant: Option<String> },
    /// Outside the useful range for this key.
    OutOfRange { least: String, most: String },
    /// `500ms`, where the kernel counts in seconds.
    PartOfASecond,
}

/// Parses a duration of any length up to a year.
pub(super) fn duration(text: &str) -> Result<Duration, UnitError> {
    duration_in(Duration::ZERO..=YEAR)(text)
}

/// Returns a parser for durations in `range`.
pub(crate) fn duration_in(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, UnitError> {
    move |text| {
        let millis = split(text).and_then(|(count, unit)| Some((count, factor(DURATION_UNITS, unit)?)));
        let Some((count, factor)) = millis else {
            let meant = meant(text, DURATION_WORDS);
            return Err(UnitError::NoDuration { text: text.to_owned(), meant });
        };
        let duration = count.checked_mul(factor).map_or(Duration::MAX, Duration::from_millis);
        if range.contains(&duration) {
            return Ok(duration);
        }
        Err(UnitError::OutOfRange { least: show_duration(*range.start()), most: show_duration(*range.end()) })
    }
}

/// Returns a parser for durations in `range` that are whole seconds.
pub(super) fn seconds_in(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, UnitError> {
    let read = duration_in(range);
    move |text| {
        let duration = read(text)?;
        if duration.subsec_nanos() == 0 { Ok(duration) } else { Err(UnitError::PartOfASecond) }
    }
}

/// Returns a parser for sizes in `range`, in bytes.
pub(super) fn size_in(range: RangeInclusive<usize>) -> impl Fn(&str) -> Result<usize, UnitError> {
    move |text| {
        let bytes = split(text).and_then(|(count, unit)| Some((count, factor(SIZE_UNITS, unit)?)));
        let Some((count, factor)) = bytes else {
            let meant = meant(text, SIZE_WORDS);
            return Err(UnitError::NoSize { text: text.to_owned(), meant });
        };
        let bytes = count.checked_mul(factor).and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
        if range.contains(&bytes) {
            return Ok(bytes);
        }
        Err(UnitError::OutOfRange { least: show_size(*range.start()), most: show_size(*range.end()) })
    }
}

/// Formats a duration as in a file, in the largest unit that divides it.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let fits = |factor: u64| millis >= factor.into() && millis.is_multiple_of(factor.into());
    let (name, factor) = DURATION_UNITS.iter().rfind(|(_, factor)| fits(*factor)).copied().unwrap_or(("s", 1_000));
    format!("{}{name}", millis / u128::from(factor))
}

/// Formats a size in the largest unit that divides it.
pub(super) fn show_size(bytes: usize) -> String {
    let bytes = bytes as u64;
    let (name, factor) =
        SIZE_UNITS.iter().rfind(|(_, factor)| bytes.is_multiple_of(*factor)).copied().unwrap_or(("B", 1));
    format!("{}{name}", bytes / factor)
}

/// Splits `10m` into number and unit.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

/// Guesses the intended value of `10 sec` or `64kb`.
fn meant(text: &str, words: &[(&[&str], &str)]) -> Option<String> {
    let (count, unit) = split(text.trim())?;
    let unit = unit.trim().to_ascii_lowercase();
    let ours = words.iter().find(|(theirs, _)| theirs.contains(&unit.as_str())).map(|(_, ours)| *ours)?;
    Some(format!("{count}{ours}"))
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, meant, what, examples) = match self {
            Self::NoDuration { text, meant } => (text, meant, "duration", "`500ms`, `5s`, `10m`, `1h`"),
            Self::NoSize { text, meant } => (text, meant, "size", "`512B`, `16KiB`, `1MiB`"),
            Self::OutOfRange { least, most } => return write!(f, "must be from {least} to {most}"),
            Self::PartOfASecond => return f.write_str("must be whole seconds"),
        };
        write!(f, "`{}` is not a valid {what}; ", text.escape_debug())?;
        match meant {
            Some(meant) => write!(f, "write `{meant}`"),
            None => write!(f, "write it as {examples}"),
        }
    }
}

impl std::error::Error for UnitError {}

/// In milliseconds, smallest first.
const DURATION_UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const DURATION_WORDS: &[(&[&str], &str)] = &[
    (&["", "s", "sec", "secs", "second", "seconds"], "s"),
    (&["ms", "msec", "msecs", "millis", "milliseconds"], "ms"),
    (&["m", "min", "mins", "minute", "minutes"], "m"),
    (&["h", "hr", "hrs", "hour", "hours"], "h"),
];
/// In bytes, smallest first.
const SIZE_UNITS: &[(&str, u64)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
const SIZE_WORDS: &[(&[&str], &str)] = &[
    (&["", "b", "byte", "bytes"], "B"),
    (&["k", "kb", "kib"], "KiB"),
    (&["m", "mb", "mib"], "MiB"),
    (&["g", "gb", "gib"], "GiB"),
];
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_counts() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(size_in(0..=usize::MAX)("16KiB"), Ok(16_384));
        assert_eq!(size_in(0..=usize::MAX)("1GiB"), Ok(1 << 30));
    }

    #[test]
    fn a_wrong_form_is_told_the_right_one() {
        let told = |text| duration(text).expect_err(text).to_string();
        assert_eq!(told("10"), "`10` is not a valid duration; write `10s`");
        assert_eq!(told("10 sec"), "`10 sec` is not a valid duration; write `10s`");
        assert_eq!(told("5min"), "`5min` is not a valid duration; write `5m`");
        assert_eq!(told("soon"), "`soon` is not a valid duration; write it as `500ms`, `5s`, `10m`, `1h`");
        assert_eq!(told("-1s"), "`-1s` is not a valid duration; write it as `500ms`, `5s`, `10m`, `1h`");
        let told = |text| size_in(0..=usize::MAX)(text).expect_err(text).to_string();
        assert_eq!(told("64kb"), "`64kb` is not a valid size; write `64KiB`");
        assert_eq!(told("1M"), "`1M` is not a valid size; write `1MiB`");
    }

    #[test]
    fn what_overflows_is_out_of_range() {
        assert!(matches!(duration("18446744073709551615h"), Err(UnitError::OutOfRange { .. })));
        assert!(matches!(duration("99999999999999999999s"), Err(UnitError::NoDuration { .. })));
        let told = size_in(1_024..=16 << 20)("1GiB").expect_err("too large").to_string();
        assert_eq!(told, "must be from 1KiB to 16MiB");
        assert_eq!(seconds_in(Duration::ZERO..=YEAR)("1500ms"), Err(UnitError::PartOfASecond));
    }

    #[test]
    fn a_duration_is_shown_as_it_is_written() {
        for text in ["500ms", "90s", "10m", "1h", "0s"] {
            assert_eq!(duration(text).map(show_duration), Ok(text.to_owned()));
        }
    }
}
