//! Reads the `stream` block of nginx's configuration.
//!
//! In:  nginx.conf, or a file that it includes in `stream`.
//! Out: a [`Model`] of the servers with `ssl_preread on`.
//! Source: nginx's documentation of the stream modules.

mod map;
mod server;
mod syntax;
mod upstream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::map::NameMap;
use self::server::{Server, both_families};
use self::syntax::Directive;
use self::upstream::Upstream;
use super::finding::{Failure, Findings};
use super::model::{Key, Listener, Model, Origin, Pool, Rule, Target, free_name, set};
use super::names::common;
use super::source::Library;
use super::values;
use crate::server_name::Pattern;

/// Reads the files.
///
/// # Errors
/// A file cannot be read or parsed.
pub(super) fn read(paths: &[PathBuf], library: &mut Library<'_>, findings: &mut Findings) -> Result<Model, Failure> {
    let mut stream = Vec::new();
    for path in paths {
        stream.extend(inside_stream(syntax::parse(path, library)?));
    }
    let mut reader = Reader::new(&stream, findings);
    let (blocks, inherited): (Vec<Directive>, Vec<Directive>) =
        stream.into_iter().partition(|directive| BLOCKS.contains(&directive.name()));
    let servers: Vec<Server> = blocks
        .iter()
        .filter(|directive| directive.name() == "server")
        .filter_map(|directive| server::read(directive, &inherited, reader.findings))
        .collect();
    servers.iter().flat_map(|server| &server.settings).for_each(|key| set(&mut reader.model.settings, key.clone()));
    reader.idle(&servers);
    reader.listeners(&servers);
    Ok(reader.model)
}

/// The inside of all `stream` blocks; of a file without them, everything, since it may be included in one.
fn inside_stream(tree: Vec<Directive>) -> Vec<Directive> {
    if tree.iter().any(|directive| matches!(directive.name(), "stream" | "http" | "events")) {
        let streams = tree.into_iter().filter(|directive| directive.name() == "stream");
        return streams.filter_map(|stream| stream.block).flatten().collect();
    }
    tree
}

struct Reader<'a> {
    maps: HashMap<String, NameMap>,
    upstreams: HashMap<String, Upstream>,
    /// The pool of an upstream with certain options.
    pools: HashMap<(String, String), Arc<str>>,
    model: Model,
    findings: &'a mut Findings,
}

impl<'a> Reader<'a> {
    fn new(stream: &[Directive], findings: &'a mut Findings) -> Self {
        let (mut maps, mut upstreams) = (HashMap::new(), HashMap::new());
        for directive in stream {
            let variable = |at: usize| directive.word(at).trim_start_matches('$').trim_matches(['{', '}']).to_owned();
            match directive.name() {
                "map" if variable(1) == SERVER_NAME => {
                    let block = directive.block.as_deref().unwrap_or_default();
                    maps.insert(variable(2), NameMap::read(block, findings));
                }
                "map" | "geo" | "split_clients" => {
                    let why = "only a map of `$ssl_preread_server_name` can be written as routes; conditions are `alpn` and \
                               `source` of a route, shares are `split`";
                    findings.left_out(&directive.origin, &directive.text(), why);
                }
                "upstream" => drop(upstreams.insert(directive.word(1).to_owned(), Upstream::read(directive, findings))),
                _ => {}
            }
        }
        Self { maps, upstreams, pools: HashMap::new(), model: Model::default(), findings }
    }

    /// Servers that share an address are told apart by `server_name`.
    fn listeners(&mut self, servers: &[Server]) {
        let mut done: Vec<usize> = Vec::new();
        for (at, first) in servers.iter().enumerate() {
            if done.contains(&at) {
                continue;
            }
            let shares = |other: &Server| {
                other.listen.iter().any(|a| first.listen.iter().any(|b| same_place(a.address, b.address)))
            };
            let group: Vec<usize> = (at..servers.len()).filter(|&other| shares(&servers[other])).collect();
            let members: Vec<&Server> = group.iter().map(|&member| &servers[member]).collect();
            done.extend(group);
            self.listener(&members);
        }
    }

    fn listener(&mut self, servers: &[&Server]) {
        let [first, ..] = servers else { return };
        let number = self.model.listeners.len() + 1;
        let name = if number == 1 { "https".to_owned() } else { format!("https-{number}") };
        let mut listener = Listener::new(&name, &first.origin);
        listener.keys.clone_from(&first.listener_keys);
        let values = |server: &Server| server.listener_keys.iter().map(|key| key.value.clone()).collect::<Vec<_>>();
        for other in servers.iter().filter(|other| values(other) != values(first)) {
            let why = "only its listener options, which differ from those of the first server at this address";
            self.findings.left_out(&other.origin, "server", why);
        }
        for listen in servers.iter().flat_map(|server| &server.listen) {
            bind(&mut listener, listen.address, &listen.origin);
        }
        let default = servers.iter().find(|server| server.listen.iter().any(|listen| listen.is_default));
        let default = default.copied().unwrap_or(first);
        let mut rules = Vec::new();
        for server in servers.iter().filter(|server| !server.names.is_empty()) {
            let own = self.rules(server);
            for (pattern, origin) in &server.names {
                rules.extend(own.rules.iter().filter_map(|rule| {
                    let both = common(pattern, &rule.pattern)?;
                    let origin = if both == pattern { origin.clone() } else { rule.origin.clone() };
                    Some((specificity(pattern), Rule { pattern: both.clone(), origin, ..rule.clone() }))
                }));
            }
        }
        // The server with the most specific name gets the client; its own rules keep their order.
        rules.sort_by_key(|(specificity, _)| std::cmp::Reverse(*specificity));
        let rest = self.rules(default);
        listener.rules = rules.into_iter().map(|(_, rule)| rule).chain(rest.rules).collect();
        (listener.no_sni, listener.not_tls) = (rest.no_sni, rest.not_tls);
        self.model.listeners.push(listener);
    }

    /// Where the clients of a server go, whatever its `server_name`.
    fn rules(&mut self, server: &Server) -> Listener {
        let mut listener = Listener::new("", &server.origin);
        let Some((pass, origin)) = &server.pass else {
            add(&mut listener, &[(Pattern::Any, Target::Close, server.origin.clone())]);
            return listener;
        };
        let (variable, port) = match pass.strip_prefix('$') {
            Some(rest) => rest.split_once(':').map_or((rest, None), |(name, port)| (name, Some(port))),
            None => {
                let target = self.target(pass, server, origin);
                add(&mut listener, &[(Pattern::Any, target, origin.clone())]);
                return listener;
            }
        };
        let variable = variable.trim_matches(['{', '}']);
        let Some(map) = self.maps.get(variable).cloned() else {
            let why = match variable {
                SERVER_NAME => {
                    "snigate never connects to a name that the client chose; list the names and their backends"
                }
                _ => "there is no map of `$ssl_preread_server_name` for this variable",
            };
            self.findings.left_out(origin, &format!("proxy_pass {pass}"), why);
            return listener;
        };
        let mut target = |value: &str, at: &Origin| match port {
            Some(port) => self.target(&format!("{value}:{port}"), server, at),
            None => self.target(value, server, at),
        };
        let mut entries = Vec::new();
        for (pattern, value, origin) in &map.entries {
            entries.push((pattern.clone(), target(value, origin), origin.clone()));
        }
        // Without a default, the variable is empty, and nginx closes the connection.
        let otherwise = match &map.otherwise {
            Some((value, origin)) => (Pattern::Any, target(value, origin), origin.clone()),
            None => (Pattern::Any, Target::Close, origin.clone()),
        };
        let unnamed = map.unnamed.as_ref().map(|(value, origin)| (target(value, origin), origin.clone()));
        entries.push(otherwise);
        add(&mut listener, &entries);
        if unnamed.is_some() {
            (listener.no_sni, listener.not_tls) = (unnamed.clone(), unnamed);
        }
        listener
    }

    /// The pool of an upstream or an address, with the options of the server that uses it.
    fn target(&mut self, name: &str, server: &Server, origin: &Origin) -> Target {
        let upstream = match self.upstreams.get(name) {
            Some(upstream) => Ok(upstream.clone()),
            None if name.is_empty() => return Target::Close,
            None => Upstream::of_address(name, origin),
        };
        let upstream = match upstream {
            Ok(upstream) if !upstream.backends.is_empty() => upstream,
            Ok(_) => {
                self.findings.left_out(origin, name, "it has no server that can be used");
                return Target::Close;
            }
            Err(why) => {
                self.findings.left_out(origin, name, format_args!("it is neither an upstream nor an address: {why}"));
                return Target::Close;
            }
        };
        let options: Vec<_> = server.pool_keys.iter().map(|key| format!("{}={}", key.path, key.value)).collect();
        let identity = (name.to_owned(), options.join(" "));
        if let Some(pool) = self.pools.get(&identity) {
            return Target::Pool(Arc::clone(pool));
        }
        let pool = free_name(&self.model.pools, &upstream.name);
        self.pools.insert(identity, Arc::clone(&pool));
        let mut keys = upstream.keys.clone();
        server.pool_keys.iter().for_each(|key| set(&mut keys, key.clone()));
        let origin = Some(upstream.origin);
        self.model.pools.push(Pool { name: Arc::clone(&pool), origin, keys, backends: upstream.backends });
        Target::Pool(pool)
    }

    /// The idle timeout is the same for all listeners.
    fn idle(&mut self, servers: &[Server]) {
        let all: Vec<&(Duration, Origin)> = servers.iter().filter_map(|server| server.idle.as_ref()).collect();
        let Some((longest, origin)) = all.iter().max() else { return };
        for (idle, at) in all.iter().filter(|(idle, _)| idle != longest) {
            let why = format!("the longest is taken for all ({origin}); a route can have its own `idle_timeout`");
            self.findings.left_out(at, &format!("proxy_timeout {idle:?}"), why);
        }
        self.model.settings.push(Key::new("timeouts.idle", values::span(*longest, values::WEEK), origin));
    }
}

/// Adds rules; the last one is for everybody else.
fn add(listener: &mut Listener, entries: &[(Pattern, Target, Origin)]) {
    let rule = |(pattern, to, origin): &(Pattern, Target, Origin)| Rule {
        pattern: pattern.clone(),
        source: Vec::new(),
        to: to.clone(),
        origin: origin.clone(),
        is_rest: *pattern == Pattern::Any,
    };
    listener.rules.extend(entries.iter().map(rule));
    if let Some((_, to, origin)) = entries.last() {
        // nginx sees neither a name in a hello without one, nor in what is not TLS.
        (listener.no_sni, listener.not_tls) = (Some((to.clone(), origin.clone())), Some((to.clone(), origin.clone())));
    }
}

/// nginx prefers exact names, then the wildcard with the most labels.
fn specificity(pattern: &Pattern) -> (bool, usize) {
    let labels = pattern.base().map_or(0, |name| name.as_str().split('.').count());
    (matches!(pattern, Pattern::Exact(_)), labels)
}

fn bind(listener: &mut Listener, address: SocketAddr, origin: &Origin) {
    let text = address.to_string();
    if listener.bind.iter().any(|(bound, _)| *bound == text) {
        return;
    }
    let same = |bound: &str| bound.parse().is_ok_and(|bound| same_place(bound, address));
    match (both_families(address), listener.bind.iter_mut().find(|(bound, _)| same(bound))) {
        (Some(both), Some((bound, _))) => *bound = both.to_string(),
        _ => listener.bind.push((text, origin.clone())),
    }
}

/// Whether two addresses are one for a routing file, in which `[::]` takes IPv4 as well.
fn same_place(a: SocketAddr, b: SocketAddr) -> bool {
    a == b || (both_families(a).is_some() && both_families(a) == both_families(b))
}

/// A duration of nginx; without a unit, seconds.
fn duration(text: &str) -> Option<Duration> {
    values::duration(text, values::SECOND, UNITS)
}

const UNITS: &[(&str, Duration)] = &[
    ("ms", Duration::from_millis(1)),
    ("s", values::SECOND),
    ("m", Duration::from_secs(60)),
    ("h", values::HOUR),
    ("d", values::DAY),
    ("w", values::WEEK),
];

/// Directives that do not change where a connection goes or how it is served.
fn is_ignored(name: &str) -> bool {
    IGNORED.contains(&name)
}

const SERVER_NAME: &str = "ssl_preread_server_name";
const BLOCKS: &[&str] = &["geo", "map", "server", "split_clients", "upstream"];
const IGNORED: &[&str] = &[
    "access_log",
    "error_log",
    "log_format",
    "map_hash_bucket_size",
    "map_hash_max_size",
    "open_log_file_cache",
    "preread_buffer_size",
    "proxy_buffer_size",
    "proxy_half_close",
    "proxy_socket_keepalive",
    "proxy_protocol_timeout",
    "resolver_timeout",
    "server_names_hash_bucket_size",
    "server_names_hash_max_size",
    "ssl_preread",
    "status_zone",
    "limit_conn_zone",
    "limit_conn_log_level",
    "tcp_nodelay",
    "variables_hash_bucket_size",
    "variables_hash_max_size",
];
