//! Parts a text into its documents.
//!
//! In:  the text of a file.
//! Out: each document with its line; what is wrong with those that are not YAML, with the line of the mistake.

use serde_json::Value;

/// The documents of a text that are not empty, each with the line that it begins at. A document that cannot be read
/// does not keep the others from being read.
pub(super) fn documents(text: &str) -> Vec<(usize, Result<Value, String>)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let is_json = text.trim_start().starts_with('{');
    is_json.then(|| json(text)).flatten().unwrap_or_else(|| parts(text).into_iter().map(|part| part.parsed()).collect())
}

/// JSON documents one behind the other; `None`: it is not JSON, but may be YAML.
fn json(text: &str) -> Option<Vec<(usize, Result<Value, String>)>> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut found = Vec::new();
    loop {
        let rest = &text[values.byte_offset()..];
        let began = text.len() - rest.trim_start().len();
        match values.next() {
            None => return Some(found),
            Some(value) => found.push((1 + newlines(&text[..began]), Ok(value.ok()?))),
        }
    }
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

/// A part of a YAML text, without the lines that part it from others.
#[derive(Default)]
struct Part {
    /// The number of its first line, from 1.
    first: usize,
    text: String,
}

impl Part {
    fn parsed(self) -> (usize, Result<Value, String>) {
        let is_content = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let line = self.first + self.text.lines().position(is_content).unwrap_or_default();
        match serde_yaml::from_str_with_options::<Value>(&self.text, options(&self.text)) {
            Ok(value) => (line, Ok(value)),
            Err(error) => {
                let place = error.location().filter(|place| place.line() > 0);
                let message = message(&error);
                match place.and_then(|place| Some((usize::try_from(place.line()).ok()?, place.column()))) {
                    Some((row, column)) => (self.first + row - 1, Err(format!("column {column}: {message}"))),
                    None => (line, Err(message)),
                }
            }
        }
    }
}

/// A text may be as long as it is: `kubectl get --output yaml` writes one document for a whole cluster. What its aliases
/// would make of it is limited all the same.
fn options(text: &str) -> serde_yaml::Options {
    let mut budget = serde_yaml::Budget::default();
    budget.max_nodes += text.len();
    budget.max_events += 2 * text.len();
    budget.max_total_scalar_bytes += text.len();
    serde_yaml::options! {
        budget: Some(budget),
        alias_limits: serde_yaml::alias_limits! { max_total_replayed_events: 100_000 },
    }
}

/// Without the place, which counts from the beginning of the document, and advice for programmers.
fn message(error: &serde_yaml::Error) -> String {
    let message = error.without_snippet().to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or_default();
    match message.contains("budget") || message.contains("alias replay") {
        true => "its aliases would make too much of it; write out what they stand for".to_owned(),
        false => message.to_owned(),
    }
}

/// The parts of a YAML text that have any content: they are parted by lines of three dashes, or end with three dots.
fn parts(text: &str) -> Vec<Part> {
    let mut parts = vec![Part { first: 1, text: String::new() }];
    for (number, line) in (1..).zip(text.lines()) {
        let marker =
            |marker: &str| line.strip_prefix(marker).filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        let last = parts.last_mut().expect("there is one from the start");
        match (marker("---"), marker("...")) {
            // `--- {…}` begins a document on this line.
            (Some(rest), _) => parts.push(Part { first: number, text: format!("{rest}\n") }),
            (None, Some(_)) => parts.push(Part { first: number + 1, text: String::new() }),
            (None, None) => {
                last.text.push_str(line);
                last.text.push('\n');
            }
        }
    }
    // A line that begins with a percent sign is a directive, such as `%YAML 1.2`.
    let is_empty = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#') || line.starts_with('%');
    parts.retain(|part| !part.text.lines().all(is_empty));
    parts
}
