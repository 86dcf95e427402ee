//! Parses listeners: names, addresses, trusted PROXY sources.
//!
//! In:  the raw list.
//! Out: [`Listener`]s, their names for the routes, their addresses so that the admin server does not use them too.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Names, each, each_of, name, place, read, require, settings};
use crate::config::at::At;
use crate::config::problem::{Place, Problem, Problems, Severity};
use crate::config::raw::{self, Field};
use crate::config::{Config, Destination, Listener, address};

/// The listeners of the file.
pub(super) struct Listeners {
    pub parsed: Vec<Listener>,
    /// Includes listeners that failed to parse, so that a route that names one is not reported as well.
    pub names: Names,
    pub places: Vec<Place>,
    pub bound: Vec<(SocketAddr, Place)>,
}

pub(super) fn parse(
    field: Field<Vec<super::Located<raw::Listener>>>,
    top: &At<'_>,
    congestion: Option<&Arc<str>>,
    problems: &mut Problems,
) -> Listeners {
    let mut listeners =
        Listeners { parsed: Vec::new(), names: Names::default(), places: Vec::new(), bound: Vec::new() };
    require(field.as_ref(), top, "listeners", problems);
    let Some(super::Located { spot, value: Some(list) }) = field else { return listeners };
    let at = top.key("listeners", spot);
    if list.is_empty() {
        problems.error(&at, "the list is empty; at least one listener is needed");
    }
    let mut first = HashMap::new();
    listeners.parsed = each_of(list, &at, problems, |raw, at, problems| {
        let number = listeners.places.len();
        listeners.places.push(at.place());
        let name = unique_name(raw.name, at, number, &mut listeners.names, &mut first, problems);
        let bind = bind(raw.bind, at, &mut listeners.bound, problems);
        let trusted_proxies = trusted(raw.proxy_protocol, at, problems);
        let max_connections =
            read(raw.max_connections, at, "max_connections", problems, |count| count_or(&count.0, "none")).flatten();
        let congestion = settings::congestion(raw.congestion, at, congestion, problems);
        Some(Listener { name: name?, bind, trusted_proxies, max_connections, congestion })
    });
    listeners
}

fn unique_name(
    field: Field<String>,
    at: &At<'_>,
    number: usize,
    names: &mut Names,
    first: &mut HashMap<Arc<str>, Place>,
    problems: &mut Problems,
) -> Option<Arc<str>> {
    require(field.as_ref(), at, "name", problems);
    let spot = field.as_ref()?.spot;
    let name = read(field, at, "name", problems, |text| name(&text))?;
    names.define(&name, number);
    if let Some(first) = first.insert(Arc::clone(&name), place(at, spot)) {
        problems.error(&at.key("name", spot), format_args!("a listener named `{name}` is already defined, at {first}"));
    }
    Some(name)
}

fn bind(
    field: Field<raw::OneOrMany<raw::Address>>,
    at: &At<'_>,
    bound: &mut Vec<(SocketAddr, Place)>,
    problems: &mut Problems,
) -> Vec<SocketAddr> {
    require(field.as_ref(), at, "bind", problems);
    if let Some(super::Located { spot, value: Some(raw::OneOrMany::Many(list)) }) = &field
        && list.is_empty()
    {
        problems.error(&at.key("bind", *spot), "the list is empty; at least one address is needed");
    }
    each(field, at, "bind", problems, |raw::Address(text), at, problems| {
        let address = address::socket(&text).map_err(|error| problems.error(at, error)).ok()?;
        claim(address, at, bound, problems);
        Some(address)
    })
}

/// Records that `address` will be bound, and reports a conflict with one that already is.
pub(super) fn claim(address: SocketAddr, at: &At<'_>, bound: &mut Vec<(SocketAddr, Place)>, problems: &mut Problems) {
    if let Some((other, place)) = bound.iter().find(|(other, _)| collide(*other, address)) {
        let cure = match [*other, address].into_iter().find(SocketAddr::is_ipv6) {
            Some(both) if *other != address => format!("; `{both}` takes IPv4 too: leave the other out"),
            _ => String::new(),
        };
        problems.error(at, format_args!("`{address}` conflicts with `{other}` at {place}: both cannot be bound{cure}"));
    }
    bound.push((address, at.place()));
}

/// Whether two addresses conflict. `[::]` is dual-stack, so it takes IPv4 connections too.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let dual_stack = |a: SocketAddr, b: SocketAddr| a.is_ipv6() && a.ip().is_unspecified() && b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a == b || dual_stack(a, b) || dual_stack(b, a))
}

fn trusted(field: Field<raw::ProxyProtocol>, at: &At<'_>, problems: &mut Problems) -> Option<Vec<ipnet::IpNet>> {
    let super::Located { spot, value } = field?;
    let at = at.key("proxy_protocol", spot);
    let raw = value?;
    require(raw.trusted.as_ref(), &at, "trusted", problems);
    let trusted = raw.trusted?;
    let at = at.key("trusted", trusted.spot);
    let list = trusted.value?;
    if list.is_empty() {
        problems.error(&at, "an empty list would refuse every client; remove `proxy_protocol` to turn it off");
    }
    Some(each_of(list, &at, problems, |raw::Network(text), at, problems| {
        address::network(&text).map_err(|error| problems.error(at, error)).ok()
    }))
}

/// Parses a count of at least one, or the word for no count.
pub(super) fn count_or(text: &str, word: &'static str) -> Result<Option<usize>, String> {
    match text.parse() {
        _ if text == word => Ok(None),
        Ok(count) if count > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Some(count)),
        _ => Err(format!("expected a whole number from 1 up, or `{word}`, found `{}`", text.escape_debug())),
    }
}

/// Warns about a listener that would refuse every TLS connection.
pub(super) fn warn_of_unused(config: &Config, places: &[Place], problems: &mut Problems) {
    let to_pool = |to: Destination| matches!(to, Destination::Pool(_));
    if [config.no_sni, config.unmatched, config.not_tls].into_iter().any(to_pool) {
        return;
    }
    let mut used = vec![false; config.listeners.len()];
    for route in config.routes.iter().filter(|route| to_pool(route.to)) {
        match route.conditions.listeners.as_slice() {
            [] => return,
            some => some.iter().for_each(|&listener| used[listener] = true),
        }
    }
    for (index, place) in places.iter().enumerate().filter(|(index, _)| !used[*index]) {
        problems.push(Problem {
            severity: Severity::Warning,
            place: place.clone(),
            path: format!("listeners[{index}]"),
            message: "no route leads from this listener to a pool; every connection will be refused".to_owned(),
        });
    }
}
