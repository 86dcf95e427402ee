//! Makes text from outside safe to print on a terminal.
//!
//! In:  names, errors and other text that a client, a backend or a remote process chose.
//! Out: the same text, in which control characters and characters that reorder a line are escaped.

use std::borrow::Cow;

use crate::telemetry::escape::misleads;

/// Escapes characters that a terminal would obey, or that would make a line mislead; everything else stays.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let is_fine = |c: char| !c.is_control() && !misleads(c);
    if text.chars().all(is_fine) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_fine(c) { shown.push(c) } else { shown.extend(c.escape_unicode()) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_a_terminal_obeys_is_escaped() {
        assert_eq!(printable("bücher.example.com"), "bücher.example.com");
        assert_eq!(printable("a\u{1b}[2Jb\r\n"), "a\\u{1b}[2Jb\\u{d}\\u{a}");
        assert_eq!(printable("\u{202e}moc.elpmaxe"), "\\u{202e}moc.elpmaxe");
    }

    proptest! {
        #[test]
        fn nothing_unsafe_is_left(text in "\\PC*|[\\x00-\\x9f\u{2028}\u{202e}]*") {
            prop_assert!(printable(&text).chars().all(|c| !c.is_control() && !misleads(c)));
        }
    }
}
