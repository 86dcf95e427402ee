//! Builds a snapshot from a configuration.
//!
//! In:  a [`Config`], and the snapshot in force, whose backends, splits and counts of clients go on.
//! Out: a [`Snapshot`] that nothing uses yet.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::SetOnce;

use super::{
    Destination, Ech, HttpTerms, ListenerTerms, OtherRequests, Overrides, OwnRoutes, Places, Proxies, Route, Silent,
    Snapshot, Split, Terms, ToPool,
};
use crate::client_limits::ClientLimits;
use crate::config::{self, Config, Settings};
use crate::ech::Keys;
use crate::ids::{ListenerIndex, RouteIndex};
use crate::limits::Permits;
use crate::pool::Pool;
use crate::proxy_header::Kinds;
use crate::relay::{self, Engine};
use crate::route::{Builder, Conditions};
use crate::settings::{
    self, Access, KubernetesUnmatched, ListenerProtocol, OpenEch, OrOff, Origin, Otherwise, PerClient, Refuse, Splice,
};
use crate::telemetry::{ConnectionLog, Metrics};

impl Snapshot {
    /// Builds from `config`; backends that are also in `before`, by pool name and address, are carried over.
    pub fn build(config: Config, before: Option<&Self>, metrics: &Arc<Metrics>) -> Self {
        let Config { settings: config, routes: from } = config;
        let pools = build_pools(&config, before, metrics);
        let generation = before.map_or(0, |before| before.generation + 1);
        let splits = before.map(Self::splits).unwrap_or_default();
        let mut permits = before.map(Self::route_permits).unwrap_or_default();
        let mut table = Builder::with_room_for(from.iter().map(|route| route.patterns.len()).sum());
        let mut routes = Vec::with_capacity(from.len());
        let mut places = Places::default();
        let known = before.map(routes_with_limits).unwrap_or_default();
        let mut own: Vec<Builder> = config.listeners.iter().map(|_| Builder::default()).collect();
        for (index, mut from) in (0..).map(RouteIndex).zip(from) {
            for (pattern, place) in std::mem::take(&mut from.patterns) {
                match from.origin {
                    Origin::File | Origin::Docker => table.add(pattern, conditions(&from.conditions), index),
                    // They come after all others, so the numbers of the table above stay those of the places.
                    Origin::Kubernetes => {
                        for listener in &from.conditions.listeners {
                            own[*listener].add_numbered(places.next(), pattern.clone(), Conditions::default(), index);
                        }
                    }
                }
                places.push(&place);
            }
            let split = splits.get(&*from.name).copied();
            let clients = from.per_client.take().map(|own| ClientLimits::new(&own, known.get(&*from.name).copied()));
            let permits = permits.remove(&from.name);
            let overrides = overrides(&mut from, permits);
            let to = destination(from.to, &pools, split);
            let config::Route { name, on_removed, origin, access, .. } = from;
            routes.push(Route { overrides, on_removed, origin, access, clients, ..Route::new(name, to) });
        }
        let mut own: Vec<Option<Box<OwnRoutes>>> = (config.listeners.iter().zip(own))
            .map(|(listener, table)| own_routes(listener, table, &config, &pools, &mut places))
            .collect();
        places.spots.shrink_to_fit();
        let fallback = |name: &str, to, before: Option<&Route>| {
            Route::new(name.into(), destination(to, &pools, before.and_then(Route::split)))
        };
        let silent = |listener: &settings::Listener| {
            let silent = listener.silent.as_ref()?;
            let pool = pools.iter().position(|pool| *pool.name == *silent.pool)?;
            Some(Silent { after: *silent.after, route: fallback("silent", config::Destination::Pool(pool), None) })
        };
        let clients = on(&config.limits.per_client)
            .map(|limits| ClientLimits::new(limits, before.and_then(|before| before.clients.as_deref())));
        let ech = config.ech_keys.as_ref().map(|keys| ech(keys, metrics));
        let listener = |listener: &settings::Listener| {
            let own = listener_clients(listener, clients.as_ref(), before);
            let ech = ech.clone().filter(|_| listener.ech == OpenEch::Auto);
            ListenerTerms { ech, ..listener_terms(listener, silent(listener), own, &pools) }
        };
        let mut listeners: Vec<ListenerTerms> = config.listeners.iter().map(listener).collect();
        listeners.iter_mut().zip(&mut own).for_each(|(listener, own)| listener.own = own.take());
        let snapshot = Self {
            table: table.build(),
            routes,
            no_sni: fallback("no_sni", config.no_sni.clone(), before.map(|before| &before.no_sni)),
            unmatched: fallback("unmatched", config.unmatched.clone(), before.map(|before| &before.unmatched)),
            not_tls: fallback("not_tls", config.not_tls.clone(), before.map(|before| &before.not_tls)),
            relay: Arc::new(relay_settings(&config)),
            max_connections: *config.limits.max_connections,
            listeners,
            clients,
            relayed_values: relayed_values(&config),
            bound: config.listeners.iter().flat_map(|listener| listener.bind.iter().map(|bind| bind.0)).collect(),
            generation,
            terms: Arc::new(terms(&config, generation, metrics)),
            places,
            metrics: Arc::clone(metrics),
            replaced: SetOnce::new(),
            pools,
            config,
        };
        if snapshot.routes.len() <= MOST_ROUTES_WITH_SERIES_AT_ONCE {
            for route in &snapshot.routes {
                snapshot.register_metrics(route);
            }
        }
        snapshot
    }

    /// The connections of each route that has, or had, a limit.
    fn route_permits(&self) -> HashMap<Arc<str>, Arc<Permits>> {
        let permits = |route: &Route| Some((Arc::clone(&route.name), Arc::clone(route.permits()?)));
        self.routes.iter().filter_map(permits).collect()
    }

    /// The splits of all routes, by the name of the route.
    fn splits(&self) -> HashMap<&str, &Split> {
        self.routes.iter().filter_map(|route| Some((&*route.name, route.split()?))).collect()
    }

    fn register_metrics(&self, route: &Route) {
        match &route.to {
            Destination::Pool(pool) => _ = self.metrics_of(route, Some(ToPool { pool, share: None })),
            Destination::Split(split) => {
                for share in split.shares() {
                    self.metrics_of(route, Some(ToPool { pool: &share.pool, share: Some(share) }));
                }
            }
            Destination::Refuse(_) => _ = self.metrics_of(route, None),
        }
    }
}

fn relayed_values(config: &Settings) -> Kinds {
    config.pools.iter().map(|pool| pool.send_proxy_protocol.relayed()).fold(Kinds::default(), Kinds::and)
}

fn build_pools(config: &Settings, before: Option<&Snapshot>, metrics: &Arc<Metrics>) -> Vec<Arc<Pool>> {
    let known: HashMap<&str, &Pool> =
        (before.into_iter().flat_map(|before| &before.pools)).map(|pool| (&*pool.name, &**pool)).collect();
    let build = |pool: &settings::Pool| Arc::new(Pool::new(pool.clone(), metrics, known.get(&*pool.name).copied()));
    config.pools.iter().map(build).collect()
}

/// `before`: the split that this one continues.
fn destination(to: config::Destination, pools: &[Arc<Pool>], before: Option<&Split>) -> Destination {
    match to {
        config::Destination::Pool(pool) => Destination::Pool(Arc::clone(&pools[pool])),
        config::Destination::Split(shares) => {
            let shares = shares.iter().map(|share| (Arc::clone(&pools[share.pool]), share.weight));
            Destination::Split(Arc::new(Split::new(shares, before)))
        }
        config::Destination::Refuse(refuse) => Destination::Refuse(refuse),
    }
}

/// `permits` are those of the route of this name before. They go on counting without a limit, so that one that is set
/// again later holds for all connections that are open then.
fn overrides(from: &mut config::Route, permits: Option<Arc<Permits>>) -> Option<Box<Overrides>> {
    let listed = from.listed.take();
    let &mut config::Route { idle_timeout, max_age, max_connections, .. } = from;
    let permits = permits.or_else(|| max_connections.is_some().then(Arc::default));
    let has_any = idle_timeout.is_some() || max_age.is_some() || permits.is_some() || listed.is_some();
    has_any.then(|| Box::new(Overrides { idle_timeout, max_age, max_connections, permits, listed }))
}

/// The limits of the routes that have some, by name.
fn routes_with_limits(before: &Snapshot) -> HashMap<&str, &ClientLimits> {
    before.routes.iter().filter_map(|route| Some((&*route.name, route.clients.as_deref()?))).collect()
}

/// The limits for the clients of a listener: its own, or those of `all`.
fn listener_clients(
    listener: &settings::Listener,
    all: Option<&Arc<ClientLimits>>,
    before: Option<&Snapshot>,
) -> Option<Arc<ClientLimits>> {
    if listener.per_client.is_none() {
        return all.cloned();
    }
    let own = on(&listener.per_client)?;
    let known = before.and_then(|before| before.listener(before.find_listener(&listener.name)?).clients.as_ref());
    let shared = before.and_then(|before| before.clients.as_ref());
    let known = known.filter(|known| shared.is_none_or(|shared| !Arc::ptr_eq(known, shared)));
    Some(ClientLimits::new(own, known.map(|known| &**known)))
}

fn on(limits: &Option<OrOff<PerClient>>) -> Option<&PerClient> {
    limits.as_ref()?.0.as_ref()
}

fn conditions(from: &config::Conditions) -> Conditions {
    let listeners = from.listeners.iter().copied().map(ListenerIndex).collect();
    Conditions { alpn: from.alpn.clone(), source: from.source.clone(), listeners, ech: from.ech }
}

fn listener_terms(
    listener: &settings::Listener,
    silent: Option<Silent>,
    clients: Option<Arc<ClientLimits>>,
    pools: &[Arc<Pool>],
) -> ListenerTerms {
    ListenerTerms {
        name: Arc::clone(&listener.name),
        max_connections: listener.max_connections.unwrap_or(usize::MAX),
        proxies: listener.trusted_proxies().map(|trusted| Proxies {
            trusted: trusted.iter().map(|network| network.0).collect(),
            others: listener.other_peers(),
        }),
        starttls: listener.starttls,
        silent,
        access: Access::new(listener.allow.clone(), listener.deny.clone()),
        ech: None,
        own: None,
        clients,
        http: (listener.protocol == ListenerProtocol::Http).then(|| Box::new(http_terms(listener, pools))),
    }
}

/// The routes of a listener that is not in the file; `None`: those of the file apply.
fn own_routes(
    listener: &settings::Listener,
    mut table: Builder,
    config: &Settings,
    pools: &[Arc<Pool>],
    places: &mut Places,
) -> Option<Box<OwnRoutes>> {
    if listener.origin != Origin::Kubernetes {
        return None;
    }
    let place = config::Place { file: Path::new(&*listener.name).into(), line: 0, column: 0 };
    for hostname in &listener.hostnames {
        // Behind the routes: of two entries for one pattern, the first wins.
        table.add_numbered(places.next(), hostname.clone(), Conditions::default(), RouteIndex::NOWHERE);
        places.push(&place);
    }
    let unmatched = config.kubernetes.as_ref().map_or(&KubernetesUnmatched::Close, |kubernetes| &kubernetes.unmatched);
    let refuse = match unmatched {
        KubernetesUnmatched::Alert => Refuse::Alert,
        KubernetesUnmatched::Reset => Refuse::Reset,
        KubernetesUnmatched::Close | KubernetesUnmatched::Pool(_) => Refuse::Close,
    };
    let pool = match unmatched {
        KubernetesUnmatched::Pool(name) => pools.iter().find(|pool| pool.name == *name),
        _ => None,
    };
    let to = pool.map_or(Destination::Refuse(refuse), |pool| Destination::Pool(Arc::clone(pool)));
    // Without TLS, there is nobody to send an alert to.
    let plain = if refuse == Refuse::Reset { Refuse::Reset } else { Refuse::Close };
    Some(Box::new(OwnRoutes {
        table: table.build(),
        unmatched: Route::new("unmatched".into(), to),
        not_tls: Route::new("not_tls".into(), Destination::Refuse(plain)),
    }))
}

fn ech(keys: &Arc<Keys>, metrics: &Metrics) -> Ech {
    let keys = Arc::clone(keys);
    let metrics = keys.iter().map(|key| metrics.ech_key(&key.file)).collect();
    Ech { keys, metrics }
}

fn http_terms(listener: &settings::Listener, pools: &[Arc<Pool>]) -> HttpTerms {
    let otherwise = match listener.otherwise.as_ref() {
        None | Some(Otherwise::Redirect) => OtherRequests::Redirect,
        Some(Otherwise::Refuse) => OtherRequests::Refuse,
        Some(Otherwise::Pool(name)) => {
            let pool = pools.iter().find(|pool| pool.name == *name).expect("checked when the file was read");
            let route = Route::new("otherwise".into(), Destination::Pool(Arc::clone(pool)));
            OtherRequests::Pool(Box::new(route))
        }
    };
    HttpTerms { acme_challenge: listener.acme_challenge.unwrap_or_default(), otherwise }
}

fn relay_settings(config: &Settings) -> relay::Settings {
    let engine = match config.relay.splice {
        Splice::Auto => Engine::Adaptive { pipe_bytes: *config.relay.pipe_size },
        Splice::Off => Engine::Copy,
    };
    relay::Settings {
        idle: *config.timeouts.idle,
        half_closed: *config.timeouts.half_closed,
        max_age: config.timeouts.max_age.map(|max_age| *max_age),
        engine,
        tcp: config.tcp.clone(),
    }
}

fn terms(config: &Settings, generation: u64, metrics: &Arc<Metrics>) -> Terms {
    Terms {
        generation,
        hash: config.hash.as_str().into(),
        listeners: config.listeners.iter().map(|listener| Arc::clone(&listener.name)).collect(),
        hello_timeout: *config.timeouts.hello,
        max_hello_bytes: *config.limits.max_hello,
        hello_memory_bytes: config.limits.hello_memory.map(|size| *size),
        connection_log: ConnectionLog::shared(&config.log),
        metrics: Arc::clone(metrics),
    }
}

/// With more routes than this, a route's series are created on first use.
const MOST_ROUTES_WITH_SERIES_AT_ONCE: usize = 200;
