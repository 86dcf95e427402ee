//! Reads values out of the tree of a file with serde, and reports every problem, not only the first.
//!
//! In:  a [`Cursor`]: a node of the tree and its position.
//! Out: a value, or `None`; whatever is wrong in it is left out of it, and reported with its position.
//!
//! serde stops at the first error. A wrong value is therefore reported and marked, and the value around it is read once
//! more without it, until nothing new is wrong. Marks hold for the whole reading, so [`Cursor::items`] and the value
//! that was read agree.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::at::At;
use super::lists::Lists;
use super::problem::Problems;
use super::suggest::DidYouMean;
use super::wording::{Words, key_like, shortened};
use super::yaml::{Key, Node, Style, Value};

/// The problems of all files, which nodes are wrong, and the files that lists name.
#[derive(Default)]
pub(super) struct Reading {
    pub problems: RefCell<Problems>,
    /// The files of networks that were read on the way.
    pub lists: RefCell<Lists>,
    wrong: RefCell<HashSet<*const ()>>,
}

impl Reading {
    fn is_wrong(&self, node: &Node<'_>) -> bool {
        let wrong = self.wrong.borrow();
        !wrong.is_empty() && wrong.contains(&std::ptr::from_ref(node).cast())
    }
}

/// A node of a file and its position.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'c> {
    node: &'c Node<'c>,
    pub at: At<'c>,
    pub reading: &'c Reading,
}

impl<'c> Cursor<'c> {
    pub(super) fn new(node: &'c Node<'c>, file: &'c Arc<Path>, reading: &'c Reading) -> Self {
        Self { node, at: At::top(file).moved(node.spot), reading }
    }

    /// The value of a key, unless it is absent or wrong.
    pub(super) fn key<'b>(&'b self, key: &'b str) -> Option<Cursor<'b>> {
        self.entries().find(|(name, _)| *name.text == *key).map(|(_, value)| value)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.key(key).is_some()
    }

    /// The position of a key's value; if the key is absent, that of the map.
    pub(super) fn at<'b>(&'b self, key: &'b str) -> At<'b> {
        self.key(key).map_or(self.at.key(key, self.at.spot), |value| value.at)
    }

    /// The keys of a map and their values, except wrong ones.
    pub(super) fn entries<'b>(&'b self) -> impl Iterator<Item = (&'b Key<'b>, Cursor<'b>)> {
        let entries = if let Value::Map(entries) = &self.node.value { entries.as_slice() } else { &[] };
        let value = |(key, node): &'b (Key<'b>, Node<'b>)| {
            (key, Cursor { node, at: self.at.key(&key.text, node.spot), reading: self.reading })
        };
        entries.iter().map(value).filter(|(_, value)| !value.is_wrong())
    }

    /// The values of a list, or the value itself if it is none; except wrong ones.
    pub(super) fn items<'b>(&'b self) -> impl Iterator<Item = Cursor<'b>> {
        let list = if let Value::List(nodes) = &self.node.value { Some(nodes) } else { None };
        let item = |(index, node): (usize, &'b Node<'b>)| Cursor {
            node,
            at: self.at.index(index, node.spot),
            reading: self.reading,
        };
        let items = list.into_iter().flatten().enumerate().map(item);
        items.chain(list.is_none().then_some(*self)).filter(|item| !item.is_wrong())
    }

    /// The list of a required key; reports an empty list. A missing key has been reported by `read`, except at the top
    /// of a file, where this reports it.
    pub(super) fn required_list<'b>(&'b self, key: &'b str, of: &str) -> Option<Cursor<'b>> {
        let list = self.key(key);
        match &list {
            Some(list) if list.is_empty_list() => {
                list.error(format_args!("the list is empty; at least one {of} is needed"));
            }
            None if !self.holds(key) => self.error(format_args!("`{key}` is missing")),
            _ => {}
        }
        list
    }

    /// Whether this is a map; if not, reports an error.
    pub(super) fn is_a_map(&self) -> bool {
        self.is_shaped("a map", |value| matches!(value, Value::Map(_)))
    }

    /// Whether this is a list; if not, reports an error.
    pub(super) fn is_a_list(&self) -> bool {
        self.is_shaped("a list", |value| matches!(value, Value::List(_)))
    }

    fn is_shaped(&self, shape: &str, is_it: impl Fn(&Value<'_>) -> bool) -> bool {
        let is_it = is_it(&self.node.value);
        if !is_it {
            self.report(self.expected(shape));
        }
        is_it
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&'c str> {
        match &self.node.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Whether this is a list without a value.
    pub(super) fn is_empty_list(&self) -> bool {
        matches!(&self.node.value, Value::List(nodes) if nodes.is_empty())
    }

    pub(super) fn error(&self, message: impl fmt::Display) {
        self.reading.problems.borrow_mut().error(&self.at, message);
    }

    pub(super) fn warning(&self, message: impl fmt::Display) {
        self.reading.problems.borrow_mut().warning(&self.at, message);
    }

    /// Adds an error about the value of `key`.
    pub(super) fn error_at(&self, key: &str, message: impl fmt::Display) {
        self.reading.problems.borrow_mut().error(&self.at(key), message);
    }

    /// Adds a warning about the value of `key`.
    pub(super) fn warning_at(&self, key: &str, message: impl fmt::Display) {
        self.reading.problems.borrow_mut().warning(&self.at(key), message);
    }

    /// Whether this is a map; if not, and for each key that is not among `known`, reports an error.
    pub(super) fn is_map(&self, known: &'static [&'static str]) -> bool {
        if !matches!(self.node.value, Value::Map(_)) {
            self.report(self.expected(format_args!("a map with the keys {}", Words(known))));
            return false;
        }
        for (key, value) in self.entries().filter(|(key, _)| !known.contains(&&*key.text)) {
            self.unknown(key, known);
            value.mark();
        }
        true
    }

    fn unknown(&self, key: &Key<'_>, known: &'static [&'static str]) {
        let mut problems = self.reading.problems.borrow_mut();
        // Past the limit on kept problems, suggestions are useless, and each costs time.
        let known = if problems.left_off() == 0 { known } else { &[] };
        let meant = DidYouMean::new(&key.text, known.iter().copied());
        // `host` and `port` have the same fix, which is shown once.
        let cure = |other: &Key<'_>| DidYouMean::new(&other.text, known.iter().copied()).cure();
        let mut before = self.keys().take_while(|other| other.spot != key.spot);
        if meant.cure().is_some() && before.any(|other| cure(other) == meant.cure()) {
            return;
        }
        problems.error(&self.at.key(&key_like(&key.text), key.spot), format_args!("unknown key{meant}"));
    }

    /// Reads the value; `None` if it cannot be used at all.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Option<T> {
        loop {
            let known = self.reading.wrong.borrow().len();
            match T::deserialize(*self) {
                Ok(value) => return Some(value),
                // Once more, without what was wrong in it; but not for problems that are only counted.
                Err(Wrong::Reported)
                    if self.reading.wrong.borrow().len() > known && self.reading.problems.borrow().left_off() == 0 => {}
                Err(wrong) => {
                    self.report(wrong);
                    return None;
                }
            }
        }
    }

    /// Reads the map that `key` holds; its defaults if it is absent or cannot be used.
    pub(super) fn section<T: DeserializeOwned + Default>(&self, key: &str) -> T {
        self.key(key).and_then(|value| value.read()).unwrap_or_default()
    }

    fn report(&self, wrong: Wrong) -> Wrong {
        match wrong {
            Wrong::Reported if !matches!(self.node.value, Value::Reported) => return Wrong::Reported,
            Wrong::Reported => {}
            Wrong::Missing(key) if self.holds(key) => {}
            // The error about the unknown key already shows how to write it.
            Wrong::Missing(key) if self.keys().any(|other| is_part_of(&other.text, key)) => {}
            Wrong::Missing(key) => self.error(format_args!("`{key}` is missing")),
            Wrong::Message(message) => self.error(message),
            Wrong::UnknownKey(known) => self.error(format_args!("the known keys are {}", Words(known))),
        }
        self.mark();
        Wrong::Reported
    }

    /// The keys of a map, including those with wrong values.
    fn keys(&self) -> impl Iterator<Item = &Key<'_>> {
        let entries = if let Value::Map(entries) = &self.node.value { entries.as_slice() } else { &[] };
        entries.iter().map(|(key, _)| key)
    }

    /// Whether the map has this key, even with a wrong value.
    pub(super) fn holds(&self, key: &str) -> bool {
        self.keys().any(|name| *name.text == *key)
    }

    fn mark(&self) {
        self.reading.wrong.borrow_mut().insert(std::ptr::from_ref(self.node).cast());
    }

    fn is_wrong(&self) -> bool {
        self.reading.is_wrong(self.node)
    }

    fn expected(&self, expected: impl fmt::Display) -> Wrong {
        let found = match &self.node.value {
            Value::Reported => return Wrong::Reported,
            nothing if nothing.is_nothing() => "nothing".to_owned(),
            // The whole file is one text: not a routing file, and possibly a secret.
            Value::Scalar { .. } if self.at.is_top() => "text".to_owned(),
            Value::Scalar { text, .. } => format!("`{}`", shortened(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        };
        Wrong::Message(format!("expected {expected}, found {found}"))
    }

    /// The text of a scalar, plain or quoted; an empty value is an error.
    fn scalar(&self, expected: impl fmt::Display) -> Result<&'c str, Wrong> {
        match &self.node.value {
            Value::Scalar { text, .. } if !self.node.value.is_nothing() => Ok(text),
            _ => Err(self.expected(expected)),
        }
    }

    fn plain(&self) -> Option<&'c str> {
        match &self.node.value {
            Value::Scalar { text, style: Style::Plain | Style::Completed } => Some(text),
            _ => None,
        }
    }
}

/// Whether the cure for the unknown key `part` is to write `key`.
fn is_part_of(part: &str, key: &'static str) -> bool {
    DidYouMean::new(part, std::iter::once(key)).cure().is_some()
}

/// A value that cannot be used.
#[derive(Debug)]
pub(super) enum Wrong {
    Message(String),
    Missing(&'static str),
    UnknownKey(&'static [&'static str]),
    /// A value inside is wrong, and has been reported.
    Reported,
}

impl<'de> Deserializer<'de> for Cursor<'_> {
    type Error = Wrong;

    /// Passes a scalar as text, however YAML would interpret it: types that are written as one scalar request this.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.node.value {
            nothing if nothing.is_nothing() => visitor.visit_unit(),
            Value::Scalar { text, .. } => visitor.visit_str(text),
            Value::List(nodes) => visitor.visit_seq(Items { cursor: &self, nodes: nodes.iter().enumerate() }),
            Value::Map(entries) => visitor.visit_map(Entries { cursor: &self, entries: entries.iter(), value: None }),
            Value::Reported => Err(Wrong::Reported),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.plain() {
            Some("true") => visitor.visit_bool(true),
            Some("false") => visitor.visit_bool(false),
            _ => Err(self.expected("`true` or `false`")),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.plain() {
            Some(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                let too_large = || Wrong::Message(format!("`{}` is too large", shortened(text)));
                visitor.visit_u64(text.parse().map_err(|_| too_large())?)
            }
            _ => Err(self.expected("a whole number")),
        }
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.node.value.is_number_or_boolean() {
            let text = shortened(self.plain().unwrap_or_default());
            return Err(self.expected(format_args!("text (write \"{text}\" in quotes if you mean the text {text})")));
        }
        visitor.visit_str(self.scalar("text")?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_string(visitor)
    }

    /// A key without a value is an error, not the same as an absent key: `proxy_protocol:` must not mean off.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.node.value {
            Value::List(_) => self.deserialize_any(visitor),
            Value::Scalar { text, .. } if !self.node.value.is_nothing() => {
                Err(self.expected(format_args!("a list (write `[{}]`)", shortened(text))))
            }
            _ => Err(self.expected("a list")),
        }
    }

    /// A lone scalar stands for a map whose only key is `address`, if that is the first key of the struct.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match (&self.node.value, keys) {
            (Value::Map(_), _) => self.deserialize_any(visitor),
            (Value::Scalar { .. }, ["address", ..]) if !self.node.value.is_nothing() => {
                visitor.visit_map(LoneAddress { cursor: self, key: Some("address") })
            }
            (_, ["address", ..]) => Err(self.expected("an address or a map")),
            _ => Err(self.expected(format_args!("a map with the keys {}", Words(keys)))),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        // A YAML 1.1 tool turns `off` into `false`.
        if self.plain() == Some("false") && variants.contains(&"off") {
            return visitor.visit_enum("off".into_deserializer());
        }
        let word = self.scalar(format_args!("one of {}", Words(variants)))?;
        if variants.contains(&word) {
            return visitor.visit_enum(word.into_deserializer());
        }
        let meant = DidYouMean::new(word, variants.iter().copied());
        Err(Wrong::Message(format!("expected one of {}, found `{}`{meant}", Words(variants), shortened(word))))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct map identifier
        ignored_any
    }
}

struct Items<'b, 'c> {
    cursor: &'b Cursor<'c>,
    nodes: std::iter::Enumerate<std::slice::Iter<'c, Node<'c>>>,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Wrong;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Wrong> {
        let Cursor { at, reading, .. } = self.cursor;
        let is_right = |(_, node): &(usize, &Node<'_>)| !reading.is_wrong(node);
        let Some((index, node)) = self.nodes.find(is_right) else { return Ok(None) };
        read_inside(Cursor { node, at: at.index(index, node.spot), reading }, seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.nodes.len())
    }
}

struct Entries<'b, 'c> {
    cursor: &'b Cursor<'c>,
    entries: std::slice::Iter<'c, (Key<'c>, Node<'c>)>,
    value: Option<&'c (Key<'c>, Node<'c>)>,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Wrong;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Wrong> {
        let Cursor { at, reading, .. } = *self.cursor;
        self.value = self.entries.find(|(_, node)| !reading.is_wrong(node));
        let Some((key, node)) = self.value else { return Ok(None) };
        match seed.deserialize(StrDeserializer::new(&key.text)) {
            Ok(key) => Ok(Some(key)),
            Err(Wrong::UnknownKey(known)) => {
                self.cursor.unknown(key, known);
                Cursor { node, at, reading }.mark();
                Err(Wrong::Reported)
            }
            // Keys that are values themselves.
            Err(Wrong::Message(message)) => {
                reading.problems.borrow_mut().error(&at.key(&key_like(&key.text), key.spot), message);
                Cursor { node, at, reading }.mark();
                Err(Wrong::Reported)
            }
            Err(wrong) => Err(wrong),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Wrong> {
        let (key, node) = self.value.expect("serde asks for a key before its value");
        read_inside(Cursor { node, at: self.cursor.at.key(&key.text, node.spot), reading: self.cursor.reading }, seed)
    }
}

/// Reads a value inside another one; what is wrong with it is reported here, where its position is known.
fn read_inside<'de, S: DeserializeSeed<'de>>(value: Cursor<'_>, seed: S) -> Result<S::Value, Wrong> {
    seed.deserialize(value).map_err(|wrong| value.report(wrong))
}

/// A scalar where a struct that begins with `address` is expected.
struct LoneAddress<'c> {
    cursor: Cursor<'c>,
    key: Option<&'static str>,
}

impl<'de> MapAccess<'de> for LoneAddress<'_> {
    type Error = Wrong;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Wrong> {
        self.key.take().map(|key| seed.deserialize(StrDeserializer::new(key))).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Wrong> {
        seed.deserialize(self.cursor)
    }
}

impl serde::de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Message(message.to_string())
    }

    fn missing_field(key: &'static str) -> Self {
        Self::Missing(key)
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self::UnknownKey(known)
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::Message(match found {
            Unexpected::Unit => format!("expected {expected}, found nothing"),
            Unexpected::Seq => format!("expected {expected}, found a list"),
            Unexpected::Map => format!("expected {expected}, found a map"),
            Unexpected::Str(text) => format!("expected {expected}, found `{}`", shortened(text)),
            other => format!("expected {expected}, found {other}"),
        })
    }

    /// The only such values are numbers that do not fit into their type.
    fn invalid_value(found: Unexpected<'_>, _: &dyn Expected) -> Self {
        Self::Message(match found {
            Unexpected::Unsigned(number) => format!("`{number}` is too large"),
            other => format!("{other} is not a valid value"),
        })
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(message) => f.write_str(message),
            Self::Missing(key) => write!(f, "`{key}` is missing"),
            Self::UnknownKey(_) => f.write_str("unknown key"),
            Self::Reported => f.write_str("reported"),
        }
    }
}

impl std::error::Error for Wrong {}
