//! Turns the routing file into validated values, or reports all of its problems at once.
//!
//! In:  the path of a YAML file, or its text.
//! Out: [`Config`], or [`Problems`], each with `file:line:column`, the path of the key and how to fix it.
//! Source: docs/configuration.md (keys, defaults, what a route may hold).
//!
//! Loading binds no port and resolves no name, so `run`, `check` and reload share it.

mod address;
mod at;
mod deserializer;
mod effective;
mod files;
mod located;
mod parse;
mod problem;
mod raw;
mod sources;
mod suggest;
mod token;
mod units;
mod wording;
mod yaml;

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use self::problem::{Place, Problem, Problems, Severity};
pub(crate) use self::sources::Sources;
pub(crate) use self::token::Token;
pub(crate) use self::units::{UnitError, duration_in};
use crate::server_name::{Pattern, ServerName};
use crate::socket::Address;

/// A valid configuration, and warnings about probable mistakes in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Problems,
}

impl Config {
    /// Reads the file at `path` and the files it includes.
    ///
    /// # Errors
    /// All [`Problems`], including warnings, sorted by place.
    pub fn load(path: &Path) -> Result<Loaded, Problems> {
        Self::load_from(path).0
    }

    /// As [`Config::load`]; also returns which files were read, even if the configuration is invalid.
    pub fn load_from(path: &Path) -> (Result<Loaded, Problems>, Sources) {
        let mut problems = Problems::default();
        match files::read(path, &mut problems) {
            Some(text) => Self::parse_from(&text, path),
            None => (Err(problems), Sources::new(path)),
        }
    }

    /// Parses `text` as if it were the content of `file_name`; `include` is relative to that file.
    ///
    /// # Errors
    /// All [`Problems`], including warnings, sorted by place.
    pub fn parse(text: &str, file_name: &Path) -> Result<Loaded, Problems> {
        Self::parse_from(text, file_name).0
    }

    fn parse_from(text: &str, file_name: &Path) -> (Result<Loaded, Problems>, Sources) {
        let mut problems = Problems::default();
        let (config, sources) = parse::config(text, file_name, &mut problems);
        problems.sort(&sources.files);
        let loaded = match config {
            Some(config) => Ok(Loaded { config, warnings: problems }),
            None => Err(problems),
        };
        (loaded, sources)
    }

    /// Writes the configuration as a routing file in JSON, which is also YAML, with every default filled in. The token
    /// is left out.
    pub fn to_text(&self) -> String {
        effective::text(self)
    }

    /// The JSON Schema (draft 2020-12) of the routing file, ready to be saved.
    pub fn json_schema() -> String {
        format!("{:#}\n", raw::schema().to_value())
    }
}

/// Everything in the file, with every default filled in. Derefs to its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub settings: Settings,
    pub routes: Vec<Route>,
}

impl Deref for Config {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

/// Everything in the file except the routes. A separate type because a snapshot keeps this part and turns the routes,
/// possibly a million, into a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub listeners: Vec<Listener>,
    /// For a hello without a server name, or with an IP literal as server name.
    pub no_sni: Destination,
    /// For a name that no route matches.
    pub unmatched: Destination,
    /// For first bytes that are not a TLS handshake.
    pub not_tls: Destination,
    pub pools: Vec<Pool>,
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub relay: Relay,
    pub tcp: Tcp,
    pub runtime: Runtime,
    pub admin: Admin,
    pub log: Log,
    pub reload: Reload,
    /// All routing files that were read: the main one first, then the included ones.
    pub files: Vec<PathBuf>,
    pub sources: Sources,
    /// Sixteen hexadecimal digits, computed over all files except the token, since a hash would leak hints about it.
    /// The same text gives the same hash.
    pub hash: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: Arc<str>,
    pub bind: Vec<SocketAddr>,
    /// If set, every connection must begin with a PROXY header, and only these sources may connect.
    pub trusted_proxies: Option<Vec<IpNet>>,
    pub max_connections: Option<usize>,
    /// For connections to clients; `None`: the kernel's default.
    pub congestion: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub name: Arc<str>,
    /// Each with its place, for messages about conflicts.
    pub patterns: Vec<(Pattern, Place)>,
    pub conditions: Conditions,
    pub to: Destination,
    pub idle_timeout: Option<Duration>,
    pub on_removed: OnRemoved,
}

/// What happens to open connections when their route or backend is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRemoved {
    #[default]
    Keep,
    /// They may finish within `timeouts.drain`; after that they are reset.
    Drain,
    /// They are reset immediately.
    Close,
}

/// Conditions besides the name. An empty list means no condition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    /// The client offers at least one of these protocols, compared byte for byte.
    pub alpn: Vec<Box<[u8]>>,
    /// The client's address is in one of these networks.
    pub source: Vec<IpNet>,
    /// Indices into [`Settings::listeners`].
    pub listeners: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An index into [`Settings::pools`].
    Pool(usize),
    Refuse(Refuse),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuse {
    Alert,
    Close,
    Reset,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub name: Arc<str>,
    pub balance: Balance,
    pub backends: Vec<Backend>,
    pub resolve: Resolve,
    pub connect: Connect,
    pub health_check: Option<HealthCheck>,
    /// `None`: backends are never ejected because of failed connections.
    pub ejection: Option<Ejection>,
    pub when_all_down: WhenAllDown,
    /// Zero: a backend that comes back gets its full share immediately.
    pub slow_start: Duration,
    pub send_proxy_protocol: Option<ProxyVersion>,
    /// Local addresses to connect from, in rotation; empty: the kernel chooses.
    pub source_addresses: Vec<IpAddr>,
    /// For connections to backends; `None`: the kernel's default.
    pub congestion: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastConnections,
    PowerOfTwo,
    Random,
    SourceHash,
    SniHash,
    First,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAllDown {
    Try,
    Refuse,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub address: BackendAddress,
    /// 1 to 1,000.
    pub weight: u32,
    /// Used only when no other backend can take the connection.
    pub backup: bool,
    /// Concurrent, for each of its addresses.
    pub max_connections: Option<usize>,
}

/// The address of a backend, or the name to look it up by. `Display` writes it as in the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendAddress {
    Inet(SocketAddr),
    Unix(Arc<Path>),
    /// Every A and AAAA record is a backend.
    Name {
        host: ServerName,
        port: u16,
        search: Search,
    },
    /// Every SRV target (RFC 2782) is a backend, at the port of its record.
    Srv {
        name: ServerName,
    },
}

/// Whether the system's search domains are applied to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Search {
    Allowed,
    /// The name ends with a dot: it is absolute.
    No,
}

/// How names are looked up.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolve {
    pub family: Family,
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    /// How long the last answer is used while new look-ups fail.
    pub stale: Duration,
    /// Loopback, link-local and metadata addresses that nameservers may answer with.
    pub allow: Vec<IpNet>,
    /// In query order; empty: the system's.
    pub nameservers: Vec<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Any,
    V4,
    V6,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    pub kind: CheckKind,
    pub interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// This many consecutive passes mark a backend up.
    pub rise: u32,
    /// This many consecutive failures mark it down.
    pub fall: u32,
    /// If different from the backend's own.
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    Tcp,
    Tls {
        /// `None`: no server name is sent.
        server_name: Option<ServerName>,
        alpn: Vec<Box<[u8]>>,
        verify: Verify,
    },
}

/// How a backend's certificate is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verify {
    Nothing,
    /// Chain and name, against the system's CA certificates or those of a PEM file.
    Chain {
        ca_file: Option<PathBuf>,
    },
}

/// When a backend is ejected because its connections fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ejection {
    /// Consecutive.
    pub failures: u32,
    /// Length of the first ejection; each further one is twice as long.
    pub base: Duration,
    pub max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Connect {
    /// Per attempt.
    pub timeout: Duration,
    /// To distinct backends.
    pub attempts: usize,
    /// For all attempts together.
    pub total: Duration,
    /// How long to wait for the first byte of a backend that took the hello before another is tried, if there is
    /// another.
    pub first_byte: Duration,
    /// TCP Fast Open.
    pub fast_open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    V1,
    V2,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timeouts {
    pub hello: Duration,
    pub idle: Duration,
    pub half_closed: Duration,
    pub drain: Duration,
    /// Between the signal and the drain.
    pub pre_stop: Duration,
    /// For the new process of an upgrade.
    pub upgrade: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// `None` is `auto`: the smaller of 65,536 and what the file-descriptor limit allows.
    pub max_connections: Option<usize>,
    pub max_hello_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Relay {
    /// `auto` in the file: splice if the kernel supports it.
    pub splice: bool,
    pub pipe_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tcp {
    pub nodelay: bool,
    pub keepalive: Keepalive,
    /// `None`: off.
    pub user_timeout: Option<Duration>,
    pub backlog: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Keepalive {
    pub idle: Duration,
    pub interval: Duration,
    pub probes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Runtime {
    /// `None` is `auto`: the available cores.
    pub workers: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    pub bind: Vec<Address>,
    pub allow_control: AllowControl,
    pub token: Option<Token>,
}

/// Who may change state through the admin address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowControl {
    /// Clients on this host, and clients with the token.
    Auto,
    Token,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Log {
    pub level: Level,
    pub format: LogFormat,
    pub connections: LogConnections,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogConnections {
    All,
    Failed,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reload {
    pub watch: bool,
    pub poll: Duration,
}

#[cfg(test)]
mod tests;
