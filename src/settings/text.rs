//! Values that the file writes as one scalar, and the forms that it allows for them.
//!
//! In:  serde, both ways.
//! Out: [`Text`] for types of other crates, [`Or`] for a value or a keyword such as `none`, [`OneOrMany`] for a value
//!      or a list of them.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::server_name::{Pattern, ServerName};

/// A value that the file writes as one scalar.
pub(crate) trait Word: fmt::Display + Sized {
    /// What an error message shows as expected.
    const EXPECTED: &'static str;
    /// The JSON Schema.
    const SCHEMA: &'static str;

    /// Parses the text of the scalar.
    ///
    /// # Errors
    /// A message that shows the right form.
    fn read(text: &str) -> Result<Self, String>;

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }

    fn schema() -> Schema {
        serde_json::from_str::<serde_json::Value>(Self::SCHEMA)
            .ok()
            .and_then(|schema| schema.try_into().ok())
            .expect("a schema written in this crate is valid")
    }
}

/// Reads a [`Word`] in any style: quoted, or plain and looking like a number.
pub(super) fn read_word<'de, T: Word, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct One<T>(PhantomData<T>);

    impl<T: Word> Visitor<'_> for One<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTED)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            T::read(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_any(One(PhantomData))
}

/// Derives serde and the schema of types of this crate from [`Word`].
macro_rules! serde_as_word {
    ($($name:ident as $schema:literal),*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::settings::text::Word::write(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::settings::text::read_word(deserializer)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $schema.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                <Self as $crate::settings::text::Word>::schema()
            }
        }
    )*};
}
pub(super) use serde_as_word;

/// A value of another crate's type, written as one scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<T>(pub T);

impl<T> Deref for Text<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: fmt::Display> fmt::Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Word> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.write(serializer)
    }
}

impl<'de, T: Word> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_word(deserializer).map(Self)
    }
}

impl<T: Word> JsonSchema for Text<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::EXPECTED.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        T::schema()
    }
}

/// Implements [`Word`] for types of other crates: what is expected, the schema, and the parser.
macro_rules! words {
    ($($name:ty = $expected:literal, $schema:literal, $read:expr;)*) => {$(
        impl $crate::settings::text::Word for $name {
            const EXPECTED: &'static str = $expected;
            const SCHEMA: &'static str = $schema;

            fn read(text: &str) -> Result<Self, String> {
                $read(text).map_err(|error| error.to_string())
            }
        }
    )*};
}

pub(super) use words;

words! {
    Pattern = "a pattern",
        r#"{ "type": "string", "description": "`a.example.com`, `*.example.com`, `**.example.com` or `*`. In YAML, a value that begins with `*` needs quotes." }"#,
        str::parse::<Pattern>;
    ServerName = "a server name", r#"{ "type": "string", "description": "A server name." }"#, server_name;
}

/// Reads one name, where a pattern makes no sense.
fn server_name(text: &str) -> Result<ServerName, String> {
    match text.parse() {
        Ok(Pattern::Exact(name)) => Ok(name),
        Ok(_) => Err("a check sends one name, not a pattern; write a name that the pattern matches".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A name that the operator chose; it is used verbatim in metrics and the log.
pub(crate) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match name_error(&text) {
        Some(error) => Err(D::Error::custom(error)),
        None => Ok(text.into()),
    }
}

/// Why a text cannot be a name.
pub(crate) fn name_error(text: &str) -> Option<String> {
    match text {
        "" => Some("the name is empty".to_owned()),
        _ if text.len() > MAX_NAME_BYTES => Some(format!("the name is longer than {MAX_NAME_BYTES} bytes")),
        _ if text.chars().any(char::is_control) => Some("the name contains a control character".to_owned()),
        _ => None,
    }
}

/// The name of an application protocol (RFC 7301 §3.1: 1 to 255 bytes).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Protocol(pub Box<[u8]>);

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.len() {
            1..=255 => Ok(Self(text.into_bytes().into())),
            0 => Err(D::Error::custom("the protocol name is empty")),
            _ => Err(D::Error::custom("a protocol name can have at most 255 bytes")),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(&self.0))
    }
}

impl JsonSchema for Protocol {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Protocol".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// A congestion control algorithm; `None` is `system`, the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Congestion(pub Option<Arc<str>>);

impl Word for Congestion {
    const EXPECTED: &'static str = "a congestion control";
    const SCHEMA: &'static str = r#"{ "type": "string", "description": "`system`, or an algorithm available in the kernel, such as `cubic` or `bbr`." }"#;

    /// Whether the kernel supports the algorithm is checked when it is used.
    fn read(text: &str) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if text.is_empty() || text.len() > MAX_CONGESTION_BYTES || !text.bytes().all(allowed) {
            let text = text.escape_debug();
            return Err(format!("`{text}` is not a congestion control; write `system`, or a name such as `cubic`"));
        }
        Ok(Self((text != "system").then(|| text.into())))
    }
}

impl fmt::Display for Congestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("system"))
    }
}

serde_as_word!(Congestion as "Congestion");

/// A keyword that stands for the absence of a value.
pub trait Absence {
    const WORD: &'static str;
}

macro_rules! absences {
    ($($name:ident = $word:literal),*) => {$(
        #[doc = concat!("`", $word, "`")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name;

        impl Absence for $name {
            const WORD: &'static str = $word;
        }
    )*};
}

absences!(Auto = "auto", Nothing = "none", Off = "off");

/// A value, or the keyword `W`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Or<W, T>(pub Option<T>, PhantomData<W>);

impl<W, T> Default for Or<W, T> {
    fn default() -> Self {
        Self(None, PhantomData)
    }
}

impl<W, T> From<T> for Or<W, T> {
    fn from(value: T) -> Self {
        Self(Some(value), PhantomData)
    }
}

impl<W, T> Deref for Or<W, T> {
    type Target = Option<T>;

    fn deref(&self) -> &Option<T> {
        &self.0
    }
}

impl<W: Absence, T: Word> Serialize for Or<W, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(value) => value.write(serializer),
            None => serializer.serialize_str(W::WORD),
        }
    }
}

impl<'de, W: Absence, T: Word> Deserialize<'de> for Or<W, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<W, T>(PhantomData<(W, T)>);

        impl<W: Absence, T: Word> Visitor<'_> for Either<W, T> {
            type Value = Or<W, T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} or `{}`", T::EXPECTED, W::WORD)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Or<W, T>, E> {
                // A YAML 1.1 tool turns `off` into `false`.
                if text == W::WORD || (W::WORD == "off" && text == "false") {
                    return Ok(Or::default());
                }
                T::read(text).map(Or::from).map_err(|error| E::custom(format_args!("{error}; or write `{}`", W::WORD)))
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl<W: Absence, T: Word> JsonSchema for Or<W, T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{} or {}", T::EXPECTED, W::WORD).into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [T::schema(), { "const": W::WORD }] })
    }
}

macro_rules! numbers {
    ($($name:ty = $expected:literal, $schema:literal;)*) => {$(
        impl Word for $name {
            const EXPECTED: &'static str = $expected;
            const SCHEMA: &'static str = $schema;

            fn read(text: &str) -> Result<Self, String> {
                match text.parse() {
                    Ok(number @ 1..) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
                    _ => Err(format!("expected {}, found `{}`", $expected, text.escape_debug())),
                }
            }

            fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.serialize(serializer)
            }
        }
    )*};
}

numbers! {
    usize = "a whole number from 1 up", r#"{ "type": "integer", "minimum": 1 }"#;
    u16 = "a port from 1 to 65535", r#"{ "type": "integer", "minimum": 1, "maximum": 65535 }"#;
}

/// The path of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath(pub PathBuf);

impl Word for FilePath {
    const EXPECTED: &'static str = "the path of a file";
    const SCHEMA: &'static str = r#"{ "type": "string" }"#;

    fn read(text: &str) -> Result<Self, String> {
        Ok(Self(text.into()))
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

serde_as_word!(FilePath as "FilePath");

/// Either a map of settings, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrOff<T>(pub Option<T>);

impl<T: Default> Default for OrOff<T> {
    fn default() -> Self {
        Self(Some(T::default()))
    }
}

impl<T: Serialize> Serialize for OrOff<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(settings) => settings.serialize(serializer),
            None => serializer.serialize_str("off"),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrOff<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OrOff<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off` or a map")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<OrOff<T>, E> {
                match text {
                    // A YAML 1.1 tool turns `off` into `false`.
                    "off" | "false" => Ok(OrOff(None)),
                    _ => Err(E::invalid_type(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OrOff<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|settings| OrOff(Some(settings)))
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OrOff<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{} or off", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [generator.subschema_for::<T>(), { "const": "off" }] })
    }
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMany<T>(Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> From<Vec<T>> for OneOrMany<T> {
    fn from(values: Vec<T>) -> Self {
        Self(values)
    }
}

impl<T> Deref for OneOrMany<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T> IntoIterator for OneOrMany<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<T: Serialize> Serialize for OneOrMany<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Values<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Values<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<OneOrMany<T>, E> {
                T::deserialize(StrDeserializer::new(text)).map(|one| OneOrMany(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany<T>, A::Error> {
                let mut values = Vec::with_capacity(list.size_hint().unwrap_or_default());
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(OneOrMany(values))
            }
        }

        deserializer.deserialize_any(Values(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("one or many {}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

/// The longest pattern, and so the longest default route name, is three bytes longer than a DNS name.
const MAX_NAME_BYTES: usize = 256;
/// The kernel's TCP_CA_NAME_MAX, without the final NUL.
const MAX_CONGESTION_BYTES: usize = 15;
