//! A backend of a pool, and its address.
//!
//! In:  `10.0.0.1:443`, `shop.internal:443`, `srv:_https._tcp.shop.internal`, `unix:/run/shop.sock`.
//! Out: [`Backend`], or an error that says what is missing.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize};

use super::address::{self, AddressError};
use super::text::{Nothing, Or, Word, serde_as_word};
use crate::server_name::{Pattern, ServerName};

/// One entry of a pool: an address, or a map with an address and options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = or_the_address_alone)]
pub struct Backend {
    /// `IP:PORT`; `NAME:PORT`, where each address of the name is a backend; `srv:NAME`, an SRV name; or `unix:/PATH`.
    pub address: BackendAddress,
    /// The backend's share relative to the others in the pool, 1 to 1,000.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = MAX_WEIGHT))]
    pub weight: u32,
    /// Use this backend only when no other can take the connection.
    #[serde(default)]
    pub backup: bool,
    /// The maximum number of concurrent connections to each of its addresses.
    #[serde(default)]
    pub max_connections: Or<Nothing, usize>,
}

/// The greatest weight of a backend.
pub(crate) const MAX_WEIGHT: u32 = 1_000;

fn one() -> u32 {
    1
}

/// `config` reads a lone address as a map with this one key.
fn or_the_address_alone(schema: &mut Schema) {
    let keys = std::mem::take(schema);
    *schema = json_schema!({ "anyOf": [{ "$ref": "#/$defs/BackendAddress" }, keys] });
}

/// The address of a backend, or the name to look it up by. `Display` writes it as in the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendAddress {
    /// `IP:PORT`
    Inet(SocketAddr),
    /// `unix:/PATH`
    Unix(Arc<Path>),
    /// Every A and AAAA record is a backend.
    Name {
        /// What is looked up.
        host: ServerName,
        /// The port of each address.
        port: u16,
        /// Whether search domains apply.
        search: Search,
    },
    /// Every SRV target (RFC 2782) is a backend, at the port of its record.
    Srv {
        /// `_service._proto.name`
        name: ServerName,
    },
    /// The endpoints of a port of a Kubernetes Service, `NAMESPACE/NAME:PORT`. Never in a file.
    Service(Arc<str>),
}

/// Whether the system's search domains are applied to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Search {
    /// As by the system's own programs.
    Allowed,
    /// The name ends with a dot: it is absolute.
    No,
}

impl Word for BackendAddress {
    const EXPECTED: &'static str = "a backend address";
    const SCHEMA: &'static str = r#"{ "type": "string", "description": "`10.0.0.1:443`, `[2001:db8::1]:443`, `shop.internal:443`, `srv:_https._tcp.shop.internal` or `unix:/run/shop.sock`." }"#;

    fn read(text: &str) -> Result<Self, String> {
        parse(text)
    }
}

serde_as_word!(BackendAddress as "BackendAddress");

/// Parses `10.0.0.1:443`, `shop.internal:443`, `srv:_https._tcp.shop.internal` or `unix:/run/shop.sock`.
fn parse(text: &str) -> Result<BackendAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path);
    }
    if let Some(name) = text.strip_prefix("srv:") {
        return match dns_name(name)? {
            name if name.as_str().starts_with('_') => Ok(BackendAddress::Srv { name }),
            name => Err(format!("an SRV name begins with the service: `srv:_https._tcp.{name}`")),
        };
    }
    match address::socket(text) {
        Ok(address) if address.port() == 0 => Err("port 0 is not valid for a backend".to_owned()),
        Ok(address) if address.ip().is_unspecified() => {
            let (ip, port) = (address.ip(), address.port());
            Err(format!("`{ip}` is an address to listen on, not to connect to; write the backend's own, `IP:{port}`"))
        }
        Ok(address) => Ok(BackendAddress::Inet(address)),
        Err(AddressError::NoAddress { port }) => {
            Err(format!("an address is missing; write the backend's own, as `IP:{port}`"))
        }
        Err(AddressError::NoSuchPort(port)) => Err(no_such_port(&port)),
        Err(AddressError::Name(_)) => {
            let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
            let search = if host.ends_with('.') { Search::No } else { Search::Allowed };
            let host = dns_name(host)?;
            match port.parse() {
                Ok(port @ 1..) => Ok(BackendAddress::Name { host, port, search }),
                _ if port.is_empty() => Err(format!("a port is missing; write `{host}:PORT`")),
                _ => Err(no_such_port(port)),
            }
        }
        Err(error) => Err(error.to_string()),
    }
}

fn no_such_port(port: &str) -> String {
    format!("`{}` is not a valid port; ports are 1 to 65535", port.escape_debug())
}

fn unix(path: &str) -> Result<BackendAddress, String> {
    match path.len() {
        _ if !path.starts_with('/') => Err("write the absolute path of the socket: `unix:/run/shop.sock`".to_owned()),
        // sun_path and its final NUL, unix(7).
        108.. => Err("the path of a unix socket can have at most 107 bytes".to_owned()),
        _ if path.contains('\0') => Err("the path contains a NUL byte".to_owned()),
        _ => Ok(BackendAddress::Unix(Path::new(path).into())),
    }
}

/// Parses a name to look up; Unicode becomes A-labels.
fn dns_name(text: &str) -> Result<ServerName, String> {
    match text.parse() {
        Ok(Pattern::Exact(name)) => Ok(name),
        Ok(_) => Err("a wildcard cannot be looked up; write a whole name".to_owned()),
        Err(error) => Err(format!("`{}` is not a valid DNS name: {error}", text.escape_debug())),
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Name { host, port, search: Search::Allowed } => write!(f, "{host}:{port}"),
            Self::Name { host, port, search: Search::No } => write!(f, "{host}.:{port}"),
            Self::Srv { name } => write!(f, "srv:{name}"),
            Self::Service(port) => f.write_str(port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        parse(text).map(|address| address.to_string())
    }

    #[test]
    fn every_form_reads_and_prints_alike() {
        for text in [
            "10.0.0.1:443",
            "[2001:db8::1]:443",
            "shop.internal:443",
            "shop.internal.:443",
            "localhost:1",
            "srv:_https._tcp.a.test",
        ] {
            assert_eq!(read(text).as_deref(), Ok(text));
        }
        assert_eq!(read("unix:/run/shop.sock").as_deref(), Ok("unix:/run/shop.sock"));
        assert_eq!(read("Bücher.example:443").as_deref(), Ok("xn--bcher-kva.example:443"));
    }

    #[test]
    fn the_error_for_a_wrong_form_shows_the_right_one() {
        let error = |text: &str| read(text).expect_err(text);
        assert_eq!(error("shop.internal"), "a port is missing; write `shop.internal:PORT`");
        assert!(error("shop.internal:https").contains("ports are 1 to 65535"));
        assert!(error("shop.internal:0").contains("ports are 1 to 65535"));
        assert!(error("10.0.0.1:0").contains("port 0"));
        assert!(error("10.0.0.1:65536").contains("1 to 65535"));
        for text in [":443", "443", "0.0.0.0:443", "[::]:443"] {
            assert!(
                error(text).ends_with("write the backend's own, as `IP:443`") || error(text).ends_with(", `IP:443`")
            );
        }
        assert!(error("srv:shop.internal").contains("`srv:_https._tcp.shop.internal`"));
        assert!(error("unix:run/shop.sock").contains("`unix:/run/shop.sock`"));
        assert!(error(&format!("unix:/{}", "x".repeat(107))).contains("107"));
        assert!(error("https://shop.internal").contains("a scheme is not allowed"));
        assert!(error("*.internal:443").contains("not a valid address"));
    }
}
