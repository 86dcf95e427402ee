//! What is logged, in which form, and where to.
//!
//! In:  the map `log` of the routing file.
//! Out: [`Log`].
//! Source: docs/logs.md.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::per_client::Rate;
use super::text::{FilePath, Nothing, Off, Or};
use super::units::Span;

/// Logging, to standard output and to a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least severe messages that are logged.
    pub level: Level,
    /// One JSON object per line, or text.
    pub format: LogFormat,
    /// How the fields of JSON lines are named.
    pub fields: LogFields,
    /// Which connections are logged when they end.
    pub connections: LogConnections,
    /// Whether connections of clients that sent nothing (`probe`) are logged.
    pub probes: bool,
    /// How many connections that were refused are logged, for each reason; the others are only counted.
    pub refusals: Or<Off, Rate>,
    /// How often a connection is also logged while it is open.
    pub interval: Or<Off, Span>,
    /// How the names that clients ask for are shown.
    pub names: Shown,
    /// The same for names that were encrypted and opened here (`ech`). Default: as `names`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inner_names: Option<Shown>,
    /// How the addresses of clients are shown.
    pub clients: Shown,
    /// A file that receives the log too. SIGHUP opens it again.
    pub file: Or<Nothing, FilePath>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: Level::Info,
            format: LogFormat::Auto,
            fields: LogFields::Native,
            connections: LogConnections::All,
            probes: true,
            refusals: Rate::PER_SECOND_100.into(),
            interval: Or::default(),
            names: Shown::Clear,
            inner_names: None,
            clients: Shown::Clear,
            file: Or::default(),
        }
    }
}

/// The severity of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something needs attention: it may fail, or not work as intended.
    Warn,
    /// What the process does.
    Info,
    /// What it decides, and why.
    Debug,
    /// Everything.
    Trace,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// `pretty` on a terminal, `json` elsewhere.
    Auto,
    /// One JSON object per line.
    Json,
    /// `key=value` pairs.
    // The name that it had first.
    #[serde(alias = "text")]
    Logfmt,
    /// For people: at most 120 columns for a connection, with colors on a terminal.
    Pretty,
}

/// The names of fields in JSON lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFields {
    /// Those of docs/logs.md.
    Native,
    /// Those of the Elastic Common Schema.
    Ecs,
    /// Those of the semantic conventions of OpenTelemetry.
    Otel,
}

/// Which connections are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogConnections {
    /// Every connection.
    All,
    /// Those that failed.
    Failed,
    /// None.
    Off,
}

/// How something that identifies people is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// As it is.
    Clear,
    /// As a hash with a random key that changes every day.
    Hashed,
    /// Not at all.
    Off,
}
