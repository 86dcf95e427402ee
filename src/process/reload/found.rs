//! Puts in force what the sources beside the files have found: containers, and the objects of a cluster.
//!
//! In:  what they have found last; the files as they were last accepted.
//! Out: a new snapshot, if anything in it is different; to each source, what is now in force of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Built, Rejected, Reloader};
use crate::config::Config;
use crate::process::apply::ApplyError;
use crate::process::listening_sockets::CannotBind;
use crate::self_loop::comes_back;
use crate::settings::Origin;
use crate::sources::{self, Merged, Reports};
use crate::supervise::log_panic;
use crate::telemetry::{DockerResult, Task};

impl Reloader {
    /// Adds what the sources beside the files have found last to the configuration of the files.
    pub(super) fn merge(&mut self) -> impl FnOnce(Config) -> Merged + Send + use<> {
        let (found, listening) = (self.found.borrow_and_update().clone(), self.listening.borrow().clone());
        move |file| sources::merge(file, &found, &|address| comes_back(address, &listening))
    }

    /// Puts what the sources have found in force, with the files as they were last accepted.
    pub(super) async fn rebuild(&mut self) {
        let (before, metrics, began) = (self.snapshot.load_full(), Arc::clone(&self.metrics), Instant::now());
        let containers = self.found.borrow().docker.clone();
        let is_same = match (&containers, &self.containers_in_force) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            (now, before) => now.is_none() && before.is_none(),
        };
        self.containers_in_force = containers;
        let of_containers = !is_same;
        let (merge, cluster) = (self.merge(), self.cluster.clone());
        let build = self.background.run(move || {
            let in_force = before.effective();
            let Merged { config, reports } = merge(sources::only_file(in_force.clone()));
            let built = (config != in_force).then(|| Built::new(config, &before, &metrics));
            (built.map(|built| built.with_endpoints(&cluster, &reports)), reports)
        });
        let (built, reports) = match build.await {
            Ok(built) => built,
            Err(panic) => return log_panic(Task::Reload, &self.metrics, &*panic),
        };
        if let Some(built) = built {
            let applied = self.put_in_force(built).await;
            self.log_rebuild(of_containers, began.elapsed(), &applied);
            if let Err(rejected) = applied {
                self.leave_out(&rejected);
                return;
            }
        }
        self.report_in_force(reports);
    }

    /// If an address of a Gateway cannot be bound, the cluster is asked again without it: what the file, containers and
    /// other Gateways have changed must not wait for it.
    pub(super) fn leave_out(&self, rejected: &Rejected) {
        if let Rejected::Apply(ApplyError::Bind(CannotBind { listener, address, error })) = rejected {
            let in_file = &self.snapshot.load().config.listeners;
            if !in_file.iter().any(|known| known.name == *listener && known.origin == Origin::File) {
                self.cluster.cannot_bind(listener, *address, error);
            }
        }
    }

    /// Tells each source what is now in force of it.
    pub(super) fn report_in_force(&self, Reports { docker, kubernetes }: Reports) {
        docker.into_iter().for_each(|docker| self.containers.in_force(docker));
        if let Some((cluster, translation)) = kubernetes {
            self.cluster.in_force(&cluster, &translation);
        }
    }

    /// `of_containers`: they have changed, if not alone.
    fn log_rebuild(&self, of_containers: bool, took: Duration, applied: &Result<(), Rejected>) {
        let snapshot = self.snapshot.load();
        let (routes, pools) = (snapshot.routes.len(), snapshot.pools.len());
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if of_containers {
            self.metrics.docker_changed(if applied.is_ok() { DockerResult::Ok } else { DockerResult::Failed });
        }
        match (applied, of_containers) {
            (Ok(()), true) => {
                tracing::info!(event = "containers_applied", routes, pools, took_ms, "routes of containers applied");
            }
            (Ok(()), false) => {
                tracing::info!(event = "kubernetes_applied", routes, pools, took_ms, "objects of the cluster applied");
            }
            (Err(why), true) => tracing::error!(
                event = "containers_rejected",
                %why,
                "routes of containers cannot be applied: the previous ones stay in force"
            ),
            (Err(why), false) => tracing::error!(
                event = "kubernetes_rejected",
                %why,
                "objects of the cluster cannot be applied: the previous ones stay in force"
            ),
        }
    }
}
