//! Reads the regular expressions that stand for plain names and suffixes.
//!
//! In:  `^(www|api)\.example\.com$`, `^.+\.example\.com$`.
//! Out: [`Names`], or that the expression is more than that.

use super::{Names, server_name};
use crate::server_name::{Pattern, ServerName};

/// What may stand before a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    /// Nothing: the name itself.
    Nothing,
    /// One or more labels.
    Labels,
    /// One label.
    Label,
    /// Any number of labels, or none.
    PerhapsLabels,
    /// One label, or none.
    PerhapsLabel,
}

const FRONTS: &[(&str, Front)] = &[
    (r"(.*\.)?", Front::PerhapsLabels),
    (r"(.+\.)?", Front::PerhapsLabels),
    (r"(?:.*\.)?", Front::PerhapsLabels),
    (r"(?:.+\.)?", Front::PerhapsLabels),
    (r"([^.]+\.)?", Front::PerhapsLabel),
    (r"([^\.]+\.)?", Front::PerhapsLabel),
    (r"(?:[^.]+\.)?", Front::PerhapsLabel),
    (r"(.*)\.", Front::Labels),
    (r"(.+)\.", Front::Labels),
    (r".*\.", Front::Labels),
    (r".+\.", Front::Labels),
    (r"([^.]+)\.", Front::Label),
    (r"[^.]+\.", Front::Label),
    (r"[^\.]+\.", Front::Label),
    (r"[^.]*\.", Front::Label),
    (r"[a-z0-9-]+\.", Front::Label),
    (r"[a-zA-Z0-9-]+\.", Front::Label),
    (r"[-a-z0-9]+\.", Front::Label),
];

/// Reads an expression that is searched anywhere in a name, as PCRE and Go do, unless `^` and `$` hold it.
pub(in crate::import) fn regex(text: &str) -> Result<Names, String> {
    let text = text.strip_prefix("(?i)").unwrap_or(text);
    if [".*", ".+", "^.*$", "^.+$", "^.*", ".*$", "^.+", ".+$"].contains(&text) {
        return Ok(Names::only(vec![Pattern::Any]));
    }
    let (starts, text) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
    let (ends, text) = match text.strip_suffix('$') {
        Some(rest) if !rest.ends_with('\\') => (true, rest),
        _ => (false, text),
    };
    let found = FRONTS.iter().find_map(|(word, front)| Some((*front, text.strip_prefix(word)?)));
    let (mut front, rest) = found.unwrap_or((Front::Nothing, text));
    let mut literal = Literal::read(rest)?;
    if !starts && front == Front::Nothing && literal.drop_leading_dots() {
        front = Front::Labels;
    }
    // `[^.]+\.example\.com` without `^` matches the end of a longer name as well.
    if !starts && front == Front::Label {
        front = Front::Labels;
    }
    let open_start = !starts && front == Front::Nothing;
    let mut patterns = Vec::new();
    for name in &literal.names {
        let name = server_name(name).map_err(|_| TOO_MUCH.to_owned())?;
        patterns.extend(if open_start { Front::PerhapsLabels.patterns(name) } else { front.patterns(name) });
    }
    Ok(Names { patterns, besides: besides(open_start, !ends, literal.any_character) })
}

fn besides(open_start: bool, open_end: bool, any_character: bool) -> Option<String> {
    let parts = [
        (open_start, "names that have more characters before it in the same label (no `^`)"),
        (open_end, "names that continue after it (no `$`)"),
        (any_character, "names that have another character in place of a dot (`.` without `\\`)"),
    ];
    let parts: Vec<&str> = parts.into_iter().filter_map(|(is, words)| is.then_some(words)).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

impl Front {
    fn patterns(self, name: ServerName) -> Vec<Pattern> {
        match self {
            Self::Nothing => vec![Pattern::Exact(name)],
            Self::Labels => vec![Pattern::ManyLabels(name)],
            Self::Label => vec![Pattern::OneLabel(name)],
            Self::PerhapsLabels => vec![Pattern::Exact(name.clone()), Pattern::ManyLabels(name)],
            Self::PerhapsLabel => vec![Pattern::Exact(name.clone()), Pattern::OneLabel(name)],
        }
    }
}

/// An expression without wildcards: all names that it stands for.
struct Literal {
    names: Vec<String>,
    /// A dot without a backslash stands for any character.
    any_character: bool,
}

impl Literal {
    fn read(text: &str) -> Result<Self, String> {
        let mut literal = Self { names: vec![String::new()], any_character: false };
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '\\' => {
                    let escaped = rest.chars().next().filter(|c| matches!(c, '.' | '-')).ok_or(TOO_MUCH)?;
                    rest = &rest[1..];
                    literal.push(escaped);
                }
                '(' => {
                    let (group, after) = rest.split_once(')').ok_or(TOO_MUCH)?;
                    literal.choose(group.strip_prefix("?:").unwrap_or(group))?;
                    rest = after;
                }
                '.' => {
                    literal.any_character = true;
                    literal.push('.');
                }
                c if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') => literal.push(c),
                _ => return Err(TOO_MUCH.to_owned()),
            }
            // Twenty groups of two would be a million names.
            if literal.names.iter().map(String::len).sum::<usize>() > MOST_BYTES {
                return Err(TOO_MUCH.to_owned());
            }
        }
        Ok(literal)
    }

    fn push(&mut self, c: char) {
        self.names.iter_mut().for_each(|name| name.push(c));
    }

    /// `(a|b)`; groups inside of groups are not read.
    fn choose(&mut self, group: &str) -> Result<(), String> {
        let choices: Vec<&str> = group.split('|').collect();
        if self.names.len() * choices.len() > MOST_NAMES {
            return Err(TOO_MUCH.to_owned());
        }
        let mut longer = Vec::new();
        for choice in choices {
            if choice.contains('(') {
                return Err(TOO_MUCH.to_owned());
            }
            let inner = Self::read(choice)?;
            self.any_character |= inner.any_character;
            longer.extend(self.names.iter().flat_map(|name| inner.names.iter().map(move |end| format!("{name}{end}"))));
        }
        self.names = longer;
        Ok(())
    }

    /// Whether all names begin with a dot, which is then removed.
    fn drop_leading_dots(&mut self) -> bool {
        let all = self.names.iter().all(|name| name.starts_with('.'));
        if all {
            for name in &mut self.names {
                name.remove(0);
            }
        }
        all
    }
}

const TOO_MUCH: &str = "this regular expression matches more than a name or a suffix, and snigate has no regular expressions; \
    list the names, or use `*.` and `**.`";
const MOST_NAMES: usize = 256;
const MOST_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<(String, bool), String> {
        let names = regex(text)?;
        let patterns: Vec<_> = names.patterns.iter().map(Pattern::to_string).collect();
        Ok((patterns.join(" "), names.besides.is_none()))
    }

    #[test]
    fn plain_names_and_suffixes_are_read() {
        for (text, patterns) in [
            (r"^a\.example\.com$", "a.example.com"),
            (r"^.*\.example\.com$", "**.example.com"),
            (r".+\.example\.com$", "**.example.com"),
            (r"\.example\.com$", "**.example.com"),
            (r"^[^.]+\.example\.com$", "*.example.com"),
            (r"^(.*\.)?example\.com$", "example.com **.example.com"),
            (r"^(www|api)\.example\.com$", "www.example.com api.example.com"),
            (r"^(?:a|b)\.(?:c|d)$", "a.c a.d b.c b.d"),
            (".*", "*"),
        ] {
            let expected: std::collections::BTreeSet<&str> = patterns.split(' ').collect();
            let (found, whole) = read(text).expect(text);
            assert_eq!((found.split(' ').collect(), whole), (expected, true), "{text}");
        }
    }

    #[test]
    fn what_an_expression_matches_besides_is_known() {
        for (text, patterns) in [
            (r"example\.com$", "example.com **.example.com"),
            (r"^example\.com", "example.com"),
            (r"^example.com$", "example.com"),
        ] {
            assert_eq!(read(text), Ok((patterns.to_owned(), false)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [r"^a[0-9]+\.b$", r"^a\db$", "a|b", "^(a$", r"^((a|b)|c)$", "^$", "", r"^a\", "^*.a$", r"^a\.b\$"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(read(&"(a|b)".repeat(30)).is_err());
    }

    proptest! {
        #[test]
        fn no_expression_panics(text in "[\\^$.*+?()|\\[\\]\\\\a-c:-]{0,24}") {
            let _ = regex(&text);
        }
    }
}
