//! The metrics of the process: provides a handle for each listener, route, pool and backend.
//!
//! In:  names from the configuration; events.
//! Out: handles that are registered once, after which an event is an atomic add; the exposition text for Prometheus.
//! Source: docs/metrics.md. Names, labels and help are in `table`.

mod ends;
mod names;
mod process;
mod registry;
mod render;
mod series;
mod table;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::ends::ListenerCounts;
pub(crate) use self::ends::{RouteCounts, RouteFigures};
use self::names::{Names, OTHER, label_value};
pub(crate) use self::process::{Usage as ProcessUsage, usage as process_usage};
use self::registry::{Counter, Gauge, Registry, Sample};
use self::series::Registering;
pub(crate) use self::series::{
    Active, BackendMetrics, DnsMetrics, ListenerMetrics, PoolMetrics, QueueMetrics, RouteMetrics,
};
use self::table::Metric;
use crate::alert::Alert;
use crate::telemetry::refused::{Feed, Refused};
use crate::telemetry::{Enforced, LimitScope, ReloadResult, Task, Trigger, each};
use crate::way::Way;

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
    collector: OnceLock<Box<dyn Fn() + Send + Sync>>,
    spliced: Vec<Counter>,
    limited: Vec<Vec<Counter>>,
    untracked: Counter,
    alerts: Vec<Counter>,
    reloads: Vec<Vec<Counter>>,
    limit_reached: Gauge,
    hellos_ended_early: Counter,
    hello_memory: Gauge,
    reload_ok: Gauge,
    reload_time: Gauge,
    task_panics: Vec<Counter>,
    log_dropped: Counter,
}

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
        let alerts = ALERTS.iter().map(|alert| alert.name()).chain([OTHER_ALERT]);
        Arc::new(Self {
            spliced: each(Way::ALL, |way| registry.counter(&table::SPLICED, &[way.as_str()])),
            limited: each(LimitScope::ALL, |scope| {
                each(Enforced::ALL, |enforced| registry.counter(&table::LIMITED, &[scope.as_str(), enforced.as_str()]))
            }),
            untracked: registry.counter(&table::UNTRACKED, &[]),
            alerts: alerts.map(|name| registry.counter(&table::ALERTS, &[name])).collect(),
            reloads: each(ReloadResult::ALL, |result| {
                each(Trigger::ALL, |trigger| registry.counter(&table::RELOADS, &[result.as_str(), trigger.as_str()]))
            }),
            limit_reached: registry.gauge(&table::LIMIT_REACHED, &[]),
            hellos_ended_early: registry.counter(&table::HELLOS_ENDED, &[]),
            hello_memory: registry.gauge(&table::HELLO_MEMORY, &[]),
            reload_ok: registry.gauge(&table::RELOAD_OK, &[]),
            reload_time: registry.gauge(&table::RELOAD_TIME, &[]),
            task_panics: each(Task::ALL, |task| registry.counter(&table::TASK_PANICS, &[task.as_str()])),
            log_dropped: registry.counter(&table::LOG_DROPPED, &[]),
            names: Mutex::default(),
            last_reload: Mutex::default(),
            listeners: Mutex::default(),
            routes: Mutex::default(),
            refused: Feed::new(),
            started,
            collector: OnceLock::new(),
            registry,
        })
    }

    /// The exposition text for Prometheus, format 0.0.4.
    pub fn render(&self) -> String {
        if let Some(collect) = self.collector.get() {
            collect();
        }
        let mut samples = self.registry.samples(&self.names());
        let mut add = |metric: &Metric, labels, value| {
            samples.insert(metric.name.to_owned(), BTreeMap::from([(labels, Sample::Value(value))]));
        };
        // The registry would keep every hash it has ever seen.
        if let Some(reload) = self.last_reload().filter(|reload| !reload.hash.is_empty()) {
            add(&table::CONFIG_INFO, format!("hash=\"{}\"", label_value(&reload.hash)), 1.0);
        }
        process::read().for_each(|(metric, value)| add(metric, String::new(), value));
        render::text(&samples)
    }

    /// Registers `collect`, which sets gauges that are not kept up to date, before each rendering. Only the first call
    /// counts.
    pub fn collect_with(&self, collect: impl Fn() + Send + Sync + 'static) {
        let _ = self.collector.set(Box::new(collect));
    }

    /// Whether accepting has paused at the global limit.
    pub(crate) fn limit_reached(&self, is_reached: bool) {
        self.limit_reached.set(if is_reached { 1.0 } else { 0.0 });
    }

    /// So many clients made room for others.
    pub(crate) fn hellos_ended_early(&self, clients: usize) {
        self.hellos_ended_early.increment(clients as u64);
    }

    /// The memory of unfinished hellos in bytes; to be set before each rendering.
    pub(crate) fn hello_memory(&self) -> Gauge {
        self.hello_memory.clone()
    }

    /// Call it every few seconds: drops series of removed names once the last connection that counts there has ended.
    pub fn upkeep(&self) {
        self.registry.purge(&self.names());
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
        let (pool, backend) = self.names().admit_backend(pool, backend);
        Arc::new(BackendMetrics::register(&self.registry, &pool, &backend))
    }

    /// Hides the series of a removed backend until its name comes back.
    pub fn retire_backend(&self, pool: &str, backend: &str) {
        self.names().retire_backend(pool, backend);
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
        self.limited[scope as usize][Enforced::Yes as usize].get()
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

    /// A refusal sent this alert.
    pub fn alert_sent(&self, alert: Alert) {
        let at = ALERTS.iter().position(|known| *known == alert).unwrap_or(ALERTS.len());
        self.alerts[at].increment(1);
    }

    /// Bytes that were spliced in the kernel.
    pub fn spliced(&self, way: Way, bytes: u64) {
        self.spliced[way as usize].increment(bytes);
    }

    /// A connection was over a limit.
    pub fn limit_rejected(&self, scope: LimitScope, enforced: Enforced) {
        self.limited[scope as usize][enforced as usize].increment(1);
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

/// Alerts with their own series: those that a refusal can send.
const ALERTS: &[Alert] = &[
    Alert::UNEXPECTED_MESSAGE,
    Alert::RECORD_OVERFLOW,
    Alert::HANDSHAKE_FAILURE,
    Alert::ILLEGAL_PARAMETER,
    Alert::ACCESS_DENIED,
    Alert::DECODE_ERROR,
    Alert::PROTOCOL_VERSION,
    Alert::INTERNAL_ERROR,
    Alert::MISSING_EXTENSION,
    Alert::UNRECOGNIZED_NAME,
    Alert::NO_APPLICATION_PROTOCOL,
];
const OTHER_ALERT: &str = "other";

const MAX_PAIRS_AT_ONCE: usize = 200;

#[cfg(test)]
mod tests;
