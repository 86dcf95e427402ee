//! Writes a routing file for people: the keys in the usual order, with the origin of each line as a comment.
//!
//! In:  a [`Plan`].
//! Out: YAML.

use std::fmt::Write;
use std::sync::Arc;

use super::model::{Backend, Key, Origin, Pool, Target};
use super::plan::{Plan, PlannedListener, Route};
use crate::telemetry::escape::readable;

/// The whole file; `heading` becomes its first comment.
pub(crate) fn routing_file(plan: &Plan, heading: &str) -> String {
    let mut out = Lines::default();
    for line in heading.lines() {
        out.text.push_str(format!("# {line}").trim_end());
        out.text.push('\n');
    }
    out.line(0, "listeners:", None);
    plan.listeners.iter().for_each(|entry| listener(&mut out, entry));
    out.line(0, if plan.routes.is_empty() { "routes: []" } else { "routes:" }, None);
    plan.routes.iter().for_each(|entry| route(&mut out, entry));
    for (key, target, origin) in &plan.fallbacks {
        out.line(0, &format!("{key}: {{ {} }}", destination(target)), origin.as_ref());
    }
    out.line(0, if plan.pools.is_empty() { "pools: {}" } else { "pools:" }, None);
    plan.pools.iter().for_each(|entry| pool(&mut out, entry));
    keys(&mut out, 0, &plan.settings);
    out.text
}

/// Text for a comment: one line, without control characters.
pub(crate) fn comment(text: &str) -> String {
    readable(text, MOST_COMMENT)
}

/// A value as YAML reads it: plain where that is safe, otherwise in double quotes.
pub(crate) fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    let is_name = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/') && text.chars().all(plain);
    // `10.0.0.1:443`: a colon without a space behind it is an ordinary character.
    let is_address = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.contains('.')
        && text.chars().all(|c| plain(c) || c == ':')
        && !text.ends_with(':')
        && text.parse::<f64>().is_err();
    let is_word = ["true", "false", "null", "yes", "no", "on", "off"].iter().any(|w| text.eq_ignore_ascii_case(w));
    if (is_name || is_address) && !is_word { text.to_owned() } else { quoted(text) }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() || c == '\u{feff}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    // A routing file reads `${NAME}` as an environment variable.
    out.replace("${", "$${")
}

fn listener(out: &mut Lines, listener: &PlannedListener) {
    out.line(2, &format!("- name: {}", scalar(&listener.name)), listener.origin.as_ref());
    list(out, 4, "bind", &listener.bind);
    keys(out, 4, &listener.keys);
}

fn route(out: &mut Lines, route: &Route) {
    let patterns: Vec<_> = route.patterns.iter().map(|(name, origin)| (name.to_string(), origin.clone())).collect();
    list(out, 2, "- sni", &patterns);
    if !route.source.is_empty() {
        let networks: Vec<_> = route.source.iter().map(|network| scalar(&network.to_string())).collect();
        out.line(4, &format!("source: [{}]", networks.join(", ")), None);
    }
    if !route.listeners.is_empty() {
        let names: Vec<_> = route.listeners.iter().map(|name| scalar(name)).collect();
        out.line(4, &format!("listeners: [{}]", names.join(", ")), None);
    }
    out.line(4, &destination(&route.to), None);
}

fn destination(target: &Target) -> String {
    match target {
        Target::Pool(pool) => format!("pool: {}", scalar(pool)),
        Target::Split(shares) => {
            let share = |(pool, weight): &(Arc<str>, u32)| format!("{{ pool: {}, weight: {weight} }}", scalar(pool));
            let shares: Vec<_> = shares.iter().map(share).collect();
            format!("split: [{}]", shares.join(", "))
        }
        Target::Close => "refuse: close".to_owned(),
    }
}

fn pool(out: &mut Lines, pool: &Pool) {
    let (balance, others): (Vec<Key>, Vec<Key>) = pool.keys.iter().cloned().partition(|key| key.path == "balance");
    out.line(2, &format!("{}:", scalar(&pool.name)), pool.origin.as_ref());
    keys(out, 4, &balance);
    out.line(4, "backends:", None);
    for backend in &pool.backends {
        out.line(6, &format!("- {}", entry(backend)), backend.origin.as_ref());
    }
    keys(out, 4, &others);
}

fn entry(backend: &Backend) -> String {
    let address = scalar(&backend.address);
    if backend.keys.is_empty() {
        return address;
    }
    let keys: Vec<_> = backend.keys.iter().map(|key| format!("{}: {}", key.path, key.value)).collect();
    format!("{{ address: {address}, {} }}", keys.join(", "))
}

/// One value on the line of its key; several below it, each with its own origin.
fn list(out: &mut Lines, indent: usize, key: &str, values: &[(String, Option<Origin>)]) {
    let is_item = key.starts_with("- ");
    match values {
        [(value, origin)] => out.line(indent, &format!("{key}: {}", scalar(value)), origin.as_ref()),
        _ => {
            out.line(indent, &format!("{key}:"), None);
            for (value, origin) in values {
                out.line(indent + if is_item { 4 } else { 2 }, &format!("- {}", scalar(value)), origin.as_ref());
            }
        }
    }
}

/// Keys of one level; those with a dot are gathered in a map below the part before it.
fn keys(out: &mut Lines, indent: usize, keys: &[Key]) {
    let mut written: Vec<&str> = Vec::new();
    for key in keys {
        let Some((section, _)) = key.path.split_once('.') else {
            out.line(indent, &format!("{}: {}", key.path, key.value), key.origin.as_ref());
            continue;
        };
        if written.contains(&section) {
            continue;
        }
        written.push(section);
        out.line(indent, &format!("{section}:"), None);
        for (name, key) in keys.iter().filter_map(|key| Some((inside(key.path, section)?, key))) {
            out.line(indent + 2, &format!("{name}: {}", key.value), key.origin.as_ref());
        }
    }
}

fn inside<'p>(path: &'p str, section: &str) -> Option<&'p str> {
    path.strip_prefix(section)?.strip_prefix('.')
}

/// Lines of text, with comments in one column where they fit.
#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn line(&mut self, indent: usize, content: &str, origin: Option<&Origin>) {
        let content = format!("{:indent$}{content}", "");
        let _ = match origin {
            Some(origin) => {
                let origin = comment(&origin.to_string());
                writeln!(self.text, "{content:COMMENT_COLUMN$}  # from {origin}")
            }
            None => writeln!(self.text, "{content}"),
        };
    }
}

const COMMENT_COLUMN: usize = 50;
const MOST_COMMENT: usize = 300;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_needs_quotes_is_quoted() {
        for plain in ["a.example.com", "10.0.0.1:443", "shop", "unix/x", "a.b:443"] {
            assert_eq!(scalar(plain), plain);
        }
        for text in ["*.a.test", "[::1]:443", "on", "1.5", "10", "", "a b", "1.2e3", "443:", "-a"] {
            assert_eq!(scalar(text), format!("\"{text}\""));
        }
        assert_eq!(scalar("${A}"), "\"$${A}\"");
        assert_eq!(scalar("a\"\\\n"), "\"a\\\"\\\\\\u000a\"");
    }

    proptest! {
        #[test]
        fn every_text_reads_back(text in "[ -~\\n\\t\u{e9}\u{2028}]{1,20}") {
            let written = format!("a: {}", scalar(&text));
            let value: std::collections::HashMap<String, String> = serde_yaml::from_str(&written).expect(&written);
            prop_assert_eq!(&value["a"], &text.replace("${", "$${"));
        }
    }
}
