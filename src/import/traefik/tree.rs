//! Reads YAML and TOML into one tree with line numbers.
//!
//! In:  the text of a file.
//! Out: [`Node`]s. Keys are found whatever their case, as Traefik does it in labels.

use serde_yaml::granit_parser::{Event, Parser, options};
use toml_edit::{Document, Item};

use super::super::finding::Failure;
use super::super::source::Text;

/// A value and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    pub(super) fn text(line: usize, text: &str) -> Self {
        Self { line, value: Value::Text(text.to_owned()) }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, node)| node)
    }

    /// The node at a path such as `tls.passthrough`.
    pub(super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, key| node.get(key))
    }

    pub(super) fn entries(&self) -> &[(String, Self)] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }

    pub(super) fn as_text(&self) -> &str {
        if let Value::Text(text) = &self.value { text } else { "" }
    }

    /// The texts of a list, or of a text with commas, as in a label.
    pub(super) fn texts(&self) -> Vec<&str> {
        match &self.value {
            Value::List(nodes) => nodes.iter().map(Self::as_text).collect(),
            Value::Text(text) => text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect(),
            Value::Map(_) => Vec::new(),
        }
    }

    pub(super) fn items(&self) -> &[Self] {
        if let Value::List(nodes) = &self.value { nodes } else { &[] }
    }

    /// Puts a text at a path such as `["tcp", "routers", "a", "rule"]`.
    pub(super) fn insert(&mut self, path: &[&str], line: usize, text: &str) {
        let [first, rest @ ..] = path else {
            *self = Self::text(line, text);
            return;
        };
        if !matches!(self.value, Value::Map(_)) {
            self.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut self.value else { return };
        let at = entries.iter().position(|(name, _)| name.eq_ignore_ascii_case(first)).unwrap_or_else(|| {
            entries.push(((*first).to_owned(), Self { line, value: Value::Map(Vec::new()) }));
            entries.len() - 1
        });
        entries[at].1.insert(rest, line, text);
    }
}

/// Parses a file: TOML if its name says so, otherwise YAML.
///
/// # Errors
/// It is neither.
pub(super) fn parse(text: &Text) -> Result<Node, Failure> {
    if text.name.to_ascii_lowercase().ends_with(".toml") { toml(text) } else { yaml(text) }
}

fn toml(text: &Text) -> Result<Node, Failure> {
    let line_of = |at: usize| text.text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
    let document = Document::parse(&*text.text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(span.start));
        Failure::at(text.origin(line), format_args!("this is not valid TOML: {}", error.message()))
    })?;
    Ok(from_toml(document.as_item(), 1, &line_of))
}

/// `outer` is the line for what has none of its own.
fn from_toml(item: &Item, outer: usize, line_of: &dyn Fn(usize) -> usize) -> Node {
    let line = item.span().map_or(outer, |span| line_of(span.start));
    let value = if let Some(table) = item.as_table_like() {
        Value::Map(table.iter().map(|(key, item)| (key.to_owned(), from_toml(item, line, line_of))).collect())
    } else if let Some(tables) = item.as_array_of_tables() {
        Value::List(tables.iter().map(|table| from_toml(&Item::Table(table.clone()), line, line_of)).collect())
    } else if let Some(array) = item.as_array() {
        Value::List(array.iter().map(|value| from_toml(&Item::Value(value.clone()), line, line_of)).collect())
    } else if let Some(text) = item.as_str() {
        Value::Text(text.to_owned())
    } else if let Some(number) = item.as_integer() {
        Value::Text(number.to_string())
    } else {
        Value::Text(item.as_bool().map(|value| value.to_string()).unwrap_or_default())
    };
    Node { line, value }
}

/// Parses all documents of a file as one map. Anchors are followed, within a bound.
fn yaml(text: &Text) -> Result<Node, Failure> {
    let options = options! { emit_comments: false, flow_nesting_limit: MOST_DEPTH, block_nesting_limit: MOST_DEPTH };
    let mut builder = Builder { open: Vec::new(), anchors: Vec::new(), root: Vec::new(), nodes: 0 };
    for event in Parser::new_from_str_with_options(&text.text, options) {
        let (event, span) = event.map_err(|error| {
            let line = error.marker().line().max(1);
            Failure::at(text.origin(line), format_args!("this is not valid YAML: {}", error.info()))
        })?;
        let line = span.start.line().max(1);
        builder.take(event, line).map_err(|message| Failure::at(text.origin(line), message))?;
    }
    Ok(Node { line: 1, value: Value::Map(builder.root) })
}

struct Builder {
    /// What is open, the key that waits for its value, and the anchor.
    open: Vec<(Node, Option<String>, usize)>,
    anchors: Vec<(usize, Node)>,
    root: Vec<(String, Node)>,
    nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), &'static str> {
        let anchor = event.anchor_id().unwrap_or_default();
        match event {
            Event::Scalar(text, ..) => self.put(Node::text(line, &text), anchor),
            Event::SequenceStart(..) => self.begin(Value::List(Vec::new()), line, anchor),
            Event::MappingStart(..) => self.begin(Value::Map(Vec::new()), line, anchor),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some((node, _, anchor)) => self.put(node, anchor),
                None => Ok(()),
            },
            Event::Alias(id) => {
                let node = self.anchors.iter().rev().find(|(anchor, _)| *anchor == id).map(|(_, node)| node.clone());
                let node = node.ok_or("this alias has no anchor")?;
                self.nodes += count(&node);
                self.put(node, 0)
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, value: Value, line: usize, anchor: usize) -> Result<(), &'static str> {
        self.open.push((Node { line, value }, None, anchor));
        if self.open.len() > MOST_DEPTH { Err("lists and maps are nested too deeply") } else { Ok(()) }
    }

    fn put(&mut self, node: Node, anchor: usize) -> Result<(), &'static str> {
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            return Err("the file holds too many values; do its aliases repeat each other?");
        }
        if anchor != 0 {
            self.nodes += count(&node);
            self.anchors.push((anchor, node.clone()));
        }
        let Some((parent, key, _)) = self.open.last_mut() else {
            if let Value::Map(entries) = node.value {
                self.root.extend(entries);
            }
            return Ok(());
        };
        match (&mut parent.value, key.take()) {
            (Value::List(nodes), _) => nodes.push(node),
            (Value::Map(entries), Some(name)) if name == "<<" => {
                let maps = if node.items().is_empty() { vec![node] } else { node.items().to_vec() };
                entries.extend(maps.iter().flat_map(|map| map.entries().to_vec()));
            }
            (Value::Map(entries), Some(name)) => entries.push((name, node)),
            (Value::Map(_), None) => *key = Some(node.as_text().to_owned()),
            (Value::Text(_), _) => {}
        }
        Ok(())
    }
}

/// What a copy of a node costs: 1 for each value, and more for a long text.
fn count(node: &Node) -> usize {
    let text = |text: &str| text.len() / BYTES_OF_A_NODE;
    match &node.value {
        Value::Text(value) => 1 + text(value),
        Value::List(nodes) => 1 + nodes.iter().map(count).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(key, node)| text(key) + count(node)).sum::<usize>(),
    }
}

/// Of lists and maps in each other.
pub(super) const MOST_DEPTH: usize = 32;
const MOST_NODES: usize = 1_000_000;
const BYTES_OF_A_NODE: usize = 64;
