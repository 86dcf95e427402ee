//! Reads the configuration of Traefik: its TCP routers.
//!
//! In:  the static and the dynamic configuration in YAML or TOML, or a compose file with labels.
//! Out: a [`Model`] of the entry points with routers that pass TLS through.
//! Source: Traefik's documentation, versions 2 and 3.

mod labels;
mod rule;
mod tree;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use self::rule::{Matches, rule};
use self::tree::Node;
use super::finding::{Failure, Findings};
use super::model::{Backend, Key, Listener, Model, Origin, Pool, Rule, Target};
use super::source::{Library, Text};
use super::values;
use crate::server_name::Pattern;

/// Reads the files.
///
/// # Errors
/// A file cannot be read or parsed.
pub(super) fn read(paths: &[PathBuf], library: &mut Library<'_>, findings: &mut Findings) -> Result<Model, Failure> {
    let mut found = Found::default();
    for path in paths {
        let text = library.open(path)?;
        let tree = tree::parse(&text)?;
        found.add(&tree, &text, findings);
        for labels in labels::trees(&tree, &text)? {
            if let Some(services) = labels.at("tcp.services") {
                findings.note(&text.origin(services.line), CONTAINERS);
            }
            found.add(&labels, &text, findings);
        }
    }
    Ok(found.model(findings))
}

/// What the files say, before it is put together.
#[derive(Default)]
struct Found {
    entry_points: Vec<(String, Node, Text)>,
    routers: Vec<(String, Node, Text)>,
    services: HashMap<String, (Node, Text)>,
    pools: Vec<Pool>,
}

/// A router and where it leads.
struct Router {
    entry_points: Vec<String>,
    priority: i64,
    matches: Vec<Matches>,
    /// It has a `tls` section.
    is_tls: bool,
    to: Target,
    origin: Origin,
}

impl Found {
    fn add(&mut self, tree: &Node, text: &Text, findings: &mut Findings) {
        let named = |node: Option<&Node>| {
            let entries = node.map(Node::entries).unwrap_or_default();
            entries.iter().map(|(name, node)| (name.clone(), node.clone(), text.clone())).collect::<Vec<_>>()
        };
        self.entry_points.extend(named(tree.get("entryPoints")));
        self.routers.extend(named(tree.at("tcp.routers")));
        for (name, node, text) in named(tree.at("tcp.services")) {
            self.services.insert(name, (node, text));
        }
        if let Some(http) = tree.at("http.routers") {
            let why = "HTTP routers need decrypted data; only TCP routers with `HostSNI` and `tls.passthrough` can be imported";
            findings.left_out(&text.origin(http.line), "http.routers", why);
        }
        if let Some(udp) = tree.get("udp") {
            findings.left_out(&text.origin(udp.line), "udp", "snigate does not serve UDP");
        }
    }

    fn model(mut self, findings: &mut Findings) -> Model {
        let mut routers: Vec<Router> = Vec::new();
        for (name, node, text) in std::mem::take(&mut self.routers) {
            routers.extend(self.router(&name, &node, &text, findings));
        }
        // The highest number first; without one, the longest rule.
        routers.sort_by_key(|router| std::cmp::Reverse(router.priority));
        let mut model = Model::default();
        for (name, address, origin, keys) in self.listeners(&routers, findings) {
            let mut listener = Listener::new(&name, &origin);
            listener.bind.push((address.to_string(), origin));
            listener.keys = keys;
            let uses = |router: &&Router| router.entry_points.is_empty() || router.entry_points.contains(&name);
            routers.iter().filter(uses).for_each(|router| add(&mut listener, router));
            if !listener.rules.is_empty() {
                model.listeners.push(listener);
            }
        }
        model.pools = self.pools;
        model
    }

    /// The entry points that routers use, with their addresses.
    fn listeners(&self, routers: &[Router], findings: &mut Findings) -> Vec<(String, SocketAddr, Origin, Vec<Key>)> {
        let mut listeners = Vec::new();
        for (name, node, text) in &self.entry_points {
            let origin = text.origin(node.get("address").unwrap_or(node).line);
            match entry_address(node.get("address").map_or("", Node::as_text)) {
                Ok(address) => listeners.push((name.clone(), address, origin, proxy_protocol(node, text, findings))),
                Err(why) => findings.left_out(&origin, &format!("entry point {name}"), why),
            }
        }
        let used: Vec<&Router> = routers.iter().collect();
        if let (true, Some(first)) = (listeners.is_empty(), used.first()) {
            let name = first.entry_points.first().cloned().unwrap_or_else(|| "websecure".to_owned());
            let why = "its address is not in these files, and [::]:443 was assumed; name Traefik's static configuration as well";
            findings.left_out(&first.origin, &format!("entry point {name}"), why);
            let address = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 443);
            listeners.push((name, address, first.origin.clone(), Vec::new()));
        }
        for router in &used {
            let unknown = router.entry_points.iter().find(|name| listeners.iter().all(|(known, ..)| known != *name));
            if let Some(name) = unknown {
                findings.left_out(&router.origin, &format!("entry point {name}"), "there is no such entry point");
            }
        }
        listeners
    }

    fn router(&mut self, name: &str, node: &Node, text: &Text, findings: &mut Findings) -> Option<Router> {
        let origin = text.origin(node.get("rule").unwrap_or(node).line);
        let what = format!("router {name}");
        let passes = node.at("tls.passthrough").is_some_and(|value| value.as_text() == "true");
        if node.get("tls").is_some() && !passes {
            let why = "without `tls.passthrough: true` Traefik decrypts, and snigate does not; move the \
                       certificate to the backends";
            findings.left_out(&origin, &what, why);
            return None;
        }
        if let Some(middlewares) = node.get("middlewares") {
            let why = "snigate has no middleware; use `allow` of a route for `ipAllowList`, \
                       `limits.per_client.connections` for `inFlightConn`";
            findings.left_out(&text.origin(middlewares.line), &format!("{what}: middlewares"), why);
        }
        let written = node.get("rule").map_or("", Node::as_text);
        let mut matches = Vec::new();
        for alternative in rule(written) {
            match alternative {
                Ok(clients) => {
                    if let Some(others) = &clients.names.besides {
                        findings.left_out(&origin, written, format_args!("only in part: {others}"));
                    }
                    matches.push(clients);
                }
                Err(why) => findings.left_out(&origin, written, why),
            }
        }
        let service = self.service_of(node)?;
        let to = self.target(&service, &origin, 0, findings)?;
        let length = i64::try_from(written.len()).unwrap_or(i64::MAX);
        let length =
            if matches.iter().any(|clients| clients.everybody && clients.source.is_empty()) { -1 } else { length };
        let priority =
            node.get("priority").and_then(|value| value.as_text().parse().ok()).filter(|number| *number != 0);
        Some(Router {
            entry_points: node
                .get("entryPoints")
                .map(Node::texts)
                .unwrap_or_default()
                .iter()
                .map(ToString::to_string)
                .collect(),
            priority: priority.unwrap_or(length),
            matches,
            is_tls: passes,
            to,
            origin,
        })
    }

    /// The service that a router names; a label without it means the only service of its container.
    fn service_of(&self, router: &Node) -> Option<String> {
        let named = router.get("service").or_else(|| router.get(labels::OWN_SERVICE));
        let name = named.map(|node| node.as_text().split('@').next().unwrap_or_default().to_owned());
        name.or_else(|| (self.services.len() == 1).then(|| self.services.keys().next().cloned()).flatten())
    }

    fn target(&mut self, service: &str, origin: &Origin, depth: usize, findings: &mut Findings) -> Option<Target> {
        let Some((node, text)) = self.services.get(service).cloned() else {
            findings.left_out(origin, service, "there is no such service in these files");
            return None;
        };
        let at = text.origin(node.line);
        if let Some(weighted) = node.at("weighted.services") {
            return self.split(weighted, &text, depth, findings);
        }
        let Some(balancer) = node.get("loadBalancer") else {
            findings.left_out(&at, service, "only `loadBalancer` and `weighted` services are supported");
            return None;
        };
        self.pool(service, balancer, &text, &at, findings);
        let exists = self.pools.iter().any(|pool| &*pool.name == service);
        exists.then(|| Target::Pool(service.into()))
    }

    /// A pool for each share.
    fn split(&mut self, weighted: &Node, text: &Text, depth: usize, findings: &mut Findings) -> Option<Target> {
        if weighted.items().len() > MOST_SHARES {
            findings.left_out(&text.origin(weighted.line), "weighted", NO_SPLIT);
            return None;
        }
        let mut shares: Vec<(Arc<str>, u32)> = Vec::new();
        for share in weighted.items() {
            let name = share.get("name").map_or("", |node| node.as_text().split('@').next().unwrap_or_default());
            let weight = share.get("weight").map_or(Some(1), |node| node.as_text().parse::<u32>().ok());
            let origin = text.origin(share.line);
            let target = if depth == 0 { self.target(name, &origin, 1, findings) } else { None };
            match (target, weight.filter(|weight| *weight <= 1_000_000)) {
                (Some(Target::Pool(pool)), Some(weight)) if shares.iter().all(|(other, _)| *other != pool) => {
                    shares.push((pool, weight));
                }
                _ => findings.left_out(
                    &origin,
                    name,
                    "a share needs one pool and a weight, and a pool can occur only once",
                ),
            }
        }
        if shares.iter().all(|(_, weight)| *weight == 0) {
            findings.left_out(&text.origin(weighted.line), "weighted", NO_SPLIT);
            return None;
        }
        Some(Target::Split(shares.into()))
    }

    fn pool(&mut self, name: &str, balancer: &Node, text: &Text, origin: &Origin, findings: &mut Findings) {
        if self.pools.iter().any(|pool| &*pool.name == name) {
            return;
        }
        let mut pool = Pool { name: name.into(), origin: Some(origin.clone()), keys: Vec::new(), backends: Vec::new() };
        for server in balancer.get("servers").map(Node::items).unwrap_or_default() {
            let at = text.origin(server.line);
            if server.get("tls").is_some_and(|tls| tls.as_text() == "true") {
                findings.left_out(
                    &at,
                    "servers.tls",
                    "snigate does not encrypt: it passes the client's own TLS to the backend",
                );
            }
            let address = server.get("address").map_or("", Node::as_text);
            match values::backend(address) {
                Ok(address) => pool.backends.push(Backend { address, keys: Vec::new(), origin: Some(at) }),
                Err(why) => findings.left_out(&at, address, why),
            }
        }
        for (key, node) in balancer.entries() {
            let at = text.origin(node.line);
            match key.to_ascii_lowercase().as_str() {
                "servers" | "server" | "terminationdelay" => {}
                "proxyprotocol" => {
                    let version =
                        if node.get("version").is_some_and(|node| node.as_text() == "1") { "v1" } else { "v2" };
                    pool.keys.push(Key::new("send_proxy_protocol", version, &at));
                }
                "serverstransport" => {
                    findings.left_out(&at, key, "write `connect.timeout` and `send_proxy_protocol` of the pool")
                }
                "healthcheck" => findings.left_out(&at, key, "write `health_check` of the pool"),
                _ => findings.left_out(&at, key, "snigate has nothing like it"),
            }
        }
        if pool.backends.is_empty() {
            findings.left_out(origin, name, "it has no server that can be used");
        } else {
            self.pools.push(pool);
        }
    }
}

const CONTAINERS: &str = "the names of containers are found only inside their network; outside it, snigate can \
                          find containers by labels (`docker`)";
const NO_SPLIT: &str = "a split needs 1 to 64 shares, and at least one weight above 0";
const MOST_SHARES: usize = 64;

/// Adds the rules of a router behind those of routers with a higher priority.
fn add(listener: &mut Listener, router: &Router) {
    let Router { to, origin, is_tls, .. } = router;
    for Matches { names, everybody, source } in &router.matches {
        if !is_tls {
            // Without `tls`, a router is for connections without TLS.
            listener.not_tls.get_or_insert_with(|| (to.clone(), origin.clone()));
            continue;
        }
        let rule = |pattern: &Pattern| Rule {
            pattern: pattern.clone(),
            source: source.clone(),
            to: to.clone(),
            origin: origin.clone(),
            is_rest: *everybody,
        };
        listener.rules.extend(names.patterns.iter().map(rule));
        if *everybody && source.is_empty() {
            listener.no_sni.get_or_insert_with(|| (to.clone(), origin.clone()));
        }
    }
}

/// `:443`, `10.0.0.1:443/tcp`
fn entry_address(text: &str) -> Result<SocketAddr, String> {
    let text = text.strip_suffix("/tcp").unwrap_or(text);
    if text.ends_with("/udp") {
        return Err("snigate does not serve UDP".to_owned());
    }
    let port = text.strip_prefix(':').and_then(|port| port.parse::<u16>().ok());
    let address = match (port, text.parse::<SocketAddr>()) {
        (Some(port), _) => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
        (_, Ok(address)) => address,
        _ => return Err("its address is not an IP address with a port; write one".to_owned()),
    };
    if address.port() == 0 { Err("port 0 is not supported".to_owned()) } else { Ok(address) }
}

/// `proxyProtocol.trustedIPs` and `insecure` of an entry point.
fn proxy_protocol(node: &Node, text: &Text, findings: &mut Findings) -> Vec<Key> {
    let Some(settings) = node.get("proxyProtocol") else { return Vec::new() };
    let origin = text.origin(settings.line);
    let trusted = settings.get("trustedIPs").map(Node::texts).unwrap_or_default();
    let networks: Vec<_> = trusted.iter().filter_map(|text| values::network(text)).collect();
    let list = match (settings.get("insecure").map_or("", Node::as_text), networks.is_empty()) {
        ("true", _) => {
            let message = "Traefik accepts PROXY headers from everyone here; limit `proxy_protocol.trusted` to the networks \
                           of your proxies";
            findings.note(&origin, message);
            "[0.0.0.0/0, \"::/0\"]".to_owned()
        }
        (_, false) => values::networks(&networks),
        _ => return Vec::new(),
    };
    // Others are served by their own address.
    vec![Key::new("proxy_protocol.trusted", list, &origin), Key::new("proxy_protocol.others", "plain", &origin)]
}
