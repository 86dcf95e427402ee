//! Words what was expected and what was found.
//!
//! In:  the words that a key takes; a text of any length out of a file.
//! Out: what fits into one line of a message.

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

/// Lists the shapes that a `$shape` enum has.
pub(super) struct Shapes(pub &'static [&'static str]);

impl fmt::Display for Shapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, shape) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { " or " } else { "" })?;
            f.write_str(match *shape {
                "scalar" => "a word",
                "list" => "a list",
                _ => "a map",
            })?;
        }
        Ok(())
    }
}

/// Keeps a message readable whatever the file holds.
pub(super) fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        short.push('…');
    }
    short
}

/// Longer words are not recognised by their end.
const MAX_SHOWN: usize = 60;
