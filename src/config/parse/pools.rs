//! Checks pools: their backends, and how these are resolved and connected to.
//!
//! In:  the tops of all files.
//! Out: [`Pool`]s in the order of the files, their names for the routes, their places for warnings.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::self_loops::{self, Ours};
use super::settings::{DAY, HOUR, MILLISECOND, number_within, within};
use super::{Cursor, Names, checks, listeners};
use crate::config::Config;
use crate::config::problem::{Place, Problem, Problems, Severity};
use crate::proxy_header::MOST_ADDED_BYTES;
use crate::server_name::{Pattern, ServerName};
use crate::settings::{
    BackendAddress, CheckKind, Congestion, HealthCheck, KubernetesUnmatched, MAX_WEIGHT, OnDown, Pool,
    SendProxyProtocol, SendVersion, Text, ValueKind, name_error,
};

/// The pools of all files.
pub(super) struct Pools {
    pub parsed: Vec<Pool>,
    /// Includes pools that cannot be used, so that a route that names one is not reported as well.
    pub names: Names,
    pub places: Vec<Place>,
}

pub(super) fn parse(tops: &[Cursor<'_>], ours: Ours<'_>, congestion: &Congestion) -> Pools {
    let mut pools = Pools { parsed: Vec::new(), names: Names::default(), places: Vec::new() };
    let mut first: HashMap<Arc<str>, Place> = HashMap::new();
    for top in tops {
        let Some(entries) = top.key("pools") else { continue };
        if !entries.is_a_map() {
            continue;
        }
        for (key, cursor) in entries.entries() {
            let name: Arc<str> = key.text.as_ref().into();
            let place = entries.at.moved(key.spot).place();
            let at = entries.at.key(&key.text, key.spot);
            let mut problems = top.reading.problems.borrow_mut();
            if let Some(error) = name_error(&name) {
                problems.error(&at, error);
                continue;
            }
            if let Some(first) = first.insert(Arc::clone(&name), place.clone()) {
                problems.error(&at, format_args!("a pool named `{name}` is already defined, at {first}"));
            }
            drop(problems);
            pools.names.define(&name, pools.places.len());
            pools.places.push(place);
            if let Some(mut pool) = cursor.read::<Pool>() {
                pool.name = name;
                pool.congestion.get_or_insert_with(|| congestion.clone());
                check(&mut pool, &cursor, ours);
                pools.parsed.push(pool);
            }
        }
    }
    pools
}

fn check(pool: &mut Pool, cursor: &Cursor<'_>, ours: Ours<'_>) {
    if pool.on_down == OnDown::Close && pool.health_check.is_none() && !cursor.holds("health_check") {
        cursor.warning_at("on_down", "this has no effect without `health_check`, which takes backends down");
    }
    backends(pool, cursor, ours);
    queue(pool, cursor);
    send_proxy_protocol(pool, cursor);
    if pool.transparent {
        transparent(pool, cursor);
    }
    if let Some(section) = cursor.key("resolve") {
        resolve(pool, &section);
    }
    if let Some(section) = cursor.key("connect") {
        connect(pool, &section);
    }
    if let (Some(check), Some(section)) = (&pool.health_check, cursor.key("health_check")) {
        checks::health_check(check, &section);
    }
    if let (Some(ejection), Some(section)) = (&mut pool.ejection.0, cursor.key("ejection")) {
        checks::ejection(ejection, &section);
    }
}

fn backends(pool: &Pool, cursor: &Cursor<'_>, ours: Ours<'_>) {
    let Some(list) = cursor.required_list("backends", "backend") else { return };
    let mut first: HashMap<&BackendAddress, Place> = HashMap::new();
    for (cursor, backend) in list.items().zip(&pool.backends) {
        let address = &backend.address;
        // The address identifies a backend, across reloads too.
        if let Some(first) = first.insert(address, cursor.at.place()) {
            cursor.error(format_args!("`{address}` is already in this pool, at {first}; set its `weight` there"));
        }
        match backend.weight {
            0 => cursor.error_at("weight", "a weight is 1 to 1000; remove the backend to send it nothing"),
            1..=MAX_WEIGHT => {}
            _ => cursor.error_at("weight", "a weight is 1 to 1000"),
        }
        if pool.transparent && matches!(address, BackendAddress::Unix(_)) {
            cursor.error(format_args!(
                "`{address}` cannot be connected to from a client's address; instead of `transparent`, \
                 `send_proxy_protocol` passes it on"
            ));
        }
        self_loops::refuse(address, ours, &cursor);
    }
}

fn queue(pool: &Pool, cursor: &Cursor<'_>) {
    let Some(section) = cursor.key("queue") else { return };
    number_within(&section, "size", pool.queue.size, 0..=LONGEST_QUEUE);
    within(&section, "timeout", pool.queue.timeout, MILLISECOND..=HOUR);
    if pool.queue.size == 0 && section.has("timeout") && !section.has("size") {
        section.warning_at("timeout", "this has no effect without `size`, the number of clients that may wait");
    }
    let is_limited = pool.backends.iter().any(|backend| backend.max_connections.is_some());
    if pool.queue.size > 0 && pool.transparent {
        // A place on an IPv4 backend is none for the first in line if it came by IPv6.
        cursor.error_at(
            "queue",
            "not possible with `transparent`, where not every backend suits every client; remove one",
        );
    }
    if pool.queue.size > 0 && !is_limited && !pool.backends.is_empty() {
        cursor.warning_at("queue", "nobody ever waits, since no backend of the pool has `max_connections`");
    }
}

/// Checks the values that a PROXY header carries besides the addresses.
fn send_proxy_protocol(pool: &Pool, cursor: &Cursor<'_>) {
    let SendProxyProtocol { version, relay, add } = &pool.send_proxy_protocol;
    let Some(section) = cursor.key("send_proxy_protocol") else { return };
    let cure = match version {
        SendVersion::V2 => None,
        SendVersion::V1 => Some("version 1 has no room for values; write `version: v2`, or remove this"),
        SendVersion::Off => Some("without a header there is no value in it; write `version: v2`, or remove this"),
    };
    if let Some(cure) = cure {
        ["relay", "add"].into_iter().filter(|key| section.has(key)).for_each(|key| section.error_at(key, cure));
        return;
    }
    if let Some(list) = section.key("relay") {
        let mut seen: Vec<ValueKind> = Vec::new();
        for (cursor, kind) in list.items().zip(relay) {
            if seen.contains(kind) {
                cursor.error(format_args!("the type `{kind}` is given twice; remove one"));
            } else if add.0.iter().any(|added| added.kind == kind.0) {
                cursor.error(format_args!("`add` has the type `{kind}` too, and a header has each once; remove one"));
            }
            seen.push(*kind);
        }
    }
    let bytes: usize = add.0.iter().map(|added| 3 + added.value.len()).sum();
    if bytes > MOST_ADDED_BYTES {
        section.error_at(
            "add",
            format_args!(
                "the values take {bytes} bytes, 3 more each than their text; at most {MOST_ADDED_BYTES} fit into a header"
            ),
        );
    }
}

/// Checks that nothing else chooses the address that connections leave from.
fn transparent(pool: &Pool, cursor: &Cursor<'_>) {
    if !pool.source_addresses.is_empty() {
        let message = "has no effect with `transparent`, which connects from the client's address; remove one of them";
        cursor.error_at("source_addresses", message);
    }
}

fn resolve(pool: &mut Pool, section: &Cursor<'_>) {
    let resolve = &mut pool.resolve;
    if !section.has("max_ttl") {
        resolve.max_ttl = resolve.max_ttl.max(resolve.min_ttl);
    }
    within(section, "min_ttl", resolve.min_ttl, SHORTEST_TTL..=DAY);
    within(section, "max_ttl", resolve.max_ttl, SHORTEST_TTL..=DAY);
    within(section, "stale", resolve.stale, Duration::ZERO..=DAY * 30);
    let (min, max) = (resolve.min_ttl, resolve.max_ttl);
    if max < min {
        section.error_at("max_ttl", format_args!("must not be shorter than `min_ttl`: {max} is less than {min}"));
    }
}

fn connect(pool: &Pool, section: &Cursor<'_>) {
    let connect = &pool.connect;
    let spans =
        [("timeout", Some(connect.timeout)), ("total", Some(connect.total)), ("first_byte", *connect.first_byte)];
    for (key, span) in spans {
        span.into_iter().for_each(|span| within(section, key, span, MILLISECOND..=HOUR));
    }
    number_within(section, "attempts", connect.attempts, 1..=16);
    let (timeout, total) = (connect.timeout, connect.total);
    if timeout > total {
        let message = format_args!("one attempt may take {timeout}, but all attempts together get only {total}");
        section.warning_at("timeout", message);
    }
}

/// Sets the server name of each TLS check that has none to the first exact name routed to its pool. A check without any
/// name is likely to be refused, so it gets a warning, and so does one that speaks another protocol than clients do.
pub(super) fn default_check_names(config: &mut Config, places: &[Place], top: &Cursor<'_>) {
    let mut first: HashMap<usize, &ServerName> = HashMap::new();
    for route in &config.routes {
        for (pattern, _) in &route.patterns {
            if let Pattern::Exact(name) = pattern {
                route.to.pools().for_each(|pool| _ = first.entry(pool).or_insert(name));
            }
        }
    }
    let plain = config.never_tls();
    // Otherwise it may be a route with an error that leads there.
    let knows_routes = !has_error_in_routes(&top.reading.problems.borrow());
    for (number, (pool, place)) in config.settings.pools.iter_mut().zip(places).enumerate() {
        let Some(check) = &mut pool.health_check else { continue };
        let message = match check {
            HealthCheck { kind: CheckKind::Tls, sni: sni @ None, .. } => {
                *sni = first.get(&number).map(|name| Text((*name).clone()));
                match (&sni, plain[number]) {
                    (Some(_), _) => None,
                    (None, false) if !knows_routes => None,
                    (None, true) => Some("connections that come here are not TLS, but checks are; set `kind: tcp`"),
                    (None, false) => Some(
                        "no route with an exact name leads here, so checks send no server name, which many servers refuse; set `sni`",
                    ),
                }
            }
            HealthCheck { kind: CheckKind::Http | CheckKind::Text, port, .. } if port.is_none() && !plain[number] => {
                Some("checks do not speak TLS, but go to the port that TLS connections go to; set `port`")
            }
            _ => None,
        };
        if let Some(message) = message {
            top.reading.problems.borrow_mut().push(Problem {
                severity: Severity::Warning,
                place: place.clone(),
                path: format!("pools.{}.health_check", pool.name),
                message: message.to_owned(),
            });
        }
    }
}

fn has_error_in_routes(problems: &Problems) -> bool {
    problems.iter().any(|problem| problem.severity == Severity::Error && problem.path.starts_with("routes"))
}

/// Warns about pools that pass values on, if no listener reads any.
pub(super) fn warn_of_relays(config: &Config, places: &[Place], problems: &mut Problems) {
    if config.listeners.iter().any(|listener| listener.proxy_protocol.is_some()) {
        return;
    }
    let relays = |(pool, _): &(&Pool, &Place)| !pool.send_proxy_protocol.relay.is_empty();
    for (pool, place) in config.pools.iter().zip(places).filter(relays) {
        problems.push(Problem {
            severity: Severity::Warning,
            place: place.clone(),
            path: format!("pools.{}.send_proxy_protocol.relay", pool.name),
            message: "there is nothing to pass on: no listener has `proxy_protocol`".to_owned(),
        });
    }
}

/// Warns about a pool that nothing routes to.
pub(super) fn warn_of_unused(config: &Config, places: &[Place], problems: &mut Problems) {
    let mut used = vec![false; config.pools.len()];
    config.not_tls_pools().for_each(|pool| used[pool] = true);
    let fallbacks = [&config.no_sni, &config.unmatched];
    for to in config.routes.iter().map(|route| &route.to).chain(fallbacks) {
        to.pools().for_each(|pool| used[pool] = true);
    }
    let unmatched = config.kubernetes.as_ref().and_then(|kubernetes| match &kubernetes.unmatched {
        KubernetesUnmatched::Pool(name) => Some(name),
        _ => None,
    });
    for name in listeners::pools_otherwise(&config.listeners).chain(unmatched) {
        used.iter_mut().zip(&config.pools).filter(|(_, pool)| pool.name == *name).for_each(|(used, _)| *used = true);
    }
    for ((pool, place), _) in config.pools.iter().zip(places).zip(&used).filter(|(_, used)| !**used) {
        problems.push(Problem {
            severity: Severity::Warning,
            place: place.clone(),
            path: format!("pools.{}", pool.name),
            message: "no route leads to this pool".to_owned(),
        });
    }
}

const SHORTEST_TTL: Duration = Duration::from_millis(100);
const LONGEST_QUEUE: u32 = 1_000_000;
