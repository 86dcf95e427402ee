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

/// Escapes and truncates a text so that a message stays readable.
pub(super) fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        short.push('…');
    }
    short
}

/// In characters: enough to recognise any value.
const MAX_SHOWN: usize = 60;
