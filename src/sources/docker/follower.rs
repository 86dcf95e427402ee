//! Keeps up with the containers of the configuration in force, and remembers what became of them.
//!
//! In:  the snapshot in force, for its settings; what the reload has made of the containers.
//! Out: [`Found`] whenever the containers change; the status. While the API is away, what was found last goes on.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{SetOnce, watch};
use tokio::time::sleep;

use super::api::Api;
use super::error::ApiError;
use super::session::{Pace, Seen, follow};
use super::translate::{Fate, Report, Translation};
use crate::operate::status::{ContainerProblem, ContainerStatus, DockerStatus};
use crate::settings::Docker;
use crate::snapshot::Snapshot;
use crate::sources::Found;
use crate::supervise::supervise;
use crate::telemetry::{ContainerState, DockerResult, Metrics, Task};

/// The containers that were found. Clones share the state.
#[derive(Clone)]
pub(crate) struct Containers(Arc<Inner>);

struct Inner {
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    found: Arc<watch::Sender<Found>>,
    state: Mutex<State>,
    /// Set once the first containers are in force, or the API did not answer, or `docker` is off.
    tried: SetOnce<()>,
}

#[derive(Default)]
struct State {
    /// `None`: `docker` is off.
    settings: Option<Docker>,
    /// Since when the API answers, or does not.
    since: Option<SystemTime>,
    /// Why it does not.
    error: Option<String>,
    /// When the containers were last looked at.
    seen: Option<SystemTime>,
    beyond: usize,
    reports: Vec<Report>,
    /// What has been logged, so that it is not logged again.
    logged: BTreeSet<(String, String)>,
}

impl Containers {
    /// Passes on what it has found to `found`.
    pub(crate) fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        metrics: Arc<Metrics>,
        found: Arc<watch::Sender<Found>>,
    ) -> Self {
        let (state, tried) = (Mutex::default(), SetOnce::new());
        Self(Arc::new(Inner { snapshot, metrics, found, state, tried }))
    }

    /// Follows the containers until the process ends.
    pub(crate) async fn run(self) {
        supervise(Task::Containers, &self.0.metrics, || self.keep()).await;
    }

    /// Waits until the containers that run at the start are in force, or cannot be found.
    pub(crate) async fn tried(&self) {
        self.0.tried.wait().await;
    }

    async fn keep(&self) {
        loop {
            let settings = self.0.snapshot.load().config.docker.clone();
            self.begin(settings.as_ref());
            tokio::select! {
                () = self.follow(settings.as_ref()) => {}
                () = self.until_other(settings.as_ref()) => {}
            }
        }
    }

    /// Waits until other settings are in force.
    async fn until_other(&self, settings: Option<&Docker>) {
        loop {
            let snapshot = self.0.snapshot.load_full();
            if snapshot.config.docker.as_ref() != settings {
                return;
            }
            snapshot.until_replaced().await;
        }
    }

    fn begin(&self, settings: Option<&Docker>) {
        let mut state = self.state();
        // With another list of names, say, the containers and the reports stay until they are replaced.
        if settings.is_none() {
            *state = State::default();
            self.0.found.send_if_modified(|found| found.docker.take().is_some());
            self.0.metrics.docker_connected(false);
            count(&self.0.metrics, &[]);
            // An error means that it was already set.
            let _ = self.0.tried.set(());
        }
        state.settings = settings.cloned();
    }

    async fn follow(&self, settings: Option<&Docker>) {
        let Some(settings) = settings else { return std::future::pending().await };
        let api = Api::new(settings.socket.0.clone());
        let mut pause = SHORTEST_PAUSE;
        loop {
            let mut is_good = false;
            let found = |seen| {
                is_good = true;
                self.seen(seen);
            };
            let error = follow(&api, PACE, found).await;
            self.lost(&error);
            pause = if is_good { SHORTEST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            sleep(pause).await;
        }
    }

    fn seen(&self, Seen { containers, beyond }: Seen) {
        let mut state = self.state();
        let now = SystemTime::now();
        if state.since.is_none() || state.error.take().is_some() {
            state.since = Some(now);
            let socket = state.settings.as_ref().map(|settings| settings.socket.to_string());
            tracing::info!(event = "docker_connected", socket, containers = containers.len(), "the Docker API answers");
        }
        if beyond > 0 && state.beyond == 0 {
            tracing::warn!(
                event = "docker_too_many",
                containers = containers.len(),
                beyond,
                "there are more containers with labels than snigate follows, so the newest are left out; remove \
                 some, or move some to another engine with its own snigate"
            );
        }
        (state.seen, state.beyond) = (Some(now), beyond);
        drop(state);
        self.0.metrics.docker_connected(true);
        self.0.metrics.docker_looked(DockerResult::Ok);
        self.0.found.send_if_modified(|found| {
            let is_new = found.docker.as_deref() != Some(&*containers);
            if is_new {
                found.docker = Some(containers);
            }
            is_new
        });
    }

    fn lost(&self, error: &ApiError) {
        let mut state = self.state();
        let text = error.to_string();
        if state.error.as_ref() != Some(&text) {
            let socket = state.settings.as_ref().map(|settings| settings.socket.to_string());
            let kept = if state.seen.is_some() { "stay as they are" } else { "are missing until it can" };
            tracing::warn!(
                event = "docker_lost",
                socket,
                error = text,
                "the Docker API cannot be read: the routes of containers {kept}"
            );
        }
        if state.error.replace(text).is_none() {
            state.since = Some(SystemTime::now());
        }
        drop(state);
        self.0.metrics.docker_connected(false);
        self.0.metrics.docker_looked(DockerResult::Failed);
        let _ = self.0.tried.set(());
    }

    /// Takes note of what is now in force. Logs what is wrong with containers, once.
    pub(crate) fn in_force(&self, Translation { reports, .. }: Translation) {
        let mut state = self.state();
        let mistakes = reports.iter().flat_map(|report| report.mistakes.iter().map(move |mistake| (report, mistake)));
        let mut logged = BTreeSet::new();
        for (Report { name, id, fate, .. }, mistake) in mistakes {
            let key = (id.clone(), format!("{}: {}", mistake.label, mistake.message));
            if !state.logged.contains(&key) {
                tracing::warn!(
                    event = "container_problem",
                    container = name,
                    id,
                    label = mistake.label,
                    error = mistake.message,
                    "{}",
                    if *fate == Fate::LeftOut { "container left out" } else { "container gets only some of its names" }
                );
            }
            logged.insert(key);
        }
        count(&self.0.metrics, &reports);
        (state.logged, state.reports) = (logged, reports);
        drop(state);
        let _ = self.0.tried.set(());
    }

    /// `None`: `docker` is off.
    pub(crate) fn status(&self) -> Option<DockerStatus> {
        let state = self.state();
        let settings = state.settings.as_ref()?;
        Some(DockerStatus {
            socket: settings.socket.to_string(),
            connected: state.since.is_some() && state.error.is_none(),
            since: state.since.map(Into::into),
            error: state.error.clone(),
            looked_at: state.seen.map(Into::into),
            containers: state.reports.iter().map(status).collect(),
            containers_left_off: state.beyond,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn status(report: &Report) -> ContainerStatus {
    ContainerStatus {
        name: report.name.clone(),
        id: report.id.clone(),
        state: state(report.fate).as_str().into(),
        names: report.patterns.iter().map(ToString::to_string).collect(),
        pool: report.pool.as_ref().map(|pool| pool.to_string()),
        address: report.address.map(|address| address.to_string()),
        why: report.why.map(str::to_owned),
        problems: report
            .mistakes
            .iter()
            .map(|mistake| ContainerProblem { label: mistake.label.clone(), message: mistake.message.clone() })
            .collect(),
    }
}

fn state(fate: Fate) -> ContainerState {
    match fate {
        Fate::Served => ContainerState::Served,
        Fate::Down => ContainerState::Down,
        Fate::LeftOut => ContainerState::LeftOut,
    }
}

fn count(metrics: &Metrics, reports: &[Report]) {
    for one in ContainerState::ALL {
        metrics.containers(*one, reports.iter().filter(|report| state(report.fate) == *one).count());
    }
}

const PACE: Pace = Pace {
    gather: Duration::from_millis(50),
    apart: Duration::from_millis(200),
    settle: Duration::from_secs(1),
    resync: Duration::from_secs(60),
};
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
