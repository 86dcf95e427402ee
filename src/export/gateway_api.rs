//! Writes Kubernetes manifests of the Gateway API.
//!
//! In:  a [`Config`].
//! Out: a Gateway, a TLSRoute for each route, a Service with an EndpointSlice for each pool.
//! Source: Gateway API v1 (TLSRoute, passthrough), discovery.k8s.io/v1.
//!
//! `*.` of the Gateway API takes one or more labels, as `**.` does here; exactly one label cannot be written.

use std::net::IpAddr;

use super::Exported;
use crate::config::{Config, Destination, Route};
use crate::import::scalar;
use crate::server_name::Pattern;
use crate::settings::{BackendAddress, EchCondition, ListenerProtocol, Pool};

pub(super) fn export(config: &Config) -> Exported {
    let mut out = Exported::default();
    out.line("# Made by `snigate export gateway-api`. Set `gatewayClassName` to that of your implementation.");
    gateway(config, &mut out);
    let ports: Vec<Option<u16>> = config.pools.iter().map(|pool| service(pool, &mut out)).collect();
    for (number, route) in (1..).zip(&config.routes) {
        tls_route(config, number, route, &ports, &mut out);
    }
    // A route without names is for all other names.
    if !matches!(config.unmatched, Destination::Refuse(_)) {
        write_route("unmatched", &[], &[], &config.unmatched, config, &ports, &mut out);
    }
    for (key, to) in [("no_sni", &config.no_sni), ("not_tls", &config.not_tls)] {
        if !matches!(to, Destination::Refuse(_)) {
            out.left_out(key, "a TLSRoute is for clients that send a server name");
        }
    }
    if config.limits.max_connections.is_some() {
        out.left_out("limits.max_connections", "it depends on the implementation");
    }
    out
}

fn gateway(config: &Config, out: &mut Exported) {
    out.line("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: snigate }\nspec:");
    out.line("  gatewayClassName: snigate\n  listeners:");
    for listener in &config.listeners {
        if listener.protocol != ListenerProtocol::Tls {
            out.left_out(format_args!("listener {}", listener.name), "only listeners for TLS are written");
            continue;
        }
        let addresses = listener.bind.iter().map(|address| address.port());
        let mut ports: Vec<u16> = addresses.collect();
        ports.sort_unstable();
        ports.dedup();
        for port in ports {
            let name = scalar(&section(&listener.name, port));
            out.line(format!("    - {{ name: {name}, port: {port}, protocol: TLS, tls: {{ mode: Passthrough }} }}"));
        }
        let more = [
            (
                listener.bind.iter().any(|address| !address.ip().is_unspecified()),
                "the address of bind",
                "a Gateway has ports",
            ),
            (listener.proxy_protocol.is_some(), "proxy_protocol", "it depends on the implementation"),
            (listener.allow.is_some() || !listener.deny.entries.is_empty(), "allow, deny", "write a NetworkPolicy"),
            (listener.max_connections.is_some(), "max_connections", "it depends on the implementation"),
        ];
        for (_, what, why) in more.iter().filter(|(is, ..)| *is) {
            out.left_out(format_args!("listener {}: {what}", listener.name), why);
        }
    }
}

/// A Service without a selector, and its addresses. The port that clients of the Service use, if it has any.
fn service(pool: &Pool, out: &mut Exported) -> Option<u16> {
    let mut addresses: Vec<(IpAddr, u16)> = Vec::new();
    for backend in &pool.backends {
        match &backend.address {
            BackendAddress::Inet(address) => addresses.push((address.ip(), address.port())),
            other => {
                out.left_out(format_args!("pool {}: {other}", pool.name), "an EndpointSlice has IP addresses only")
            }
        }
        if backend.weight != 1 || backend.backup {
            out.left_out(
                format_args!("pool {}: weight, backup of {}", pool.name, backend.address),
                "endpoints are equal",
            );
        }
    }
    let (_, port) = *addresses.first()?;
    for (ip, other) in addresses.iter().filter(|(_, other)| *other != port) {
        out.left_out(format_args!("pool {}: {ip}:{other}", pool.name), "the endpoints of a Service have one port");
    }
    let name = dns_label(&pool.name);
    out.line(format!("---\napiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}"));
    out.line(format!("spec: {{ ports: [{{ name: tls, port: {port}, protocol: TCP }}] }}"));
    let of_family = |v6: bool| addresses.iter().filter(move |(ip, other)| ip.is_ipv6() == v6 && *other == port);
    for (v6, family) in [(false, "IPv4"), (true, "IPv6")] {
        let list: Vec<_> =
            of_family(v6).map(|(ip, _)| format!("{{ addresses: [{}] }}", scalar(&ip.to_string()))).collect();
        if list.is_empty() {
            continue;
        }
        out.line("---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:");
        out.line(format!("  name: {name}-{}", family.to_ascii_lowercase()));
        out.line(format!("  labels: {{ kubernetes.io/service-name: {name} }}\naddressType: {family}"));
        out.line(format!("ports: [{{ name: tls, port: {port}, protocol: TCP }}]\nendpoints: [{}]", list.join(", ")));
    }
    Some(port)
}

fn tls_route(config: &Config, number: usize, route: &Route, ports: &[Option<u16>], out: &mut Exported) {
    let conditions = &route.conditions;
    let more = [
        (
            !conditions.alpn.is_empty() || !conditions.source.is_empty(),
            "alpn, source (and the whole route)",
            "a TLSRoute matches names only",
        ),
        (
            matches!(route.to, Destination::Refuse(_)),
            "refuse (and the whole route)",
            "names without a route are refused",
        ),
        (route.access.is_some(), "allow, deny", "write a NetworkPolicy"),
    ];
    for (_, what, why) in more.iter().filter(|(is, ..)| *is) {
        out.left_out(format_args!("route {}: {what}", route.name), why);
    }
    // The name in the clear must not be served.
    if more[0].0 || more[1].0 || conditions.ech == EchCondition::Only {
        return;
    }
    let mut names = Vec::new();
    let mut takes_all = false;
    for (pattern, _) in &route.patterns {
        match pattern {
            Pattern::Exact(name) => names.push(name.to_string()),
            Pattern::ManyLabels(suffix) => names.push(format!("*.{suffix}")),
            Pattern::OneLabel(suffix) => {
                let why = "`*.` of the Gateway API takes one or more labels; write `**.` if that is what you want, or the names";
                out.left_out(format_args!("route {}: *.{suffix}", route.name), why);
            }
            Pattern::Any => takes_all = true,
        }
    }
    let listeners: Vec<String> = conditions
        .listeners
        .iter()
        .map(|&at| &config.listeners[at])
        .flat_map(|listener| listener.bind.iter().map(|address| section(&listener.name, address.port())))
        .collect();
    let name = format!("route-{number}-{}", dns_label(&route.name));
    let name = name[..name.len().min(63)].trim_end_matches('-').to_owned();
    if !names.is_empty() {
        write_route(&name, &names, &listeners, &route.to, config, ports, out);
    }
    if takes_all {
        write_route(&format!("all-{number}"), &[], &listeners, &route.to, config, ports, out);
    }
}

fn write_route(
    name: &str,
    hostnames: &[String],
    listeners: &[String],
    to: &Destination,
    config: &Config,
    ports: &[Option<u16>],
    out: &mut Exported,
) {
    let shares: Vec<(usize, Option<u32>)> = match to {
        Destination::Pool(pool) => vec![(*pool, None)],
        Destination::Split(shares) => shares.iter().map(|share| (share.pool, Some(share.weight))).collect(),
        Destination::Refuse(_) => return,
    };
    let mut references = Vec::new();
    for (pool, weight) in shares {
        let Some(port) = ports[pool] else { continue };
        let weight = weight.map(|weight| format!(", weight: {weight}")).unwrap_or_default();
        references.push(format!("{{ name: {}, port: {port}{weight} }}", dns_label(&config.pools[pool].name)));
    }
    if references.is_empty() {
        return out.left_out(format_args!("route {name}"), "its pool has no address that can be written");
    }
    let parents: Vec<_> = match listeners {
        [] => vec!["{ name: snigate }".to_owned()],
        _ => listeners.iter().map(|at| format!("{{ name: snigate, sectionName: {} }}", scalar(at))).collect(),
    };
    out.line(format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {{ name: {name} }}\nspec:"
    ));
    out.line(format!("  parentRefs: [{}]", parents.join(", ")));
    if !hostnames.is_empty() {
        let names: Vec<_> = hostnames.iter().map(|name| scalar(name)).collect();
        out.line(format!("  hostnames: [{}]", names.join(", ")));
    }
    out.line(format!("  rules: [{{ backendRefs: [{}] }}]", references.join(", ")));
}

fn section(listener: &str, port: u16) -> String {
    let name = dns_label(listener);
    format!("{}-{port}", name[..name.len().min(50)].trim_end_matches('-'))
}

/// A name as Kubernetes allows it (RFC 1035 label), the same for the same text.
fn dns_label(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let letters: String = lower.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let letters = letters.trim_matches('-');
    let first = if letters.starts_with(|c: char| c.is_ascii_alphabetic()) { "" } else { "p-" };
    let label = format!("{first}{letters}");
    label[..label.len().min(50)].trim_end_matches('-').to_owned()
}
