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

/// The routing file of snigate.
///
/// Durations are `500ms`, `5s`, `10m` or `1h`; sizes are `16KiB` or `1MiB`. Nothing in here is ignored: an unknown key, a
/// duplicate key or a wrong type keeps the file from being used.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "snigate configuration")]
pub(super) struct File {
    /// Where clients connect to; at least one.
    #[schemars(required, length(min = 1))]
    pub listeners: Field<Vec<Located<Listener>>>,
    /// Which names lead to which pool.
    pub routes: Field<Vec<Located<Route>>>,
    /// For a hello without a server name, or with an IP address in its place.
    #[schemars(extend("default" = {"refuse": "alert"}))]
    pub no_sni: Field<Fallback>,
    /// For a name that no route takes.
    #[schemars(extend("default" = {"refuse": "alert"}))]
    pub unmatched: Field<Fallback>,
    /// For first bytes that are no TLS handshake.
    #[schemars(extend("default" = {"refuse": "close"}))]
    pub not_tls: Field<Fallback>,
    /// The backends, in named pools.
    pub pools: Field<Named<Pool>>,
    /// Files with more `routes` and `pools`, relative to this file; `*` and `?` may stand in the file name.
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

/// A file that `include` names.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Included {
    pub routes: Field<Vec<Located<Route>>>,
    pub pools: Field<Named<Pool>>,
}

/// A bound address, or several that are treated alike.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    /// Names it in metrics, in the log and in routes; unique.
    #[schemars(required)]
    pub name: Field<String>,
    /// `IP:PORT`, or a list of them; `[::]:8443` takes IPv4 too. Port 0: the kernel chooses.
    #[schemars(required)]
    pub bind: Field<OneOrMany<Address>>,
    /// Absent: off. Present: every connection must begin with a PROXY header, v1 or v2.
    pub proxy_protocol: Field<ProxyProtocol>,
    /// At most so many connections at a time through this listener.
    #[schemars(extend("default" = "none"))]
    pub max_connections: Field<CountOrNone>,
    /// The congestion control towards its clients. Default: `tcp.congestion`.
    pub congestion: Field<Congestion>,
}

/// A PROXY header in front of each connection.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyProtocol {
    /// Only from these networks may connections come.
    #[schemars(required, length(min = 1))]
    pub trusted: Field<Vec<Located<Network>>>,
}

/// Patterns, conditions, and where they lead.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// Names it in metrics and in the log; unique. Default: its first pattern.
    pub name: Field<String>,
    /// What it takes: `a.example.com`, `*.example.com` (one label more), `**.example.com` (one or more), `*` (any name).
    #[schemars(required)]
    pub sni: Field<OneOrMany<Pattern>>,
    /// Condition: the client offers at least one of these protocols.
    #[schemars(length(min = 1))]
    pub alpn: Field<Vec<Located<String>>>,
    /// Condition: the client's address lies in one of these networks.
    #[schemars(length(min = 1))]
    pub source: Field<Vec<Located<Network>>>,
    /// Condition: the connection came in through one of these listeners.
    #[schemars(length(min = 1))]
    pub listeners: Field<Vec<Located<String>>>,
    /// The pool it leads to; either this or `refuse`.
    pub pool: Field<String>,
    /// Refuse instead; either this or `pool`.
    pub refuse: Field<Refuse>,
    /// In place of `timeouts.idle`.
    pub idle_timeout: Field<Duration>,
    /// What becomes of live connections when the route, or their backend, goes away.
    #[schemars(extend("default" = "keep"))]
    pub on_removed: Field<OnRemoved>,
}

/// Where a connection goes that no route can take: `pool` or `refuse`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Fallback {
    /// The pool it leads to; either this or `refuse`.
    pub pool: Field<String>,
    /// How it is refused; either this or `pool`.
    pub refuse: Field<Refuse>,
}

/// `alert`: a TLS alert that says why, then FIN. `close`: FIN. `reset`: RST.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Refuse {
    Alert,
    Close,
    Reset,
}

/// `keep`: they run on. `drain`: what is left of them after `timeouts.drain` is reset. `close`: they are reset at once.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnRemoved {
    Keep,
    Drain,
    Close,
}

/// A named set of backends and how one of them is chosen.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    /// How it orders them.
    #[schemars(extend("default" = "round_robin"))]
    pub balance: Field<Balance>,
    /// At least one.
    #[schemars(required, length(min = 1))]
    pub backends: Field<Vec<Located<Backend>>>,
    /// How backends that are DNS names are looked up.
    pub resolve: Field<Resolve>,
    pub connect: Field<Connect>,
    /// Active checks. Absent: none.
    pub health_check: Field<HealthCheck>,
    /// Passive checks: leaves out for a while a backend whose connections fail.
    pub ejection: Field<Ejection>,
    /// What to do when the checks say that every backend is down.
    #[schemars(extend("default" = "try"))]
    pub when_all_down: Field<WhenAllDown>,
    /// How long a backend that comes, or comes back, takes to get its full share.
    #[schemars(extend("default" = "0s"))]
    pub slow_start: Field<Duration>,
    /// Tells the backend the client's address in a PROXY header.
    #[schemars(extend("default" = "off"))]
    pub send_proxy_protocol: Field<SendProxyProtocol>,
    /// Local addresses to connect from, in turn; empty: the kernel chooses.
    #[schemars(extend("default" = []))]
    pub source_addresses: Field<Vec<Located<IpAddress>>>,
    /// The congestion control towards its backends. Default: `tcp.congestion`.
    pub congestion: Field<Congestion>,
    /// Connect from the client's own address. Only `false` is supported yet.
    #[schemars(extend("default" = false))]
    pub transparent: Field<bool>,
}

/// How a pool orders its backends.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Balance {
    /// In turn, by weight.
    RoundRobin,
    /// The one with the fewest open connections for its weight.
    LeastConnections,
    /// The less busy of two that are drawn by weight.
    PowerOfTwo,
    /// Drawn by weight.
    Random,
    /// By the client's address: the same client, the same backend.
    SourceHash,
    /// By the server name: the same name, the same backend.
    SniHash,
    /// The first of the list that has room.
    First,
}

/// An address, or a map that holds more.
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
    /// `IP:PORT`; `NAME:PORT`, each of whose addresses is a backend; `srv:NAME`, an SRV name; or `unix:/PATH`.
    #[schemars(required)]
    pub address: Field<BackendAddress>,
    /// Its share beside the others of the pool, 1 to 1,000.
    #[schemars(range(min = 1, max = 1_000), extend("default" = 1))]
    pub weight: Field<u64>,
    /// Used only when no other backend can take the connection.
    #[schemars(extend("default" = false))]
    pub backup: Field<bool>,
    /// At most so many connections at a time, to each of its addresses.
    #[schemars(extend("default" = "none"))]
    pub max_connections: Field<CountOrNone>,
}

/// How DNS names are looked up.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resolve {
    /// Which addresses are used.
    #[schemars(extend("default" = "any"))]
    pub family: Field<Family>,
    /// An answer is kept at least so long, whatever its TTL.
    #[schemars(extend("default" = "5s"))]
    pub min_ttl: Field<Duration>,
    /// An answer is kept at most so long, whatever its TTL.
    #[schemars(extend("default" = "5m"))]
    pub max_ttl: Field<Duration>,
    /// Who is asked, the next when one does not answer. Default: as `/etc/hosts` and `/etc/resolv.conf` say, with its search
    /// domains.
    #[schemars(extend("default" = []))]
    pub nameservers: Field<Vec<Located<Nameserver>>>,
    /// How long the last answer serves while there is no new one.
    #[schemars(extend("default" = "1h"))]
    pub stale: Field<Duration>,
}

/// Which addresses of a name are used.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Family {
    Any,
    V4,
    V6,
}

/// How a backend is connected to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Connect {
    /// For one attempt.
    #[schemars(extend("default" = "3s"))]
    pub timeout: Field<Duration>,
    /// How many distinct backends are tried.
    #[schemars(range(min = 1, max = 16), extend("default" = 3))]
    pub attempts: Field<u64>,
    /// Over all attempts.
    #[schemars(extend("default" = "10s"))]
    pub total: Field<Duration>,
    /// How long a backend that took the hello may say nothing before another is tried, if there is another.
    #[schemars(extend("default" = "5s"))]
    pub first_byte: Field<Duration>,
    /// The hello travels with the SYN to backends that have allowed it, which saves a round trip (TCP Fast Open; Linux).
    #[schemars(extend("default" = false))]
    pub fast_open: Field<bool>,
}

/// Active checks.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HealthCheck {
    /// `tcp`: whether it takes a connection. `tls`: whether it completes a TLS handshake.
    #[schemars(extend("default" = "tls"))]
    pub kind: Field<HealthCheckKind>,
    /// `tls`: the name to ask for. Default: the first exact name that leads to the pool.
    pub sni: Field<String>,
    /// `tls`: the protocols to offer (ALPN). Default: none are offered.
    pub alpn: Field<Vec<Located<String>>>,
    /// `tls`: whether the certificate's chain and name are judged too.
    #[schemars(extend("default" = false))]
    pub verify: Field<bool>,
    /// `verify`: the authorities to trust, a PEM file. Default: the system's.
    #[schemars(extend("default" = "none"))]
    pub ca_file: Field<String>,
    /// From one check of a backend to the next.
    #[schemars(extend("default" = "5s"))]
    pub interval: Field<Duration>,
    /// For one check.
    #[schemars(extend("default" = "2s"))]
    pub timeout: Field<Duration>,
    /// So many good checks in a row bring a backend up.
    #[schemars(extend("default" = 2))]
    pub rise: Field<u64>,
    /// So many bad checks in a row take it down.
    #[schemars(extend("default" = 3))]
    pub fall: Field<u64>,
    /// The port to check, where it is not the backend's own.
    #[schemars(extend("default" = "none"))]
    pub port: Field<PortOrNone>,
}

/// What a check does.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum HealthCheckKind {
    Tcp,
    Tls,
}

/// Passive checks: `off`, or when a backend that fails is left out for a while.
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
    /// So many failed connections in a row.
    #[schemars(extend("default" = 3))]
    pub failures: Field<u64>,
    /// For so long the first time, twice as long each time after.
    #[schemars(extend("default" = "10s"))]
    pub base: Field<Duration>,
    /// For so long at most.
    #[schemars(extend("default" = "5m"))]
    pub max: Field<Duration>,
}

/// What to do when no backend is up.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum WhenAllDown {
    Try,
    Refuse,
}

/// The version of the PROXY header that backends get.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum SendProxyProtocol {
    Off,
    V1,
    V2,
}

/// How long things may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Timeouts {
    /// From accept to the whole hello, PROXY header included; one deadline.
    #[schemars(extend("default" = "10s"))]
    pub hello: Field<Duration>,
    /// No byte in either direction.
    #[schemars(extend("default" = "1h"))]
    pub idle: Field<Duration>,
    /// After the first FIN, no byte in the other direction.
    #[schemars(extend("default" = "60s"))]
    pub half_closed: Field<Duration>,
    /// After SIGTERM, before what is left is reset.
    #[schemars(extend("default" = "25s"))]
    pub drain: Field<Duration>,
    /// After SIGTERM, before the drain: not ready any more, but still accepting.
    #[schemars(extend("default" = "0s"))]
    pub pre_stop: Field<Duration>,
    /// How long the process that is to follow this one may take until it serves.
    #[schemars(extend("default" = "30s"))]
    pub upgrade: Field<Duration>,
}

/// How much there may be.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// At a time, over all listeners. `auto`: 65,536, or less if the file-descriptor limit allows less.
    #[schemars(extend("default" = "auto"))]
    pub max_connections: Field<CountOrAuto>,
    /// The largest ClientHello, however it is cut into records or segments; 1KiB to 16MiB.
    #[schemars(extend("default" = "64KiB"))]
    pub max_hello: Field<Size>,
    /// Limits for each client address. Not supported yet.
    pub per_client: Field<PerClient>,
}

/// Limits for each client: its address, or the /64 of an IPv6 address. Not supported yet.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PerClient {
    /// At a time.
    pub connections: Field<u64>,
    /// New connections, such as `50/s`.
    pub rate: Field<Rate>,
    /// So many may come at once before `rate` holds.
    pub burst: Field<u64>,
    /// `false`: count only.
    #[schemars(extend("default" = true))]
    pub enforce: Field<bool>,
}

/// How bytes are carried.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Relay {
    /// `auto`: inside the kernel where it can. `off`: through user space.
    #[schemars(extend("default" = "auto"))]
    pub splice: Field<Splice>,
    /// The size of the pipes for it, 4KiB to 16MiB.
    #[schemars(extend("default" = "1MiB"))]
    pub pipe_size: Field<Size>,
}

/// Whether bytes are carried inside the kernel.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Splice {
    Auto,
    Off,
}

/// Socket options, on both sides.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tcp {
    /// Send small segments at once (TCP_NODELAY).
    #[schemars(extend("default" = true))]
    pub nodelay: Field<bool>,
    pub keepalive: Field<Keepalive>,
    /// How long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT).
    #[schemars(extend("default" = "120s"))]
    pub user_timeout: Field<Duration>,
    /// The queue of connections not yet accepted; the kernel may allow less (`net.core.somaxconn`).
    #[schemars(range(min = 1, max = 65_535), extend("default" = 4096))]
    pub backlog: Field<u64>,
    /// The congestion control of listeners and pools that name none; `system`: what the kernel defaults to.
    #[schemars(extend("default" = "system"))]
    pub congestion: Field<Congestion>,
}

/// `system`, or an algorithm that the kernel has, such as `cubic` or `bbr`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct Congestion(pub String);

/// When a silent peer is asked whether it is still there. Whole seconds.
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

/// Threads. Changing it needs a restart.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Runtime {
    /// `auto`: the available cores.
    #[schemars(extend("default" = "auto"))]
    pub workers: Field<CountOrAuto>,
}

/// Metrics, health and status over HTTP.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    /// `IP:PORT` or `unix:/PATH`, or a list of them; an empty list: no admin server.
    #[schemars(extend("default" = "127.0.0.1:9901"))]
    pub bind: Field<OneOrMany<AdminAddress>>,
    /// Who may change state.
    #[schemars(extend("default" = "auto"))]
    pub allow_control: Field<AllowControl>,
    /// A file that holds the token for state changes, relative to this file; `none`: there is no token.
    #[schemars(extend("default" = "none"))]
    pub token_file: Field<String>,
}

/// `auto`: whoever connects from this host, and whoever has the token. `token`: only who has the token. `never`: nobody.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum AllowControl {
    Auto,
    Token,
    Never,
}

/// What is logged, to standard output.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    #[schemars(extend("default" = "info"))]
    pub level: Field<Level>,
    #[schemars(extend("default" = "json"))]
    pub format: Field<LogFormat>,
    /// Which connections get a line at their end.
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

/// How a changed file is noticed; SIGHUP always works.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reload {
    /// Watch the files and their directories.
    #[schemars(extend("default" = true))]
    pub watch: Field<bool>,
    /// Besides, look at the files' content so often: some file systems do not tell.
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
    /// Where to listen.
    Address {
        "type": "string",
        "description": "`IP:PORT`, with brackets around IPv6: `10.0.0.1:443`, `[2001:db8::1]:443`.",
    }
    /// Where a backend is.
    BackendAddress {
        "type": "string",
        "description": "`10.0.0.1:443`, `[2001:db8::1]:443`, `shop.internal:443`, `srv:_https._tcp.shop.internal` or `unix:/run/shop.sock`.",
    }
    /// Where the admin server listens.
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
