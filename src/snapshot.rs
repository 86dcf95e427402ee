//! What a connection needs of the configuration: routes, pools, limits, timeouts.
//!
//! In:  a configuration, from which [`build`] makes a snapshot; a connection to route.
//! Out: a [`Snapshot`], replaced as a whole; [`Snapshot::choose`] makes the routing decision for both the path and
//!      `explain`.

mod build;
mod split;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::SetOnce;
use tokio::time::Instant;

pub(crate) use self::split::{Share, Split};
use crate::client_hello::Alpn;
use crate::client_limits::ClientLimits;
use crate::config::{self, Config, Listed, Place, Settings};
use crate::ech::Keys;
use crate::ids::{ListenerIndex, RouteIndex};
use crate::limits::{Permit, Permits};
use crate::pool::Pool;
use crate::proxy_header::Kinds;
use crate::relay;
use crate::route::{By, Candidate, Conditions, Lookup, NameForm, RouteTable};
use crate::server_name::{Pattern, ServerName, Sni};
use crate::settings::{
    self, Access, AcmeChallenge, Nothing, Off, OnRemoved, Or, Origin, Others, Refuse, Span, Starttls,
};
use crate::socket;
use crate::telemetry::{ConnectionLog, EchKeyMetrics, Match, Metrics, Readings, RouteMetrics};

/// Everything in force at one moment.
pub struct Snapshot {
    /// The settings of the file, without its routes: those are in the table, which takes less memory.
    pub config: Settings,
    /// Finds the route of a name.
    pub table: RouteTable,
    /// In the order of the files; a [`RouteIndex`] points into it.
    pub routes: Vec<Route>,
    /// For hellos without a name, or with an IP address as name.
    pub no_sni: Route,
    /// For names that no route matches.
    pub unmatched: Route,
    /// For first bytes that are not a TLS handshake.
    pub not_tls: Route,
    /// In the order of the files.
    pub pools: Vec<Arc<Pool>>,
    /// How connections are relayed.
    pub relay: Arc<relay::Settings>,
    /// `limits.max_connections`; `None` is `auto`.
    pub max_connections: Option<usize>,
    /// `limits.per_client`
    clients: Option<Arc<ClientLimits>>,
    listeners: Vec<ListenerTerms>,
    /// The values of clients' PROXY headers that some pool passes on.
    pub relayed_values: Kinds,
    /// Where the listeners are bound, as written in the file.
    pub bound: Vec<SocketAddr>,
    /// Numbers the snapshots of a process.
    pub generation: u64,
    /// What a connection keeps of the snapshot.
    pub terms: Arc<Terms>,
    places: Places,
    metrics: Arc<Metrics>,
    replaced: SetOnce<()>,
}

/// What applies to the clients of one listener until they have a backend.
pub struct ListenerTerms {
    pub name: Arc<str>,
    pub max_connections: usize,
    /// Whose PROXY headers are believed. `None`: nobody sends one.
    proxies: Option<Proxies>,
    /// What clients send before TLS begins.
    pub starttls: Starttls,
    /// What happens to clients that say nothing. `None`: they are probes.
    pub silent: Option<Silent>,
    /// `None`: every client may come in.
    pub access: Option<Box<Access>>,
    /// `None`: clients speak TLS. Boxed, since most listeners have none.
    pub http: Option<Box<HttpTerms>>,
    /// Opens inner hellos. `None`: all hellos are routed as they come.
    pub ech: Option<Ech>,
    /// Those of the listener, or of all listeners. `None`: off.
    pub clients: Option<Arc<ClientLimits>>,
    /// In place of the table and the fallbacks of all listeners. Boxed, since most listeners have none.
    own: Option<Box<OwnRoutes>>,
}

/// The routes of a listener that is not in the file.
struct OwnRoutes {
    table: RouteTable,
    /// For names that no route matches, and for hellos without a name.
    unmatched: Route,
    /// For first bytes that are not a TLS handshake.
    not_tls: Route,
}

/// The keys of Encrypted ClientHello, with what counts their use.
#[derive(Clone)]
pub struct Ech {
    pub keys: Arc<Keys>,
    /// In the order of the keys.
    pub metrics: Arc<[EchKeyMetrics]>,
}

/// The peers that send a PROXY header first.
struct Proxies {
    trusted: Vec<IpNet>,
    /// What happens to all others.
    others: Others,
}

/// How a peer begins its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Introduction {
    /// As a client, whose address is the peer's.
    Plain,
    /// With a PROXY header, which is believed.
    Header,
    /// It is refused: it would send a PROXY header that must not be believed.
    Distrusted,
}

/// What happens to clients that say nothing.
pub struct Silent {
    /// How long they say nothing, after they were accepted or have sent their PROXY header.
    pub after: Duration,
    /// Where they go.
    pub route: Route,
}

/// What a listener with `protocol: http` does with requests.
pub struct HttpTerms {
    pub acme_challenge: AcmeChallenge,
    pub otherwise: OtherRequests,
}

/// What happens to requests that do not fetch a challenge.
pub enum OtherRequests {
    Redirect,
    Refuse,
    /// All of them take this route, which is not in the table, to a pool.
    Pool(Box<Route>),
}

/// What a connection needs of its snapshot until it ends. It holds only this, so that connections that live for days do
/// not keep the tables of every reload since.
pub struct Terms {
    /// [`Snapshot::generation`]
    pub generation: u64,
    /// [`Snapshot::hash`]
    pub hash: Arc<str>,
    /// The names of the listeners, in configuration order.
    listeners: Vec<Arc<str>>,
    /// `timeouts.hello`
    pub hello_timeout: Duration,
    /// `limits.max_hello`, in bytes.
    pub max_hello_bytes: usize,
    /// `limits.hello_memory`; `None` is `auto`.
    pub hello_memory_bytes: Option<usize>,
    /// Where its line goes when it ends.
    pub connection_log: ConnectionLog,
    /// Of the process.
    pub metrics: Arc<Metrics>,
}

/// Where connections that match a pattern or a fallback go.
pub struct Route {
    pub name: Arc<str>,
    pub to: Destination,
    pub on_removed: OnRemoved,
    pub origin: Origin,
    /// `None`: every client may come in.
    pub access: Option<Box<Access>>,
    /// Boxed, since few routes have any.
    overrides: Option<Box<Overrides>>,
    /// `None`: off.
    pub clients: Option<Arc<ClientLimits>>,
    /// Created on first use, so that a million routes cost nothing.
    metrics: OnceLock<Arc<RouteMetrics>>,
}

/// The keys of a route that few routes have.
#[derive(Default)]
struct Overrides {
    idle_timeout: Option<Span>,
    max_age: Option<Or<Off, Span>>,
    max_connections: Or<Nothing, usize>,
    /// Of all routes of this name, across reloads, since one had a limit.
    permits: Option<Arc<Permits>>,
    /// What files of names have to do with it.
    listed: Option<Box<Listed>>,
}

#[derive(Clone)]
pub enum Destination {
    Pool(Arc<Pool>),
    Split(Arc<Split>),
    Refuse(Refuse),
}

/// The pool that one connection goes to.
#[derive(Clone, Copy)]
pub struct ToPool<'a> {
    pub pool: &'a Arc<Pool>,
    share: Option<&'a Share>,
}

/// The connection to route.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuery<'a> {
    /// `None`: the hello has no server_name extension.
    pub sni: Option<&'a Sni>,
    /// The protocols that the client offers.
    pub alpn: &'a Alpn,
    /// The client's address, from the PROXY header if there is one; `None` if the header has none.
    pub source: Option<IpAddr>,
    /// The listener that accepted the connection.
    pub listener: ListenerIndex,
    /// How the name was sent.
    pub form: NameForm,
}

/// The result of [`Snapshot::choose`].
#[derive(Clone, Copy)]
pub struct Chosen<'a> {
    pub route: &'a Route,
    pub matched: Match,
}

impl Route {
    /// Where the next connection goes; takes a turn of a split.
    ///
    /// # Errors
    /// How it is refused.
    pub fn next(&self) -> Result<ToPool<'_>, Refuse> {
        match &self.to {
            Destination::Pool(pool) => Ok(ToPool { pool, share: None }),
            Destination::Split(split) => {
                let share = split.next();
                Ok(ToPool { pool: &share.pool, share: Some(share) })
            }
            Destination::Refuse(how) => Err(*how),
        }
    }

    fn split(&self) -> Option<&Split> {
        match &self.to {
            Destination::Split(split) => Some(split),
            Destination::Pool(_) | Destination::Refuse(_) => None,
        }
    }

    /// The pool of every connection, if there is only one.
    pub fn only_pool(&self) -> Option<ToPool<'_>> {
        match &self.to {
            Destination::Pool(pool) => Some(ToPool { pool, share: None }),
            Destination::Split(_) | Destination::Refuse(_) => None,
        }
    }
}

impl Destination {
    /// The pools it leads to, including shares that get no connections.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        let (one, several) = match self {
            Self::Pool(pool) => (Some(pool), &[][..]),
            Self::Split(split) => (None, split.shares()),
            Self::Refuse(_) => (None, &[][..]),
        };
        one.into_iter().chain(several.iter().map(|share| &share.pool))
    }
}

impl Snapshot {
    /// The terms of a listener of this snapshot.
    pub fn listener(&self, ListenerIndex(index): ListenerIndex) -> &ListenerTerms {
        &self.listeners[index]
    }

    /// The route with this index. Panics if it is from another snapshot.
    pub fn route(&self, RouteIndex(index): RouteIndex) -> &Route {
        &self.routes[index as usize]
    }

    /// The index of the listener with that name.
    pub fn find_listener(&self, name: &str) -> Option<ListenerIndex> {
        self.listeners.iter().position(|listener| *listener.name == *name).map(ListenerIndex)
    }

    /// The table that routes the names of this listener.
    pub(crate) fn table_of(&self, listener: ListenerIndex) -> &RouteTable {
        self.own_routes(listener).map_or(&self.table, |own| &own.table)
    }

    /// All tables: that of the listeners of the file, then those of other listeners.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &RouteTable> {
        let own = self.listeners.iter().filter_map(|listener| Some(&listener.own.as_ref()?.table));
        std::iter::once(&self.table).chain(own)
    }

    /// For first bytes that are not a TLS handshake.
    pub(crate) fn not_tls_of(&self, listener: ListenerIndex) -> &Route {
        self.own_routes(listener).map_or(&self.not_tls, |own| &own.not_tls)
    }

    fn own_routes(&self, ListenerIndex(index): ListenerIndex) -> Option<&OwnRoutes> {
        self.listeners.get(index)?.own.as_deref()
    }

    /// Finds where a TLS connection goes. A name is routed; without one, or with an IP address in its place, `no_sni`
    /// applies.
    pub fn choose(&self, asked: RouteQuery<'_>) -> Chosen<'_> {
        self.choose_watched(asked, |_| {})
    }

    /// The same as [`Self::choose`], but calls `see` with each candidate on the way.
    pub fn choose_watched<'s>(&'s self, asked: RouteQuery<'_>, mut see: impl FnMut(Candidate<'s>)) -> Chosen<'s> {
        let RouteQuery { sni, alpn, source, listener, form } = asked;
        let own = self.own_routes(listener);
        let Some(Sni::Name(server_name)) = sni else {
            return Chosen { route: own.map_or(&self.no_sni, |own| &own.unmatched), matched: Match::NoSni };
        };
        let is_route = |route| route != RouteIndex::NOWHERE;
        let see = |candidate: Candidate<'s>| {
            if is_route(candidate.route) {
                see(candidate);
            }
        };
        let found = self.table_of(listener).walk(&Lookup { server_name, alpn, source, listener, form }, see);
        match found.filter(|found| is_route(found.route)) {
            None => Chosen { route: own.map_or(&self.unmatched, |own| &own.unmatched), matched: Match::Unmatched },
            Some(found) => Chosen {
                route: self.route(found.route),
                matched: match found.by {
                    By::Exact => Match::Exact,
                    By::OneLabel => Match::OneLabel,
                    By::ManyLabels => Match::ManyLabels,
                    By::Any => Match::Any,
                },
            },
        }
    }

    /// The metrics of a connection of `route` that goes to a pool, or is refused; created on first use.
    pub fn metrics_of<'a>(&self, route: &'a Route, to: Option<ToPool<'a>>) -> &'a Arc<RouteMetrics> {
        let metrics = to.and_then(|to| to.share).map_or(&route.metrics, |share| &share.metrics);
        // Also if the first client is refused: the series of those to come are the same.
        let to = to.or_else(|| route.only_pool());
        metrics.get_or_init(|| {
            let listeners: Vec<&str> = self.listeners.iter().map(|listener| &*listener.name).collect();
            self.metrics.route(&route.name, to.map_or("", |to| &to.pool.name), &listeners)
        })
    }

    /// The hash of the configuration, sixteen hexadecimal digits.
    pub fn hash(&self) -> &str {
        &self.config.hash
    }

    /// Reconstructs the whole configuration in force, routes included, whatever has happened to the file since.
    pub fn effective(&self) -> Config {
        let mut patterns: Vec<(RouteIndex, u32, Pattern)> = Vec::new();
        let mut conditions: HashMap<RouteIndex, &Conditions> = HashMap::new();
        let pattern = |by, name: &[u8]| {
            let named = |kind: fn(ServerName) -> Pattern| String::from_utf8_lossy(name).parse().map(kind).ok();
            match by {
                By::Exact => named(Pattern::Exact),
                By::OneLabel => named(Pattern::OneLabel),
                By::ManyLabels => named(Pattern::ManyLabels),
                By::Any => Some(Pattern::Any),
            }
        };
        self.table.each(|by, name, route, has, number| {
            patterns.extend(pattern(by, name).map(|pattern| (route, number, pattern)));
            if has.count() > 0 {
                conditions.insert(route, has);
            }
        });
        let mut of_listeners: HashMap<RouteIndex, Vec<usize>> = HashMap::new();
        for (index, listener) in self.listeners.iter().enumerate() {
            let Some(own) = &listener.own else { continue };
            own.table.each(|by, name, route, _, number| {
                if route == RouteIndex::NOWHERE {
                    return;
                }
                let listeners = of_listeners.entry(route).or_default();
                if listeners.last() != Some(&index) {
                    listeners.push(index);
                }
                // Each of its listeners has the same patterns.
                if listeners.len() == 1 {
                    patterns.extend(pattern(by, name).map(|pattern| (route, number, pattern)));
                }
            });
        }
        // By route, and within a route in the order given.
        patterns.sort_unstable_by_key(|(route, number, _)| (*route, *number));
        let mut patterns = patterns.into_iter().peekable();
        let numbers: HashMap<&str, usize> =
            self.pools.iter().enumerate().map(|(number, pool)| (&*pool.name, number)).collect();
        let route = |(index, from): (RouteIndex, &Route)| config::Route {
            name: Arc::clone(&from.name),
            patterns: std::iter::from_fn(|| patterns.next_if(|(route, ..)| *route == index))
                .map(|(_, number, pattern)| (pattern, self.place(number)))
                .collect(),
            conditions: match of_listeners.remove(&index) {
                Some(listeners) => config::Conditions { listeners, ..config::Conditions::default() },
                None => conditions.get(&index).map(|has| config_conditions(has)).unwrap_or_default(),
            },
            to: match &from.to {
                Destination::Pool(pool) => config::Destination::Pool(numbers[&*pool.name]),
                Destination::Split(split) => {
                    let share =
                        |share: &Share| config::Share { pool: numbers[&*share.pool.name], weight: share.weight };
                    config::Destination::Split(split.shares().iter().map(share).collect())
                }
                Destination::Refuse(refuse) => config::Destination::Refuse(*refuse),
            },
            idle_timeout: from.idle_timeout(),
            max_age: from.overrides.as_ref().and_then(|overrides| overrides.max_age),
            max_connections: from.max_connections(),
            on_removed: from.on_removed,
            access: from.access.clone(),
            origin: from.origin,
            per_client: from.clients.as_ref().map(|clients| Box::new(clients.settings().clone())),
            listed: from.overrides.as_ref().and_then(|overrides| overrides.listed.clone()),
        };
        let routes = (0..).map(RouteIndex).zip(&self.routes).map(route).collect();
        Config { settings: self.config.clone(), routes }
    }

    /// The place in the configuration of the pattern with this [`Candidate::number`].
    ///
    /// # Panics
    /// If the number is from another snapshot.
    pub fn place(&self, number: u32) -> Place {
        self.places.get(number as usize)
    }

    /// Updates the gauges of all backends, and reads the limits that are set.
    pub(crate) fn publish(&self, readings: &mut Readings<'_>) {
        let now = Instant::now();
        self.pools.iter().for_each(|pool| pool.publish(now, readings));
        for listener in self.listeners.iter().filter(|listener| listener.max_connections < usize::MAX) {
            readings.listener_limit(&listener.name, listener.max_connections);
        }
        for route in &self.routes {
            route.max_connections().into_iter().for_each(|most| readings.route_limit(&route.name, most));
        }
    }

    /// Carries over what the pools of `before`, from which this snapshot was built, have learned since.
    pub fn catch_up(&self, before: &Self) {
        let known: HashMap<&str, &Pool> = before.pools.iter().map(|pool| (&*pool.name, &**pool)).collect();
        for pool in &self.pools {
            if let Some(before) = known.get(&*pool.name) {
                pool.catch_up(before);
            }
        }
    }

    /// Lets the clients that wait in a pool's queue use its pool of this snapshot, which has come into force.
    pub fn take_over_queues(&self) {
        self.pools.iter().for_each(|pool| pool.queue.is_now_of(pool));
    }

    /// Calls the clients that wait in queues although they need not any more, because of something that only time
    /// shows, such as the end of an ejection.
    pub fn call_waiting(&self, now: Instant) {
        self.pools.iter().for_each(|pool| pool.call_waiting(now));
    }

    /// Marks this snapshot as replaced. Call once another is in force.
    pub fn set_replaced(&self) {
        // An error means it was already set.
        let _ = self.replaced.set(());
    }

    /// Waits until another snapshot is in force; returns at once if one already is.
    pub async fn until_replaced(&self) {
        self.replaced.wait().await;
    }

    /// Removes the series of routes, pools and backends that no longer exist.
    pub fn retire_series(&self) {
        let fallbacks = [&self.no_sni, &self.unmatched, &self.not_tls].into_iter();
        let silent = self.listeners.iter().filter_map(|listener| Some(&listener.silent.as_ref()?.route));
        let otherwise = self.listeners.iter().filter_map(|listener| match &listener.http.as_ref()?.otherwise {
            OtherRequests::Pool(route) => Some(&**route),
            OtherRequests::Redirect | OtherRequests::Refuse => None,
        });
        let routes = fallbacks.chain(silent).chain(otherwise).chain(&self.routes).map(|route| &*route.name).collect();
        let pools = self.pools.iter().map(|pool| &*pool.name).collect();
        let members: Vec<_> = self.pools.iter().map(|pool| (pool, pool.list())).collect();
        let backends = (members.iter())
            .flat_map(|(pool, list)| list.iter().map(|member| (&*pool.name, &*member.backend.name)))
            .collect();
        self.metrics.retain(&routes, &pools, &backends);
        let keys = self.config.ech_keys.iter().flat_map(|keys| keys.iter());
        self.metrics.retain_ech_keys(&keys.map(|key| &*key.file).collect());
    }
}

impl Route {
    fn new(name: Arc<str>, to: Destination) -> Self {
        Self {
            name,
            to,
            overrides: None,
            on_removed: OnRemoved::Keep,
            origin: Origin::File,
            access: None,
            clients: None,
            metrics: OnceLock::new(),
        }
    }
}

/// The places of all patterns, in the order in which they were added to the table: a million take 12 MB.
#[derive(Default)]
struct Places {
    files: Vec<Arc<Path>>,
    spots: Vec<Spot>,
}

struct Spot {
    /// Index into [`Places::files`].
    file: u32,
    line: u32,
    column: u32,
}

impl Places {
    fn push(&mut self, Place { file, line, column }: &Place) {
        // The patterns of a file are consecutive.
        if !self.files.last().is_some_and(|last| Arc::ptr_eq(last, file) || last == file) {
            self.files.push(Arc::clone(file));
        }
        let file = u32::try_from(self.files.len() - 1).expect("far fewer files than bytes of memory");
        self.spots.push(Spot { file, line: *line, column: *column });
    }

    /// The number of the place that is pushed next.
    fn next(&self) -> u32 {
        u32::try_from(self.spots.len()).expect("less than 2³² entries")
    }

    fn get(&self, number: usize) -> Place {
        let Spot { file, line, column } = self.spots[number];
        Place { file: Arc::clone(&self.files[file as usize]), line, column }
    }
}

impl Route {
    /// Overrides `timeouts.idle`.
    pub fn idle_timeout(&self) -> Option<Span> {
        self.overrides.as_ref()?.idle_timeout
    }

    /// Overrides `timeouts.max_age`.
    pub fn max_age(&self) -> Option<Or<Off, Span>> {
        self.overrides.as_ref()?.max_age
    }

    /// How many connections of this route may be open at once.
    pub fn max_connections(&self) -> Or<Nothing, usize> {
        self.overrides.as_ref().map_or_else(Or::default, |overrides| overrides.max_connections)
    }

    fn permits(&self) -> Option<&Arc<Permits>> {
        self.overrides.as_ref()?.permits.as_ref()
    }

    /// Takes a place under the limit of the route. `Ok(None)`: it has none.
    ///
    /// # Errors
    /// The route is at its limit.
    pub(crate) fn permit(&self) -> Result<Option<Permit>, AtLimit> {
        let Some(permits) = self.permits() else { return Ok(None) };
        permits.try_acquire(self.max_connections().unwrap_or(usize::MAX)).map(Some).ok_or(AtLimit)
    }
}

/// As many connections are open as the limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AtLimit;

impl Terms {
    /// The name of a listener.
    pub(crate) fn listener(&self, ListenerIndex(index): ListenerIndex) -> &Arc<str> {
        &self.listeners[index]
    }
}

impl ListenerTerms {
    /// How a connection from `peer`, a canonical address, begins.
    pub(crate) fn introduction(&self, peer: IpAddr) -> Introduction {
        match &self.proxies {
            None => Introduction::Plain,
            Some(Proxies { trusted, .. }) if trusted.iter().any(|net| net.contains(&peer)) => Introduction::Header,
            Some(Proxies { others: Others::Plain, .. }) => Introduction::Plain,
            Some(Proxies { others: Others::Refuse, .. }) => Introduction::Distrusted,
        }
    }
}

fn config_conditions(from: &Conditions) -> config::Conditions {
    let listeners = from.listeners.iter().map(|ListenerIndex(index)| *index).collect();
    config::Conditions { alpn: from.alpn.clone(), source: from.source.clone(), listeners, ech: from.ech }
}

/// The first congestion control algorithm of `config` that the kernel does not have.
pub(crate) fn missing_congestion(config: &Settings) -> Option<(&str, std::io::Error)> {
    let listeners = config.listeners.iter().filter_map(|listener| settings::named(&listener.congestion));
    let mut asked = listeners.chain(config.pools.iter().filter_map(|pool| settings::named(&pool.congestion)));
    asked.find_map(|name| socket::check_congestion(name).err().map(|error| (name, error)))
}

/// The first pool of `config` that is transparent, if this process may not connect from the addresses of clients.
pub(crate) fn lacks_transparent(config: &Settings) -> Option<(&Arc<str>, std::io::Error)> {
    let pool = config.pools.iter().find(|pool| pool.transparent)?;
    socket::check_transparent().err().map(|error| (&pool.name, error))
}
