//! Recognises what the files of other programs would say in the place of a name.
//!
//! In:  a pattern as an operator wrote it, before it is read as a name.
//! Out: [`Habit`], which prints as the cause and the cure; `None` for anything that may be a name.

use std::fmt;
use std::str::FromStr;

use super::{Pattern, ServerName};

/// A way of writing names that another program has, and the names to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Habit {
    kind: Kind,
    /// Empty where they cannot be guessed.
    write: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    TraefikRule,
    Quotes,
    Semicolon,
    List,
    Variable,
    Placeholder,
    Regex,
    Boolean,
    Dot,
}

impl Habit {
    pub(super) fn of(text: &str) -> Option<Self> {
        let kind = kind(text)?;
        let write = match kind {
            // The names to write are guessed for what a person may have typed, not for a file that expands like a bomb.
            _ if text.len() > MOST_GUESSED_BYTES => Vec::new(),
            Kind::TraefikRule => plain(text.split('`').skip(1).step_by(2)),
            Kind::Quotes => plain([text.trim_matches(QUOTES)]),
            Kind::Semicolon => {
                plain(text.trim_end_matches(';').split_whitespace().filter(|word| *word != "server_name"))
            }
            Kind::List => plain(text.split(|c: char| c == ',' || c.is_whitespace()).filter(|part| !part.is_empty())),
            Kind::Regex => of_regex(text),
            Kind::Dot => vec![format!("\"**{text}\"")],
            Kind::Variable | Kind::Placeholder | Kind::Boolean => Vec::new(),
        };
        Some(Self { kind, write })
    }

    /// Whether YAML 1.1 tools read `text` as a boolean, although it could be a name.
    pub(super) fn is_boolean(text: &str) -> bool {
        matches!(text, "true" | "false")
    }
}

fn kind(text: &str) -> Option<Kind> {
    let variable = |rest: &str| rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '{' || c == '_');
    let regex = |c| matches!(c, '^' | '$' | '\\' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '+' | '?' | '~');
    let quoted = text.len() > 1 && QUOTES.iter().any(|quote| text.starts_with(*quote) && text.ends_with(*quote));
    match text {
        _ if text.contains("://") => None,
        _ if text.starts_with("Host") && text.contains('(') => Some(Kind::TraefikRule),
        _ if quoted => Some(Kind::Quotes),
        _ if text.ends_with(';') => Some(Kind::Semicolon),
        _ if text.split('$').skip(1).any(variable) || text.contains("{{") || text.contains("{$") => {
            Some(Kind::Variable)
        }
        _ if text.contains('<') && text.contains('>') => Some(Kind::Placeholder),
        _ if text.contains(regex) => Some(Kind::Regex),
        _ if text.contains(',') || text.trim().contains(char::is_whitespace) => Some(Kind::List),
        _ if text.strip_prefix('.').is_some_and(|rest| ServerName::from_str(rest).is_ok()) => Some(Kind::Dot),
        _ if Habit::is_boolean(text) => Some(Kind::Boolean),
        _ => None,
    }
}

/// The parts, if each is a pattern.
fn plain<'t>(parts: impl IntoIterator<Item = &'t str>) -> Vec<String> {
    let read = |part: &str| (Habit::of(part).is_none()).then(|| Pattern::from_str(part).ok())?;
    let all: Option<Vec<String>> = parts.into_iter().map(|part| Some(read(part)?.to_string())).collect();
    all.unwrap_or_default()
}

/// Finds the names that `(a|b)\.test` takes, or the pattern for `^app-[0-9]+\.test$`.
fn of_regex(text: &str) -> Vec<String> {
    let text = text.trim_start_matches(['~', '^']).trim_end_matches('$').replace("\\.", ".");
    if let Some((before, rest)) = text.split_once('(')
        && let Some((group, after)) = rest.split_once(')')
    {
        let names: Vec<String> = group.split('|').map(|word| format!("{before}{word}{after}")).collect();
        let names = plain(names.iter().map(String::as_str));
        if !names.is_empty() {
            return names;
        }
    }
    if ServerName::from_str(&text).is_ok() && text.contains('.') {
        return vec![text];
    }
    let suffixes = text.match_indices('.').map(|(at, _)| &text[at + 1..]);
    let mut fits = suffixes.filter(|suffix| suffix.contains('.') && ServerName::from_str(suffix).is_ok());
    fits.next().map(|suffix| format!("*.{suffix}")).into_iter().collect()
}

impl fmt::Display for Habit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cause, otherwise) = match self.kind {
            Kind::TraefikRule => ("this is a Traefik rule; write the name alone", "shop.example.com"),
            Kind::Quotes => ("the quotes became part of the name; write it without the inner ones", "shop.example.com"),
            Kind::Semicolon => ("a name has no `;` at its end; write the name alone", "shop.example.com"),
            Kind::List => ("several names are a YAML list; write", "[a.example.com, b.example.com]"),
            Kind::Variable => ("a variable is not expanded in a name; write the name itself", "shop.example.com"),
            Kind::Placeholder => ("this is a placeholder; write your own name in its place", "shop.example.com"),
            Kind::Regex => (
                "regular expressions are not supported, only whole names and `*` for the first label; write",
                "*.example.com",
            ),
            Kind::Dot => ("a dot at the front is not a wildcard; write", "\"**.example.com\""),
            Kind::Boolean => return f.write_str("this is a YAML boolean, not a server name; write `*` for any name"),
        };
        let colon = if self.kind == Kind::List { "" } else { ":" };
        match self.write.as_slice() {
            [] => write!(f, "{cause}{colon} {otherwise}"),
            [one] => write!(f, "{cause}{colon} {one}"),
            more => write!(f, "{cause}{colon} [{}]", more.join(", ")),
        }
    }
}

const MOST_GUESSED_BYTES: usize = 1024;
const QUOTES: [char; 3] = ['"', '\'', '`'];
