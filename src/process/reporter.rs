//! Gathers what the status shows from all parts of the process, and keeps what only time shows: rates, histories, since
//! when something is as it is.
//!
//! In:  the snapshot in force, the metrics, the pools; a call four times a second.
//! Out: the shapes of [`operate::status`](crate::operate::status); events.

mod listeners;
mod pools;
mod routes;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::listeners::{BadEnds, Listeners, find_listeners, listener, totals};
pub(super) use self::pools::changed;
use crate::hello_memory;
use crate::limits::Permits;
use crate::memory_limit;
use crate::operate::admin::{HistoryQuery, Readiness, RoutesQuery};
use crate::operate::diagnosis::{Facts, diagnose};
use crate::operate::events::Events;
use crate::operate::history::{Figures, Key, STEP_SECONDS, StatesSince, Tracker, Troubles};
use crate::operate::recent_refusals::RecentRefusals;
use crate::operate::status::{
    At, ConfigInForce, DnsName, DockerStatus, History, KubernetesStatus, LastReload, ListenerStatus, PoolState,
    RefusalsReport, Resources, RoutesPage, SeriesKind, Status, Usage,
};
use crate::process::listening_sockets::Bound;
use crate::settings::AllowControl;
use crate::snapshot::Snapshot;
use crate::telemetry::{
    BackendState, LimitScope, ListenerMetrics, Metrics, ProcessUsage, REVISION, Reason, ReloadResult, RouteFigures,
    Trigger, VERSION, process_usage,
};

/// What the reporter reads.
pub(crate) struct Sources {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub metrics: Arc<Metrics>,
    /// One for each open connection.
    pub permits: Arc<Permits>,
    pub readiness: Readiness,
    /// The main file.
    pub file: PathBuf,
    pub workers: usize,
    /// The addresses that are bound, by the name of the listener.
    pub bound: watch::Receiver<Bound>,
    /// `limits.max_connections: auto`
    pub most_connections: usize,
}

/// What others have found outside of the files.
pub(crate) struct FoundBySources {
    pub names: Vec<DnsName>,
    /// `None`: off.
    pub docker: Option<DockerStatus>,
    /// `None`: off.
    pub kubernetes: Option<KubernetesStatus>,
}

pub(crate) struct Reporter {
    sources: Sources,
    memory: Mutex<Memory>,
    last_reload: ArcSwapOption<LastReload>,
    events: Arc<Events>,
}

/// What only time shows.
struct Memory {
    tracker: Tracker,
    refusals: RecentRefusals,
    backends: StatesSince<Key, BackendState>,
    pools: StatesSince<Arc<str>, PoolState>,
    paused: StatesSince<Arc<str>, bool>,
    listeners: HashMap<Arc<str>, Arc<ListenerMetrics>>,
    /// What was shown of routes that were busy.
    routes: routes::Described,
}

impl Memory {
    fn new() -> Self {
        Self {
            tracker: Tracker::new(Instant::now(), SystemTime::now()),
            refusals: RecentRefusals::default(),
            backends: StatesSince::default(),
            pools: StatesSince::default(),
            paused: StatesSince::default(),
            listeners: HashMap::new(),
            routes: routes::Described::default(),
        }
    }
}

impl Reporter {
    pub(crate) fn new(sources: Sources) -> Arc<Self> {
        let events = Events::new(sources.metrics.started());
        Arc::new(Self { sources, memory: Mutex::new(Memory::new()), last_reload: ArcSwapOption::empty(), events })
    }

    pub(crate) fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// The first configuration is in force.
    pub(crate) fn started(&self) {
        self.last_reload.store(Some(Arc::new(LastReload {
            result: ReloadResult::Applied.as_str().into(),
            trigger: Trigger::Start.as_str().into(),
            at: SystemTime::now().into(),
            took_ms: 0,
            error: None,
            problems: Vec::new(),
            problems_left_off: 0,
        })));
    }

    /// A reload has ended.
    pub(crate) fn reloaded(&self, reload: LastReload) {
        self.events.publish("reload", &reload);
        self.last_reload.store(Some(Arc::new(reload)));
    }

    /// Follows what changes, until dropped.
    pub(crate) async fn run(&self) {
        let mut every = interval(TICK);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stage = None;
        for number in 0_u64.. {
            every.tick().await;
            self.take_refusals();
            let now = self.sources.readiness.stage();
            if stage.replace(now) != Some(now) {
                self.events.publish("stage", &json!({ "at": At::from(SystemTime::now()), "stage": now.as_str() }));
            }
            if number.is_multiple_of(TICKS_PER_SECOND) {
                self.tick();
            }
        }
    }

    fn take_refusals(&self) {
        let mut memory = self.memory();
        self.sources.metrics.take_refused(|refused| memory.refusals.add(refused));
    }

    /// Reads all counters.
    fn tick(&self) {
        let snapshot = self.sources.snapshot.load_full();
        let (now, at) = (Instant::now(), SystemTime::now());
        let mut memory = self.memory();
        let Memory { tracker, listeners, .. } = &mut *memory;
        let mut all = Figures::default();
        let mut readings = Vec::new();
        let known: Vec<_> = find_listeners(&snapshot, listeners, &self.sources.metrics);
        for (name, metrics) in &known {
            let (refused, failed) = BadEnds::of(metrics).totals();
            let figures =
                Figures { connections: metrics.total_accepted(), active: metrics.active(), errors: refused + failed };
            all.connections += figures.connections;
            all.active += figures.active;
            all.errors += figures.errors;
            readings.push((Key::of(SeriesKind::Listener, name), figures));
        }
        readings.push((Key::all(), all));
        let routes = self.sources.metrics.route_figures();
        let of_route = |(name, figures): (Arc<str>, RouteFigures)| {
            let RouteFigures { connections, active, errors, .. } = figures;
            (Key::of(SeriesKind::Route, &name), Figures { connections, active, errors })
        };
        readings.extend(routes.into_iter().filter(|(_, figures)| figures.connections > 0).map(of_route));
        pools::read(&snapshot, &mut readings);
        tracker.tick(now, at, self.troubles(&known), readings);
        if tracker.has_ended_step() {
            pools::keep_latencies(&snapshot, tracker, now);
        }
        self.note_states(&snapshot, &mut memory, &known, (now, at));
    }

    /// Notes since when everything is in its state, and publishes the changes.
    fn note_states(
        &self,
        snapshot: &Snapshot,
        memory: &mut Memory,
        listeners: &Listeners,
        (now, at): (Instant, SystemTime),
    ) {
        let states = pools::states(snapshot, now);
        memory.pools.note(states.pools, at);
        memory.paused.note(listeners.iter().map(|(name, metrics)| (Arc::clone(name), metrics.is_accept_paused())), at);
        for (key, before) in memory.backends.note(states.backends, at) {
            if let Some(before) = before {
                self.events.publish("backend", &pools::change(snapshot, &key, before, (now, at)));
            }
        }
    }

    fn troubles(&self, listeners: &Listeners) -> Troubles {
        let metrics = &self.sources.metrics;
        let no_route = |metrics: &ListenerMetrics| {
            metrics.ends().all().filter(|(reason, _)| *reason == Reason::NoRoute).map(|(_, count)| count).sum::<u64>()
        };
        Troubles {
            accepted: listeners.iter().map(|(_, metrics)| metrics.total_accepted()).sum(),
            no_route: listeners.iter().map(|(_, metrics)| no_route(metrics)).sum(),
            client_limits: metrics.limited(LimitScope::ClientConnections) + metrics.limited(LimitScope::ClientRate),
            queue_full: metrics.limited(LimitScope::Pool),
            log_lines_dropped: metrics.total_log_lines_dropped(),
            task_panics: metrics.total_task_panics(),
        }
    }

    /// The state of the process, with at most `most_backends` backends in all pools together.
    pub(crate) fn status(&self, found: FoundBySources, most_backends: usize) -> Status {
        let FoundBySources { names, docker, kubernetes } = found;
        let snapshot = self.sources.snapshot.load_full();
        let (now, at) = (Instant::now(), SystemTime::now());
        let metrics = &self.sources.metrics;
        let mut memory = self.memory();
        let known = find_listeners(&snapshot, &mut memory.listeners, metrics);
        self.note_states(&snapshot, &mut memory, &known, (now, at));
        let listeners: Vec<ListenerStatus> = snapshot
            .config
            .listeners
            .iter()
            .zip(&known)
            .map(|(settings, (_, metrics))| listener(&memory, settings, metrics, &self.sources.bound.borrow()))
            .collect();
        let (mut pools, certificates) = pools::all(&snapshot, &memory, now);
        let routes = routes::summary(&snapshot, &mut memory, metrics);
        let totals = totals(&memory, &known);
        let resources = self.resources(&snapshot);
        let last_reload = self.last_reload.load_full();
        let troubles = self.troubles(&known);
        let episode = |of: fn(&Troubles) -> u64| memory.tracker.episode(troubles, at, of);
        let mut problems = diagnose(&Facts {
            now: at,
            listeners: &listeners,
            pools: &pools,
            certificates: &certificates,
            resources: &resources,
            names: &names,
            docker: docker.as_ref(),
            kubernetes: kubernetes.as_ref(),
            last_reload: last_reload.as_deref(),
            accepted: episode(|troubles| troubles.accepted).map_or(0, |episode| episode.count),
            no_route: episode(|troubles| troubles.no_route),
            client_limits: episode(|troubles| troubles.client_limits),
            queue_full: episode(|troubles| troubles.queue_full),
            log_lines_dropped: episode(|troubles| troubles.log_lines_dropped),
            task_panics: episode(|troubles| troubles.task_panics),
        });
        drop(memory);
        let (pools_left_off, backends_left_off) = pools::leave_off(&mut pools, most_backends);
        let problems_left_off = problems.len().saturating_sub(MOST_PROBLEMS);
        problems.truncate(MOST_PROBLEMS);
        let stage = self.sources.readiness.stage();
        Status {
            version: VERSION.to_owned(),
            revision: REVISION.to_owned(),
            pid: std::process::id(),
            started: metrics.started().into(),
            at: at.into(),
            uptime_s: metrics.uptime().as_secs(),
            ready: stage == crate::operate::admin::Stage::Ready && self.sources.readiness.stuck().is_none(),
            accept_paused_since: self.sources.readiness.paused_since().map(At::from),
            stage: stage.as_str().into(),
            control: match snapshot.config.admin.allow_control {
                AllowControl::Auto => "auto",
                AllowControl::Token => "token",
                AllowControl::Never => "never",
            }
            .into(),
            config: ConfigInForce {
                hash: Some(snapshot.hash().to_owned()),
                file: Some(self.sources.file.display().to_string()),
            },
            problems,
            problems_left_off,
            resources,
            totals,
            listeners,
            routes,
            pools,
            pools_left_off,
            backends_left_off,
            names,
            docker,
            kubernetes,
            last_reload: last_reload.map(|reload| LastReload::clone(&reload)),
        }
    }

    fn resources(&self, snapshot: &Snapshot) -> Resources {
        let process = process_usage();
        let number = |of: usize| u64::try_from(of).unwrap_or(u64::MAX);
        let budget = snapshot.terms.hello_memory_bytes.unwrap_or_else(hello_memory::auto_bytes);
        let most = snapshot.max_connections.unwrap_or(self.sources.most_connections);
        Resources {
            connections: Usage { used: number(self.sources.permits.open()), limit: Some(number(most)) },
            descriptors: Usage { used: process.open_files.unwrap_or_default(), limit: process.max_open_files },
            hello_memory: Usage { used: number(hello_memory::all().bytes()), limit: Some(number(budget)) },
            memory: memory(&process),
            resident_bytes: process.resident_bytes,
            cpu_seconds: process.cpu_seconds,
            workers: self.sources.workers,
            log_lines_dropped: self.sources.metrics.total_log_lines_dropped(),
            task_panics: self.sources.metrics.total_task_panics(),
        }
    }

    pub(crate) fn routes(&self, query: &RoutesQuery) -> RoutesPage {
        let snapshot = self.sources.snapshot.load_full();
        routes::page(&snapshot, &self.sources.metrics, query, |key| self.memory().tracker.rates(key).0)
    }

    pub(crate) fn history(&self, query: &HistoryQuery) -> History {
        let is = |wanted: &Option<String>, has: &str| wanted.as_ref().is_none_or(|wanted| wanted == has);
        let (ends, series) = self.memory().tracker.series(|key| {
            query.kind.is_none_or(|kind| kind == key.kind)
                && is(&query.name, &key.name)
                && is(&query.pool, key.pool.as_deref().unwrap_or_default())
        });
        History { step_s: STEP_SECONDS, ends: ends.into(), series }
    }

    pub(crate) fn refusals(&self) -> RefusalsReport {
        self.take_refusals();
        self.memory().refusals.report(self.sources.metrics.refused_lost())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory of the process in relation to the limit that it is nearest to.
fn memory(process: &ProcessUsage) -> Usage {
    let resident = Usage { used: process.resident_bytes.unwrap_or_default(), limit: memory_limit::of_group() };
    let address_space =
        Usage { used: process.virtual_bytes.unwrap_or_default(), limit: memory_limit::of_address_space() };
    let share = |usage: &Usage| usage.limit.map_or(0.0, |limit| usage.used as f64 / limit.max(1) as f64);
    if share(&address_space) > share(&resident) { address_space } else { resident }
}

const TICK: Duration = Duration::from_millis(250);
const TICKS_PER_SECOND: u64 = 4;
/// A rack that is down has as many failing pools as it has services.
const MOST_PROBLEMS: usize = 100;
