//! Parses addresses, ports and networks.
//!
//! In:  `10.0.0.1:443`, `[2001:db8::1]:443`; `10.0.0.0/8`, `2001:db8::/32`, `10.0.0.1`.
//! Out: types of std and ipnet, or an error that says what is missing.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;

use ipnet::IpNet;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType};

use super::text::{Word, serde_as_word, words};

/// An address of the admin server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `IP:PORT`
    Tcp(SocketAddr),
    /// `unix:/PATH`
    Unix(PathBuf),
}

impl Address {
    /// The address, unless it is a path.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl Word for Address {
    const EXPECTED: &'static str = "an address";
    const SCHEMA: &'static str = r#"{ "type": "string", "description": "`IP:PORT`, or `unix:/run/snigate/admin.sock` for a socket that only its owner can use." }"#;

    fn read(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) => socket_path(path).map(Self::Unix).map_err(|error| error.to_string()),
            None if matches!(text, "off" | "none" | "no" | "false") => {
                Err("the admin server is turned off by an empty list; write `bind: []`".to_owned())
            }
            None => socket(text).map(Self::Tcp).map_err(|error| error.to_string()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

serde_as_word!(Address as "AdminAddress");

words! {
    SocketAddr = "an address",
        r#"{ "type": "string", "description": "`IP:PORT`, with brackets around IPv6: `10.0.0.1:443`, `[2001:db8::1]:443`." }"#,
        self::socket;
    IpAddr = "an IP address", r#"{ "type": "string", "description": "An IP address, without a port." }"#, self::ip;
    IpNet = "a network",
        r#"{ "type": "string", "description": "A network: `10.0.0.0/8`, `2001:db8::/32`, or one address." }"#,
        self::network;
}

/// Why a text is not a usable address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AddressError {
    /// `10.0.0.1`
    NoPort(IpAddr),
    /// `8443`, `:8443`
    NoAddress {
        port: u16,
    },
    /// `10.0.0.1:99999`
    NoSuchPort(String),
    /// `localhost:443`
    Name(String),
    /// `unix:/run/shop.sock`
    Unix,
    /// `[fe80::1%eth9]:443`
    NoInterface(String),
    /// `https://10.0.0.1`
    Scheme,
    Other(String),
}

/// Why a text is not a valid network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NetworkError {
    /// `10.0.0.1/8`, whose address has bits set beyond the prefix.
    HostBits {
        meant: IpNet,
    },
    Other(String),
}

/// Parses an address with its port. The zone of a link-local address may be the name of an interface (RFC 4007 §11).
pub(crate) fn socket(text: &str) -> Result<SocketAddr, AddressError> {
    match text.parse() {
        Ok(address) => Ok(address),
        Err(_) => zoned(text).unwrap_or_else(|| Err(explain(text))),
    }
}

/// Parses `[fe80::1%eth0]:443`; `None` if it is nothing of that form.
fn zoned(text: &str) -> Option<Result<SocketAddr, AddressError>> {
    let (address, port) = text.strip_prefix('[')?.rsplit_once("]:")?;
    let (ip, zone) = address.split_once('%')?;
    let (ip, port) = (ip.parse().ok()?, port.parse().ok()?);
    let index = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)
        .and_then(|socket| name_to_index(socket, zone))
        .map_err(|_| AddressError::NoInterface(zone.to_owned()));
    Some(index.map(|index| SocketAddrV6::new(ip, port, 0, index).into()))
}

/// Parses the path of a unix socket.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, SocketPathError> {
    match text {
        _ if !text.starts_with('/') => Err(SocketPathError::Relative),
        _ if text.contains('\0') => Err(SocketPathError::Nul),
        _ if text.len() > MAX_SOCKET_PATH_BYTES => Err(SocketPathError::TooLong),
        _ => Ok(text.into()),
    }
}

/// Why a text is not a valid socket path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketPathError {
    Relative,
    Nul,
    TooLong,
}

fn explain(text: &str) -> AddressError {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse() {
        return AddressError::NoPort(address);
    }
    if text.starts_with("unix:") {
        return AddressError::Unix;
    }
    if text.contains("//") {
        return AddressError::Scheme;
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    match (host, port.parse()) {
        ("" | "*", Ok(port)) => AddressError::NoAddress { port },
        (_, Err(_)) if is_address => AddressError::NoSuchPort(port.to_owned()),
        (number, Err(_)) if number.parse::<u16>().is_ok() => {
            AddressError::NoAddress { port: number.parse().unwrap_or_default() }
        }
        (name, _) if looks_like_a_name(name) => AddressError::Name(name.to_owned()),
        _ => AddressError::Other(text.to_owned()),
    }
}

/// Distinguishes a DNS name from a mistyped address.
fn looks_like_a_name(text: &str) -> bool {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.chars().all(allowed) && text.chars().any(char::is_alphabetic)
}

/// Parses a network; a plain address is the network of only that address.
pub(crate) fn network(text: &str) -> Result<IpNet, NetworkError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let network: IpNet = text.parse().map_err(|_| NetworkError::Other(text.to_owned()))?;
    match network.trunc() {
        meant if meant == network => Ok(canonical(network)),
        meant => Err(NetworkError::HostBits { meant: canonical(meant) }),
    }
}

/// A network of IPv4-mapped addresses as one of IPv4, since clients are compared by their IPv4 addresses.
fn canonical(network: IpNet) -> IpNet {
    let ipv4 = network.prefix_len().checked_sub(96).filter(|_| network.addr().is_ipv6());
    let mapped = ipv4.and_then(|prefix| IpNet::new(network.addr().to_canonical(), prefix).ok());
    mapped.filter(|mapped| mapped.addr().is_ipv4()).unwrap_or(network)
}

/// Parses an address without a port.
pub(super) fn ip(text: &str) -> Result<IpAddr, AddressError> {
    text.parse().map_err(|_| AddressError::Other(text.to_owned()))
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort(IpAddr::V4(address)) => write!(f, "a port is missing; write `{address}:PORT`"),
            Self::NoPort(IpAddr::V6(address)) => {
                write!(f, "a port is missing, and an IPv6 address needs brackets; write `[{address}]:PORT`")
            }
            Self::NoAddress { port } => {
                write!(f, "an address is missing; write `0.0.0.0:{port}` or, with IPv6, `[::]:{port}`")
            }
            Self::NoSuchPort(port) => write!(f, "`{}` is not a valid port; ports are 0 to 65535", port.escape_debug()),
            Self::Name(name) => write!(f, "`{name}` is a DNS name; write the address, as `IP:PORT`"),
            Self::NoInterface(zone) => {
                write!(f, "this machine has no network interface `{}`; `ip link` lists them", zone.escape_debug())
            }
            Self::Unix => f.write_str("a unix socket is not allowed here; write `IP:PORT`"),
            Self::Scheme => f.write_str("a scheme is not allowed; write `IP:PORT`"),
            Self::Other(text) => write!(f, "`{}` is not a valid address", text.escape_debug()),
        }
    }
}

impl std::error::Error for AddressError {}

impl fmt::Display for SocketPathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relative => f.write_str("the path must begin with `/`; write it as `unix:/run/snigate/admin.sock`"),
            Self::Nul => f.write_str("the path contains a NUL byte"),
            Self::TooLong => {
                write!(f, "the path is longer than {MAX_SOCKET_PATH_BYTES} bytes, the limit for a unix socket")
            }
        }
    }
}

impl std::error::Error for SocketPathError {}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostBits { meant } => {
                write!(f, "the address has bits beyond the prefix; write `{meant}`, or `/32` or `/128` for one address")
            }
            Self::Other(text) => {
                write!(f, "`{}` is not a valid network; write it as `10.0.0.0/8`", text.escape_debug())
            }
        }
    }
}

impl std::error::Error for NetworkError {}

/// `sun_path` of unix(7), without the final NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let reported = |text| socket(text).expect_err(text).to_string();
        assert_eq!(reported("10.0.0.1"), "a port is missing; write `10.0.0.1:PORT`");
        assert!(reported("::1").contains("`[::1]:PORT`"));
        assert!(reported("[::1]").contains("`[::1]:PORT`"));
        assert!(reported("8443").contains("`0.0.0.0:8443`"));
        assert!(reported(":8443").contains("`0.0.0.0:8443`"));
        assert!(reported("*:8443").contains("`0.0.0.0:8443`"));
        assert!(reported("10.0.0.1:99999").contains("`99999` is not a valid port"));
        assert!(reported("10.0.0.1:").contains("is not a valid port"));
        assert!(reported("localhost:443").contains("`localhost` is a DNS name"));
        assert!(reported("shop.internal").contains("is a DNS name"));
        assert!(reported("unix:/run/a.sock").contains("not allowed here"));
        assert!(reported("https://10.0.0.1:443").contains("scheme"));
        assert_eq!(reported("10.0.0:443"), "`10.0.0:443` is not a valid address");
        assert_eq!(reported(""), "`` is not a valid address");
    }

    #[test]
    fn a_path_of_a_socket_is_absolute_and_fits() {
        assert_eq!(socket_path("/run/a.sock"), Ok("/run/a.sock".into()));
        assert_eq!(socket_path("run/a.sock"), Err(SocketPathError::Relative));
        assert_eq!(socket_path(""), Err(SocketPathError::Relative));
        assert!(socket_path(&format!("/{}", "a".repeat(106))).is_ok());
        assert_eq!(socket_path(&format!("/{}", "a".repeat(107))), Err(SocketPathError::TooLong));
    }

    #[test]
    fn a_network_has_no_bits_beyond_its_prefix() {
        assert!(network("10.0.0.0/8").is_ok());
        assert_eq!(network("10.0.0.1").map(|network| network.to_string()), Ok("10.0.0.1/32".to_owned()));
        assert!(network("10.0.0.1/8").expect_err("host bits").to_string().contains("`10.0.0.0/8`"));
        assert!(network("10.0.0.0/33").is_err());
    }

    #[test]
    fn a_network_of_mapped_addresses_is_one_of_ipv4() {
        let read = |text| network(text).map(|network| network.to_string());
        for (text, wanted) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:10.0.0.1/128", "10.0.0.1/32"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::ffff:a00:0/104", "10.0.0.0/8"),
            // Not only mapped addresses.
            ("::/0", "::/0"),
            ("::fffe:0:0/95", "::fffe:0:0/95"),
            ("2001:db8::/104", "2001:db8::/104"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(wanted), "{text}");
        }
        assert!(network("::ffff:10.0.0.1/104").expect_err("host bits").to_string().contains("`10.0.0.0/8`"));
    }

    #[test]
    fn a_zone_is_an_interface_by_name_or_number() {
        let index =
            std::fs::read_to_string("/sys/class/net/lo/ifindex").expect("Linux").trim().parse().expect("a number");
        let wanted = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().expect("an address"), 443, 0, index));
        assert_eq!(socket("[fe80::1%lo]:443"), Ok(wanted));
        assert_eq!(socket(&format!("[fe80::1%{index}]:443")), Ok(wanted));
        assert!(
            socket("[fe80::1%nosuch0]:443").expect_err("none").to_string().contains("no network interface `nosuch0`")
        );
        for text in ["[fe80::1%]:443", "[fe80::1%lo]:99999", "[fe80::1%lo]", "fe80::1%lo:443", "[10.0.0.1%lo]:443"] {
            assert!(socket(text).is_err(), "{text}");
        }
    }
}
