//! Turns the routing file into values that cannot be wrong, or into all of its problems at once.
//!
//! In:  the path of a YAML file, or its text.
//! Out: [`Config`], or [`Problems`], each with `file:line:column`, the path of the key and how to mend it.
//! Source: docs/configuration.md (keys, defaults, what a route may hold).
//!
//! Loading binds no port and resolves no name, so that `run`, `check` and reload share it.

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

/// A configuration that can be used, and what is probably not meant by it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Problems,
}

impl Config {
    /// Reads the file at `path`, and those that it includes.
    ///
    /// # Errors
    /// All [`Problems`], warnings included, in the order of their places.
    pub fn load(path: &Path) -> Result<Loaded, Problems> {
        Self::load_from(path).0
    }

    /// As [`Config::load`], and tells what was read for it, also of a file that cannot be used.
    pub fn load_from(path: &Path) -> (Result<Loaded, Problems>, Sources) {
        let mut problems = Problems::default();
        match files::read(path, &mut problems) {
            Some(text) => Self::parse_from(&text, path),
            None => (Err(problems), Sources::new(path)),
        }
    }

    /// Reads `text` as [`Config::load`] would if it stood in `file_name`, beside which `include` looks.
    ///
    /// # Errors
    /// All [`Problems`], warnings included, in the order of their places.
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

    /// Writes it out as a routing file in JSON, which is YAML too, with every default filled in. The token is left out.
    pub fn to_text(&self) -> String {
        effective::text(self)
    }

    /// The JSON Schema (draft 2020-12) of the routing file, as a document to be saved.
    pub fn json_schema() -> String {
        format!("{:#}\n", raw::schema().to_value())
    }
}

/// Everything the file says, with every default filled in. Its settings are read as if they were its own fields.
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

/// What the file says besides its routes. A type of its own, because a snapshot keeps this much and turns the routes, of
/// which there may be a million, into a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub listeners: Vec<Listener>,
    /// For a hello without a server name, or with an IP literal in its place.
    pub no_sni: Destination,
    /// For a name that no route takes.
    pub unmatched: Destination,
    /// For first bytes that are no TLS handshake.
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
    /// Every routing file that was read: the main one first, then what it includes.
    pub files: Vec<PathBuf>,
    pub sources: Sources,
    /// Sixteen hexadecimal digits over the bytes of all files but the token, of which it would give hints: equal text,
    /// equal hash.
    pub hash: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: Arc<str>,
    pub bind: Vec<SocketAddr>,
    /// Present: every connection must begin with a PROXY header, and only these sources may connect.
    pub trusted_proxies: Option<Vec<IpNet>>,
    pub max_connections: Option<usize>,
    /// Towards its clients; `None`: what the kernel defaults to.
    pub congestion: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub name: Arc<str>,
    /// Each with its place, so that a conflict can be shown where it stands.
    pub patterns: Vec<(Pattern, Place)>,
    pub conditions: Conditions,
    pub to: Destination,
    pub idle_timeout: Option<Duration>,
    pub on_removed: OnRemoved,
}

/// What becomes of live connections when their route or their backend goes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRemoved {
    #[default]
    Keep,
    /// They end by themselves within `timeouts.drain`, or are reset.
    Drain,
    /// They are reset at once.
    Close,
}

/// What must hold besides the name. An empty list is no condition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    /// The client offers at least one of these protocols, byte for byte.
    pub alpn: Vec<Box<[u8]>>,
    /// The client's address lies in one of these.
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
    /// `None`: no backend is ever left out for what its connections do.
    pub ejection: Option<Ejection>,
    pub when_all_down: WhenAllDown,
    /// Zero: a backend that comes back has its full share at once.
    pub slow_start: Duration,
    pub send_proxy_protocol: Option<ProxyVersion>,
    /// Local addresses to connect from, in turn; empty: the kernel chooses.
    pub source_addresses: Vec<IpAddr>,
    /// Towards its backends; `None`: what the kernel defaults to.
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
    /// Used only when no other can take the connection.
    pub backup: bool,
    /// At a time, to each of its addresses.
    pub max_connections: Option<usize>,
}

/// Where a backend is, or where its addresses are looked up. `Display` writes it as the file does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendAddress {
    Inet(SocketAddr),
    Unix(Arc<Path>),
    /// Every A and AAAA answer is a backend.
    Name {
        host: ServerName,
        port: u16,
        search: Search,
    },
    /// Every target of the SRV answer (RFC 2782) is one, at the port given there.
    Srv {
        name: ServerName,
    },
}

/// Whether the system's search domains may stand behind a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Search {
    Allowed,
    /// It ends with a dot: it is whole as it stands.
    No,
}

/// How names are looked up.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolve {
    pub family: Family,
    pub min_ttl: Duration,
    pub max_ttl: Duration,
    /// How long the last answer serves while there is no new one.
    pub stale: Duration,
    /// In the order in which they are asked; empty: those of the system.
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
    /// So many good checks in a row bring a backend up.
    pub rise: u32,
    /// So many bad checks in a row take it down.
    pub fall: u32,
    /// Where it is not the backend's own.
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    Tcp,
    Tls {
        /// `None`: no name is asked for.
        server_name: Option<ServerName>,
        alpn: Vec<Box<[u8]>>,
        verify: Verify,
    },
}

/// What is judged of a backend's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verify {
    Nothing,
    /// Chain and name, against the system's authorities, or those of a PEM file.
    Chain {
        ca_file: Option<PathBuf>,
    },
}

/// When a backend whose connections fail is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ejection {
    /// In a row.
    pub failures: u32,
    /// For so long the first time, twice as long each time after.
    pub base: Duration,
    pub max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Connect {
    /// For one attempt.
    pub timeout: Duration,
    /// To distinct backends.
    pub attempts: usize,
    /// Over all attempts.
    pub total: Duration,
    /// How long a backend that took the hello may say nothing before another is tried, if there is another.
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
    /// For a process that is to follow this one.
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
    /// `auto` in the file: splice where the kernel offers it.
    pub splice: bool,
    pub pipe_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tcp {
    pub nodelay: bool,
    pub keepalive: Keepalive,
    pub user_timeout: Duration,
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

/// Who may change state over the admin address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowControl {
    /// Whoever connects from this host, and whoever has the token.
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
