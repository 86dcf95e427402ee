//! Formats what was expected and what was found.
//!
//! In:  the words that a key accepts; a text of any length from a file.
//! Out: text that fits into a one-line message.

use std::fmt;

/// Lists words as `a`, `b`, `c`.
pub(super) struct Words(pub &'static [&'static str]);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}`{word}`")?;
        }
        Ok(())
    }
}

/// Escapes a text and cuts it after its first word, so that a message stays readable and does not repeat a file that
/// was included by mistake.
pub(super) fn shortened(text: &str) -> String {
    let first = text.split_whitespace().next().unwrap_or_default();
    let shown = cut(text.trim(), first.chars().count());
    shown.chars().flat_map(char::escape_debug).collect()
}

/// The beginning of a text that can be a key.
pub(super) fn key_like(text: &str) -> String {
    cut(text, text.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '*')).count())
}

fn cut(text: &str, characters: usize) -> String {
    let (mut rest, mut short) = (text.chars(), String::new());
    short.extend(rest.by_ref().take(characters.min(MAX_SHOWN)));
    if rest.next().is_some() {
        short.push('…');
    }
    short
}

/// In characters: enough to recognise any value.
const MAX_SHOWN: usize = 60;
