//! Stands for the source of Kubernetes objects in a build without it: there is nothing to find.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::config::Config;
use crate::operate::status::KubernetesStatus;
use crate::snapshot::Snapshot;
use crate::sources::Found;
use crate::telemetry::Metrics;

/// There is none.
#[derive(Clone, Debug)]
pub(crate) enum Cluster {}

/// There is none.
#[derive(Debug)]
pub(crate) enum Translation {}

pub(crate) fn join(_: &mut Config, cluster: &Cluster) -> Option<Translation> {
    match *cluster {}
}

#[derive(Clone)]
pub(crate) struct ClusterFollower;

impl ClusterFollower {
    pub(crate) fn new(
        _: Arc<ArcSwap<Snapshot>>,
        _: Arc<Metrics>,
        _: Arc<watch::Sender<Found>>,
        _: watch::Receiver<Arc<[SocketAddr]>>,
    ) -> Self {
        Self
    }

    pub(crate) async fn run(self) {}

    pub(crate) async fn tried(&self) {}

    pub(crate) async fn leave(&self) {}

    pub(crate) fn fill(&self, _: &Snapshot, _: &Translation) {}

    pub(crate) fn in_force(&self, found: &Cluster, _: &Translation) {
        match *found {}
    }

    pub(crate) fn cannot_bind(&self, _: &str, _: SocketAddr, _: &std::io::Error) {}

    pub(crate) fn status(&self) -> Option<KubernetesStatus> {
        None
    }
}
