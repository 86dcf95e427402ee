//! The settings of active health checks.
//!
//! In:  `kind: http`, `status: 200-399`, …
//! Out: [`HealthCheck`].

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::text::{FilePath, Nothing, OneOrMany, Or, Protocol, Text, Word, serde_as_word};
use super::{Span, Starttls};
use crate::server_name::ServerName;

/// Active health checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    /// `tcp`: the backend accepts a connection. `tls`: the backend completes a TLS handshake. `http`: the backend answers a
    /// plain HTTP request with one of `status`. `text`: what the backend says holds the text of `expect`.
    pub kind: CheckKind,
    /// For `tls`: the server name to send. Default: the first exact name routed to the pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<Text<ServerName>>,
    /// For `tls`: the ALPN protocols to offer. Default: none.
    pub alpn: Vec<Protocol>,
    /// For `tls`: what to send before TLS begins. Default: the `starttls` of the listeners that lead to the pool, if all
    /// have the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starttls: Option<Starttls>,
    /// For `tls`: also verify the certificate's chain and name.
    pub verify: bool,
    /// For `verify`: a PEM file with the CA certificates to trust. Default: the system store.
    pub ca_file: Or<Nothing, FilePath>,
    /// For `tls`: also find out whether the backend accepts the inner hellos of Encrypted ClientHello, over a connection of
    /// its own. One that does not gets none; it stays up for all other clients.
    pub ech: bool,
    /// For `http`: what to GET. Default: `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<RequestTarget>,
    /// For `http`: the `Host` to send. Default: the address of the backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    /// For `http`: the status codes that pass, such as `200`, `200-399` or a list of these. Default: `200-399`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<OneOrMany<Statuses>>,
    /// For `text`: what to send, if anything. In double quotes, `\r\n` ends a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub send: Option<String>,
    /// For `text`: what the backend must say, in its first 16 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub expect: Option<String>,
    /// The time between checks of a backend.
    pub interval: Span,
    /// The time limit for one check.
    pub timeout: Span,
    /// How many consecutive successful checks bring a backend up.
    pub rise: u32,
    /// How many consecutive failed checks take a backend down.
    pub fall: u32,
    /// The port to check, if different from the backend's own.
    pub port: Or<Nothing, u16>,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            kind: CheckKind::Tls,
            sni: None,
            alpn: Vec::new(),
            starttls: None,
            verify: false,
            ca_file: Or::default(),
            ech: false,
            path: None,
            host: None,
            status: None,
            send: None,
            expect: None,
            interval: Span::from_secs(5),
            timeout: Span::from_secs(2),
            rise: 2,
            fall: 3,
            port: Or::default(),
        }
    }
}

/// The kind of check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "HealthCheckKind")]
pub enum CheckKind {
    /// Connect only.
    Tcp,
    /// Complete a TLS handshake.
    Tls,
    /// Send an HTTP/1.1 request, without TLS, and read the status of the answer.
    Http,
    /// Send a text, and search the answer for another.
    Text,
}

impl CheckKind {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Text => "text",
        }
    }
}

/// What an HTTP check asks for: a path, perhaps with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTarget(pub Box<str>);

impl Word for RequestTarget {
    const EXPECTED: &'static str = "a path";
    const SCHEMA: &'static str = r#"{ "type": "string", "pattern": "^/", "description": "`/healthz`, perhaps with a query: `/healthz?full=1`." }"#;

    fn read(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            let path = text.split_once("://").map(|(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
            let path = path.map_or_else(|| format!("/{text}"), str::to_owned);
            return Err(format!("a path begins with `/`; write `{}`", path.escape_debug()));
        }
        match text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
            Some('#') => Err("a `#` is not sent to servers; remove it and what follows".to_owned()),
            Some(c) => Err(format!("a path must not contain {c:?}; write it percent-encoded")),
            None if text.len() > MOST_PATH_BYTES => Err(format!("a path is at most {MOST_PATH_BYTES} bytes long")),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for RequestTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The host of an HTTP request, perhaps with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(pub Box<str>);

impl Word for Host {
    const EXPECTED: &'static str = "a host";
    const SCHEMA: &'static str = r#"{ "type": "string", "description": "`shop.example.com`, perhaps with a port." }"#;

    fn read(text: &str) -> Result<Self, String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        match text.chars().all(is_part) && (1..=255).contains(&text.len()) {
            true => Ok(Self(text.into())),
            false => Err(format!("`{}` is not a host; write one such as `shop.example.com`", text.escape_debug())),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Status codes of HTTP: one, or all from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statuses {
    /// At least 200: an interim answer is not the answer.
    pub from: u16,
    /// At least `from`, at most 599.
    pub to: u16,
}

impl Statuses {
    /// What passes by default: success, and redirects, which checks do not follow.
    pub const GOOD: Self = Self { from: 200, to: 399 };

    /// Whether `status` is one of these.
    pub fn contain(self, status: u16) -> bool {
        (self.from..=self.to).contains(&status)
    }
}

impl Word for Statuses {
    const EXPECTED: &'static str = "a status code";
    const SCHEMA: &'static str = r#"{ "anyOf": [{ "type": "integer", "minimum": 200, "maximum": 599 }, { "type": "string" }], "description": "`200`, or several: `200-399`." }"#;

    fn read(text: &str) -> Result<Self, String> {
        let code = |text: &str| text.trim().parse::<u16>().ok().filter(|code| (200..=599).contains(code));
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        match (code(from), code(to)) {
            (Some(from), Some(to)) if from <= to => Ok(Self { from, to }),
            (Some(from), Some(to)) => Err(format!("the first status is greater than the last; write `{to}-{from}`")),
            _ => Err(match text.as_bytes() {
                [class @ b'2'..=b'5', b'x' | b'X', b'x' | b'X'] => {
                    let class = char::from(*class);
                    format!("`{text}` is written `{class}00-{class}99`")
                }
                _ => {
                    let text = text.escape_debug();
                    format!("`{text}` is not a status code from 200 to 599; write one such as `200`, or `200-399`")
                }
            }),
        }
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from == self.to {
            true => write!(f, "{}", self.from),
            false => write!(f, "{}-{}", self.from, self.to),
        }
    }
}

serde_as_word!(RequestTarget as "RequestTarget", Host as "Host", Statuses as "Statuses");

/// Reads the settings of checks; `true` and `off`, which other programs take here, get a hint.
pub(super) fn some_check<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<HealthCheck>, D::Error> {
    struct Check;

    impl<'de> Visitor<'de> for Check {
        type Value = HealthCheck;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(
                "a map such as `{ kind: tcp }` (`{}` checks TLS handshakes; without the key there are no checks)",
            )
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HealthCheck, A::Error> {
            HealthCheck::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_any(Check).map(Some)
}

const MOST_PATH_BYTES: usize = 2048;
