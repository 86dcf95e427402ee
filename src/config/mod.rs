//! Turns the routing file into validated values, or reports all of its problems at once.
//!
//! In:  the path of a YAML file, or its text.
//! Out: [`Config`], or [`Problems`], each with `file:line:column`, the path of the key and how to fix it.
//! Source: docs/configuration.md and the pages that it names (keys, defaults, what a route may hold).
//!
//! Loading binds no port and resolves no name, so `run`, `check` and reload share it.

mod admin_section;
mod at;
pub(crate) mod ech_keys;
mod effective;
mod file;
mod files;
mod in_time;
pub(crate) mod lists;
mod names;
mod parse;
mod problem;
mod reader;
#[cfg(test)]
mod schema;
mod sources;
mod suggest;
mod token;
mod wording;
mod yaml;

use std::collections::HashSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

pub(crate) use self::admin_section::AdminSection;
pub(crate) use self::files::{FileError, bytes as read_file, find as find_files};
pub(crate) use self::in_time::{end_thread, in_time};
pub use self::problem::{Place, Problem, Problems, Severity};
pub(crate) use self::sources::Sources;
pub(crate) use self::token::Token;
use crate::ech::Keys;
use crate::server_name::Pattern;
use crate::settings::{
    Access, Admin, Docker, Ech, EchCondition, Kubernetes, Limits, Listener, Log, Nothing, Off, OnRemoved, Or, Origin,
    PerClient, Pool, Refuse, Relay, Reload, Runtime, Sandbox, Span, Tcp, Timeouts,
};

/// A valid configuration, and warnings about probable mistakes in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What the file says.
    pub config: Config,
    /// Probable mistakes.
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

    /// Reads only how the admin server of the file at `path` is reached. Errors elsewhere in the file do not matter: a
    /// process that runs may have read an earlier version of it.
    ///
    /// # Errors
    /// Its `admin` section has errors.
    pub(crate) fn admin_of(path: &Path) -> Result<AdminSection, Problems> {
        admin_section::of(path)
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
        problems.sort(sources.files.iter().chain(&sources.lists));
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

    /// For each pool, whether it gets connections, but none that are TLS.
    pub(crate) fn never_tls(&self) -> Vec<bool> {
        let tls = self.routes.iter().map(|route| &route.to).chain([&self.no_sni, &self.unmatched]);
        let tls: HashSet<usize> = tls.flat_map(|to| to.pools()).collect();
        let plain: HashSet<usize> = self.not_tls_pools().collect();
        (0..self.pools.len()).map(|pool| plain.contains(&pool) && !tls.contains(&pool)).collect()
    }

    /// The pools that get connections that are not TLS.
    pub(crate) fn not_tls_pools(&self) -> impl Iterator<Item = usize> {
        let silent = self.listeners.iter().filter_map(|listener| listener.silent.as_ref());
        let silent = silent.filter_map(|silent| self.pools.iter().position(|pool| *pool.name == *silent.pool));
        silent.chain(self.not_tls.pools())
    }

    /// The JSON Schema (draft 2020-12) of the routing file. A test compares it with the settings.
    pub fn json_schema() -> &'static str {
        include_str!("../../config.schema.json")
    }
}

/// Everything in the file, with every default filled in. Derefs to its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Everything but the routes.
    pub settings: Settings,
    /// In the order of the files.
    pub routes: Vec<Route>,
}

impl Deref for Config {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

/// Everything in the file except the routes. A separate type because a snapshot keeps this part and turns the routes,
/// possibly a million, into a table. Serialized, it holds the keys that do not change where a connection goes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    pub listeners: Vec<Listener>,
    /// For a hello without a server name, or with an IP literal as server name.
    #[serde(skip)]
    pub no_sni: Destination,
    /// For a name that no route matches.
    #[serde(skip)]
    pub unmatched: Destination,
    /// For first bytes that are not a TLS handshake.
    #[serde(skip)]
    pub not_tls: Destination,
    #[serde(skip)]
    pub pools: Vec<Pool>,
    pub ech: Option<Ech>,
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub relay: Relay,
    pub tcp: Tcp,
    pub runtime: Runtime,
    pub sandbox: Sandbox,
    pub admin: Admin,
    pub log: Log,
    pub reload: Reload,
    /// `None`: off.
    pub docker: Option<Docker>,
    /// `None`: off.
    pub kubernetes: Option<Kubernetes>,
    /// What the files of `ech.keys` hold.
    #[serde(skip)]
    pub ech_keys: Option<Arc<Keys>>,
    /// What `admin.token_file` holds.
    #[serde(skip)]
    pub token: Option<Token>,
    /// All routing files that were read: the main one first, then the included ones.
    #[serde(skip)]
    pub files: Vec<PathBuf>,
    #[serde(skip)]
    pub sources: Sources,
    /// Sixteen hexadecimal digits, computed over all files except the token, since a hash would leak hints about it.
    /// The same text gives the same hash.
    #[serde(skip)]
    pub hash: String,
}

/// Which names go where, under which conditions.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Unique; of a route without a name, its first pattern.
    pub name: Arc<str>,
    /// Each with its place, for messages about conflicts.
    pub patterns: Vec<(Pattern, Place)>,
    /// Must hold besides the name.
    pub conditions: Conditions,
    /// Where the connections go.
    pub to: Destination,
    /// Overrides `timeouts.idle`.
    pub idle_timeout: Option<Span>,
    /// Overrides `timeouts.max_age`.
    pub max_age: Option<Or<Off, Span>>,
    /// Concurrent connections.
    pub max_connections: Or<Nothing, usize>,
    /// What happens to its connections when it is removed.
    pub on_removed: OnRemoved,
    /// Who may come in. `None`: everybody. Boxed, because few of a million routes have it.
    pub access: Option<Box<Access>>,
    /// `None`: off.
    pub per_client: Option<Box<PerClient>>,
    /// Whether it is in a file.
    pub origin: Origin,
    /// `None`: none of its patterns is from a file of names.
    pub listed: Option<Box<Listed>>,
}

/// What files of names have to do with a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The files, relative to the main file if they are below its directory.
    pub files: Vec<PathBuf>,
    /// How many patterns, the first ones, the routing file itself has. All others are from the files.
    pub inline: usize,
    /// If the patterns are those that have a pool of their own in the files: this pool. Such a route follows the one of
    /// the routing file, which it is otherwise a copy of.
    pub pool: Option<Arc<str>>,
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
    /// How the name was sent.
    pub ech: EchCondition,
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An index into [`Settings::pools`].
    Pool(usize),
    /// To one of several pools, in proportion to their weights. At least one weight is not 0.
    Split(Arc<[Share]>),
    /// Nowhere; it is refused.
    Refuse(Refuse),
}

/// A pool of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// An index into [`Settings::pools`]; each pool occurs once in a split.
    pub pool: usize,
    /// 0 to 1,000,000, relative to the sum of all.
    pub weight: u32,
}

impl Destination {
    /// The pools it leads to, including those with a weight of 0.
    pub(crate) fn pools(&self) -> impl Iterator<Item = usize> {
        let (one, several) = match self {
            Self::Pool(pool) => (Some(*pool), &[][..]),
            Self::Split(shares) => (None, &**shares),
            Self::Refuse(_) => (None, &[][..]),
        };
        one.into_iter().chain(several.iter().map(|share| share.pool))
    }
}

#[cfg(test)]
mod tests;
