//! Turns containers into routes and pools, and says what becomes of each container.
//!
//! In:  containers in any order, the settings of the source, the configuration of the file.
//! Out: a [`Translation`]. Pure: the same containers give the same routes, in whatever order they were found.
//! Source: docs/docker.md.
//!
//! Of two that want one name, the file wins, then the older container. The other loses the name, not its other names.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::container::{Container, State};
use super::labels::{self, Mistake, Wish};
use crate::config::Config;
use crate::server_name::Pattern;
use crate::settings::{Backend, BackendAddress, Docker, Or, Pool, SendProxyProtocol, SendVersion};
use crate::sources::{Contribution, FoundRoute, place};

/// The routes of containers, and a report on each container.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Translation {
    pub contribution: Contribution,
    /// Oldest first.
    pub reports: Vec<Report>,
}

/// What became of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub name: String,
    /// As `docker ps` shows it.
    pub id: String,
    pub fate: Fate,
    /// The names that it gets, in the order of its label.
    pub patterns: Vec<Pattern>,
    /// As in metrics and the log.
    pub pool: Option<Arc<str>>,
    pub address: Option<SocketAddr>,
    /// Why it is down.
    pub why: Option<&'static str>,
    /// Why it is left out, or which names others have.
    pub mistakes: Vec<Mistake>,
}

/// Whether a container gets connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Served,
    /// Its names are known and refused, unless its pool has another container.
    Down,
    /// As if it had no labels.
    LeftOut,
}

/// A container and what it asks for.
struct Asking<'c> {
    container: &'c Container,
    wish: Result<Wish, Mistake>,
    lost: Vec<Mistake>,
}

pub(crate) fn translate(
    settings: &Docker,
    containers: &[Container],
    file: &Config,
    is_ours: &dyn Fn(SocketAddr) -> bool,
) -> Translation {
    let mut sorted: Vec<&Container> = containers.iter().collect();
    sorted.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    let ask = |container| Asking { container, wish: Wish::of(container, settings), lost: Vec::new() };
    let mut asking: Vec<Asking<'_>> = sorted.into_iter().map(ask).collect();
    refuse_own(&mut asking, is_ours);
    refuse_taken_pools(&mut asking, file);
    let winners = grant(&mut asking, file);
    let contribution = contribution(&asking, &winners);
    let reports = asking.into_iter().map(Asking::report).collect();
    Translation { contribution, reports }
}

/// A container must not lead back to snigate: that may be snigate's own.
fn refuse_own(asking: &mut [Asking<'_>], is_ours: &dyn Fn(SocketAddr) -> bool) {
    for one in asking {
        let own = one.wish.as_ref().ok().and_then(|wish| wish.address).filter(|address| is_ours(*address));
        if let Some(own) = own {
            one.refuse(
                labels::PORT,
                format!("snigate itself listens at {own}, so connections would return to it; correct the port"),
            );
        }
    }
}

/// The names of pools and routes identify them in metrics and across reloads, so those of the file are not taken again.
fn refuse_taken_pools(asking: &mut [Asking<'_>], file: &Config) {
    let of_the_file = file.pools.iter().map(|pool| &pool.name).chain(file.routes.iter().map(|route| &route.name));
    let taken: HashSet<&str> = of_the_file.map(|name| &**name).filter(|name| name.ends_with(SUFFIX)).collect();
    for one in asking {
        let name = one.wish.as_ref().map(|wish| pool_name(&wish.pool)).unwrap_or_default();
        if taken.contains(name.as_str()) {
            one.refuse(labels::POOL, format!("the file has a pool or a route named `{name}`; choose another name"));
        }
    }
}

/// Gives out the names, to older containers first. For each pattern: the pool that gets it and the container that asked first.
///
/// A pool sends one kind of header, that of the oldest container that gets a name. Others are left out and take no name.
fn grant<'c>(asking: &mut [Asking<'c>], file: &Config) -> HashMap<Pattern, (String, &'c str)> {
    let of_the_file = of_the_file(asking, file);
    let mut winners: HashMap<Pattern, (String, &'c str)> = HashMap::new();
    let mut headers: HashMap<String, (SendVersion, &'c str)> = HashMap::new();
    for one in asking {
        let Ok(Wish { patterns, pool, send_proxy_protocol: wanted, .. }) = &mut one.wish else { continue };
        let name = &*one.container.name;
        patterns.retain(|pattern| {
            let by = match (of_the_file.get(pattern), winners.get(pattern)) {
                (Some(route), _) => route.clone(),
                (None, Some((winner, container))) if winner != pool => format!("the older container {container}"),
                _ => return true,
            };
            one.lost.push(Mistake { label: labels::SNI.to_owned(), message: format!("`{pattern}` goes to {by}") });
            false
        });
        if patterns.is_empty() {
            continue;
        }
        let (header, oldest) = *headers.entry(pool.clone()).or_insert((*wanted, name));
        if header != *wanted {
            let header = header.as_str();
            let message = format!(
                "container {oldest} of the same pool has `{header}`; all containers of a pool need the same value"
            );
            one.refuse(labels::SEND_PROXY_PROTOCOL, message);
            continue;
        }
        for pattern in &*patterns {
            winners.entry(pattern.clone()).or_insert_with(|| (pool.clone(), name));
        }
    }
    winners
}

/// The routes of the file that have a pattern that a container asks for.
fn of_the_file(asking: &[Asking<'_>], file: &Config) -> HashMap<Pattern, String> {
    let wishes = asking.iter().filter_map(|one| one.wish.as_ref().ok());
    let wanted: HashSet<&Pattern> = wishes.flat_map(|wish| &wish.patterns).collect();
    let mut of_the_file = HashMap::new();
    for route in &file.routes {
        for (pattern, place) in route.patterns.iter().filter(|(pattern, _)| wanted.contains(pattern)) {
            let name = || format!("route `{}` of the file, at {place}", route.name);
            of_the_file.entry(pattern.clone()).or_insert_with(name);
        }
    }
    of_the_file
}

fn contribution(asking: &[Asking<'_>], winners: &HashMap<Pattern, (String, &str)>) -> Contribution {
    let mut routes: BTreeMap<&str, FoundRoute> = BTreeMap::new();
    for one in asking {
        let Some(wish) = one.granted() else { continue };
        let route = routes.entry(&wish.pool).or_insert_with(|| new_route(wish));
        for pattern in &wish.patterns {
            if !route.patterns.iter().any(|(known, _)| known == pattern) {
                let claimed = winners.get(pattern).map_or("", |(_, container)| container);
                route.patterns.push((pattern.clone(), place(claimed)));
            }
        }
        let address = wish.address.map(BackendAddress::Inet);
        let is_known = |address: &BackendAddress| route.pool.backends.iter().any(|known| known.address == *address);
        if let Some(address) = address.filter(|address| !is_known(address)) {
            let (weight, max_connections) = (wish.weight, Or::default());
            route.pool.backends.push(Backend { address, weight, backup: false, max_connections });
        }
    }
    Contribution { routes: routes.into_values().collect() }
}

fn new_route(wish: &Wish) -> FoundRoute {
    let header = SendProxyProtocol { version: wish.send_proxy_protocol, ..SendProxyProtocol::default() };
    let name = pool_name(&wish.pool).into();
    FoundRoute { pool: Pool { name, send_proxy_protocol: header, ..Pool::default() }, patterns: Vec::new() }
}

impl Asking<'_> {
    fn refuse(&mut self, label: &str, message: String) {
        self.wish = Err(Mistake { label: label.to_owned(), message });
    }

    /// What the container asks for, if it gets any of its names.
    fn granted(&self) -> Option<&Wish> {
        self.wish.as_ref().ok().filter(|wish| !wish.patterns.is_empty())
    }

    fn report(self) -> Report {
        let granted = self.granted().cloned();
        let Self { container, wish, mut lost } = self;
        lost.extend(wish.err());
        let why = match container.state {
            State::Running => None,
            State::Down(why) => Some(why),
        };
        Report {
            name: container.name.clone(),
            id: container.short_id().to_owned(),
            fate: match (&granted, why) {
                (None, _) => Fate::LeftOut,
                (Some(_), Some(_)) => Fate::Down,
                (Some(_), None) => Fate::Served,
            },
            pool: granted.as_ref().map(|wish| pool_name(&wish.pool).into()),
            address: granted.as_ref().and_then(|wish| wish.address),
            patterns: granted.map(|wish| wish.patterns).unwrap_or_default(),
            why,
            mistakes: lost,
        }
    }
}

fn pool_name(pool: &str) -> String {
    format!("{pool}{SUFFIX}")
}

/// Of all pools and routes of containers, so that their names show where they are from.
const SUFFIX: &str = "@docker";

#[cfg(test)]
#[path = "translate/tests.rs"]
mod tests;
