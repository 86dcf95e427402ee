//! Writes a configuration of HAProxy.
//!
//! In:  a [`Config`].
//! Out: a frontend for each listener, a backend for each pool.
//! Source: HAProxy's configuration manual, 4 (proxies), 7 (ACLs).

use std::net::SocketAddr;

use super::{Exported, largest, specificity};
use crate::config::{Config, Destination, Route};
use crate::server_name::Pattern;
use crate::settings::{
    Backend, BackendAddress, Balance, CheckKind, EchCondition, Listener, ListenerProtocol, NetworkEntry, OnDown, OrOff,
    Pool, SendVersion, Span,
};

pub(super) fn export(config: &Config) -> Exported {
    let mut out = Exported::default();
    out.line("# Made by `snigate export haproxy`.");
    if let Some(most) = *config.limits.max_connections {
        out.line(format!("global\n    maxconn {most}"));
    }
    out.line("defaults");
    out.line("    mode tcp");
    for (key, span) in [
        ("client", config.timeouts.idle),
        ("server", config.timeouts.idle),
        ("client-fin", config.timeouts.half_closed),
    ] {
        out.line(format!("    timeout {key} {}", milliseconds(span)));
    }
    // A pool has its own; HAProxy warns if there is none here.
    out.line("    timeout connect 3000");
    for at in 0..config.listeners.len() {
        frontend(config, at, &mut out);
    }
    config.pools.iter().for_each(|pool| backend(pool, &mut out));
    if refuses(config) {
        out.line(format!("\nbackend {REFUSED}\n    tcp-request content reject"));
    }
    settings(config, &mut out);
    out
}

fn frontend(config: &Config, at: usize, out: &mut Exported) {
    let listener = &config.listeners[at];
    if listener.protocol != ListenerProtocol::Tls {
        return redirect(config, at, out);
    }
    out.line(format!("\nfrontend {}", word(&listener.name)));
    let header = if listener.proxy_protocol.is_some() { " accept-proxy" } else { "" };
    for address in listener.bind.iter() {
        out.line(format!("    bind {}{header}", bind(**address)));
    }
    if listener.proxy_protocol.is_some() {
        out.left_out(
            format_args!("listener {}: proxy_protocol.trusted", listener.name),
            "`accept-proxy` believes everybody",
        );
    }
    if let Some(most) = *listener.max_connections {
        out.line(format!("    maxconn {most}"));
    }
    access(listener, out);
    if listener.silent.is_some() {
        out.left_out(format_args!("listener {}: silent", listener.name), "HAProxy cannot route by silence");
    }
    out.line(format!("    tcp-request inspect-delay {}", milliseconds(config.timeouts.hello)));
    out.line("    tcp-request content accept if { req.ssl_hello_type 1 }");
    rules(config, at, out);
    let fallbacks = [
        ("{ req.ssl_sni -m found }", &config.unmatched),
        ("{ req.ssl_hello_type 1 } !{ req.ssl_sni -m found }", &config.no_sni),
        ("!{ req.ssl_hello_type 1 }", &config.not_tls),
    ];
    for (condition, to) in fallbacks {
        if let Some(pool) = largest(config, to) {
            out.line(format!("    use_backend {} if {condition}", word(pool)));
        }
    }
}

/// Who may connect. The lists are ACLs, since HAProxy bounds the words of a line.
fn access(listener: &Listener, out: &mut Exported) {
    let lists = [("allow", listener.allow.as_ref(), "!"), ("deny", Some(&listener.deny), "")];
    for (key, list, not) in lists {
        let Some(list) = list.filter(|list| key == "allow" || !list.entries.is_empty()) else { continue };
        let networks: Vec<String> = list.entries.iter().filter_map(network).collect();
        if networks.len() < list.entries.len() {
            let what = format_args!("listener {}: a file in {key}", listener.name);
            out.left_out(what, "only networks are written; write `src -f FILE`");
        }
        for some in networks.chunks(MOST_NETWORKS) {
            out.line(format!("    acl snigate-{key} src {}", some.join(" ")));
        }
        match networks.is_empty() {
            false => out.line(format!("    tcp-request connection reject if {not}snigate-{key}")),
            // Nobody is known to be allowed.
            true if key == "allow" => out.line("    tcp-request connection reject"),
            true => {}
        }
    }
}

fn network(entry: &NetworkEntry) -> Option<String> {
    if let NetworkEntry::Network(network) = entry { Some(network.to_string()) } else { None }
}

/// The rules of a listener, the most specific first.
fn rules(config: &Config, listener: usize, out: &mut Exported) {
    let mut rules: Vec<(&Pattern, &Route)> = Vec::new();
    for route in &config.routes {
        let here = route.conditions.listeners.is_empty() || route.conditions.listeners.contains(&listener);
        // Without Encrypted ClientHello, a route with `ech: only` would take names in the clear.
        if here && route.conditions.alpn.is_empty() && route.conditions.ech != EchCondition::Only {
            rules.extend(route.patterns.iter().map(|(pattern, _)| (pattern, route)));
        }
    }
    rules.sort_by_key(|(pattern, route)| {
        let conditions = &route.conditions;
        let kinds = usize::from(!conditions.source.is_empty()) + usize::from(!conditions.listeners.is_empty());
        std::cmp::Reverse((specificity(pattern), kinds, !conditions.source.is_empty()))
    });
    for (pattern, route) in rules {
        let mut condition = condition(pattern);
        if !route.conditions.source.is_empty() {
            let networks: Vec<_> = route.conditions.source.iter().map(ToString::to_string).collect();
            condition = format!("{condition} {{ src {} }}", networks.join(" "));
        }
        let pool = largest(config, &route.to).map_or(REFUSED.to_owned(), word);
        out.line(format!("    use_backend {pool} if {condition}"));
    }
}

/// HAProxy has no pattern for exactly one label.
fn condition(pattern: &Pattern) -> String {
    match pattern {
        Pattern::Exact(name) => format!("{{ req.ssl_sni -i {name} }}"),
        Pattern::OneLabel(suffix) => {
            let suffix = suffix.as_str().replace('.', "\\\\.");
            format!("{{ req.ssl_sni -i -m reg ^[^.]+\\\\.{suffix}$ }}")
        }
        Pattern::ManyLabels(suffix) => format!("{{ req.ssl_sni -i -m end .{suffix} }}"),
        Pattern::Any => "{ req.ssl_sni -m found }".to_owned(),
    }
}

fn redirect(config: &Config, at: usize, out: &mut Exported) {
    let listener = &config.listeners[at];
    out.line(format!("\nfrontend {}\n    mode http\n    timeout http-request 10s", word(&listener.name)));
    for address in listener.bind.iter() {
        out.line(format!("    bind {}", bind(**address)));
    }
    out.line("    http-request redirect scheme https code 308");
    out.left_out(format_args!("listener {}: ACME challenges", listener.name), "everything is redirected to https");
}

fn backend(pool: &Pool, out: &mut Exported) {
    out.line(format!("\nbackend {}", word(&pool.name)));
    out.line(format!("    balance {}", balance(pool.balance)));
    out.line(format!("    timeout connect {}", milliseconds(pool.connect.timeout)));
    out.line(format!("    retries {}", pool.connect.attempts.saturating_sub(1)));
    if pool.queue.size > 0 {
        out.line(format!("    timeout queue {}", milliseconds(pool.queue.timeout)));
    }
    match (pool.transparent, pool.source_addresses.first()) {
        (true, _) => out.line("    source 0.0.0.0 usesrc clientip"),
        (false, Some(address)) => out.line(format!("    source {}", **address)),
        (false, None) => {}
    }
    if pool.source_addresses.len() > 1 {
        out.left_out(format_args!("pool {}: source_addresses", pool.name), "HAProxy has one; the first was taken");
    }
    let options = options(pool, out);
    for (number, server) in (1..).zip(&pool.backends) {
        self::server(pool, number, server, &options, out);
    }
}

fn server(pool: &Pool, number: usize, backend: &Backend, options: &str, out: &mut Exported) {
    let address = match &backend.address {
        BackendAddress::Inet(address) => address.to_string(),
        BackendAddress::Unix(path) => path.display().to_string(),
        BackendAddress::Name { host, port, .. } => format!("{host}:{port} init-addr last,libc,none"),
        BackendAddress::Service(port) => {
            return out.left_out(format_args!("pool {}: Service {port}", pool.name), "write the addresses of its pods");
        }
        BackendAddress::Srv { name } => {
            let what = format!("pool {}: srv:{name}", pool.name);
            return out.left_out(what, "write `server-template` with `resolvers`");
        }
    };
    let mut line = format!("    server s{number} {address} weight {}", backend.weight.min(256));
    if backend.weight > 256 {
        out.left_out(format_args!("pool {}: a weight of {}", pool.name, backend.weight), "HAProxy has 256 at most");
    }
    if backend.backup {
        line.push_str(" backup");
    }
    if let Some(most) = backend.max_connections.0 {
        line.push_str(&format!(" maxconn {most}"));
    }
    out.line(line + options);
}

/// Options that all servers of a pool have.
fn options(pool: &Pool, out: &mut Exported) -> String {
    let mut options = match pool.send_proxy_protocol.version {
        SendVersion::Off => String::new(),
        SendVersion::V1 => " send-proxy".to_owned(),
        SendVersion::V2 => " send-proxy-v2".to_owned(),
    };
    if !pool.slow_start.is_zero() {
        options.push_str(&format!(" slowstart {}", milliseconds(pool.slow_start)));
    }
    if pool.on_down == OnDown::Close {
        options.push_str(" on-marked-down shutdown-sessions");
    }
    if let Some(check) = &pool.health_check {
        match check.kind {
            CheckKind::Tcp => options.push_str(" check"),
            CheckKind::Tls => options.push_str(" check check-ssl verify none"),
            CheckKind::Http => {
                options.push_str(" check");
                let path = check.path.as_ref().map_or("/", |path| &path.0);
                out.line(format!("    option httpchk GET {path}"));
            }
            CheckKind::Text => {
                options.push_str(" check");
                out.left_out(format_args!("pool {}: health_check.kind: text", pool.name), "write `tcp-check`");
            }
        }
        let (inter, fall, rise) = (milliseconds(check.interval), check.fall, check.rise);
        options.push_str(&format!(" inter {inter} fall {fall} rise {rise}"));
        if let Some(port) = check.port.0 {
            options.push_str(&format!(" port {port}"));
        }
        out.line(format!("    timeout check {}", milliseconds(check.timeout)));
    }
    options
}

/// What has no equivalent.
fn settings(config: &Config, out: &mut Exported) {
    for route in &config.routes {
        let parts = [
            (!route.conditions.alpn.is_empty(), "alpn (and the whole route)", "write a rule with `req.ssl_alpn`"),
            (matches!(route.to, Destination::Split(_)), "split", "its largest share gets all connections"),
            (route.access.is_some(), "allow, deny", "write `tcp-request content reject`"),
            (route.per_client.is_some(), "per_client", "write a `stick-table`"),
            (route.idle_timeout.is_some(), "idle_timeout", "HAProxy has it for a frontend or a backend"),
            (route.max_connections.0.is_some(), "max_connections", "HAProxy has it for a frontend or a server"),
        ];
        for (_, key, why) in parts.iter().filter(|(is, ..)| *is) {
            out.left_out(format_args!("route {}: {key}", route.name), why);
        }
    }
    for (key, to) in [("unmatched", &config.unmatched), ("no_sni", &config.no_sni), ("not_tls", &config.not_tls)] {
        if matches!(to, Destination::Split(_)) {
            out.left_out(format_args!("{key}: split"), "its largest share gets all connections");
        }
    }
    if matches!(config.limits.per_client, Some(OrOff(Some(_)))) {
        out.left_out("limits.per_client", "write a `stick-table`");
    }
}

fn refuses(config: &Config) -> bool {
    config.routes.iter().any(|route| matches!(route.to, Destination::Refuse(_)))
}

fn balance(balance: Balance) -> &'static str {
    match balance {
        Balance::RoundRobin => "roundrobin",
        Balance::LeastConnections => "leastconn",
        Balance::PowerOfTwo => "random(2)",
        Balance::Random => "random(1)",
        Balance::SourceHash => "source",
        Balance::SniHash => "hash req.ssl_sni",
        Balance::First => "first",
    }
}

fn bind(address: SocketAddr) -> String {
    // [::] takes IPv4 as well.
    if address.ip().is_unspecified() && address.is_ipv6() { format!("{address} v4v6") } else { address.to_string() }
}

/// A number without a unit is one of milliseconds.
fn milliseconds(span: Span) -> u128 {
    span.as_millis().max(1)
}

/// HAProxy allows fewer characters in names.
fn word(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    name.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

/// HAProxy takes 64 words in a line.
const MOST_NETWORKS: usize = 40;
const REFUSED: &str = "snigate-refused";
