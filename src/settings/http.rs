//! The settings of a listener that speaks HTTP in the clear.
//!
//! In:  nothing.
//! Out: [`ListenerProtocol`], [`AcmeChallenge`], [`Otherwise`], [`HttpPort`].

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::text::{Word, serde_as_word};

/// What the clients of a listener speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListenerProtocol {
    /// TLS, which is routed by its server name and passed through.
    #[default]
    Tls,
    /// HTTP in the clear, of which one request is read.
    Http,
    /// Not supported yet.
    #[schemars(skip)]
    Quic,
}

/// What happens to requests below `/.well-known/acme-challenge/`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AcmeChallenge {
    /// The same as to any other request.
    Off,
    /// They go to the pool of their name, to each backend's `http_port`.
    #[default]
    Pool,
}

/// What happens to all other requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Otherwise {
    /// They are redirected to https, if their name has a route.
    #[default]
    Redirect,
    /// They are answered with 404.
    Refuse,
    /// They go to the pool of this name, to the port of each backend.
    Pool(Arc<str>),
}

impl Serialize for Otherwise {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Redirect => serializer.serialize_str("redirect"),
            Self::Refuse => serializer.serialize_str("refuse"),
            Self::Pool(name) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("pool", &**name)?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Otherwise {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Named {
            pool: String,
        }

        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Otherwise;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`redirect`, `refuse` or `{ pool: NAME }`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Otherwise, E> {
                match text {
                    "redirect" => Ok(Otherwise::Redirect),
                    "refuse" => Ok(Otherwise::Refuse),
                    _ => Err(E::invalid_type(Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Otherwise, A::Error> {
                let Named { pool } = Named::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Otherwise::Pool(pool.into()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Otherwise {
    fn schema_name() -> Cow<'static, str> {
        "Otherwise".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`redirect`, `refuse`, or the pool that all other requests go to.",
            "anyOf": [
                { "enum": ["redirect", "refuse"] },
                {
                    "type": "object",
                    "properties": { "pool": { "type": "string" } },
                    "required": ["pool"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

/// The port on which the backends of a pool serve HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpPort(pub u16);

impl Default for HttpPort {
    fn default() -> Self {
        Self(80)
    }
}

impl Word for HttpPort {
    const EXPECTED: &'static str = u16::EXPECTED;
    const SCHEMA: &'static str = u16::SCHEMA;

    fn read(text: &str) -> Result<Self, String> {
        u16::read(text).map(Self)
    }

    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl fmt::Display for HttpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

serde_as_word!(HttpPort as "HttpPort");
