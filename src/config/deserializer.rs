//! Lets serde deserialize the raw structs from a tree of YAML nodes.
//!
//! In:  a [`Node`], its position, and where to report its problems.
//! Out: what serde asks for; or [`Wrong`], which the nearest `Located` turns into a problem with its place.
//!
//! Four conventions carry what serde has no API for:
//! - the tuple struct [`LOCATED`] asks for the place beside the value;
//! - the variant of the enum [`SHAPE`] is chosen by the shape of the value: `scalar`, `list` or `map`;
//! - any newtype takes a scalar verbatim, without YAML's type rules;
//! - an unknown key of a struct is reported, with the closest known key, and skipped.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer, U32Deserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::at::{At, Spot};
use super::problem::Problems;
use super::suggest::DidYouMean;
use super::wording::{Shapes, Words, shortened};
use super::yaml::{Key, Node, Style, Value};

/// A node to deserialize, and where its problems go.
pub(super) struct NodeDeserializer<'t, 'r> {
    pub node: Node<'t>,
    pub at: At<'r>,
    pub sink: &'r RefCell<Problems>,
}

/// A value of the wrong type; the surrounding [`Located`](super::located::Located) adds its place.
#[derive(Debug)]
pub(super) struct Wrong(String);

impl<'t> NodeDeserializer<'t, '_> {
    fn unexpected(&self, expected: impl fmt::Display) -> Wrong {
        Wrong(format!("expected {expected}, found {}", self.found()))
    }

    fn found(&self) -> String {
        match &self.node.value {
            nothing if nothing.is_nothing() => "nothing".to_owned(),
            Value::Scalar { text, .. } => format!("`{}`", shortened(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
            Value::Told => "an alias".to_owned(),
        }
    }

    /// A word or a number, plain or quoted; an empty value is not a scalar.
    fn scalar(self, expected: impl fmt::Display) -> Result<std::borrow::Cow<'t, str>, Wrong> {
        match self.node.value {
            ref nothing if nothing.is_nothing() => Err(self.unexpected(expected)),
            Value::Scalar { text, .. } => Ok(text),
            _ => Err(self.unexpected(expected)),
        }
    }

    fn number(self) -> Result<u64, Wrong> {
        match &self.node.value {
            Value::Scalar { text, style: Style::Plain }
                if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                text.parse().map_err(|_| Wrong(format!("`{}` is too large", shortened(text))))
            }
            _ => Err(self.unexpected("a whole number")),
        }
    }

    fn shape(&self) -> &'static str {
        match &self.node.value {
            Value::Scalar { .. } | Value::Told => "scalar",
            Value::List(_) => "list",
            Value::Map(_) => "map",
        }
    }
}

impl<'t> Deserializer<'t> for NodeDeserializer<'t, '_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.node.value {
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
            Value::Scalar { .. } | Value::Told => self.deserialize_string(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.node.value {
            Value::Scalar { text, style: Style::Plain } if text == "true" => visitor.visit_bool(true),
            Value::Scalar { text, style: Style::Plain } if text == "false" => visitor.visit_bool(false),
            _ => Err(self.unexpected("`true` or `false`")),
        }
    }

    fn deserialize_u64<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_u64(self.number()?)
    }

    fn deserialize_string<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.node.value {
            Value::Scalar { text, .. } if self.node.value.is_number_or_boolean() => {
                let quoted = format_args!("text (write \"{0}\" in quotes if you mean the text {0})", shortened(text));
                Err(self.unexpected(quoted))
            }
            _ => visitor.visit_string(self.scalar("text")?.into_owned()),
        }
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        // A key without a value is an error, not the same as an absent key: `proxy_protocol:` must not mean off.
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(self, name: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        let words = name.chars().fold(String::new(), |mut words, letter| {
            if letter.is_uppercase() && !words.is_empty() {
                words.push(' ');
            }
            words.extend(letter.to_lowercase());
            words
        });
        let article = if words.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        let text = self.scalar(format_args!("{article} {words}"))?;
        visitor.visit_newtype_struct(StrDeserializer::new(&text))
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.node.value {
            Value::List(nodes) => {
                visitor.visit_seq(List { nodes: nodes.into_iter().enumerate(), at: &self.at, sink: self.sink })
            }
            Value::Scalar { ref text, .. } if !self.node.value.is_nothing() => {
                Err(self.unexpected(format_args!("a list (write `[{}]`)", shortened(text))))
            }
            _ => Err(self.unexpected("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.node.value {
            Value::Map(entries) => visitor.visit_map(Map::new(entries, None, &self.at, self.sink)),
            _ => Err(self.unexpected("a map")),
        }
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        _name: &'static str,
        keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match self.node.value {
            Value::Map(entries) => visitor.visit_map(Map::new(entries, Some(keys), &self.at, self.sink)),
            _ => Err(self.unexpected(format_args!("a map with the keys {}", Words(keys)))),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'t>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_seq(LocatedParts { spot: self.at.spot, next: Part::Line, tree: Some(self) })
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        if name == SHAPE {
            let shape = self.shape();
            return match variants.iter().find(|variant| **variant == shape) {
                Some(variant) => visitor.visit_enum(Shaped { variant, tree: self }),
                None => Err(self.unexpected(Shapes(variants))),
            };
        }
        // A YAML 1.1 tool turns `off` into `false`.
        let off = matches!(&self.node.value, Value::Scalar { text, style: Style::Plain } if text == "false");
        if off && variants.contains(&"off") {
            return visitor.visit_enum("off".into_deserializer());
        }
        let word = self.scalar(format_args!("one of {}", Words(variants)))?;
        if variants.contains(&&*word) {
            return visitor.visit_enum((*word).into_deserializer());
        }
        let meant = DidYouMean::new(&word, variants.iter().copied());
        Err(Wrong(format!("expected one of {}, found `{}`{meant}", Words(variants), shortened(&word))))
    }

    forward_to_deserialize_any! {
        <V: Visitor<'t>>
        i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char str bytes byte_buf unit unit_struct tuple identifier
        ignored_any
    }
}

struct List<'t, 'r> {
    nodes: std::iter::Enumerate<std::vec::IntoIter<Node<'t>>>,
    at: &'r At<'r>,
    sink: &'r RefCell<Problems>,
}

impl<'t> SeqAccess<'t> for List<'t, '_> {
    type Error = Wrong;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, Wrong> {
        let Some((index, node)) = self.nodes.next() else { return Ok(None) };
        seed.deserialize(NodeDeserializer { at: self.at.index(index, node.spot), node, sink: self.sink }).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.nodes.len())
    }
}

struct Map<'t, 'r> {
    entries: std::vec::IntoIter<(Key<'t>, Node<'t>)>,
    /// The keys of the struct; `None`: any key is accepted.
    keys: Option<&'static [&'static str]>,
    value: Option<(Key<'t>, Node<'t>)>,
    at: &'r At<'r>,
    sink: &'r RefCell<Problems>,
}

impl<'t, 'r> Map<'t, 'r> {
    fn new(
        entries: Vec<(Key<'t>, Node<'t>)>,
        keys: Option<&'static [&'static str]>,
        at: &'r At<'r>,
        sink: &'r RefCell<Problems>,
    ) -> Self {
        Self { entries: entries.into_iter(), keys, value: None, at, sink }
    }

    fn tell_unknown(&self, key: &Key<'t>, keys: &'static [&'static str]) {
        let mut sink = self.sink.borrow_mut();
        // Past the limit on kept problems, suggestions are useless, and each costs time.
        let known = if sink.left_off() == 0 { keys } else { &[] };
        let meant = DidYouMean::new(&key.text, known.iter().copied());
        sink.error(&self.at.key(&key.text, key.spot), format_args!("unknown key{meant}"));
    }
}

impl<'t> MapAccess<'t> for Map<'t, '_> {
    type Error = Wrong;

    fn next_key_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, Wrong> {
        while let Some((key, node)) = self.entries.next() {
            match self.keys {
                Some(keys) if !keys.contains(&&*key.text) => self.tell_unknown(&key, keys),
                Some(_) => {
                    let read = seed.deserialize(StrDeserializer::new(&key.text));
                    self.value = Some((key, node));
                    return read.map(Some);
                }
                None => {
                    let name = Value::Scalar { text: key.text.clone(), style: Style::Quoted };
                    let tree = NodeDeserializer {
                        node: Node { spot: key.spot, value: name },
                        at: self.at.moved(key.spot),
                        sink: self.sink,
                    };
                    let read = seed.deserialize(tree);
                    self.value = Some((key, node));
                    return read.map(Some);
                }
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, Wrong> {
        let Some((key, node)) = self.value.take() else {
            return Err(Wrong::custom("a value was asked for before its key"));
        };
        seed.deserialize(NodeDeserializer { at: self.at.key(&key.text, node.spot), node, sink: self.sink })
    }
}

/// Passes [`Located`](super::located::Located) its parts in sequence: line, column, value.
struct LocatedParts<'t, 'r> {
    spot: Spot,
    next: Part,
    tree: Option<NodeDeserializer<'t, 'r>>,
}

enum Part {
    Line,
    Column,
    Value,
}

impl<'t> SeqAccess<'t> for LocatedParts<'t, '_> {
    type Error = Wrong;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, Wrong> {
        match self.next {
            Part::Line => {
                self.next = Part::Column;
                seed.deserialize(U32Deserializer::new(self.spot.line)).map(Some)
            }
            Part::Column => {
                self.next = Part::Value;
                seed.deserialize(U32Deserializer::new(self.spot.column)).map(Some)
            }
            Part::Value => {
                let Some(tree) = self.tree.take() else { return Ok(None) };
                if matches!(tree.node.value, Value::Told) {
                    return Ok(None);
                }
                let (at, sink) = (tree.at, tree.sink);
                seed.deserialize(tree).map(Some).or_else(|Wrong(message)| {
                    sink.borrow_mut().error(&at, message);
                    Ok(None)
                })
            }
        }
    }
}

/// An enum whose variant is chosen by the shape of the value.
struct Shaped<'t, 'r> {
    variant: &'static str,
    tree: NodeDeserializer<'t, 'r>,
}

impl<'t, 'r> EnumAccess<'t> for Shaped<'t, 'r> {
    type Error = Wrong;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<(S::Value, Self), Wrong> {
        Ok((seed.deserialize(BorrowedStrDeserializer::new(self.variant))?, self))
    }
}

impl<'t> VariantAccess<'t> for Shaped<'t, '_> {
    type Error = Wrong;

    fn newtype_variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<S::Value, Wrong> {
        seed.deserialize(self.tree)
    }

    fn unit_variant(self) -> Result<(), Wrong> {
        Err(Wrong::custom(ONE_FIELD))
    }

    fn tuple_variant<V: Visitor<'t>>(self, _len: usize, _visitor: V) -> Result<V::Value, Wrong> {
        Err(Wrong::custom(ONE_FIELD))
    }

    fn struct_variant<V: Visitor<'t>>(self, _: &'static [&'static str], _visitor: V) -> Result<V::Value, Wrong> {
        Err(Wrong::custom(ONE_FIELD))
    }
}

impl serde::de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

/// The name of a tuple struct that asks for line, column and value.
pub(super) const LOCATED: &str = "$located";
/// The name of an enum whose variant is chosen by [`NodeDeserializer::shape`].
pub(super) const SHAPE: &str = "$shape";
const ONE_FIELD: &str = "a variant told apart by its shape has one field";
