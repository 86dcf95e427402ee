//! Parses YAML text into a tree in which every value has its position.
//!
//! In:  the text of one file.
//! Out: a [`Node`], and a problem for everything that YAML allows and a routing file does not: anchors, aliases, tags,
//!      duplicate keys, a second document, deep nesting.
//! Source: YAML 1.2. The only module that uses the YAML crate, and only its event parser: nothing in a file is ever
//!         expanded, so the cost is linear in its length.

mod environment;
mod mistake;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_yaml::granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, options};

pub(super) use self::environment::Environment;
use super::at::{At, Spot};
use super::problem::{Place, Problem, Problems, Severity};
use super::wording::key_like;

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node<'t> {
    pub spot: Spot,
    pub value: Value<'t>,
}

#[derive(Debug)]
pub(super) enum Value<'t> {
    Scalar {
        text: Cow<'t, str>,
        style: Style,
    },
    List(Vec<Node<'t>>),
    /// Without duplicates, in the order of the file.
    Map(Vec<(Key<'t>, Node<'t>)>),
    /// Stands in for a value that cannot be used, which has been reported.
    Reported,
}

impl Value<'_> {
    /// Whether YAML 1.2 (§10.3.2) reads this as null.
    pub(super) fn is_nothing(&self) -> bool {
        self.plain().is_some_and(|text| matches!(text, "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Whether YAML 1.2 (§10.3.2) reads this as a number or a boolean rather than as text.
    pub(super) fn is_number_or_boolean(&self) -> bool {
        let number_like = |first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '.');
        self.plain().is_some_and(|text| {
            matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE")
                || (text.starts_with(number_like) && text.parse::<f64>().is_ok())
        })
    }

    fn plain(&self) -> Option<&str> {
        match self {
            Self::Scalar { text, style: Style::Plain } => Some(text),
            _ => None,
        }
    }
}

/// Whether a scalar was written plain, and so may be a number, a boolean or null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Quoted,
    /// Completed from the environment: a number or a boolean where one is expected, text where text is.
    Completed,
}

#[derive(Debug)]
pub(super) struct Key<'t> {
    pub spot: Spot,
    pub text: Cow<'t, str>,
}

/// Parses `text`, with the environment variables that its values name. `None`: there is no usable tree; the reason has
/// been reported.
pub(super) fn read<'t>(
    text: &'t str,
    file: &Arc<Path>,
    environment: &mut Environment,
    problems: &mut Problems,
) -> Option<Node<'t>> {
    let options = options! {
        emit_comments: false,
        // So that `sni: *.example.com` gets a specific message.
        emit_unresolved_aliases: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut tree = Tree { file, environment, problems, open: Vec::new(), root: None, documents: 0, nodes: 0 };
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => tree.take(event, &span).ok()?,
            Err(error) => {
                let (spot, message) = explain(&error, text);
                // Without a path: the collection that the parser has open is not where the mistake is.
                tree.push(spot, String::new(), message);
                return None;
            }
        }
    }
    if tree.root.is_none() {
        tree.problems.error(&At::top(file), "the file is empty; it needs at least `listeners`");
    }
    tree.root
}

struct Tree<'f, 't> {
    file: &'f Arc<Path>,
    environment: &'f mut Environment,
    problems: &'f mut Problems,
    /// The lists and maps that are still open, outermost first.
    open: Vec<Open<'t>>,
    root: Option<Node<'t>>,
    documents: usize,
    nodes: usize,
}

enum Open<'t> {
    List { spot: Spot, nodes: Vec<Node<'t>> },
    Map { spot: Spot, entries: Vec<(Key<'t>, Node<'t>)>, key: PendingKey<'t> },
}

enum PendingKey<'t> {
    None,
    Some(Key<'t>),
    /// A list or map used as a key; already reported, and its value is skipped.
    Unfit,
}

/// Parsing cannot continue; the reason has been reported.
struct Stop;

impl<'t> Tree<'_, 't> {
    fn take(&mut self, event: Event<'t>, span: &Span) -> Result<(), Stop> {
        let spot = Spot { line: count(span.start.line()), column: count(span.start.col() + 1) };
        if event.anchor_id().is_some_and(|id| id != 0) {
            self.refuse(spot, "anchors and aliases are not supported; write the value out");
        }
        if event.tag().is_some() {
            self.refuse(spot, "tags (`!…`) are not supported");
        }
        match event {
            Event::Scalar(text, style, ..) => {
                let style = if style == ScalarStyle::Plain { Style::Plain } else { Style::Quoted };
                self.put(Node { spot, value: Value::Scalar { text, style } })
            }
            Event::SequenceStart(..) => self.open(Open::List { spot, nodes: Vec::new() }),
            Event::MappingStart(..) => self.open(Open::Map { spot, entries: Vec::new(), key: PendingKey::None }),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { spot, nodes }) => self.put(Node { spot, value: Value::List(nodes) }),
                Some(Open::Map { spot, mut entries, .. }) => {
                    self.drop_duplicates(&mut entries);
                    self.put(Node { spot, value: Value::Map(entries) })
                }
                None => Ok(()),
            },
            Event::UnresolvedAlias(name) => {
                self.refuse(spot, format_args!("an unquoted `*` starts an alias in YAML; write \"*{name}\" in quotes"));
                self.put(Node { spot, value: Value::Reported })
            }
            Event::Alias(_) => {
                self.refuse(spot, "anchors and aliases are not supported; write the value out");
                self.put(Node { spot, value: Value::Reported })
            }
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.refuse(spot, "a second YAML document starts here; a routing file must be one document");
                    return Err(Stop);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open<'t>) -> Result<(), Stop> {
        self.open.push(open);
        if self.open.len() > MAX_DEPTH {
            let Some(Open::List { spot, .. } | Open::Map { spot, .. }) = self.open.pop() else { return Err(Stop) };
            self.refuse(spot, TOO_DEEP);
            return Err(Stop);
        }
        Ok(())
    }

    fn put(&mut self, mut node: Node<'t>) -> Result<(), Stop> {
        self.nodes += 1;
        if let Value::Scalar { text, style } = &mut node.value
            && text.contains("${")
            && !self.awaits_key()
        {
            match self.environment.expand(text) {
                Ok(expanded) => (*text, *style) = (expanded.into(), Style::Completed),
                Err(error) => {
                    self.refuse(node.spot, error);
                    node.value = Value::Reported;
                }
            }
        }
        if self.nodes > MAX_NODES {
            self.refuse(node.spot, format_args!("the file contains more than {MAX_NODES} values"));
            return Err(Stop);
        }
        let unfit = match self.open.last_mut() {
            None => {
                self.root = Some(node);
                None
            }
            Some(Open::List { nodes, .. }) => {
                nodes.push(node);
                None
            }
            Some(Open::Map { entries, key, .. }) => match (std::mem::replace(key, PendingKey::None), node.value) {
                (PendingKey::Some(key), value) => {
                    entries.push((key, Node { spot: node.spot, value }));
                    None
                }
                (PendingKey::Unfit, _) => None,
                (PendingKey::None, Value::Scalar { text, .. }) => {
                    *key = PendingKey::Some(Key { spot: node.spot, text });
                    None
                }
                (PendingKey::None, _) => {
                    *key = PendingKey::Unfit;
                    Some(node.spot)
                }
            },
        };
        if let Some(spot) = unfit {
            self.refuse(spot, "a key must be plain text, not a list or a map");
        }
        Ok(())
    }

    /// Whether the next scalar is a key.
    fn awaits_key(&self) -> bool {
        matches!(self.open.last(), Some(Open::Map { key: PendingKey::None, .. }))
    }

    /// Keeps the first of duplicate keys. The message shows both places, since only the author knows which one is
    /// right.
    fn drop_duplicates(&mut self, entries: &mut Vec<(Key<'t>, Node<'t>)>) {
        let mut seen: HashMap<Cow<'t, str>, Spot> = HashMap::with_capacity(entries.len());
        entries.retain(|(key, _)| {
            let Some(first) = seen.get(&key.text).copied() else {
                seen.insert(key.text.clone(), key.spot);
                return true;
            };
            let name = key_like(&key.text);
            let (line, column) = (first.line, first.column);
            let message = format!("duplicate key `{name}`; first used in line {line}, column {column}");
            let path = self.path();
            let dot = if path.is_empty() { "" } else { "." };
            self.push(key.spot, format!("{path}{dot}{name}"), message);
            false
        });
    }

    fn refuse(&mut self, spot: Spot, message: impl std::fmt::Display) {
        let path = self.path();
        self.push(spot, path, message.to_string());
    }

    fn push(&mut self, spot: Spot, path: String, message: String) {
        let place = Place { file: Arc::clone(self.file), line: spot.line, column: spot.column };
        self.problems.push(Problem { severity: Severity::Error, place, path, message });
    }

    /// The path of the next value.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match open {
                Open::List { nodes, .. } => path.push_str(&format!("[{}]", nodes.len())),
                Open::Map { key: PendingKey::Some(key), .. } => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.extend(key.text.escape_debug());
                }
                Open::Map { .. } => {}
            }
        }
        path
    }
}

fn spot(error: &ScanError) -> Spot {
    Spot { line: count(error.marker().line().max(1)), column: count(error.marker().col() + 1) }
}

/// The most likely place of the mistake, and how to fix it.
fn explain(error: &ScanError, text: &str) -> (Spot, String) {
    if *error.kind() == ErrorKind::RecursionLimitExceeded {
        return (spot(error), TOO_DEEP.to_owned());
    }
    let star = message(error, text);
    if star.ends_with(STAR) {
        return (spot(error), star);
    }
    let found = mistake::find(text, error.marker().line().max(1), &error.info());
    found.map_or((spot(error), star), |(spot, cure)| (spot, format!("invalid YAML: {cure}")))
}

fn message(error: &ScanError, text: &str) -> String {
    let mut said = format!("invalid YAML: {}", error.info());
    // `sni: *` is a natural thing to write, but YAML reads it as an alias without a name.
    let line = text.lines().nth(error.marker().line().saturating_sub(1)).unwrap_or_default();
    if line.split(['#', '"', '\'']).next().is_some_and(|plain| plain.contains('*')) {
        said.push_str(STAR);
    }
    said
}

fn count(from_parser: usize) -> u32 {
    u32::try_from(from_parser).unwrap_or(u32::MAX)
}

const STAR: &str = "; a value that begins with `*` must be in quotes";
/// The deepest key of a routing file is at level six.
const MAX_DEPTH: usize = 16;
const TOO_DEEP: &str = "lists and maps are nested more than 16 deep";
/// A million routes with eight values each, and some headroom.
const MAX_NODES: usize = 16_000_000;
