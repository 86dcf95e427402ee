//! Finds the typo behind a text that is not valid YAML.
//!
//! In:  the text, and the line where the parser gave up, which is rarely the line of the mistake.
//! Out: its place, and how to fix it; `None` if it is not one of the common mistakes.

use crate::config::at::Spot;

/// `line` counts from 1.
pub(super) fn find(text: &str, line: usize, parser_said: &str) -> Option<(Spot, String)> {
    let lines: Vec<&str> = text.lines().take(line).collect();
    // An error in a value that continues on the next line is reported where the value begins.
    let ahead = if parser_said.contains("tab") { line + NEAR_LINES } else { line };
    tab(text.lines().take(ahead))
        .or_else(|| parser_said.contains("`@'").then(|| near(&lines, bare_at)).flatten())
        .or_else(|| near(&lines, bare_brackets))
        .or_else(|| near(&lines, bare_variable))
        .or_else(|| near(&lines, no_blank))
        .or_else(|| near(&lines, no_blank_after_dash))
        .or_else(|| near(&lines, no_colon))
        .or_else(|| open_quote(&lines))
        .or_else(|| near(&lines, no_comma))
        .or_else(|| {
            let in_flow = FLOW_WORDS.iter().any(|words| parser_said.contains(words));
            in_flow.then(|| unclosed(&lines)).flatten()
        })
        .or_else(|| second_colon(&lines, parser_said))
        .or_else(|| indentation(&lines, parser_said))
}

fn tab<'t>(lines: impl Iterator<Item = &'t str>) -> Option<(Spot, String)> {
    let at = |line: &str| {
        let indent = &line[..line.len() - line.trim_start().len()];
        indent.find('\t')
    };
    let (index, column) = lines.enumerate().find_map(|(index, line)| Some((index, at(line)?)))?;
    Some((spot(index, column), "a tab cannot indent; indent with spaces".to_owned()))
}

/// Checks the last lines, the last one first.
fn near(lines: &[&str], look: impl Fn(&str) -> Option<(usize, String)>) -> Option<(Spot, String)> {
    let last = lines.iter().enumerate().rev().take(NEAR_LINES);
    last.filter_map(|(index, line)| look(line).map(|(column, message)| (spot(index, column), message))).next()
}

/// `allow: [@lists/partners.txt]`: YAML reserves the `@` at the start of a value.
fn bare_at(line: &str) -> Option<(usize, String)> {
    let begins = |start: usize| line[..start].trim_end_matches(' ').ends_with([':', '[', ',', '-']) || start == 0;
    let (start, _) = line.match_indices('@').find(|(start, _)| begins(*start))?;
    let rest = &line[start..];
    let is_inside = line[..start].contains(['[', '{']);
    let end = rest.find(if is_inside { &[',', ']', '}'][..] } else { &['#'][..] }).unwrap_or(rest.len());
    let value = rest[..end].trim_end();
    let column = line[..start].chars().count();
    Some((column, format!("an unquoted `@` cannot begin a value in YAML; write \"{value}\" in quotes")))
}

/// `bind: [::]:443`, which YAML reads as the start of a list.
fn bare_brackets(line: &str) -> Option<(usize, String)> {
    line.match_indices('[').find_map(|(start, _)| {
        let (inside, after) = line[start + 1..].split_once(']')?;
        let port = after.strip_prefix(':')?;
        let port = &port[..port.find(|c: char| !c.is_ascii_digit()).unwrap_or(port.len())];
        let quoted = line[..start].ends_with(['"', '\'']);
        let address = inside.parse::<std::net::Ipv6Addr>().is_ok();
        (address && !quoted && !port.is_empty()).then(|| {
            let column = line[..start].chars().count();
            (column, format!("an unquoted `[` begins a list in YAML; write \"[{inside}]:{port}\" in quotes"))
        })
    })
}

/// `{ name: ${NAME} }`, where YAML takes the brace for one of its own.
fn bare_variable(line: &str) -> Option<(usize, String)> {
    let start = line.find("${")?;
    let before = &line[..start];
    let quoted = before.matches('"').count() % 2 == 1 || before.matches('\'').count() % 2 == 1;
    let inside = before.contains(['{', '[']) && !quoted;
    inside.then(|| (before.chars().count(), "inside `{}` or `[]`, a value with `${` must be in quotes".to_owned()))
}

/// `pool:shop`
fn no_blank(line: &str) -> Option<(usize, String)> {
    let trimmed = line.trim_start_matches([' ', '-']);
    let (key, value) = trimmed.split_once(':')?;
    let wrong = KEYS.contains(&key) && !value.is_empty() && !value.starts_with([' ', '\t']);
    let column = line.chars().count() - trimmed.chars().count();
    wrong.then(|| (column, format!("a space is missing after the colon; write `{key}: {}`", value.trim_end())))
}

/// `-sni: a.test`
fn no_blank_after_dash(line: &str) -> Option<(usize, String)> {
    let trimmed = line.trim_start();
    let entry = trimmed.strip_prefix('-')?;
    let (key, _) = entry.split_once(':')?;
    let column = line.chars().count() - trimmed.chars().count();
    KEYS.contains(&key).then(|| (column, format!("a space is missing after the dash; write `- {}`", entry.trim_end())))
}

/// `- sni a.test`
fn no_colon(line: &str) -> Option<(usize, String)> {
    let trimmed = line.trim_start_matches([' ', '-']);
    let (key, value) = trimmed.split_once(' ')?;
    let column = line.chars().count() - trimmed.chars().count();
    let wrong = KEYS.contains(&key) && !value.trim().is_empty() && !value.trim_start().starts_with(':');
    wrong.then(|| (column, format!("a colon is missing; write `{key}: {}`", value.trim())))
}

/// The first quote that is not closed in its line; a value of several lines is not usual in a routing file.
fn open_quote(lines: &[&str]) -> Option<(Spot, String)> {
    lines.iter().enumerate().find_map(|(index, line)| {
        let mut open = None;
        let mut before = ' ';
        for (column, c) in line.chars().enumerate() {
            match (open, c) {
                (Some((_, quote)), _) if c == quote && before != '\\' => open = None,
                (None, '#') if before == ' ' => break,
                // An apostrophe inside a word is not a quote.
                (None, '"' | '\'') if !before.is_alphanumeric() => open = Some((column, c)),
                _ => {}
            }
            before = c;
        }
        open.map(|(column, quote)| (spot(index, column), format!("this `{quote}` is not closed in its line")))
    })
}

/// `{ address: a.test:443 weight: 2 }`
fn no_comma(line: &str) -> Option<(usize, String)> {
    let (before, inside) = line.split_once('{')?;
    let mut start = before.chars().count() + 1;
    for entry in inside.split([',', '}', '{', '[', ']']) {
        let mut keys = entry.match_indices(": ");
        if let (Some(_), Some((second, _))) = (keys.next(), keys.next()) {
            let key = entry[..second].rsplit(' ').next().unwrap_or_default();
            let column = start + entry[..second].chars().count() - key.chars().count();
            return KEYS.contains(&key).then(|| (column, format!("a comma is missing before `{key}`")));
        }
        start += entry.chars().count() + 1;
    }
    None
}

/// The innermost bracket still open where the parser gave up.
fn unclosed(lines: &[&str]) -> Option<(Spot, String)> {
    let mut open: Vec<(Spot, char)> = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let mut quote = None;
        let mut before = ' ';
        for (column, c) in line.chars().enumerate() {
            match (quote, c) {
                (Some(end), _) if c == end => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => quote = Some(c),
                (None, '#') if before == ' ' => break,
                (None, '[' | '{') => open.push((spot(index, column), c)),
                (None, ']' | '}') => drop(open.pop()),
                _ => {}
            }
            before = c;
        }
    }
    let (spot, bracket) = open.pop()?;
    let end = if bracket == '[' { ']' } else { '}' };
    Some((spot, format!("this `{bracket}` is not closed; a `{end}` is missing")))
}

/// `pool: shop: x`
fn second_colon(lines: &[&str], parser_said: &str) -> Option<(Spot, String)> {
    if !parser_said.contains("mapping values") {
        return None;
    }
    let (index, line) = lines.iter().enumerate().next_back()?;
    let plain = line.split(" #").next()?;
    let (key, value) = plain.split_once(": ")?;
    let value = value.trim();
    let second = !value.starts_with(['"', '\'', '[', '{']) && (value.contains(": ") || value.ends_with(':'));
    let column = key.chars().count() + 2;
    second.then(|| (spot(index, column), "a second `: ` in the value; put the value in quotes".to_owned()))
}

fn indentation(lines: &[&str], parser_said: &str) -> Option<(Spot, String)> {
    if !INDENTATION_WORDS.iter().any(|words| parser_said.contains(words)) {
        return None;
    }
    let blanks = |line: &str| line.len() - line.trim_start().len();
    let mut written =
        lines.iter().enumerate().rev().filter(|(_, line)| !line.trim().is_empty() && !line.trim().starts_with('#'));
    let (index, line) = written.next()?;
    let (_, above) = written.next()?;
    let (here, above) = (blanks(line), blanks(above));
    (here != above).then(|| {
        let message = format!(
            "the indentation fits no line above: {here} spaces here, {above} in the line before; entries of one list, and \
             keys of one map, begin in the same column"
        );
        (spot(index, here), message)
    })
}

fn spot(line_index: usize, column_index: usize) -> Spot {
    Spot { line: super::count(line_index + 1), column: super::count(column_index + 1) }
}

/// The parser notices a mistake up to a few lines later.
const NEAR_LINES: usize = 3;
/// The keys most often written by hand.
const KEYS: &[&str] = &[
    "address",
    "backends",
    "balance",
    "bind",
    "listeners",
    "name",
    "pool",
    "pools",
    "refuse",
    "routes",
    "sni",
    "weight",
];
const FLOW_WORDS: &[&str] = &["flow", "unclosed", "placement of ':'", "',' or"];
const INDENTATION_WORDS: &[&str] =
    &["did not find expected", "mapping values", "invalid indentation", "placement of ':'"];
