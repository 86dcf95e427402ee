//! The settings of the routing file as plain values. Their defaults are those of `Default`.
//!
//! In:  nothing; no I/O happens here.
//! Out: types that every module takes by reference. Each prints as the file writes it (serde), and describes itself in
//!      the JSON Schema of the file; the text of a key in that schema is the comment of its field.
//! Source: docs/configuration.md.
//!
//! A new key is a field here, its default in `Default`, and its use. `config` reads it, and reports a value of the wrong
//! type with its place; `config::parse` checks ranges, and values that depend on other keys.

mod address;
mod backend;
mod check;
mod docker;
mod ech;
mod http;
mod kubernetes;
mod log;
mod networks;
mod per_client;
mod pool;
mod proxy_protocol;
mod sni;
mod text;
mod units;
mod word_or_pool;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::server_name::Pattern;

pub use self::address::Address;
pub(crate) use self::address::network;
pub(crate) use self::backend::MAX_WEIGHT;
pub use self::backend::{Backend, BackendAddress, Search};
pub use self::check::{CheckKind, HealthCheck, Host, RequestTarget, Statuses};
pub use self::docker::{Docker, DockerNetwork, Origin};
pub use self::ech::{Ech, EchCondition, OpenEch};
pub use self::http::{AcmeChallenge, HttpPort, ListenerProtocol, Otherwise};
pub use self::kubernetes::{
    ControllerName, GatewayService, Kubernetes, KubernetesAddresses, KubernetesRole, KubernetesUnmatched, Namespaces,
    PortRange, ServiceType, TrafficPolicy,
};
pub use self::log::{Level, Log, LogConnections, LogFields, LogFormat, Shown};
pub use self::networks::{Access, Denied, NetworkEntry, NetworkList};
pub use self::per_client::{PerClient, Prefixes, Rate};
pub use self::pool::{Balance, Connect, Ejection, Family, Nameserver, OnDown, Pool, Queue, Resolve, WhenAllDown};
pub use self::proxy_protocol::{AddedValues, Others, ProxyProtocol, SendProxyProtocol, SendVersion, ValueKind};
pub use self::sni::SniEntry;
pub use self::text::{Auto, Congestion, FilePath, Nothing, Off, OneOrMany, Or, OrOff, Protocol, Text};
pub(crate) use self::text::{Word, name, name_error};
pub use self::units::{Size, Span};
pub(crate) use self::units::{UnitError, duration_in};

/// One or more addresses to accept connections on, with the same options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// A unique name, used in metrics, in the log and in routes.
    #[serde(deserialize_with = "name")]
    pub name: Arc<str>,
    /// `IP:PORT`, or a list of them. `[::]:8443` accepts IPv6 and IPv4. With port 0 the kernel chooses a free port.
    #[serde(default)]
    #[schemars(required)]
    pub bind: OneOrMany<Text<SocketAddr>>,
    /// What clients speak: TLS, or HTTP in the clear, of which one request is read.
    #[serde(default)]
    pub protocol: ListenerProtocol,
    /// For `http`: what happens to requests below `/.well-known/acme-challenge/`. Default: `pool`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme_challenge: Option<AcmeChallenge>,
    /// For `http`: what happens to all other requests. Default: `redirect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<Otherwise>,
    /// If present, connections from trusted networks must start with a PROXY header, v1 or v2. Off by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// What clients send before TLS begins, and backends before they get the ClientHello.
    #[serde(default)]
    pub starttls: Starttls,
    /// Whether hellos are opened with the keys of `ech`.
    #[serde(default)]
    pub ech: OpenEch,
    /// Where clients are relayed that say nothing, because in their protocol the server speaks first. Off by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<Silent>,
    /// The maximum number of concurrent connections through this listener.
    #[serde(default)]
    pub max_connections: Or<Nothing, usize>,
    /// The only clients that may connect; others are reset before a byte is read. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub allow: Option<NetworkList>,
    /// Clients that may not connect, even if `allow` has them.
    #[serde(default, skip_serializing_if = "NetworkList::is_empty")]
    pub deny: NetworkList,
    /// Limits per client for this listener, instead of `limits.per_client`; keys that it does not set are as there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_client: Option<OrOff<PerClient>>,
    /// The TCP congestion control for connections from clients. Default: `tcp.congestion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub congestion: Option<Congestion>,
    /// Bind even if this machine does not have the address yet (Linux), such as a virtual one that may move here.
    #[serde(default)]
    pub freebind: bool,
    /// Whether it is in the file.
    #[serde(skip)]
    pub origin: Origin,
    /// For a listener that is not in the file: a name that one of these matches is only routed by patterns that match no
    /// name outside of the most specific one. Without such a route the name has none.
    #[serde(skip)]
    pub hostnames: Vec<Pattern>,
}

impl Listener {
    /// The networks whose PROXY headers are believed; `None`: clients connect directly.
    pub fn trusted_proxies(&self) -> Option<&[Text<IpNet>]> {
        self.proxy_protocol.as_ref().map(|proxy| &*proxy.trusted)
    }

    /// What happens to clients that are not in those networks.
    pub fn other_peers(&self) -> Others {
        self.proxy_protocol.as_ref().map(|proxy| proxy.others).unwrap_or_default()
    }
}

/// The algorithm that a listener or a pool sets; `None`: the kernel's default.
pub(crate) fn named(congestion: &Option<Congestion>) -> Option<&str> {
    congestion.as_ref()?.0.as_deref()
}

/// The protocol in which TLS begins on request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Starttls {
    /// TLS begins with the first byte.
    #[default]
    None,
    /// PostgreSQL's SSLRequest. TLS that begins with the first byte is accepted too.
    Postgres,
}

impl Starttls {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Postgres => "postgres",
        }
    }
}

/// Clients that wait for the server to speak first, as those of SSH, SMTP and MySQL do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Silent {
    /// How long a client says nothing, once it was accepted or has sent its PROXY header, before it is relayed to `pool`.
    /// Must be shorter than `timeouts.hello`.
    #[serde(default = "default_silence")]
    pub after: Span,
    /// The pool to relay to. Its backends speak first.
    pub pool: String,
}

/// Longer than nearly all TLS clients take to send their first packet.
fn default_silence() -> Span {
    Span::from_millis(300)
}

/// How to refuse a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Refuse {
    /// Send a TLS alert with the reason, then close.
    Alert,
    /// Close (FIN).
    Close,
    /// Reset (RST).
    Reset,
    /// Send nothing at all: the connection disappears, and the client waits for its own timeout. Needs CAP_NET_ADMIN.
    Drop,
}

impl Refuse {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Close => "close",
            Self::Reset => "reset",
            Self::Drop => "drop",
        }
    }
}

/// What happens to open connections when their route or backend is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnRemoved {
    /// Leave connections open.
    #[default]
    Keep,
    /// Reset those still open after `timeouts.drain`.
    Drain,
    /// Reset them at once.
    Close,
}

/// Time limits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// The deadline for the complete ClientHello, counted from accept, including any PROXY header.
    pub hello: Span,
    /// Close a connection after this long without a byte in either direction.
    pub idle: Span,
    /// Once one side has closed: close after this long without a byte from the other side.
    pub half_closed: Span,
    /// Reset a connection once it is this old, more or less a tenth, so that connections opened together do not end
    /// together.
    pub max_age: Or<Off, Span>,
    /// How long open connections may continue after SIGTERM before they are reset.
    pub drain: Span,
    /// How long to keep accepting after SIGTERM, while already reporting not ready, before the drain starts.
    pub pre_stop: Span,
    /// How long a new process may take to start serving during an upgrade.
    pub upgrade: Span,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            hello: Span::from_secs(10),
            idle: Span::from_secs(3600),
            half_closed: Span::from_secs(60),
            max_age: Or::default(),
            drain: Span::from_secs(25),
            pre_stop: Span::from_secs(0),
            upgrade: Span::from_secs(30),
        }
    }
}

/// Limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The maximum number of concurrent connections over all listeners. `auto`: 65,536, or less if the limit on open files
    /// requires it.
    pub max_connections: Or<Auto, usize>,
    /// The maximum size of a ClientHello, however it is split into records or segments, 1KiB to 16MiB.
    pub max_hello: Size,
    /// The memory of all ClientHellos that are not complete yet. Beyond it, the largest is refused first; once only small
    /// ones are left, the oldest. `auto`: a quarter of the memory that the process may use.
    pub hello_memory: Or<Auto, Size>,
    /// Limits per client address, over all listeners that do not set their own. Off by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_client: Option<OrOff<PerClient>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: Or::default(),
            max_hello: Size(64 << 10),
            hello_memory: Or::default(),
            per_client: None,
        }
    }
}

/// How bytes are relayed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Relay {
    /// `auto`: splice in the kernel where possible. `off`: copy through user space.
    pub splice: Splice,
    /// The size of the splice pipes, 4KiB to 16MiB.
    pub pipe_size: Size,
}

impl Default for Relay {
    fn default() -> Self {
        Self { splice: Splice::Auto, pipe_size: Size(1 << 20) }
    }
}

/// Whether to relay bytes inside the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Splice {
    /// Splice where possible.
    Auto,
    /// Copy through user space.
    Off,
}

/// Socket options for client and backend connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tcp {
    /// Send small segments immediately (TCP_NODELAY).
    pub nodelay: bool,
    /// When a silent peer is probed.
    pub keepalive: Keepalive,
    /// How long a peer may acknowledge nothing of what is sent to it, window probes included, before the connection is
    /// closed. `off`: the kernel decides (`net.ipv4.tcp_retries2`).
    pub user_timeout: Or<Off, Span>,
    /// The accept queue length. The kernel may cap it (`net.core.somaxconn`).
    #[schemars(range(min = 1, max = 65_535))]
    pub backlog: u32,
    /// The congestion control for listeners and pools that do not set their own. `system`: the kernel's default.
    pub congestion: Congestion,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: Keepalive::default(),
            user_timeout: Span::from_secs(120).into(),
            backlog: 4_096,
            congestion: Congestion::default(),
        }
    }
}

/// TCP keepalive probes for silent peers. Durations must be whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Keepalive {
    /// How long a connection is silent before the first probe.
    pub idle: Span,
    /// The time between probes.
    pub interval: Span,
    /// How many unanswered probes end the connection.
    #[schemars(range(min = 1, max = 127))]
    pub probes: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { idle: Span::from_secs(60), interval: Span::from_secs(15), probes: 4 }
    }
}

/// Threads. Changes require a restart or an upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// The number of worker threads. `auto`: one per available core.
    pub workers: Or<Auto, usize>,
}

/// The HTTP server for metrics, health, status and control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// `IP:PORT` or `unix:/PATH`, or a list of them. An empty list turns the admin server off.
    pub bind: OneOrMany<Address>,
    /// Who may make changes through the admin server.
    pub allow_control: AllowControl,
    /// A file with the token for changes; its path is relative to this file. `none`: no token.
    pub token_file: Or<Nothing, FilePath>,
}

impl Default for Admin {
    fn default() -> Self {
        let bind = Address::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901));
        Self { bind: vec![bind].into(), allow_control: AllowControl::Auto, token_file: Or::default() }
    }
}

/// Who may make changes through the admin server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AllowControl {
    /// Requests through a unix socket, and requests with the token.
    Auto,
    /// Only requests with the token.
    Token,
    /// Nobody.
    Never,
}

/// Whether the process gives up what it does not need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// As far as the kernel can.
    #[default]
    Auto,
    /// Completely, TCP ports included, or snigate does not start.
    Require,
    /// No.
    Off,
}

/// How file changes are detected. SIGHUP always reloads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Reload {
    /// Watch the files and their directories for changes.
    pub watch: bool,
    /// How often to also compare the content of the files, for file systems that do not report changes.
    pub poll: Span,
}

impl Default for Reload {
    fn default() -> Self {
        Self { watch: true, poll: Span::from_secs(5) }
    }
}
