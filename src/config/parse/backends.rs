//! Parses the backends of a pool: their addresses and limits.
//!
//! In:  the raw list of a pool, the addresses of the listeners.
//! Out: [`Backend`]s, each address once.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use super::listeners::count_or;
use super::{Located, each_of, read, require, self_loops};
use crate::config::address::{self, AddressError};
use crate::config::at::At;
use crate::config::problem::{Place, Problems};
use crate::config::raw::{self, Field};
use crate::config::{Backend, BackendAddress, Search};
use crate::server_name::{Pattern, ServerName};

pub(super) fn parse(
    field: Field<Vec<Located<raw::Backend>>>,
    at: &At<'_>,
    bound: &[(SocketAddr, Place)],
    problems: &mut Problems,
) -> Vec<Backend> {
    require(field.as_ref(), at, "backends", problems);
    let Some(Located { spot, value: Some(list) }) = field else { return Vec::new() };
    let at = at.key("backends", spot);
    if list.is_empty() {
        problems.error(&at, "the list is empty; at least one backend is needed");
    }
    let mut first: HashMap<BackendAddress, Place> = HashMap::new();
    each_of(list, &at, problems, |raw, at, problems| {
        let backend = backend(raw, at, problems)?;
        // The address identifies a backend, across reloads too.
        if let Some(first) = first.insert(backend.address.clone(), at.place()) {
            let address = &backend.address;
            problems.error(at, format_args!("`{address}` is already in this pool, at {first}; set its `weight` there"));
        }
        if let Some(address) = backend.address.inet() {
            self_loops::refuse(address, bound, at, problems);
        }
        Some(backend)
    })
}

fn backend(raw: raw::Backend, at: &At<'_>, problems: &mut Problems) -> Option<Backend> {
    let raw = match raw {
        raw::Backend::Address(Located { spot, value }) => {
            let address = self::address(&value?).map_err(|error| problems.error(&at.moved(spot), error)).ok()?;
            return Some(Backend { address, weight: DEFAULT_WEIGHT, backup: false, max_connections: None });
        }
        raw::Backend::Keys(raw) => raw,
    };
    require(raw.address.as_ref(), at, "address", problems);
    let max_connections =
        read(raw.max_connections, at, "max_connections", problems, |raw::CountOrNone(text)| count_or(&text, "none"));
    let weight = read(raw.weight, at, "weight", problems, |weight| match u32::try_from(weight) {
        Ok(weight @ 1..=MAX_WEIGHT) => Ok(weight),
        Ok(0) => Err("a weight is 1 to 1000; remove the backend to send it nothing"),
        _ => Err("a weight is 1 to 1000"),
    });
    let backup = raw.backup.and_then(|located| located.value).unwrap_or(false);
    let address = read(raw.address, at, "address", problems, |text| self::address(&text))?;
    let weight = weight.unwrap_or(DEFAULT_WEIGHT);
    Some(Backend { address, weight, backup, max_connections: max_connections.flatten() })
}

/// Parses `10.0.0.1:443`, `shop.internal:443`, `srv:_https._tcp.shop.internal` or `unix:/run/shop.sock`.
fn address(raw::BackendAddress(text): &raw::BackendAddress) -> Result<BackendAddress, String> {
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
        Err(AddressError::Name(_)) => {
            let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
            let search = if host.ends_with('.') { Search::No } else { Search::Allowed };
            let host = dns_name(host)?;
            match port.parse() {
                Ok(port @ 1..) => Ok(BackendAddress::Name { host, port, search }),
                _ if port.is_empty() => Err(format!("a port is missing; write `{host}:PORT`")),
                _ => Err(format!("`{}` is not a valid port; ports are 1 to 65535", port.escape_debug())),
            }
        }
        Err(error) => Err(error.to_string()),
    }
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
        }
    }
}

impl BackendAddress {
    /// The address, unless it is a name to look up or a path.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            _ => None,
        }
    }
}

const DEFAULT_WEIGHT: u32 = 1;
const MAX_WEIGHT: u32 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        address(&raw::BackendAddress(text.to_owned())).map(|address| address.to_string())
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
    fn a_wrong_form_is_told_the_right_one() {
        let told = |text: &str| read(text).expect_err(text);
        assert_eq!(told("shop.internal"), "a port is missing; write `shop.internal:PORT`");
        assert!(told("shop.internal:https").contains("ports are 1 to 65535"));
        assert!(told("shop.internal:0").contains("ports are 1 to 65535"));
        assert!(told("10.0.0.1:0").contains("port 0"));
        for text in [":443", "443", "0.0.0.0:443", "[::]:443"] {
            assert!(told(text).ends_with("write the backend's own, as `IP:443`") || told(text).ends_with(", `IP:443`"));
        }
        assert!(told("srv:shop.internal").contains("`srv:_https._tcp.shop.internal`"));
        assert!(told("unix:run/shop.sock").contains("`unix:/run/shop.sock`"));
        assert!(told(&format!("unix:/{}", "x".repeat(107))).contains("107"));
        assert!(told("https://shop.internal").contains("a scheme is not allowed"));
        assert!(told("*.internal:443").contains("not a valid address"));
    }
}
