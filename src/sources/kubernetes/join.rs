//! Adds what a cluster asks for to the configuration of the file.
//!
//! In:  a [`Translation`].
//! Out: listeners with routes of their own, and pools; all of them behind those of the file.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::objects::{Objects, Observed};
use super::translate::translate;
use super::translation::{GatewayListener, GatewayRoute, To, Translation};
use crate::config::{Conditions, Config, Destination, Place, Route, Share};
use crate::settings::{
    Kubernetes, KubernetesRole, Listener, ListenerProtocol, OnRemoved, OpenEch, Or, Origin, Pool, Refuse, Starttls,
    Text,
};

/// What was read of a cluster last.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cluster {
    pub objects: Objects,
    pub observed: Observed,
}

/// Translates `cluster` and joins it to `config`, which has the listeners of the file; `None`: `kubernetes` is off.
pub(crate) fn join(config: &mut Config, cluster: &Cluster) -> Option<Translation> {
    let settings: Kubernetes = config.kubernetes.clone()?;
    let bound: Vec<SocketAddr> =
        config.listeners.iter().flat_map(|listener| listener.bind.iter().map(|bind| bind.0)).collect();
    let translation = translate(&cluster.objects, &settings, &cluster.observed, &bound);
    if settings.role != KubernetesRole::Controller {
        add(config, &translation, &cluster.observed);
    }
    Some(translation)
}

fn add(config: &mut Config, translation: &Translation, observed: &Observed) {
    let taken = Taken::of(config);
    let (first_listener, first_pool) = (config.settings.listeners.len(), config.settings.pools.len());
    for found in &translation.listeners {
        let name = taken.free(&found.name);
        let mut listener = listener(found, name, config);
        // It listens nowhere, so that everything else is served. It keeps its place, which its routes name.
        if observed.unbindable.contains_key(&found.gateway) {
            listener.bind = Vec::new().into();
        }
        config.settings.listeners.push(listener);
    }
    for found in &translation.pools {
        let congestion = Some(config.settings.tcp.congestion.clone());
        config.settings.pools.push(Pool { name: taken.free(&found.pool.name), congestion, ..found.pool.clone() });
    }
    for found in &translation.routes {
        config.routes.push(route(found, taken.free(&found.name), first_listener, first_pool));
    }
}

/// The names of the file: they identify listeners, routes and pools in metrics and across reloads.
struct Taken(HashSet<Arc<str>>);

impl Taken {
    fn of(config: &Config) -> Self {
        let listeners = config.listeners.iter().map(|listener| &listener.name);
        let pools = config.pools.iter().map(|pool| &pool.name);
        let routes = config.routes.iter().map(|route| &route.name);
        // Only those can be the same: all of ours have a slash.
        Self(listeners.chain(pools).chain(routes).filter(|name| name.contains('/')).cloned().collect())
    }

    fn free(&self, name: &Arc<str>) -> Arc<str> {
        if self.0.contains(name) { format!("{name}@kubernetes").into() } else { Arc::clone(name) }
    }
}

fn listener(found: &GatewayListener, name: Arc<str>, config: &Config) -> Listener {
    Listener {
        name,
        bind: found.bind.iter().copied().map(Text).collect::<Vec<_>>().into(),
        protocol: ListenerProtocol::Tls,
        acme_challenge: None,
        otherwise: None,
        proxy_protocol: None,
        starttls: Starttls::None,
        ech: OpenEch::default(),
        silent: None,
        max_connections: Or::default(),
        allow: None,
        deny: Default::default(),
        per_client: None,
        congestion: Some(config.tcp.congestion.clone()),
        freebind: false,
        origin: Origin::Kubernetes,
        hostnames: found.hostnames.clone(),
    }
}

fn route(found: &GatewayRoute, name: Arc<str>, first_listener: usize, first_pool: usize) -> Route {
    let file: Arc<Path> = Path::new(&*found.object).into();
    let place = Place { file, line: 0, column: 0 };
    let to = match &found.to {
        To::Pool(pool) => Destination::Pool(first_pool + pool),
        To::Split(shares) => {
            let share = |(pool, weight): &(usize, u32)| Share { pool: first_pool + pool, weight: *weight };
            Destination::Split(shares.iter().map(share).collect())
        }
        To::Nowhere => Destination::Refuse(Refuse::Close),
    };
    let listeners = found.listeners.iter().map(|listener| first_listener + listener).collect();
    Route {
        name,
        patterns: found.patterns.iter().map(|pattern| (pattern.clone(), place.clone())).collect(),
        conditions: Conditions { listeners, ..Conditions::default() },
        to,
        idle_timeout: None,
        max_age: None,
        max_connections: Or::default(),
        on_removed: OnRemoved::Keep,
        access: None,
        per_client: None,
        listed: None,
        origin: Origin::Kubernetes,
    }
}
