//! The settings of Encrypted ClientHello.
//!
//! In:  nothing.
//! Out: [`Ech`] for the file, [`OpenEch`] for a listener, [`EchCondition`] for a route.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text::{FilePath, OneOrMany};

/// Opens Encrypted ClientHello (RFC 9849) and routes by the name in it, as the client-facing server of split mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ech {
    /// Key files in PEM (RFC 9934), the one that clients should use first before the others; or a directory, whose files
    /// `*.pem` and `*.ech` are taken from the last name to the first. Paths are relative to this file.
    #[serde(default)]
    #[schemars(required)]
    pub keys: OneOrMany<FilePath>,
    /// Try every key on every hello, also those with another config_id. Each try takes some 30 µs.
    #[serde(default)]
    pub try_all: bool,
    /// Refuse a hello whose outer server name is not the public name of the key that opens it.
    #[serde(default)]
    pub check_public_name: bool,
}

/// Whether a listener opens Encrypted ClientHello.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OpenEch {
    /// If the file has `ech`.
    #[default]
    Auto,
    /// No: for a listener behind another one that opens it.
    Off,
}

/// Which clients a route takes, by how their name was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EchCondition {
    /// All of them.
    #[default]
    Any,
    /// Those whose name was encrypted and opened here.
    Only,
    /// Those whose name was sent in the clear.
    Never,
}

impl EchCondition {
    /// Whether it is a condition at all.
    pub fn is_set(self) -> bool {
        self != Self::Any
    }

    /// For serde.
    pub(crate) fn is_any(&self) -> bool {
        !self.is_set()
    }

    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Only => "only",
            Self::Never => "never",
        }
    }
}
