//! Checks that a number is in the range that its key allows.
//!
//! In:  the number and the place of its key.
//! Out: an error that names the range.

use std::ops::RangeInclusive;

use super::Cursor;

/// Reports a number outside `range`.
pub(super) fn number_within(section: &Cursor<'_>, key: &str, number: u32, range: RangeInclusive<u32>) {
    if !range.contains(&number) {
        section.error_at(key, format_args!("must be from {} to {}", range.start(), range.end()));
    }
}
