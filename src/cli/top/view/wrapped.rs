//! Breaks text into lines.
//!
//! In:  text, the width of a line in columns.
//! Out: lines that fit, broken at spaces where there are any.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Breaks `text` into lines of at most `width` columns. Without text there is no line.
pub(super) fn wrapped(text: &str, width: u16) -> Vec<String> {
    let width = usize::from(width).max(1);
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let mut rest = word;
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= width => {
                line.push(' ');
                line.push_str(word);
                continue;
            }
            _ => lines.push(String::new()),
        }
        // A word that is wider than a line, such as a path, is cut.
        while let Some(end) = cut(rest, width) {
            let (first, more) = rest.split_at(end);
            lines.pop();
            lines.extend([first.to_owned(), String::new()]);
            rest = more;
        }
        lines.pop();
        lines.push(rest.to_owned());
    }
    lines
}

/// Where `word` has to be cut to fit; `None` if it fits.
fn cut(word: &str, width: usize) -> Option<usize> {
    let mut taken = 0;
    word.char_indices()
        .find(|(at, c)| {
            taken += c.width().unwrap_or(0);
            taken > width && *at > 0
        })
        .map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_broken_at_spaces_and_long_words_are_cut() {
        assert_eq!(wrapped("pool shop: its backend fails", 12), ["pool shop:", "its backend", "fails"]);
        assert_eq!(wrapped("a abcdefghij b", 4), ["a", "abcd", "efgh", "ij b"]);
        assert_eq!(wrapped("größe ist", 5), ["größe", "ist"]);
        assert!(wrapped("", 5).is_empty());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_every_line_fits(text in "[a-z漢 ]{0,60}", width in 2_u16..20) {
            let lines = wrapped(&text, width);
            let without_spaces = |text: &str| text.split_whitespace().collect::<String>();
            prop_assert_eq!(without_spaces(&lines.concat()), without_spaces(&text));
            prop_assert!(lines.iter().all(|line| line.width() <= usize::from(width)));
        }
    }
}
