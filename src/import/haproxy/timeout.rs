//! Reads durations of HAProxy.
//!
//! In:  `30s`, or a number of milliseconds.
//! Out: a [`Duration`].
//! Source: HAProxy's configuration manual, 2.5 (time format).

use std::time::Duration;

use super::super::finding::Findings;
use super::super::values;
use super::sections::Line;

/// The duration at a word of a line.
pub(super) fn duration(line: &Line, at: usize, findings: &mut Findings) -> Option<Duration> {
    let read = read(line.word(at));
    if read.is_none() {
        let why = format!("`{}` is not a valid HAProxy duration", line.word(at).escape_debug());
        findings.left_out(&line.origin, &line.text(), why);
    }
    read
}

pub(super) fn read(text: &str) -> Option<Duration> {
    values::duration(text, Duration::from_millis(1), UNITS)
}

const UNITS: &[(&str, Duration)] = &[
    ("us", Duration::from_micros(1)),
    ("ms", Duration::from_millis(1)),
    ("s", values::SECOND),
    ("m", Duration::from_secs(60)),
    ("h", values::HOUR),
    ("d", values::DAY),
];
