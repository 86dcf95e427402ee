//! Reads the files of patterns that routes name.
//!
//! In:  the text of a file: a pattern a line, perhaps a pool behind it, and comments.
//! Out: each pattern with its place and its pool; a problem for each line that is wrong.
//! Source: docs/routing.md, "Names in files".
//!
//! A file may hold a million names, so a good line allocates nothing but its name.

use super::at::{At, Spot};
use super::problem::{Problems, Severity};
use super::wording::shortened;
use crate::server_name::{Pattern, PatternError};

/// A line with a pattern.
pub(super) struct Line<'t> {
    pub pattern: Pattern,
    pub spot: Spot,
    /// The pool behind the pattern, and where it stands.
    pub pool: Option<(&'t str, Spot)>,
}

/// Calls `found` with each line of `text` that has a pattern, in order.
pub(super) fn each<'t>(
    text: &'t str,
    top: At<'_>,
    problems: &mut Problems,
    mut found: impl FnMut(Line<'t>, &mut Problems),
) {
    for (number, line) in (1..).zip(text.lines()) {
        let content = line.split_once('#').map_or(line, |(content, _)| content);
        let mut words = content.split_whitespace();
        let Some(word) = words.next() else { continue };
        let spot = |word: &str| Spot { line: number, column: column(line, word) };
        let pool = words.next().map(|pool| (pool, spot(pool)));
        let mut wrong = |word, message: &dyn Fn() -> String| {
            problems.add(Severity::Error, || top.moved(spot(word)).problem(Severity::Error, message()));
        };
        if let Some(third) = words.next() {
            wrong(third, &|| {
                format!(
                    "`{}` is one word too many; write one pattern a line, and at most a pool behind it",
                    shortened(third)
                )
            });
            continue;
        }
        match word.parse() {
            Ok(pattern) => found(Line { pattern, spot: spot(word), pool }, problems),
            Err(why) => wrong(word, &|| explain(word, &why)),
        }
    }
}

fn explain(word: &str, why: &PatternError) -> String {
    match word.strip_prefix('@') {
        Some(_) => "a file of names cannot name another file; write `@FILE` into the routing file".to_owned(),
        None => format!("`{}`: {why}", shortened(word)),
    }
}

/// In characters, from 1; `word` is a part of `line`.
fn column(line: &str, word: &str) -> u32 {
    let before = word.as_ptr().addr() - line.as_ptr().addr();
    u32::try_from(line[..before].chars().count()).unwrap_or(u32::MAX - 1) + 1
}
