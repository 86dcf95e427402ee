//! Writes the routing file of a test.
//!
//! In:  routes and backends as a test names them.
//! Out: YAML with free loopback ports for the listener and the admin address.

use std::fmt::Write;
use std::net::SocketAddr;

use super::Running;

/// A snigate that is about to run: `Lb::new().route("a.test", backend).start()`.
#[derive(Clone, Default)]
pub struct Lb {
    routes: Vec<(String, String)>,
    fallbacks: Vec<(&'static str, String)>,
    pools: Vec<(Vec<SocketAddr>, String)>,
    rest: String,
    listener_keys: String,
    pool_keys: String,
}

impl Lb {
    pub fn new() -> Self {
        Self::default()
    }

    /// Names that match `pattern` go to a pool of these backends.
    pub fn route(mut self, pattern: &str, backends: impl Backends) -> Self {
        let pool = self.pool(backends);
        self.routes.push((pattern.to_owned(), pool));
        self
    }

    /// As [`Self::route`], with more keys for the pool, say `send_proxy_protocol: v2`.
    pub fn route_with(mut self, pattern: &str, backends: impl Backends, pool_keys: &str) -> Self {
        self.pool_keys = pool_keys.to_owned();
        self = self.route(pattern, backends);
        self.pool_keys.clear();
        self
    }

    /// Adds keys to the one listener, say `max_connections: 3`.
    pub fn on_listener(mut self, keys: &str) -> Self {
        write!(self.listener_keys, ", {keys}").unwrap();
        self
    }

    pub fn no_sni(self, backends: impl Backends) -> Self {
        self.fallback("no_sni", backends)
    }

    pub fn unmatched(self, backends: impl Backends) -> Self {
        self.fallback("unmatched", backends)
    }

    pub fn not_tls(self, backends: impl Backends) -> Self {
        self.fallback("not_tls", backends)
    }

    /// The admin address takes changes from those who send the token.
    pub fn controlled(self) -> Self {
        self.with("admin: { bind: \"127.0.0.1:0\", token_file: token }")
    }

    /// Adds top-level keys as they stand, say `timeouts: { hello: 1s }`.
    pub fn with(mut self, yaml: &str) -> Self {
        self.rest.push_str(yaml);
        self.rest.push('\n');
        self
    }

    /// The file; what [`Running::edit`] wants.
    pub fn config(&self) -> String {
        let keys = &self.listener_keys;
        let mut text = format!("listeners:\n  - {{ name: https, bind: \"127.0.0.1:0\"{keys} }}\nroutes:");
        text.push_str(if self.routes.is_empty() { " []\n" } else { "\n" });
        for (pattern, pool) in &self.routes {
            writeln!(text, "  - {{ sni: \"{pattern}\", pool: {pool} }}").unwrap();
        }
        text.push_str(if self.pools.is_empty() { "pools: {}\n" } else { "pools:\n" });
        for (number, (backends, keys)) in self.pools.iter().enumerate() {
            let backends: Vec<_> = backends.iter().map(|address| format!("\"{address}\"")).collect();
            writeln!(text, "  pool-{number}:\n    backends: [{}]", backends.join(", ")).unwrap();
            for line in keys.lines() {
                writeln!(text, "    {line}").unwrap();
            }
        }
        for (key, pool) in &self.fallbacks {
            writeln!(text, "{key}: {{ pool: {pool} }}").unwrap();
        }
        if !self.rest.contains("admin:") {
            text.push_str("admin: { bind: \"127.0.0.1:0\" }\n");
        }
        text + &self.rest
    }

    /// Runs it, and returns when it is ready.
    #[track_caller]
    pub fn start(self) -> Running {
        Running::start(&self.config())
    }

    fn fallback(mut self, key: &'static str, backends: impl Backends) -> Self {
        let pool = self.pool(backends);
        self.fallbacks.push((key, pool));
        self
    }

    fn pool(&mut self, backends: impl Backends) -> String {
        self.pools.push((backends.addresses(), self.pool_keys.clone()));
        format!("pool-{}", self.pools.len() - 1)
    }
}

/// What can stand as the backends of a pool: one address or several.
pub trait Backends {
    fn addresses(&self) -> Vec<SocketAddr>;
}

impl Backends for SocketAddr {
    fn addresses(&self) -> Vec<SocketAddr> {
        vec![*self]
    }
}

impl Backends for Vec<SocketAddr> {
    fn addresses(&self) -> Vec<SocketAddr> {
        self.clone()
    }
}

impl<const N: usize> Backends for [SocketAddr; N] {
    fn addresses(&self) -> Vec<SocketAddr> {
        self.to_vec()
    }
}
