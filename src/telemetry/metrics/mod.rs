//! The metrics of the process: provides a handle for each listener, route, pool and backend.
//!
//! In:  names from the configuration; events.
//! Out: handles that are registered once, after which an event is an atomic add; the exposition text for Prometheus.
//! Source: docs/metrics.md. Names, labels and help are in `table`.

mod alerts;
mod ends;
mod instruments;
mod kubernetes;
mod names;
mod process;
mod readings;
mod registry;
mod render;
mod series;
mod table;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::ends::ListenerCounts;
pub(crate) use self::ends::{RouteCounts, RouteFigures};
use self::instruments::{Counter, Gauge};
use self::kubernetes::KubernetesMetrics;
use self::names::{Names, OTHER, Owner};
pub(crate) use self::process::{Usage as ProcessUsage, usage as process_usage};
pub(crate) use self::readings::{AcceptQueueReading, PipesReading, Readings, WorkerReading};
use self::registry::Registry;
pub use self::render::Format;
use self::series::Registering;
pub(crate) use self::series::{
    Active, BackendMetrics, DnsMetrics, EchKeyMetrics, ListenerMetrics, PoolMetrics, QueueMetrics, RouteMetrics,
};
use crate::alert::Alert;
use crate::telemetry::refused::{Feed, Refused};
use crate::telemetry::{ContainerState, DockerResult, Enforced, LimitScope, ReloadResult, Task, Trigger, each};

/// All metrics of one process, or of one test.
pub struct Metrics {
    registry: Arc<Registry>,
    names: Mutex<Names>,
    last_reload: Mutex<Option<LastReload>>,
    /// Of each listener, since its handle is made anew with each reload.
    listeners: Mutex<HashMap<String, Arc<ListenerCounts>>>,
    routes: Mutex<HashMap<Arc<str>, Arc<RouteCounts>>>,
    refused: Feed,
    started: SystemTime,
    collector: OnceLock<Box<Collect>>,
    /// How long the last text was.
    rendered_bytes: AtomicUsize,
    /// Without a route.
    limited: Vec<Vec<Counter>>,
    /// How many connections each limit has turned away, with a route or without.
    turned_away: [AtomicU64; LimitScope::ALL.len()],
    untracked: Counter,
    alerts: Vec<Counter>,
    reloads: Vec<Vec<Counter>>,
    limit_reached: Gauge,
    hellos_ended_early: Counter,
    reload_ok: Gauge,
    reload_time: Gauge,
    task_panics: Vec<Counter>,
    log_dropped: Counter,
    docker: Docker,
    kubernetes: KubernetesMetrics,
}

/// Of the source of containers.
struct Docker {
    connected: Gauge,
    looks: Vec<Counter>,
    look_time: Gauge,
    containers: Vec<Gauge>,
    changes: Vec<Counter>,
}

/// Reads figures that others keep.
type Collect = dyn Fn(&mut Readings<'_>) + Send + Sync;

/// The result of the latest reload, for the status page.
#[derive(Clone, Debug)]
pub struct LastReload {
    pub result: ReloadResult,
    pub trigger: Trigger,
    pub at: SystemTime,
    /// Hash of the configuration in force, which a rejected reload does not change. Empty before the first.
    pub hash: String,
}

impl Metrics {
    /// The series of one process, all at zero.
    pub fn new() -> Arc<Self> {
        let registry = Arc::new(Registry::new());
        let started = SystemTime::now();
        registry.gauge(&table::BUILD_INFO, &[VERSION, REVISION]).set(1.0);
        registry.gauge(&table::START_TIME, &[]).set(unix_seconds(started));
        Arc::new(Self {
            limited: each(LimitScope::ALL, |scope| {
                each(Enforced::ALL, |enforced| {
                    registry.counter(&table::LIMITED, &["", scope.as_str(), enforced.as_str()])
                })
            }),
            untracked: registry.counter(&table::UNTRACKED, &[]),
            turned_away: Default::default(),
            alerts: each(alerts::SENT, |alert| registry.counter(&table::ALERTS, &["", alerts::label(alert)])),
            reloads: each(ReloadResult::ALL, |result| {
                each(Trigger::ALL, |trigger| registry.counter(&table::RELOADS, &[result.as_str(), trigger.as_str()]))
            }),
            limit_reached: registry.gauge(&table::LIMIT_REACHED, &[]),
            hellos_ended_early: registry.counter(&table::HELLOS_ENDED, &[]),
            reload_ok: registry.gauge(&table::RELOAD_OK, &[]),
            reload_time: registry.gauge(&table::RELOAD_TIME, &[]),
            task_panics: each(Task::ALL, |task| registry.counter(&table::TASK_PANICS, &[task.as_str()])),
            log_dropped: registry.counter(&table::LOG_DROPPED, &[]),
            docker: Docker {
                connected: registry.gauge(&table::DOCKER_CONNECTED, &[]),
                looks: each(DockerResult::ALL, |result| registry.counter(&table::DOCKER_LOOKS, &[result.as_str()])),
                look_time: registry.gauge(&table::DOCKER_LOOK_TIME, &[]),
                containers: each(ContainerState::ALL, |state| {
                    registry.gauge(&table::DOCKER_CONTAINERS, &[state.as_str()])
                }),
                changes: each(DockerResult::ALL, |result| registry.counter(&table::DOCKER_CHANGES, &[result.as_str()])),
            },
            kubernetes: KubernetesMetrics::new(&registry),
            names: Mutex::default(),
            last_reload: Mutex::default(),
            listeners: Mutex::default(),
            routes: Mutex::default(),
            refused: Feed::new(),
            started,
            collector: OnceLock::new(),
            rendered_bytes: AtomicUsize::default(),
            registry,
        })
    }

    /// The exposition text for Prometheus, format 0.0.4.
    pub fn render(&self) -> String {
        self.render_as(Format::Text)
    }

    /// The text in one of the formats.
    pub fn render_as(&self, format: Format) -> String {
        let mut readings = Readings::new(&self.names);
        if let Some(collect) = self.collector.get() {
            collect(&mut readings);
        }
        let shows_unused = self.names().pairs <= MAX_PAIRS_AT_ONCE;
        for (route, RouteFigures { connections, active, .. }) in self.route_figures() {
            if connections > 0 || shows_unused {
                readings.route(&route, connections, active);
            }
        }
        // The registry would keep every hash it has ever seen.
        if let Some(reload) = self.last_reload().filter(|reload| !reload.hash.is_empty()) {
            readings.config(&reload.hash);
        }
        process::read().for_each(|(metric, value)| readings.process(metric, value));
        let capacity = self.rendered_bytes.load(Ordering::Relaxed);
        let text =
            render::text(&self.registry, &readings.into_samples(), |owner| self.is_in_force(owner), format, capacity);
        // It grows a little from one to the next, and must not be copied for that.
        self.rendered_bytes.store(text.len() + text.len() / 64, Ordering::Relaxed);
        text
    }

    /// Registers `collect`, which reads what is kept elsewhere, before each rendering. Only the first call counts.
    pub(crate) fn collect_with(&self, collect: impl Fn(&mut Readings<'_>) + Send + Sync + 'static) {
        let _ = self.collector.set(Box::new(collect));
    }

    fn is_in_force(&self, owner: &Owner) -> bool {
        self.names().has(owner)
    }

    /// Whether accepting has paused at the global limit.
    pub(crate) fn limit_reached(&self, is_reached: bool) {
        self.limit_reached.set(if is_reached { 1.0 } else { 0.0 });
    }

    /// So many clients made room for others.
    pub(crate) fn hellos_ended_early(&self, clients: usize) {
        self.hellos_ended_early.increment(clients as u64);
    }

    /// Call it every few seconds: drops series of removed names once the last connection that counts there has ended.
    pub fn upkeep(&self) {
        self.registry.purge(|owner| self.is_in_force(owner));
    }

    /// The same name returns the same series.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        let name = self.names().admit_listener(name);
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = Arc::clone(listeners.entry(name.clone()).or_default());
        drop(listeners);
        Arc::new(ListenerMetrics::register(&self.registry, &name, counts))
    }

    /// The series of a route, on these listeners. With few routes all are registered at the start; with many, each
    /// appears when it is first used, so that a million routes cost nothing.
    pub fn route(&self, name: &str, pool: &str, listeners: &[&str]) -> Arc<RouteMetrics> {
        let (route, registering) = {
            let mut names = self.names();
            let route = names.admit_route(name);
            if route.is_new {
                names.pairs += listeners.len();
            }
            (route.label, if names.pairs <= MAX_PAIRS_AT_ONCE { Registering::AtOnce } else { Registering::OnFirstUse })
        };
        let pool = self.names().admit_pool(pool);
        let listeners = listeners.iter().map(|name| self.names().admit_listener(name)).collect();
        let counts =
            if route == OTHER { Arc::default() } else { Arc::clone(self.routes().entry(name.into()).or_default()) };
        Arc::new(RouteMetrics::new(Arc::clone(&self.registry), route, pool, listeners, registering, counts))
    }

    /// The series of a key of Encrypted ClientHello, by the name of its file.
    pub fn ech_key(&self, file: &str) -> EchKeyMetrics {
        let key = self.names().admit_ech_key(file);
        EchKeyMetrics::register(&self.registry, &key)
    }

    /// The series of a pool.
    pub fn pool(&self, name: &str) -> Arc<PoolMetrics> {
        let name = self.names().admit_pool(name);
        Arc::new(PoolMetrics::register(&self.registry, &name))
    }

    /// For a pool that has a queue.
    pub fn queue(&self, pool: &str) -> Arc<QueueMetrics> {
        let pool = self.names().admit_pool(pool);
        Arc::new(QueueMetrics::register(&self.registry, &pool))
    }

    /// For a pool that has DNS names among its backends.
    pub fn dns(&self, pool: &str) -> Arc<DnsMetrics> {
        let pool = self.names().admit_pool(pool);
        Arc::new(DnsMetrics::register(&self.registry, &pool))
    }

    /// The series of a backend.
    pub fn backend(&self, pool: &str, backend: &str) -> Arc<BackendMetrics> {
        let (pool, backend, registering) = {
            let mut names = self.names();
            let (pool, backend) = names.admit_backend(pool, backend);
            let are_few = names.backends() <= MAX_BACKENDS_AT_ONCE;
            (pool, backend, if are_few { Registering::AtOnce } else { Registering::OnFirstUse })
        };
        Arc::new(BackendMetrics::new(Arc::clone(&self.registry), pool, backend, registering))
    }

    /// Hides the series of a removed backend until its name comes back.
    pub fn retire_backend(&self, pool: &str, backend: &str) {
        self.names().retire_backend(pool, backend);
    }

    /// As [`Self::retain`], for the files of keys.
    pub fn retain_ech_keys(&self, files: &HashSet<&str>) {
        self.names().retain_ech_keys(files);
    }

    /// Call it once a reload is in force: series not named here are no longer rendered, and dropped when nothing counts
    /// there any more. A backend is a pair of pool and backend name.
    pub fn retain(&self, routes: &HashSet<&str>, pools: &HashSet<&str>, backends: &HashSet<(&str, &str)>) {
        self.names().retain(routes, pools, backends);
        self.routes().retain(|name, _| routes.contains(&**name));
    }

    /// `hash` is that of the configuration now in force; ignored for a rejected one.
    pub fn reload(&self, result: ReloadResult, trigger: Trigger, hash: &str) {
        self.reloads[result as usize][trigger as usize].increment(1);
        let at = SystemTime::now();
        let mut last = self.last_reload.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = match result {
            ReloadResult::Rejected => {
                self.reload_ok.set(0.0);
                last.take().map(|before| before.hash).unwrap_or_default()
            }
            ReloadResult::Applied | ReloadResult::Unchanged => {
                self.reload_ok.set(1.0);
                self.reload_time.set(unix_seconds(at));
                hash.to_owned()
            }
        };
        *last = Some(LastReload { result, trigger, at, hash });
    }

    /// The latest reload; `None` before the first.
    pub fn last_reload(&self) -> Option<LastReload> {
        self.last_reload.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Since the process started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed().unwrap_or_default()
    }

    /// When the process started.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// A client was turned away.
    pub(crate) fn refused(&self, refused: Refused) {
        self.refused.send(refused);
    }

    /// Passes the clients that were turned away since the last call to `take`; at most a few hundred.
    pub(crate) fn take_refused(&self, take: impl FnMut(Refused)) {
        self.refused.drain(take);
    }

    /// How many of them did not fit.
    pub(crate) fn refused_lost(&self) -> u64 {
        self.refused.lost()
    }

    /// How many connections a limit has turned away.
    pub fn limited(&self, scope: LimitScope) -> u64 {
        self.turned_away[scope as usize].load(Ordering::Relaxed)
    }

    /// The figures of the routes that have been used, by name; routes beyond the number of names that have series of
    /// their own are left out.
    pub(crate) fn route_figures(&self) -> HashMap<Arc<str>, RouteFigures> {
        self.routes().iter().map(|(name, counts)| (Arc::clone(name), counts.read())).collect()
    }

    /// Whether a route of that name has, or would get, figures of its own.
    pub(crate) fn counts_route_alone(&self, name: &str) -> bool {
        self.names().has_or_admits_route(name)
    }

    /// Log lines lost since the start.
    pub fn total_log_lines_dropped(&self) -> u64 {
        self.log_dropped.get()
    }

    /// Panics of background tasks since the start.
    pub fn total_task_panics(&self) -> u64 {
        self.task_panics.iter().map(Counter::get).sum()
    }

    /// A refusal sent this alert to a client of `route`, if it has one.
    pub fn alert_sent(&self, route: Option<&RouteMetrics>, alert: Alert) {
        match route {
            Some(route) => route.alert_sent(alert),
            None => {
                let at = alerts::SENT.iter().position(|known| *known == alert).unwrap_or(alerts::SENT.len() - 1);
                self.alerts[at].increment(1);
            }
        }
    }

    /// A connection of `route`, if it has one, was over a limit.
    pub fn limit_rejected(&self, route: Option<&RouteMetrics>, scope: LimitScope, enforced: Enforced) {
        if enforced == Enforced::Yes {
            self.turned_away[scope as usize].fetch_add(1, Ordering::Relaxed);
        }
        match route {
            Some(route) => route.limit_rejected(scope, enforced),
            None => self.limited[scope as usize][enforced as usize].increment(1),
        }
    }

    /// A client was let in without a limit, for lack of room in the table of clients.
    pub fn client_untracked(&self) {
        self.untracked.increment(1);
    }

    /// `total` is the count since the start, from the log.
    pub fn log_lines_dropped(&self, total: u64) {
        self.log_dropped.absolute(total);
    }

    /// A task of the control thread panicked, and starts again.
    pub fn task_panicked(&self, task: Task) {
        self.task_panics[task as usize].increment(1);
    }

    /// Whether the Docker API answers.
    pub fn docker_connected(&self, is_connected: bool) {
        self.docker.connected.set(if is_connected { 1.0 } else { 0.0 });
    }

    /// The containers were looked at.
    pub fn docker_looked(&self, result: DockerResult) {
        self.docker.looks[result as usize].increment(1);
        if result == DockerResult::Ok {
            self.docker.look_time.set(unix_seconds(SystemTime::now()));
        }
    }

    /// A change of the containers is in force, or cannot be put in force.
    pub fn docker_changed(&self, result: DockerResult) {
        self.docker.changes[result as usize].increment(1);
    }

    /// How many containers are in a state.
    pub fn containers(&self, state: ContainerState, count: usize) {
        self.docker.containers[state as usize].set(count as f64);
    }

    /// Of the source of Kubernetes objects.
    pub fn kubernetes(&self) -> &KubernetesMetrics {
        &self.kubernetes
    }

    fn routes(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<RouteCounts>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit, if the build set it.
pub(crate) const REVISION: &str = match option_env!("SNIGATE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

const MAX_PAIRS_AT_ONCE: usize = 200;
const MAX_BACKENDS_AT_ONCE: usize = 1000;

#[cfg(test)]
mod tests;
