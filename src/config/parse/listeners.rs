//! Checks listeners: names, addresses, trusted PROXY sources.
//!
//! In:  the top of the main file.
//! Out: [`Listener`]s, their names for the routes, their addresses so that the admin server does not use them too.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Cursor, Names, lists, per_client};
use crate::config::problem::{Place, Problem, Problems, Severity};
use crate::config::{Config, Destination};
use crate::settings::{Congestion, Listener, ListenerProtocol, Otherwise, PerClient, Starttls};

/// The listeners of the file.
pub(super) struct Listeners {
    pub parsed: Vec<Listener>,
    /// Includes listeners that cannot be used, so that a route that names one is not reported as well.
    pub names: Names,
    pub places: Vec<Place>,
    pub bound: Vec<(SocketAddr, Place)>,
}

pub(super) fn parse(top: &Cursor<'_>, congestion: &Congestion, limits: Option<&PerClient>) -> Listeners {
    let mut listeners =
        Listeners { parsed: Vec::new(), names: Names::default(), places: Vec::new(), bound: Vec::new() };
    // Those of Gateways may be the only ones.
    let list = match top.key("kubernetes") {
        Some(_) => top.key("listeners"),
        None => top.required_list("listeners", "listener"),
    };
    let Some(list) = list.filter(Cursor::is_a_list) else { return listeners };
    let mut first = HashMap::new();
    for cursor in list.items() {
        let number = listeners.places.len();
        listeners.places.push(cursor.at.place());
        let listener: Option<Listener> = cursor.read();
        let name = listener.as_ref().map(|listener| Arc::clone(&listener.name));
        if let Some(name) = name.or_else(|| cursor.key("name")?.text().map(Into::into)) {
            unique_name(&name, &cursor, &mut first);
            listeners.names.define(&name, number);
        }
        let Some(mut listener) = listener else { continue };
        check(&listener, &cursor, &mut listeners.bound);
        lists::access(&mut listener.allow, &mut listener.deny, &cursor);
        per_client::complete(&mut listener.per_client, &cursor, limits);
        listener.congestion.get_or_insert_with(|| congestion.clone());
        if listener.protocol == ListenerProtocol::Http {
            listener.acme_challenge.get_or_insert_default();
            listener.otherwise.get_or_insert_default();
        }
        listeners.parsed.push(listener);
    }
    listeners
}

fn unique_name(name: &Arc<str>, listener: &Cursor<'_>, first: &mut HashMap<Arc<str>, Place>) {
    let place = listener.at("name").place();
    if let Some(first) = first.insert(Arc::clone(name), place) {
        listener.error_at("name", format_args!("a listener named `{name}` is already defined, at {first}"));
    }
}

fn check(listener: &Listener, cursor: &Cursor<'_>, bound: &mut Vec<(SocketAddr, Place)>) {
    if let Some(bind) = cursor.required_list("bind", "address") {
        for (cursor, address) in bind.items().zip(listener.bind.iter()) {
            claim(**address, &cursor, bound);
        }
    }
    if let Some(proxy) = cursor.key("proxy_protocol")
        && proxy.key("trusted").is_some_and(|trusted| trusted.is_empty_list())
    {
        let message = "an empty list would refuse every client; remove `proxy_protocol` to turn it off";
        proxy.error_at("trusted", message);
    }
    match listener.protocol {
        ListenerProtocol::Http if cursor.has("silent") => {
            cursor.error_at("silent", "in HTTP the client speaks first; remove this, or `protocol: http`");
        }
        ListenerProtocol::Http if listener.starttls != Starttls::None => {
            cursor.error_at("starttls", "HTTP has no such exchange; remove this, or `protocol: http`");
        }
        ListenerProtocol::Http => {}
        ListenerProtocol::Quic => cursor.error_at("protocol", "`quic` is not supported yet; write `tls` or `http`"),
        ListenerProtocol::Tls => {
            for key in ["acme_challenge", "otherwise"].into_iter().filter(|key| cursor.has(key)) {
                cursor.error_at(key, "only a listener with `protocol: http` uses this; add that, or remove this");
            }
        }
    }
}

/// Checks that the pools of `otherwise` exist.
pub(super) fn check_pools(top: &Cursor<'_>, pools: &Names) {
    let Some(list) = top.key("listeners") else { return };
    for listener in list.items() {
        let otherwise = listener.key("otherwise");
        let pool = otherwise.as_ref().and_then(|otherwise| otherwise.key("pool"));
        let Some((pool, name)) = pool.and_then(|pool| Some((pool, pool.text()?))) else { continue };
        if let Err(dangling) = pools.find(name, "pool") {
            pool.error(dangling);
        }
    }
}

/// The pools that `otherwise` of some listener leads to.
pub(super) fn pools_otherwise(listeners: &[Listener]) -> impl Iterator<Item = &Arc<str>> {
    listeners.iter().filter_map(|listener| match &listener.otherwise {
        Some(Otherwise::Pool(pool)) => Some(pool),
        _ => None,
    })
}

/// Records that `address` will be bound, and reports a conflict with one that already is.
pub(super) fn claim(address: SocketAddr, cursor: &Cursor<'_>, bound: &mut Vec<(SocketAddr, Place)>) {
    claim_if(address, cursor, bound, collide);
}

/// The same for an address that shares its port with no other, not even one that is more specific.
pub(super) fn claim_alone(address: SocketAddr, cursor: &Cursor<'_>, bound: &mut Vec<(SocketAddr, Place)>) {
    let covers = |all: SocketAddr, one: SocketAddr| {
        all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4()) && all.port() == one.port() && all.port() != 0
    };
    claim_if(address, cursor, bound, |a, b| collide(a, b) || covers(a, b) || covers(b, a));
}

fn claim_if(
    address: SocketAddr,
    cursor: &Cursor<'_>,
    bound: &mut Vec<(SocketAddr, Place)>,
    conflict: impl Fn(SocketAddr, SocketAddr) -> bool,
) {
    if let Some((other, place)) = bound.iter().find(|(other, _)| conflict(*other, address)) {
        let are_wildcards = other.ip().is_unspecified() && address.ip().is_unspecified();
        let cure = match [*other, address].into_iter().find(SocketAddr::is_ipv6) {
            Some(both) if are_wildcards && *other != address => {
                format!("; `{both}` also accepts IPv4: remove the other")
            }
            _ => String::new(),
        };
        cursor.error(format_args!("`{address}` conflicts with `{other}` at {place}: both cannot be bound{cure}"));
    }
    bound.push((address, cursor.at.place()));
}

/// Whether two addresses conflict. `[::]` is dual-stack, so it takes IPv4 connections too.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let dual_stack = |a: SocketAddr, b: SocketAddr| a.is_ipv6() && a.ip().is_unspecified() && b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a == b || dual_stack(a, b) || dual_stack(b, a))
}

/// Warns about a listener that would refuse every TLS connection.
pub(super) fn warn_of_unused(config: &Config, places: &[Place], problems: &mut Problems) {
    if config.docker.is_some() || config.kubernetes.is_some() {
        return;
    }
    let to_pool = |to: &Destination| to.pools().next().is_some();
    if [&config.no_sni, &config.unmatched, &config.not_tls].into_iter().any(to_pool) {
        return;
    }
    let leads_on = |listener: &Listener| matches!(listener.otherwise, Some(Otherwise::Pool(_)));
    let mut used: Vec<bool> = config.listeners.iter().map(leads_on).collect();
    for route in config.routes.iter().filter(|route| to_pool(&route.to)) {
        match route.conditions.listeners.as_slice() {
            [] => return,
            some => some.iter().for_each(|&listener| used[listener] = true),
        }
    }
    let is_used = |index: usize| used[index] || config.listeners[index].silent.is_some();
    for (index, place) in places.iter().enumerate().filter(|(index, _)| !is_used(*index)) {
        problems.push(Problem {
            severity: Severity::Warning,
            place: place.clone(),
            path: format!("listeners[{index}]"),
            message: "no route leads from this listener to a pool; every connection will be refused".to_owned(),
        });
    }
}
