//! Durations and sizes, which print as the file writes them.
//!
//! In:  `500ms`, `5s`, `10m`, `1h`; `512B`, `16KiB`, `1MiB`, `1GiB`.
//! Out: a [`Span`] or a [`Size`], or an error that shows the correct form.

use std::fmt;
use std::ops::{Deref, RangeInclusive};
use std::time::Duration;

use super::text::{Word, serde_as_word};

/// A length of time, up to a year.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub usize);

impl Span {
    /// Milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// Whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl Deref for Span {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl Deref for Size {
    type Target = usize;

    fn deref(&self) -> &usize {
        &self.0
    }
}

impl Word for Span {
    const EXPECTED: &'static str = "a duration";
    const SCHEMA: &'static str = r#"{ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$", "description": "A duration: `500ms`, `5s`, `10m` or `1h`." }"#;

    fn read(text: &str) -> Result<Self, String> {
        duration_in(Duration::ZERO..=YEAR)(text).map(Self).map_err(|error| error.to_string())
    }
}

impl Word for Size {
    const EXPECTED: &'static str = "a size";
    const SCHEMA: &'static str = r#"{ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$", "description": "A size: `512B`, `16KiB`, `1MiB` or `1GiB`." }"#;

    fn read(text: &str) -> Result<Self, String> {
        size(text).map(Self).map_err(|error| error.to_string())
    }
}

serde_as_word!(Span as "Duration", Size as "Size");

/// In the largest unit that divides it.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let fits = |factor: u64| millis >= factor.into() && millis.is_multiple_of(factor.into());
        let (name, factor) = DURATION_UNITS.iter().rfind(|(_, factor)| fits(*factor)).copied().unwrap_or(("s", 1_000));
        write!(f, "{}{name}", millis / u128::from(factor))
    }
}

/// In the largest unit that divides it.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as u64;
        let (name, factor) =
            SIZE_UNITS.iter().rfind(|(_, factor)| bytes.is_multiple_of(*factor)).copied().unwrap_or(("B", 1));
        write!(f, "{}{name}", bytes / factor)
    }
}

/// Why a text is not a usable duration or size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnitError {
    /// `10`, `10 sec`: not a valid duration; with the probable intention.
    NoDuration { text: String, meant: Option<String> },
    /// `64kb`: not a valid size; with the probable intention.
    NoSize { text: String, meant: Option<String> },
    /// Outside the useful range for this key.
    OutOfRange { least: String, most: String },
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
        Err(UnitError::OutOfRange { least: Span(*range.start()).to_string(), most: Span(*range.end()).to_string() })
    }
}

/// Parses a size, in bytes.
fn size(text: &str) -> Result<usize, UnitError> {
    let bytes = split(text).and_then(|(count, unit)| Some((count, factor(SIZE_UNITS, unit)?)));
    let Some((count, factor)) = bytes else {
        let meant = meant(text, SIZE_WORDS);
        return Err(UnitError::NoSize { text: text.to_owned(), meant });
    };
    Ok(count.checked_mul(factor).and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX))
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

    fn duration(text: &str) -> Result<Duration, String> {
        Span::read(text).map(|span| span.0)
    }

    #[test]
    fn each_unit_counts() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(size("16KiB"), Ok(16_384));
        assert_eq!(size("1GiB"), Ok(1 << 30));
    }

    #[test]
    fn the_error_for_a_wrong_form_shows_the_right_one() {
        let error = |text| duration(text).expect_err(text);
        assert_eq!(error("10"), "`10` is not a valid duration; write `10s`");
        assert_eq!(error("10 sec"), "`10 sec` is not a valid duration; write `10s`");
        assert_eq!(error("5min"), "`5min` is not a valid duration; write `5m`");
        assert_eq!(error("soon"), "`soon` is not a valid duration; write it as `500ms`, `5s`, `10m`, `1h`");
        assert_eq!(error("-1s"), "`-1s` is not a valid duration; write it as `500ms`, `5s`, `10m`, `1h`");
        let error = |text| Size::read(text).expect_err(text);
        assert_eq!(error("64kb"), "`64kb` is not a valid size; write `64KiB`");
        assert_eq!(error("1M"), "`1M` is not a valid size; write `1MiB`");
    }

    #[test]
    fn what_overflows_is_out_of_range() {
        assert_eq!(duration("18446744073709551615h"), Err("must be from 0s to 8760h".to_owned()));
        assert!(duration("99999999999999999999s").expect_err("too long").contains("is not a valid duration"));
        assert_eq!(size("18446744073709551615GiB"), Ok(usize::MAX));
    }

    #[test]
    fn a_duration_and_a_size_print_as_they_are_written() {
        for text in ["500ms", "90s", "10m", "1h", "0s"] {
            assert_eq!(Span::read(text).map(|span| span.to_string()), Ok(text.to_owned()));
        }
        for text in ["1B", "16KiB", "5MiB", "1GiB"] {
            assert_eq!(Size::read(text).map(|size| size.to_string()), Ok(text.to_owned()));
        }
    }
}
