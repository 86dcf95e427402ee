//! The settings of the source that finds containers by their labels.
//!
//! In:  nothing.
//! Out: [`Docker`]; [`Origin`], which marks routes and pools that are not from the file.
//! Source: docs/docker.md.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text::{FilePath, Nothing, OneOrMany, Or, Text, Word, serde_as_word};
use crate::server_name::Pattern;

/// Routes for containers, found by their labels through the Docker API, which is only read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Docker {
    /// The socket of the Docker API; podman has the same API.
    #[serde(default = "default_socket")]
    pub socket: FilePath,
    /// The names that labels may add routes for: `**.example.com` is every name below `example.com`. A label outside of
    /// them is refused.
    #[serde(default)]
    #[schemars(required)]
    pub allow: OneOrMany<Text<Pattern>>,
    /// The network in which a container without the label `snigate.network` is reached. `none`: the only one it is in.
    #[serde(default)]
    pub network: Or<Nothing, DockerNetwork>,
}

fn default_socket() -> FilePath {
    FilePath("/run/docker.sock".into())
}

/// The name of a network of the Docker engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerNetwork(pub Arc<str>);

impl Word for DockerNetwork {
    const EXPECTED: &'static str = "the name of a network";
    const SCHEMA: &'static str = r#"{ "type": "string", "minLength": 1 }"#;

    fn read(text: &str) -> Result<Self, String> {
        match super::name_error(text) {
            Some(error) => Err(error),
            None => Ok(Self(text.into())),
        }
    }
}

serde_as_word!(DockerNetwork as "DockerNetwork");

impl fmt::Display for DockerNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a route or a pool comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// A routing file.
    #[default]
    File,
    /// A container.
    Docker,
    /// Objects of a Kubernetes cluster. Its listeners have routes of their own: those of no other origin take their
    /// connections, nor do theirs take connections of other listeners.
    Kubernetes,
}
