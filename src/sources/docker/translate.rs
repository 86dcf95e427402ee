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
use crate::settings::{Backend, BackendAddress, Docker, Or, Pool, SendProxyProtocol};
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
    refuse_other_headers(&mut asking);
    let winners = winners(&mut asking, file);
    let contribution = contribution(&asking, &winners);
    let reports = asking.into_iter().map(Asking::report).collect();
    Translation { contribution, reports }
}

/// A container must not lead back to snigate: that may be snigate's own.
fn refuse_own(asking: &mut [Asking<'_>], is_ours: &dyn Fn(SocketAddr) -> bool) {
    for one in asking {
        let own = one.wish.as_ref().ok().and_then(|wish| wish.address).filter(|address| is_ours(*address));
        if let Some(own) = own {
            one.refuse(labels::PORT, format!("snigate itself listens at {own}: connections would come back"));
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

/// A pool sends one kind of header; that of its oldest container.
fn refuse_other_headers(asking: &mut [Asking<'_>]) {
    let mut first = HashMap::new();
    for one in asking {
        let Ok(wish) = &one.wish else { continue };
        let (header, oldest) =
            first.entry(wish.pool.clone()).or_insert((wish.send_proxy_protocol, one.container.name.clone()));
        if *header != wish.send_proxy_protocol {
            let message =
                format!("container {oldest} of the same pool has `{}`; all of a pool need the same", header.as_str());
            one.refuse(labels::SEND_PROXY_PROTOCOL, message);
        }
    }
}

/// For each pattern, the pool that gets it and the container that asked first.
fn winners<'c>(asking: &mut [Asking<'c>], file: &Config) -> HashMap<Pattern, (String, &'c str)> {
    let wishes = asking.iter().filter_map(|one| one.wish.as_ref().ok());
    let wanted: HashSet<Pattern> = wishes.flat_map(|wish| wish.patterns.iter().cloned()).collect();
    let mut of_the_file: HashMap<&Pattern, String> = HashMap::new();
    for route in &file.routes {
        for (pattern, place) in route.patterns.iter().filter(|(pattern, _)| wanted.contains(pattern)) {
            of_the_file.entry(pattern).or_insert_with(|| format!("route `{}` of the file, at {place}", route.name));
        }
    }
    let mut winners: HashMap<Pattern, (String, &'c str)> = HashMap::new();
    for one in asking {
        let Ok(wish) = &mut one.wish else { continue };
        let (name, pool, lost) = (&*one.container.name, &wish.pool, &mut one.lost);
        wish.patterns.retain(|pattern| {
            let by = match of_the_file.get(pattern) {
                Some(route) => route.clone(),
                None => match winners.entry(pattern.clone()).or_insert_with(|| (pool.clone(), name)) {
                    (winner, _) if winner == pool => return true,
                    (_, container) => format!("the older container {container}"),
                },
            };
            lost.push(Mistake { label: labels::SNI.to_owned(), message: format!("`{pattern}` goes to {by}") });
            false
        });
    }
    winners
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
