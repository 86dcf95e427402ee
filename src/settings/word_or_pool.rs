//! Values that the file writes as one of a few words, or as `{ pool: NAME }`.
//!
//! In:  serde, both ways.
//! Out: [`WordOrPool`], which says what the words mean, and what derives the rest from it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use schemars::{Schema, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde::ser::{SerializeMap, Serializer};

/// A value that is one of a few words, or the name of a pool.
pub(super) trait WordOrPool: Clone + PartialEq + Sized + 'static {
    const DESCRIPTION: &'static str;
    /// Each word, and what it means.
    const WORDS: &'static [(&'static str, Self)];

    fn pool(name: Arc<str>) -> Self;

    /// `None`: it is one of the words.
    fn name_of_pool(&self) -> Option<&str>;
}

pub(super) fn write<T: WordOrPool, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    if let Some(pool) = value.name_of_pool() {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("pool", pool)?;
        return map.end();
    }
    let (word, _) = T::WORDS.iter().find(|(_, meant)| meant == value).expect("what is not a pool has a word");
    serializer.serialize_str(word)
}

pub(super) fn read<'de, T: WordOrPool, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Named {
        pool: String,
    }

    struct Either<T>(PhantomData<T>);

    impl<'de, T: WordOrPool> Visitor<'de> for Either<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let words: Vec<String> = T::WORDS.iter().map(|(word, _)| format!("`{word}`")).collect();
            write!(f, "{} or `{{ pool: NAME }}`", words.join(", "))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            let meant = T::WORDS.iter().find(|(word, _)| *word == text).map(|(_, meant)| meant.clone());
            meant.ok_or_else(|| E::invalid_type(Unexpected::Str(text), &self))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            let Named { pool } = Named::deserialize(MapAccessDeserializer::new(map))?;
            Ok(T::pool(pool.into()))
        }
    }

    deserializer.deserialize_any(Either(PhantomData))
}

pub(super) fn schema<T: WordOrPool>() -> Schema {
    let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
    json_schema!({
        "description": T::DESCRIPTION,
        "anyOf": [
            { "enum": words },
            {
                "type": "object",
                "properties": { "pool": { "type": "string" } },
                "required": ["pool"],
                "additionalProperties": false
            }
        ]
    })
}

/// Derives serde and the schema from [`WordOrPool`].
macro_rules! serde_as_word_or_pool {
    ($name:ident as $schema:literal) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::settings::word_or_pool::write(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::settings::word_or_pool::read(deserializer)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $schema.into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $crate::settings::word_or_pool::schema::<Self>()
            }
        }
    };
}

pub(super) use serde_as_word_or_pool;
