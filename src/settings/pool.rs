//! The settings of a pool: its backends, and how these are resolved, chosen, checked and connected to.
//!
//! In:  nothing.
//! Out: [`Pool`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::{self, AddressError};
use super::check::{HealthCheck, some_check};
use super::text::{Congestion, Off, Or, OrOff, Text, Word, serde_as_word};
use super::{Backend, HttpPort, Origin, SendProxyProtocol, Span, Starttls};

/// A set of backends and how to choose among them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// The key of the pool in the file.
    #[serde(skip)]
    pub name: Arc<str>,
    /// Whether it is in the file.
    #[serde(skip)]
    pub origin: Origin,
    /// How to choose a backend for a connection.
    #[serde(default)]
    pub balance: Balance,
    /// The backends. At least one is required.
    #[serde(default)]
    #[schemars(required, length(min = 1))]
    pub backends: Vec<Backend>,
    /// How to resolve backends that are DNS names.
    #[serde(default)]
    pub resolve: Resolve,
    /// How to connect to the backends.
    #[serde(default)]
    pub connect: Connect,
    /// Active health checks. Off by default.
    #[serde(default, deserialize_with = "some_check", skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Passive health checks: temporarily removes a backend whose connections fail.
    #[serde(default)]
    pub ejection: OrOff<Ejection>,
    /// Clients that wait in line for a place when every backend is at its `max_connections`. Off by default.
    #[serde(default)]
    pub queue: Queue,
    /// What happens to the open connections of a backend when its health checks take it down.
    #[serde(default)]
    pub on_down: OnDown,
    /// What to do when every backend has failed its health checks.
    #[serde(default)]
    pub when_all_down: WhenAllDown,
    /// How long a new or recovered backend takes to ramp up to its full share.
    #[serde(default)]
    pub slow_start: Span,
    /// The port of each backend that ACME challenges are sent to, from listeners with `protocol: http`.
    #[serde(default)]
    pub http_port: HttpPort,
    /// What the doctor and checks send before TLS begins: `health_check.starttls`, or what the listeners have that lead
    /// here. Connections of clients go by their own listener.
    #[serde(skip)]
    pub starttls: Starttls,
    /// How long a connection to this pool may be silent, in place of what its route and `timeouts.idle` say.
    #[serde(skip)]
    pub idle_timeout: Option<Span>,
    /// Sends the client's address to the backend in a PROXY header, which the backend must expect.
    #[serde(default)]
    pub send_proxy_protocol: SendProxyProtocol,
    /// Local addresses to connect from, used in turn. If empty, the kernel chooses.
    #[serde(default)]
    pub source_addresses: Vec<Text<IpAddr>>,
    /// The TCP congestion control for connections to backends. Default: `tcp.congestion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub congestion: Option<Congestion>,
    /// Connect from the client's own address (Linux). Needs CAP_NET_ADMIN, and answers of the backends must be routed
    /// through this machine.
    #[serde(default)]
    pub transparent: bool,
}

/// How a pool chooses a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// In turn, in proportion to weight.
    #[default]
    RoundRobin,
    /// The backend with the fewest open connections relative to its weight.
    LeastConnections,
    /// The less busy of two backends chosen at random by weight.
    PowerOfTwo,
    /// At random, in proportion to weight.
    Random,
    /// By the client's address, so that a client keeps its backend.
    SourceHash,
    /// By the server name, so that a name keeps its backend.
    SniHash,
    /// The first backend in the list that is below its connection limit.
    First,
}

/// The clients that wait for a place on a backend, first come, first served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// How many clients may wait. 0: none, they are reset at once.
    #[schemars(range(max = 1_000_000))]
    pub size: u32,
    /// How long a client waits before it is reset.
    pub timeout: Span,
}

impl Default for Queue {
    fn default() -> Self {
        Self { size: 0, timeout: Span::from_secs(5) }
    }
}

/// What happens to open connections when their backend goes down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDown {
    /// Leave connections open.
    #[default]
    Keep,
    /// Reset them.
    Close,
}

/// What to do when every backend is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenAllDown {
    /// Try them anyway.
    #[default]
    Try,
    /// Refuse the connection.
    Refuse,
}

/// How DNS names are resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resolve {
    /// Networks of loopback, link-local and metadata addresses that nameservers may answer with. Others of these are
    /// not used. `/etc/hosts` may name any address.
    pub allow: Vec<Text<IpNet>>,
    /// Which address families to use.
    pub family: Family,
    /// The shortest time to keep an answer, even if its TTL is shorter.
    pub min_ttl: Span,
    /// The longest time to keep an answer, even if its TTL is longer.
    pub max_ttl: Span,
    /// The nameservers, tried in order. Default: `/etc/hosts`, then the nameservers and search domains of
    /// `/etc/resolv.conf`.
    pub nameservers: Vec<Nameserver>,
    /// How long to keep using the last good answer while look-ups fail.
    pub stale: Span,
}

impl Default for Resolve {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            family: Family::Any,
            min_ttl: Span::from_secs(5),
            max_ttl: Span::from_secs(300),
            nameservers: Vec::new(),
            stale: Span::from_secs(3600),
        }
    }
}

/// Which address families of a name to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4 and IPv6.
    Any,
    /// Only IPv4.
    V4,
    /// Only IPv6.
    V6,
}

/// A name server: `10.0.0.53`, or with another port than 53 `10.0.0.53:5353`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nameserver(pub SocketAddr);

impl Word for Nameserver {
    const EXPECTED: &'static str = "an address of a name server";
    const SCHEMA: &'static str = r#"{ "type": "string", "description": "`10.0.0.53`, or with another port than 53, `10.0.0.53:5353`, `[2001:db8::53]:5353`." }"#;

    fn read(text: &str) -> Result<Self, String> {
        if let Ok(address) = address::ip(text) {
            return Ok(Self(SocketAddr::new(address, DNS_PORT)));
        }
        match address::socket(text) {
            Ok(address) if address.port() == 0 || address.ip().is_unspecified() => {
                Err("a nameserver cannot have this address or port".to_owned())
            }
            Ok(address) => Ok(Self(address)),
            Err(AddressError::Name(_)) => Err("a nameserver must be an address: `IP` or `IP:PORT`".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl std::fmt::Display for Nameserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

serde_as_word!(Nameserver as "Nameserver");

/// How to connect to backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Connect {
    /// The time limit for one attempt.
    pub timeout: Span,
    /// How many different backends to try per connection.
    #[schemars(range(min = 1, max = 16))]
    pub attempts: u32,
    /// The time limit for all attempts together.
    pub total: Span,
    /// How long to wait for a backend's first byte after sending the ClientHello before also trying another backend, if
    /// any. The first answer wins. `off`: however long it takes.
    pub first_byte: Or<Off, Span>,
    /// Send the ClientHello with the SYN (TCP Fast Open, Linux) to backends that allow it. Saves a round trip.
    pub fast_open: bool,
}

impl Default for Connect {
    fn default() -> Self {
        Self {
            timeout: Span::from_secs(3),
            attempts: 3,
            total: Span::from_secs(10),
            first_byte: Span::from_secs(5).into(),
            fast_open: false,
        }
    }
}

/// Passive health checks: when and for how long a failing backend is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ejection {
    /// How many consecutive failed connections eject a backend.
    pub failures: u32,
    /// How long the first ejection lasts. Each further one lasts twice as long.
    pub base: Span,
    /// The longest an ejection can last.
    pub max: Span,
}

impl Default for Ejection {
    fn default() -> Self {
        Self { failures: 3, base: Span::from_secs(10), max: Span::from_secs(300) }
    }
}

const DNS_PORT: u16 = 53;
