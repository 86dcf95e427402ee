//! Parses routes and the fallbacks after them.
//!
//! In:  the raw lists of all files; the names of listeners and pools.
//! Out: [`Route`]s in the order of the files, and the index of each in its own file.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{FromFiles, Located, Names, each, each_of, name, place, read, require};
use crate::config::at::At;
use crate::config::problem::{Place, Problem, Problems};
use crate::config::raw::{self, Field};
use crate::config::{Conditions, Destination, OnRemoved, Refuse, Route, address, units};
use crate::server_name::Pattern;

/// The routes of all files.
pub(super) struct Routes {
    pub parsed: Vec<Route>,
    /// The index of each in the `routes` of its file.
    pub indices: Vec<usize>,
}

pub(super) fn parse(
    files: FromFiles<Vec<Located<raw::Route>>>,
    listeners: &Names,
    pools: &Names,
    problems: &mut Problems,
) -> Routes {
    let mut routes = Routes { parsed: Vec::new(), indices: Vec::new() };
    let mut taken = TakenNames::default();
    for (file, field) in files {
        let top = At::top(&file);
        let Some(Located { spot, value: Some(list) }) = field else { continue };
        let at = top.key("routes", spot);
        for (index, Located { spot, value }) in list.into_iter().enumerate() {
            let Some(raw) = value else { continue };
            if let Some(route) = route(raw, &at.index(index, spot), listeners, pools, &mut taken, problems) {
                routes.parsed.push(route);
                routes.indices.push(index);
            }
        }
    }
    taken.name_the_unnamed(&mut routes.parsed);
    routes
}

fn route(
    raw: raw::Route,
    at: &At<'_>,
    listeners: &Names,
    pools: &Names,
    taken: &mut TakenNames,
    problems: &mut Problems,
) -> Option<Route> {
    let name = taken.read(raw.name, at, problems);
    let patterns = patterns(raw.sni, at, problems);
    let conditions = Conditions {
        alpn: condition(raw.alpn, at, "alpn", problems, |text| protocol(&text)),
        source: condition(raw.source, at, "source", problems, |text| address::network(&text.0)),
        listeners: condition(raw.listeners, at, "listeners", problems, |text| {
            listeners.find(&text, "listener").map_err(|dangling| dangling.to_string())
        }),
    };
    let on_removed = match raw.on_removed.and_then(|on_removed| on_removed.value) {
        None | Some(raw::OnRemoved::Keep) => OnRemoved::Keep,
        Some(raw::OnRemoved::Drain) => OnRemoved::Drain,
        Some(raw::OnRemoved::Close) => OnRemoved::Close,
    };
    let moment = units::duration_in(Duration::from_millis(1)..=MAX_IDLE);
    let idle_timeout = read(raw.idle_timeout, at, "idle_timeout", problems, |text| moment(&text.0));
    let to = destination(raw.pool, raw.refuse, at, pools, problems);
    patterns.first()?;
    // Without a destination the file is rejected; the patterns are still checked first.
    let to = to.unwrap_or(Destination::Refuse(Refuse::Alert));
    // An empty name is filled in once all names are known.
    Some(Route { name: name.unwrap_or_default(), patterns, conditions, to, idle_timeout, on_removed })
}

fn patterns(field: Field<raw::OneOrMany<raw::Pattern>>, at: &At<'_>, problems: &mut Problems) -> Vec<(Pattern, Place)> {
    require(field.as_ref(), at, "sni", problems);
    if let Some(Located { spot, value: Some(raw::OneOrMany::Many(list)) }) = &field
        && list.is_empty()
    {
        problems.error(&at.key("sni", *spot), "the list is empty; at least one pattern is needed");
    }
    each(field, at, "sni", problems, |raw::Pattern(text), at, problems| {
        let pattern = text.parse().map_err(|error| problems.error(at, error)).ok()?;
        Some((pattern, at.place()))
    })
}

/// Parses a list of alternatives. An empty list is rejected, since it could never match.
fn condition<T, R, E: std::fmt::Display>(
    field: Field<Vec<Located<T>>>,
    outer: &At<'_>,
    key: &str,
    problems: &mut Problems,
    mut parse: impl FnMut(T) -> Result<R, E>,
) -> Vec<R> {
    let Some(Located { spot, value: Some(list) }) = field else { return Vec::new() };
    let at = outer.key(key, spot);
    if list.is_empty() {
        problems.error(&at, "an empty list can never match; remove the key to drop the condition");
    }
    each_of(list, &at, problems, |value, at, problems| parse(value).map_err(|error| problems.error(at, error)).ok())
}

/// Parses the name of an application protocol (RFC 7301 §3.1: 1 to 255 bytes).
pub(super) fn protocol(text: &str) -> Result<Box<[u8]>, &'static str> {
    match text.len() {
        1..=255 => Ok(text.as_bytes().into()),
        0 => Err("the protocol name is empty"),
        _ => Err("a protocol name can have at most 255 bytes"),
    }
}

/// Parses one of the three fallbacks.
pub(super) fn fallback(
    field: Field<raw::Fallback>,
    top: &At<'_>,
    key: &str,
    default: Refuse,
    pools: &Names,
    problems: &mut Problems,
) -> Destination {
    let parsed = field.and_then(|Located { spot, value }| {
        let raw = value?;
        destination(raw.pool, raw.refuse, &top.key(key, spot), pools, problems)
    });
    parsed.unwrap_or(Destination::Refuse(default))
}

fn destination(
    pool: Field<String>,
    refuse: Field<raw::Refuse>,
    at: &At<'_>,
    pools: &Names,
    problems: &mut Problems,
) -> Option<Destination> {
    match (pool, refuse) {
        (None, None) => {
            problems.error(at, "the route has no target; add `pool` or `refuse`");
            None
        }
        (Some(_), Some(refuse)) => {
            problems.error(&at.key("refuse", refuse.spot), "`pool` and `refuse` cannot be used together; remove one");
            None
        }
        (None, Some(refuse)) => Some(Destination::Refuse(match refuse.value? {
            raw::Refuse::Alert => Refuse::Alert,
            raw::Refuse::Close => Refuse::Close,
            raw::Refuse::Reset => Refuse::Reset,
        })),
        (pool, None) => {
            // A misspelt top-level key is one problem; do not report each route as well.
            let misspelt = |problem: &Problem| problem.message.ends_with("did you mean `pools`?");
            if pools.is_empty() && problems.iter().any(misspelt) {
                return None;
            }
            let find = |name: String| pools.find(&name, "pool").map_err(|dangling| dangling.to_string());
            read(pool, at, "pool", problems, find).map(Destination::Pool)
        }
    }
}

/// The names of routes, which must be unique.
#[derive(Default)]
struct TakenNames {
    given: HashMap<Arc<str>, Place>,
}

impl TakenNames {
    /// Parses a name given in the file.
    fn read(&mut self, field: Field<String>, at: &At<'_>, problems: &mut Problems) -> Option<Arc<str>> {
        let spot = field.as_ref()?.spot;
        let name = read(field, at, "name", problems, |text| name(&text))?;
        if let Some(first) = self.given.insert(Arc::clone(&name), place(at, spot)) {
            problems
                .error(&at.key("name", spot), format_args!("a route named `{name}` is already defined, at {first}"));
        }
        Some(name)
    }

    /// Names each unnamed route after its first pattern: `a.test`, then `a.test#2` for the next with that pattern.
    fn name_the_unnamed(mut self, routes: &mut [Route]) {
        let mut next: HashMap<Arc<str>, usize> = HashMap::new();
        for route in routes.iter_mut().filter(|route| route.name.is_empty()) {
            let Some((pattern, place)) = route.patterns.first() else { continue };
            let plain: Arc<str> = pattern.to_string().into();
            let mut name = Arc::clone(&plain);
            while self.given.contains_key(&name) {
                let number = next.entry(Arc::clone(&plain)).and_modify(|number| *number += 1).or_insert(2);
                name = format!("{plain}#{number}").into();
            }
            self.given.insert(Arc::clone(&name), place.clone());
            route.name = name;
        }
    }
}

/// A week; a connection that is silent for longer is dead.
const MAX_IDLE: Duration = Duration::from_secs(7 * 24 * 3600);
