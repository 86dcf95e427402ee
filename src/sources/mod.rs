//! The sources of routes beside the routing file, and how they join it.
//!
//! In:  the configuration of the file; what each source has found last.
//! Out: one [`Config`] to build a snapshot from, and what to report about each source. Pure, except for the tasks that
//!      follow the sources.
//! Source: docs/docker.md.
//!
//! The file comes first: a source may add routes and pools, never change those of the file. A source is a module with a
//! task that finds something, a function that turns it into a [`Contribution`], and a field of [`Found`].

pub(crate) mod docker;
#[cfg(feature = "kubernetes")]
pub(crate) mod kubernetes;
#[cfg(not(feature = "kubernetes"))]
#[path = "kubernetes_off.rs"]
pub(crate) mod kubernetes;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use self::docker::{Container, Translation};
use crate::config::{Conditions, Config, Destination, Place, Route};
use crate::server_name::Pattern;
use crate::settings::{OnRemoved, Or, Origin, Pool};

/// What the sources have found last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// `None`: the Docker API has not answered yet.
    pub docker: Option<Arc<[Container]>>,
    /// `None`: not all objects have been read yet.
    pub kubernetes: Option<Arc<kubernetes::Cluster>>,
}

/// What a source adds to the configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Contribution {
    pub routes: Vec<FoundRoute>,
}

/// A route to a pool of its own, both of one name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FoundRoute {
    /// Its name is also that of the route. A pool without backends refuses its clients as one that is down.
    pub pool: Pool,
    /// None of them is in the file.
    pub patterns: Vec<(Pattern, Place)>,
}

/// The configuration of the file together with the sources.
#[derive(Debug)]
pub(crate) struct Merged {
    pub config: Config,
    pub reports: Reports,
}

/// What to report to each source once it is in force. `None`: it is off, or has found nothing yet.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    pub docker: Option<Translation>,
    pub kubernetes: Option<(Arc<kubernetes::Cluster>, Arc<kubernetes::Translation>)>,
}

/// Adds to `file`, which has no routes of sources yet, what the sources have found. `is_ours` says whether snigate itself
/// listens at an address.
pub(crate) fn merge(file: Config, found: &Found, is_ours: &dyn Fn(SocketAddr) -> bool) -> Merged {
    let mut config = file;
    let docker = config.docker.as_ref().zip(found.docker.as_ref());
    let docker = docker.map(|(settings, containers)| docker::translate(settings, containers, &config, is_ours));
    if let Some(translation) = &docker {
        add(&mut config, &translation.contribution, Origin::Docker);
    }
    let kubernetes = found.kubernetes.as_ref().and_then(|cluster| {
        let translation = kubernetes::join(&mut config, cluster)?;
        Some((Arc::clone(cluster), Arc::new(translation)))
    });
    Merged { config, reports: Reports { docker, kubernetes } }
}

/// The part of `config` that is in the file.
pub(crate) fn only_file(mut config: Config) -> Config {
    config.routes.retain(|route| route.origin == Origin::File);
    // They are the last ones, so the numbers of the others stay.
    config.settings.pools.retain(|pool| pool.origin == Origin::File);
    config.settings.listeners.retain(|listener| listener.origin == Origin::File);
    config
}

/// The place of what a container says, for messages.
pub(crate) fn place(container: &str) -> Place {
    let file: Arc<Path> = Path::new(&format!("container {container}")).into();
    Place { file, line: 0, column: 0 }
}

fn add(config: &mut Config, contribution: &Contribution, origin: Origin) {
    for FoundRoute { pool, patterns } in &contribution.routes {
        config.routes.push(Route {
            name: Arc::clone(&pool.name),
            patterns: patterns.clone(),
            conditions: Conditions::default(),
            to: Destination::Pool(config.settings.pools.len()),
            idle_timeout: None,
            max_age: None,
            max_connections: Or::default(),
            on_removed: OnRemoved::Keep,
            access: None,
            per_client: None,
            origin,
            listed: None,
        });
        let congestion = pool.congestion.clone().or_else(|| Some(config.tcp.congestion.clone()));
        config.settings.pools.push(Pool { origin, congestion, ..pool.clone() });
    }
}
