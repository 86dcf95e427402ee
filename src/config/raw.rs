//! Mirrors the routing file word for word: its keys, their types and defaults, and what they mean.
//!
//! In:  the tree of a file, by way of serde.
//! Out: structs in which everything is optional and nothing is checked; the JSON Schema is made from them.
//! Source: docs/configuration.md.
//!
//! Nobody but `config` sees these. A key whose function is not built is known here all the same, so that it is
//! answered with "not supported yet" and not with "unknown key".

#![expect(dead_code, reason = "what keys hold whose function is not built is read only to be refused")]

use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::located::{Located, Named};

/// A key that may be left out.
pub(super) type Field<T> = Option<Located<T>>;

/// The snigate routing file.
///
/// Durations are written `500ms`, `5s`, `10m` or `1h`; sizes `16KiB` or `1MiB`. Nothing is silently ignored: a file with
/// an unknown key, a duplicate key or a value of the wrong type is rejected.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "snigate configuration")]
pub(super) struct File {
    /// Where clients connect. At least one listener is required.
    #[schemars(required, length(min = 1))]
    pub listeners: Field<Vec<Located<Listener>>>,
    /// Which server names go to which pool.
    pub routes: Field<Vec<Located<Route>>>,
    /// What to do with a ClientHello that has no server name, or an IP address instead of one.
    #[schemars(extend("default" = {"refuse": "alert"}))]
    pub no_sni: Field<Fallback>,
    /// What to do with a name that no route matches.
    #[schemars(extend("default" = {"refuse": "alert"}))]
    pub unmatched: Field<Fallback>,
    /// What to do with a connection whose first bytes are not a TLS handshake.
    #[schemars(extend("default" = {"refuse": "close"}))]
    pub not_tls: Field<Fallback>,
    /// Named pools of backends.
    pub pools: Field<Named<Pool>>,
    /// Files with more `routes` and `pools`, relative to this file; `*` and `?` are allowed in the file name.
    pub include: Field<OneOrMany<String>>,
    pub timeouts: Field<Timeouts>,
    pub limits: Field<Limits>,
    pub relay: Field<Relay>,
    pub tcp: Field<Tcp>,
    pub runtime: Field<Runtime>,
    pub admin: Field<Admin>,
    pub log: Field<Log>,
    pub reload: Field<Reload>,
}

/// An included file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Included {
    pub routes: Field<Vec<Located<Route>>>,
    pub pools: Field<Named<Pool>>,
}

/// One or more addresses to accept connections on, with the same options.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    /// A unique name, used in metrics, in the log and in routes.
    #[schemars(required)]
    pub name: Field<String>,
    /// `IP:PORT`, or a list of them. `[::]:8443` accepts IPv6 and IPv4. With port 0 the kernel chooses a free port.
    #[schemars(required)]
    pub bind: Field<OneOrMany<Address>>,
    /// If present, every connection must start with a PROXY header, v1 or v2. Off by default.
    pub proxy_protocol: Field<ProxyProtocol>,
    /// The maximum number of concurrent connections through this listener.
    #[schemars(extend("default" = "none"))]
    pub max_connections: Field<CountOrNone>,
    /// The TCP congestion control for connections from clients. Default: `tcp.congestion`.
    pub congestion: Field<Congestion>,
}

/// PROXY headers from clients.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyProtocol {
    /// The networks that connections are accepted from; all others are refused.
    #[schemars(required, length(min = 1))]
    pub trusted: Field<Vec<Located<Network>>>,
}

/// Name patterns, optional conditions, and a target.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// A unique name, used in metrics and in the log. Default: the first pattern.
    pub name: Field<String>,
    /// The names to match: `a.example.com`, `*.example.com` (one more label), `**.example.com` (one or more), `*` (any name).
    #[schemars(required)]
    pub sni: Field<OneOrMany<Pattern>>,
    /// Condition: the client offers at least one of these protocols.
    #[schemars(length(min = 1))]
    pub alpn: Field<Vec<Located<String>>>,
    /// Condition: the client's address is in one of these networks.
    #[schemars(length(min = 1))]
    pub source: Field<Vec<Located<Network>>>,
    /// Condition: the connection was accepted by one of these listeners.
    #[schemars(length(min = 1))]
    pub listeners: Field<Vec<Located<String>>>,
    /// The pool to route to. Set either this or `refuse`.
    pub pool: Field<String>,
    /// Refuse the connection. Set either this or `pool`.
    pub refuse: Field<Refuse>,
    /// Overrides `timeouts.idle` for this route.
    pub idle_timeout: Field<Duration>,
    /// What happens to open connections when a reload removes the route or their backend.
    #[schemars(extend("default" = "keep"))]
    pub on_removed: Field<OnRemoved>,
}

/// What to do with a connection that no route matches: `pool` or `refuse`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Fallback {
    /// The pool to route to. Set either this or `refuse`.
    pub pool: Field<String>,
    /// How to refuse the connection. Set either this or `pool`.
    pub refuse: Field<Refuse>,
}

/// `alert`: send a TLS alert with the reason, then close. `close`: close (FIN). `reset`: reset (RST).
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Refuse {
    Alert,
    Close,
    Reset,
}

/// `keep`: leave connections open. `drain`: reset those still open after `timeouts.drain`. `close`: reset them at once.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnRemoved {
    Keep,
    Drain,
    Close,
}

/// A set of backends and how to choose among them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    /// How to choose a backend for a connection.
    #[schemars(extend("default" = "round_robin"))]
    pub balance: Field<Balance>,
    /// The backends. At least one is required.
    #[schemars(required, length(min = 1))]
    pub backends: Field<Vec<Located<Backend>>>,
    /// How to resolve backends that are DNS names.
    pub resolve: Field<Resolve>,
    pub connect: Field<Connect>,
    /// Active health checks. Off by default.
    pub health_check: Field<HealthCheck>,
    /// Passive health checks: temporarily removes a backend whose connections fail.
    pub ejection: Field<Ejection>,
    /// What to do when every backend has failed its health checks.
    #[schemars(extend("default" = "try"))]
    pub when_all_down: Field<WhenAllDown>,
    /// How long a new or recovered backend takes to ramp up to its full share.
    #[schemars(extend("default" = "0s"))]
    pub slow_start: Field<Duration>,
    /// Sends the client's address to the backend in a PROXY header, which the backend must expect.
    #[schemars(extend("default" = "off"))]
    pub send_proxy_protocol: Field<SendProxyProtocol>,
    /// Local addresses to connect from, used in turn. If empty, the kernel chooses.
    #[schemars(extend("default" = []))]
    pub source_addresses: Field<Vec<Located<IpAddress>>>,
    /// The TCP congestion control for connections to backends. Default: `tcp.congestion`.
    pub congestion: Field<Congestion>,
    /// Connect from the client's own address. Only `false` is supported so far.
    #[schemars(extend("default" = false))]
    pub transparent: Field<bool>,
}

/// How a pool chooses a backend.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Balance {
    /// In turn, in proportion to weight.
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

/// An address, or a map with an address and options.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$shape")]
#[schemars(untagged, rename = "Backend")]
pub(super) enum Backend {
    #[serde(rename = "scalar")]
    Address(Located<BackendAddress>),
    #[serde(rename = "map")]
    Keys(BackendKeys),
}

/// One entry of a pool.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BackendKeys {
    /// `IP:PORT`; `NAME:PORT`, where each address of the name is a backend; `srv:NAME`, an SRV name; or `unix:/PATH`.
    #[schemars(required)]
    pub address: Field<BackendAddress>,
    /// The backend's share relative to the others in the pool, 1 to 1,000.
    #[schemars(range(min = 1, max = 1_000), extend("default" = 1))]
    pub weight: Field<u64>,
    /// Use this backend only when no other can take the connection.
    #[schemars(extend("default" = false))]
    pub backup: Field<bool>,
    /// The maximum number of concurrent connections to each of its addresses.
    #[schemars(extend("default" = "none"))]
    pub max_connections: Field<CountOrNone>,
}

/// How DNS names are resolved.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resolve {
    /// Networks of loopback, link-local and metadata addresses that nameservers may answer with. Others of these are
    /// not used. `/etc/hosts` may name any address.
    #[schemars(extend("default" = []))]
    pub allow: Field<Vec<Located<Network>>>,
    /// Which address families to use.
    #[schemars(extend("default" = "any"))]
    pub family: Field<Family>,
    /// The shortest time to keep an answer, even if its TTL is shorter.
    #[schemars(extend("default" = "5s"))]
    pub min_ttl: Field<Duration>,
    /// The longest time to keep an answer, even if its TTL is longer.
    #[schemars(extend("default" = "5m"))]
    pub max_ttl: Field<Duration>,
    /// The nameservers, tried in order. Default: `/etc/hosts`, then the nameservers and search domains of
    /// `/etc/resolv.conf`.
    #[schemars(extend("default" = []))]
    pub nameservers: Field<Vec<Located<Nameserver>>>,
    /// How long to keep using the last good answer while look-ups fail.
    #[schemars(extend("default" = "1h"))]
    pub stale: Field<Duration>,
}

/// Which address families of a name to use.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Family {
    Any,
    V4,
    V6,
}

/// How to connect to backends.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Connect {
    /// The time limit for one attempt.
    #[schemars(extend("default" = "3s"))]
    pub timeout: Field<Duration>,
    /// How many different backends to try per connection.
    #[schemars(range(min = 1, max = 16), extend("default" = 3))]
    pub attempts: Field<u64>,
    /// The time limit for all attempts together.
    #[schemars(extend("default" = "10s"))]
    pub total: Field<Duration>,
    /// How long to wait for a backend's first byte after sending the ClientHello before trying another backend, if any.
    #[schemars(extend("default" = "5s"))]
    pub first_byte: Field<Duration>,
    /// Send the ClientHello with the SYN (TCP Fast Open, Linux) to backends that allow it. Saves a round trip.
    #[schemars(extend("default" = false))]
    pub fast_open: Field<bool>,
}

/// Active health checks.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HealthCheck {
    /// `tcp`: the backend accepts a connection. `tls`: the backend completes a TLS handshake.
    #[schemars(extend("default" = "tls"))]
    pub kind: Field<HealthCheckKind>,
    /// For `tls`: the server name to send. Default: the first exact name routed to the pool.
    pub sni: Field<String>,
    /// For `tls`: the ALPN protocols to offer. Default: none.
    pub alpn: Field<Vec<Located<String>>>,
    /// For `tls`: also verify the certificate's chain and name.
    #[schemars(extend("default" = false))]
    pub verify: Field<bool>,
    /// For `verify`: a PEM file with the CA certificates to trust. Default: the system store.
    #[schemars(extend("default" = "none"))]
    pub ca_file: Field<String>,
    /// The time between checks of a backend.
    #[schemars(extend("default" = "5s"))]
    pub interval: Field<Duration>,
    /// The time limit for one check.
    #[schemars(extend("default" = "2s"))]
    pub timeout: Field<Duration>,
    /// How many consecutive successful checks bring a backend up.
    #[schemars(extend("default" = 2))]
    pub rise: Field<u64>,
    /// How many consecutive failed checks take a backend down.
    #[schemars(extend("default" = 3))]
    pub fall: Field<u64>,
    /// The port to check, if different from the backend's own.
    #[schemars(extend("default" = "none"))]
    pub port: Field<PortOrNone>,
}

/// The kind of check.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum HealthCheckKind {
    Tcp,
    Tls,
}

/// Passive health checks: `off`, or when and for how long a failing backend is ejected.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$shape")]
#[schemars(untagged, rename = "Ejection")]
pub(super) enum Ejection {
    #[serde(rename = "scalar")]
    Off(Located<Off>),
    #[serde(rename = "map")]
    Keys(EjectionKeys),
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Off {
    Off,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EjectionKeys {
    /// How many consecutive failed connections eject a backend.
    #[schemars(extend("default" = 3))]
    pub failures: Field<u64>,
    /// How long the first ejection lasts. Each further one lasts twice as long.
    #[schemars(extend("default" = "10s"))]
    pub base: Field<Duration>,
    /// The longest an ejection can last.
    #[schemars(extend("default" = "5m"))]
    pub max: Field<Duration>,
}

/// What to do when every backend is down.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum WhenAllDown {
    Try,
    Refuse,
}

/// The version of the PROXY header sent to backends.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum SendProxyProtocol {
    Off,
    V1,
    V2,
}

/// Time limits.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Timeouts {
    /// The deadline for the complete ClientHello, counted from accept, including any PROXY header.
    #[schemars(extend("default" = "10s"))]
    pub hello: Field<Duration>,
    /// Close a connection after this long without a byte in either direction.
    #[schemars(extend("default" = "1h"))]
    pub idle: Field<Duration>,
    /// Once one side has closed: close after this long without a byte from the other side.
    #[schemars(extend("default" = "60s"))]
    pub half_closed: Field<Duration>,
    /// How long open connections may continue after SIGTERM before they are reset.
    #[schemars(extend("default" = "25s"))]
    pub drain: Field<Duration>,
    /// How long to keep accepting after SIGTERM, while already reporting not ready, before the drain starts.
    #[schemars(extend("default" = "0s"))]
    pub pre_stop: Field<Duration>,
    /// How long a new process may take to start serving during an upgrade.
    #[schemars(extend("default" = "30s"))]
    pub upgrade: Field<Duration>,
}

/// Limits.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// The maximum number of concurrent connections over all listeners. `auto`: 65,536, or less if the limit on open files
    /// requires it.
    #[schemars(extend("default" = "auto"))]
    pub max_connections: Field<CountOrAuto>,
    /// The maximum size of a ClientHello, however it is split into records or segments, 1KiB to 16MiB.
    #[schemars(extend("default" = "64KiB"))]
    pub max_hello: Field<Size>,
    /// Limits per client address. Not supported yet.
    pub per_client: Field<PerClient>,
}

/// Limits per client address (for IPv6, per /64). Not supported yet.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PerClient {
    /// The maximum number of concurrent connections.
    pub connections: Field<u64>,
    /// The maximum rate of new connections, such as `50/s`.
    pub rate: Field<Rate>,
    /// How many connections may exceed `rate` in a burst.
    pub burst: Field<u64>,
    /// `false`: count violations without refusing connections.
    #[schemars(extend("default" = true))]
    pub enforce: Field<bool>,
}

/// How bytes are relayed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Relay {
    /// `auto`: splice in the kernel where possible. `off`: copy through user space.
    #[schemars(extend("default" = "auto"))]
    pub splice: Field<Splice>,
    /// The size of the splice pipes, 4KiB to 16MiB.
    #[schemars(extend("default" = "1MiB"))]
    pub pipe_size: Field<Size>,
}

/// Whether to relay bytes inside the kernel.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Splice {
    Auto,
    Off,
}

/// Socket options for client and backend connections.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tcp {
    /// Send small segments immediately (TCP_NODELAY).
    #[schemars(extend("default" = true))]
    pub nodelay: Field<bool>,
    pub keepalive: Field<Keepalive>,
    /// How long a peer may acknowledge nothing of what is sent to it, window probes included, before the connection is
    /// closed. `off`: the kernel decides (`net.ipv4.tcp_retries2`).
    #[schemars(extend("default" = "120s"))]
    pub user_timeout: Field<DurationOrOff>,
    /// The accept queue length. The kernel may cap it (`net.core.somaxconn`).
    #[schemars(range(min = 1, max = 65_535), extend("default" = 4096))]
    pub backlog: Field<u64>,
    /// The congestion control for listeners and pools that do not set their own. `system`: the kernel's default.
    #[schemars(extend("default" = "system"))]
    pub congestion: Field<Congestion>,
}

/// `system`, or an algorithm available in the kernel, such as `cubic` or `bbr`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct Congestion(pub String);

/// TCP keepalive probes for silent peers. Durations must be whole seconds.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Keepalive {
    #[schemars(extend("default" = "60s"))]
    pub idle: Field<Duration>,
    #[schemars(extend("default" = "15s"))]
    pub interval: Field<Duration>,
    #[schemars(range(min = 1, max = 127), extend("default" = 4))]
    pub probes: Field<u64>,
}

/// Threads. Changes require a restart or an upgrade.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Runtime {
    /// The number of worker threads. `auto`: one per available core.
    #[schemars(extend("default" = "auto"))]
    pub workers: Field<CountOrAuto>,
}

/// The HTTP server for metrics, health, status and control.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    /// `IP:PORT` or `unix:/PATH`, or a list of them. An empty list turns the admin server off.
    #[schemars(extend("default" = "127.0.0.1:9901"))]
    pub bind: Field<OneOrMany<AdminAddress>>,
    /// Who may make changes through the admin server.
    #[schemars(extend("default" = "auto"))]
    pub allow_control: Field<AllowControl>,
    /// A file with the token for changes; its path is relative to this file. `none`: no token.
    #[schemars(extend("default" = "none"))]
    pub token_file: Field<String>,
}

/// `auto`: requests from this host, and requests with the token. `token`: only requests with the token. `never`: nobody.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum AllowControl {
    Auto,
    Token,
    Never,
}

/// Logging, to standard output.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    #[schemars(extend("default" = "info"))]
    pub level: Field<Level>,
    #[schemars(extend("default" = "json"))]
    pub format: Field<LogFormat>,
    /// Which connections are logged when they end.
    #[schemars(extend("default" = "all"))]
    pub connections: Field<LogConnections>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum LogFormat {
    Json,
    Text,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum LogConnections {
    All,
    Failed,
    Off,
}

/// How file changes are detected. SIGHUP always reloads.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reload {
    /// Watch the files and their directories for changes.
    #[schemars(extend("default" = true))]
    pub watch: Field<bool>,
    /// How often to also compare the content of the files, for file systems that do not report changes.
    #[schemars(extend("default" = "5s"))]
    pub poll: Field<Duration>,
}

/// One value, or a list of them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename = "$shape")]
#[schemars(untagged, inline, rename = "OneOrMany")]
pub(super) enum OneOrMany<T> {
    #[serde(rename = "scalar")]
    One(Located<T>),
    #[serde(rename = "list")]
    Many(Vec<Located<T>>),
}

macro_rules! scalars {
    ($($(#[$doc:meta])* $name:ident $schema:tt)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
        pub(super) struct $name(pub String);

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

scalars! {
    /// A scalar that `units` reads.
    Duration {
        "type": "string",
        "pattern": "^[0-9]+(ms|s|m|h)$",
        "description": "A duration: `500ms`, `5s`, `10m` or `1h`.",
    }
    DurationOrOff {
        "anyOf": [{ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" }, { "const": "off" }],
    }
    Size {
        "type": "string",
        "pattern": "^[0-9]+(B|KiB|MiB|GiB)$",
        "description": "A size: `512B`, `16KiB`, `1MiB` or `1GiB`.",
    }
    Rate {
        "type": "string",
        "pattern": "^[0-9]+/(s|m|h)$",
        "description": "A rate: `50/s`.",
    }
    /// An address to listen on.
    Address {
        "type": "string",
        "description": "`IP:PORT`, with brackets around IPv6: `10.0.0.1:443`, `[2001:db8::1]:443`.",
    }
    /// The address of a backend.
    BackendAddress {
        "type": "string",
        "description": "`10.0.0.1:443`, `[2001:db8::1]:443`, `shop.internal:443`, `srv:_https._tcp.shop.internal` or `unix:/run/shop.sock`.",
    }
    /// An address of the admin server.
    AdminAddress {
        "type": "string",
        "description": "`IP:PORT`, or `unix:/run/snigate/admin.sock` for a socket that only its owner can use.",
    }
    IpAddress {
        "type": "string",
        "description": "An IP address, without a port.",
    }
    Nameserver {
        "type": "string",
        "description": "`10.0.0.53`, or with another port than 53, `10.0.0.53:5353`, `[2001:db8::53]:5353`.",
    }
    Network {
        "type": "string",
        "description": "A network: `10.0.0.0/8`, `2001:db8::/32`, or one address.",
    }
    Pattern {
        "type": "string",
        "description": "`a.example.com`, `*.example.com`, `**.example.com` or `*`. In YAML, a value that begins with `*` needs quotes.",
    }
    CountOrNone {
        "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "none" }],
    }
    PortOrNone {
        "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 65535 }, { "const": "none" }],
    }
    CountOrAuto {
        "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "auto" }],
    }
}

impl<T: JsonSchema> JsonSchema for Located<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> std::borrow::Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Named_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<T>() })
    }
}

/// The JSON Schema (draft 2020-12) of the routing file.
pub(super) fn schema() -> Schema {
    let mut schema = schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>();
    RecursiveTransform(without_null).transform(&mut schema);
    schema
}

/// An `Option` here is a key that may be left out, never one that may be null.
fn without_null(schema: &mut Schema) {
    if let Some(types) = schema.get_mut("type").and_then(|types| types.as_array_mut()) {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    let Some(choices) = schema.get_mut("anyOf").and_then(|choices| choices.as_array_mut()) else { return };
    choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
    if let [only] = choices.as_slice() {
        let only = only.as_object().cloned().unwrap_or_default();
        schema.remove("anyOf");
        for (key, value) in only {
            schema.ensure_object().entry(key).or_insert(value);
        }
    }
}
