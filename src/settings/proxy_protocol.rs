//! The settings of PROXY headers: whose are believed, and which are sent.
//!
//! In:  nothing.
//! Out: [`ProxyProtocol`] of a listener, [`SendProxyProtocol`] of a pool.

use std::borrow::Cow;
use std::fmt;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::text::{Text, Word, serde_as_word};
use crate::proxy_header::{self, Added, Kinds};

/// PROXY headers from clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// The networks whose connections must start with a PROXY header, which is believed.
    #[schemars(length(min = 1))]
    pub trusted: Vec<Text<IpNet>>,
    /// What happens to connections from all other networks.
    #[serde(default)]
    pub others: Others,
}

/// What happens to connections from networks that are not trusted to send a PROXY header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Others {
    /// They are refused.
    #[default]
    Refuse,
    /// They are served by their own address, and send no PROXY header.
    Plain,
}

/// The PROXY header sent to backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendProxyProtocol {
    /// Which header.
    pub version: SendVersion,
    /// What is passed on of the header from a proxy in front.
    pub relay: Vec<ValueKind>,
    /// What is added to every header.
    pub add: AddedValues,
}

/// The version of the PROXY header sent to backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SendVersion {
    /// Send none.
    #[default]
    Off,
    /// Version 1, one line of text.
    V1,
    /// Version 2, binary.
    V2,
}

impl SendVersion {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

impl SendProxyProtocol {
    /// `None`: no header is sent.
    pub fn version(&self) -> Option<proxy_header::Version> {
        match self.version {
            SendVersion::Off => None,
            SendVersion::V1 => Some(proxy_header::Version::V1),
            SendVersion::V2 => Some(proxy_header::Version::V2),
        }
    }

    /// The kinds of values that are passed on.
    pub fn relayed(&self) -> Kinds {
        let mut kinds = Kinds::default();
        self.relay.iter().for_each(|kind| kinds.insert(kind.0));
        kinds
    }
}

/// With its values, as the file writes it.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SendProxyProtocolValues")]
struct WithValues {
    /// The version; only `v2` has room for values.
    version: SendVersion,
    /// Values of the client's own PROXY header that are passed on, by their type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    relay: Vec<ValueKind>,
    /// Values that are added to every header: `TYPE: TEXT`.
    #[serde(default, skip_serializing_if = "AddedValues::is_empty")]
    add: AddedValues,
}

impl Serialize for SendProxyProtocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.relay.is_empty() && self.add.is_empty() {
            return self.version.serialize(serializer);
        }
        let Self { version, relay, add } = self.clone();
        WithValues { version, relay, add }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SendProxyProtocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = SendProxyProtocol;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off`, `v1`, `v2` or `{ version: v2, relay: [TYPE], add: { TYPE: TEXT } }`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<SendProxyProtocol, E> {
                let versions = [SendVersion::Off, SendVersion::V1, SendVersion::V2];
                // A YAML 1.1 tool turns `off` into `false`.
                let text = if text == "false" { "off" } else { text };
                match versions.into_iter().find(|version| version.as_str() == text) {
                    Some(version) => Ok(SendProxyProtocol { version, ..SendProxyProtocol::default() }),
                    None => Err(E::invalid_type(Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SendProxyProtocol, A::Error> {
                let WithValues { version, relay, add } = WithValues::deserialize(MapAccessDeserializer::new(map))?;
                Ok(SendProxyProtocol { version, relay, add })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for SendProxyProtocol {
    fn schema_name() -> Cow<'static, str> {
        "SendProxyProtocol".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`off`, `v1`, `v2`, or a map with the version and the values to send.",
            "anyOf": [generator.subschema_for::<SendVersion>(), generator.subschema_for::<WithValues>()]
        })
    }
}

/// The type of a value in a PROXY header of version 2, of those that can be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueKind(pub u8);

impl Word for ValueKind {
    const EXPECTED: &'static str = "the type of a value, `0xe0` to `0xef` or `0x05`";
    const SCHEMA: &'static str = r#"{ "description": "The type of a value: `0xe0` to `0xef`, or `0x05` (UNIQUE_ID).", "anyOf": [{ "type": "integer", "minimum": 224, "maximum": 239 }, { "const": 5 }, { "type": "string", "pattern": "^0[xX]([eE][0-9a-fA-F]|05)$" }] }"#;

    /// Tools that rewrite YAML turn `0xea` into `234`.
    fn read(text: &str) -> Result<Self, String> {
        let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => u8::from_str_radix(digits, 16).ok(),
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        };
        match number {
            Some(kind @ (UNIQUE_ID | 0xe0..=0xef)) => Ok(Self(kind)),
            _ => Err(format!("`{}` is not {}; others cannot be passed on", text.escape_debug(), Self::EXPECTED)),
        }
    }
}

impl fmt::Display for ValueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x}", self.0)
    }
}

serde_as_word!(ValueKind as "ValueKind");

/// Values that are the same in every header, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddedValues(pub Vec<Added>);

impl AddedValues {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for AddedValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for Added { kind, value } in &self.0 {
            map.serialize_entry(&ValueKind(*kind).to_string(), &**value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for AddedValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = AddedValues;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of types and texts, such as `{ 0xe4: \"edge-1\" }`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AddedValues, A::Error> {
                let mut added: Vec<Added> = Vec::new();
                while let Some(ValueKind(kind)) = map.next_key()? {
                    if kind == UNIQUE_ID {
                        return Err(A::Error::custom(
                            "every header has a UNIQUE_ID (0x05) already: the `id` of the log, or the one that `relay` \
                             passes on; add values of the types `0xe0` to `0xef`",
                        ));
                    }
                    if added.iter().any(|other| other.kind == kind) {
                        let kind = ValueKind(kind);
                        return Err(A::Error::custom(format_args!("the type `{kind}` is given twice; remove one")));
                    }
                    let AddedText(value) = map.next_value()?;
                    added.push(Added { kind, value });
                }
                Ok(AddedValues(added))
            }
        }

        deserializer.deserialize_any(Entries)
    }
}

impl JsonSchema for AddedValues {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AddedValues".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": "^(0[xX][eE][0-9a-fA-F]|22[4-9]|23[0-9])$" },
            "additionalProperties": { "type": "string", "minLength": 1, "maxLength": MOST_TEXT_BYTES }
        })
    }
}

/// The text of an added value.
struct AddedText(Box<str>);

impl<'de> Deserialize<'de> for AddedText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.len() {
            0 => Err(D::Error::custom("the text is empty; write one, or remove the value")),
            1..=MOST_TEXT_BYTES => Ok(Self(text.into())),
            _ => Err(D::Error::custom(format_args!("a value can have at most {MOST_TEXT_BYTES} bytes"))),
        }
    }
}

const UNIQUE_ID: u8 = 0x05;
/// Of one added value.
const MOST_TEXT_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_read_in_hexadecimal_or_decimal_and_others_are_refused() {
        let read = |text| <ValueKind as Word>::read(text);
        for (text, kind) in
            [("0xea", 0xea), ("0XEA", 0xea), ("0xEa", 0xea), ("234", 0xea), ("0x05", 5), ("5", 5), ("0x5", 5)]
        {
            assert_eq!(read(text), Ok(ValueKind(kind)), "{text}");
        }
        for text in ["0xdf", "0xf0", "0x01", "0x20", "0x", "0x+5", "+5", "ea", "256", "0x1ea", ""] {
            let error = read(text).expect_err(text);
            assert!(error.contains("`0xe0` to `0xef` or `0x05`"), "{text}: {error}");
        }
        assert_eq!(ValueKind(5).to_string(), "0x05");
    }
}
