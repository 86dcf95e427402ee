//! The shape of a routing file, where it is not that of the settings: routes and fallbacks name pools and listeners.
//!
//! In:  serde, both ways.
//! Out: [`File`], which the JSON Schema is made from and which a configuration is written as.
//! Source: docs/reference.md.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::settings::{
    Admin, Docker, Ech, EchCondition, Kubernetes, Limits, Listener, Log, NetworkList, Nothing, Off, OnRemoved,
    OneOrMany, Or, OrOff, PerClient, Pool, Protocol, Refuse, Relay, Reload, Runtime, Sandbox, SniEntry, Span, Tcp,
    Text, Timeouts, name,
};

/// The snigate routing file.
///
/// Durations are written `500ms`, `5s`, `10m` or `1h`; sizes `16KiB` or `1MiB`. Nothing is silently ignored: a file with
/// an unknown key, a duplicate key or a value of the wrong type is rejected.
#[derive(Serialize, JsonSchema)]
#[schemars(title = "snigate configuration", deny_unknown_fields)]
pub(super) struct File {
    /// Where clients connect. At least one listener is required, unless there is `kubernetes`.
    #[schemars(default)]
    pub listeners: Vec<Listener>,
    /// Which server names go to which pool.
    #[schemars(default)]
    pub routes: Vec<Route>,
    /// What to do with a ClientHello that has no server name, or an IP address instead of one.
    #[schemars(default = "Fallback::alert")]
    pub no_sni: Fallback,
    /// What to do with a name that no route matches.
    #[schemars(default = "Fallback::alert")]
    pub unmatched: Fallback,
    /// What to do with a connection whose first bytes are not a TLS handshake.
    #[schemars(default = "Fallback::close")]
    pub not_tls: Fallback,
    /// Named pools of backends.
    #[schemars(default)]
    pub pools: BTreeMap<Arc<str>, Pool>,
    /// Files with more `routes` and `pools`, relative to this file; `*` and `?` are allowed in the file name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include: Option<OneOrMany<String>>,
    /// Opens Encrypted ClientHello with these keys. Off by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ech: Option<Ech>,
    #[schemars(default)]
    pub timeouts: Timeouts,
    #[schemars(default)]
    pub limits: Limits,
    #[schemars(default)]
    pub relay: Relay,
    #[schemars(default)]
    pub tcp: Tcp,
    #[schemars(default)]
    pub runtime: Runtime,
    /// Whether the process gives up what it does not need: other files, signals to other processes, system calls.
    #[schemars(default)]
    pub sandbox: Sandbox,
    #[schemars(default)]
    pub admin: Admin,
    #[schemars(default)]
    pub log: Log,
    #[schemars(default)]
    pub reload: Reload,
    /// Routes for containers, found by their labels. Off by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker: Option<Docker>,
    /// Serves the Gateways of a Kubernetes cluster. Off by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
}

/// The keys of a routing file.
pub(super) const KEYS: &[&str] = &[
    "listeners",
    "routes",
    "no_sni",
    "unmatched",
    "not_tls",
    "pools",
    "include",
    "ech",
    "timeouts",
    "limits",
    "relay",
    "tcp",
    "runtime",
    "sandbox",
    "admin",
    "log",
    "reload",
    "docker",
    "kubernetes",
];
/// The keys of an included file.
pub(super) const INCLUDED_KEYS: &[&str] = &["routes", "pools"];

/// Name patterns, optional conditions, and a target.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// A unique name, used in metrics and in the log. Default: the first pattern.
    #[serde(default, deserialize_with = "some_name", skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
    /// The names to match: `a.example.com`, `*.example.com` (one more label), `**.example.com` (one or more), `*` (any name),
    /// or `@FILE`, a file with one pattern a line.
    #[serde(default)]
    #[schemars(required)]
    pub sni: OneOrMany<Text<SniEntry>>,
    /// Condition: the client offers at least one of these protocols.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub alpn: Vec<Protocol>,
    /// Condition: the client's address is in one of these networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub source: Vec<Text<IpNet>>,
    /// Condition: the connection was accepted by one of these listeners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    pub listeners: Vec<String>,
    /// Condition: the name was encrypted and opened here (`only`), or sent in the clear (`never`).
    #[serde(default, skip_serializing_if = "EchCondition::is_any")]
    pub ech: EchCondition,
    /// The pool to route to. Set one of this, `split` and `refuse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Several pools, each of which gets its share of the connections. Set one of this, `pool` and `refuse`.
    #[serde(default, deserialize_with = "some_shares", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub split: Option<Vec<Share>>,
    /// Refuse the connection. Set one of this, `pool` and `split`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refuse: Option<Refuse>,
    /// Overrides `timeouts.idle` for this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Span>,
    /// Overrides `timeouts.max_age` for this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Or<Off, Span>>,
    /// The maximum number of concurrent connections of this route.
    #[serde(default)]
    pub max_connections: Or<Nothing, usize>,
    /// What happens to open connections when a reload removes the route or their backend.
    #[serde(default)]
    pub on_removed: OnRemoved,
    /// The only clients that may use this route; others get the TLS alert access_denied. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub allow: Option<NetworkList>,
    /// Clients that may not use this route, even if `allow` has them.
    #[serde(default, skip_serializing_if = "NetworkList::is_empty")]
    pub deny: NetworkList,
    /// Limits per client for this route, besides those of the listener; keys that it does not set are as in
    /// `limits.per_client`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_client: Option<OrOff<PerClient>>,
}

fn some_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<str>>, D::Error> {
    name(deserializer).map(Some)
}

/// A list, as of any other type, but whose message shows how it is written: a map from pools to weights is a guess that
/// other proxies suggest.
fn some_shares<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Share>>, D::Error> {
    struct Shares;

    impl<'de> Visitor<'de> for Shares {
        type Value = Vec<Share>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of shares, `[{ pool: NAME, weight: NUMBER }]`")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Share>, A::Error> {
            let mut shares = Vec::new();
            while let Some(share) = list.next_element()? {
                shares.push(share);
            }
            Ok(shares)
        }
    }

    deserializer.deserialize_any(Shares).map(Some)
}

/// A pool of a `split`.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Share {
    /// The pool.
    pub pool: String,
    /// Its share of the connections, relative to the sum of all weights. 0: none.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: u32,
}

/// What to do with a connection that no route matches: `pool`, `split` or `refuse`.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Fallback {
    /// The pool to route to. Set one of this, `split` and `refuse`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Several pools, each of which gets its share of the connections. Set one of this, `pool` and `refuse`.
    #[serde(deserialize_with = "some_shares", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub split: Option<Vec<Share>>,
    /// How to refuse the connection. Set one of this, `pool` and `split`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refuse: Option<Refuse>,
}

impl Fallback {
    fn alert() -> Self {
        Self { refuse: Some(DEFAULT_REFUSE), ..Self::default() }
    }

    fn close() -> Self {
        Self { refuse: Some(DEFAULT_REFUSE_NOT_TLS), ..Self::default() }
    }
}

/// For a connection without a server name, or with one that no route matches.
pub(super) const DEFAULT_REFUSE: Refuse = Refuse::Alert;
/// For a connection whose first bytes are not a TLS handshake.
pub(super) const DEFAULT_REFUSE_NOT_TLS: Refuse = Refuse::Close;
