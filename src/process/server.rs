//! Builds everything, binds, starts the workers and the control tasks, and waits for the drain.
//!
//! In:  a loaded configuration and its file.
//! Out: a [`Server`]: the addresses it listens on; [`Server::run`] returns when the last connection has ended.

mod controls;
mod figures;
mod long_connections;
mod pause;
mod pools;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use self::controls::Controls;
use crate::backends::discovery::Discovery;
use crate::backends::health;
use crate::config::{Loaded, Settings};
use crate::descriptors::{self, Budget};
use crate::drain::{self, Drain, Phase};
use crate::listener::{Balance, Shared};
use crate::operate::admin::{App, Readiness, Stage};
use crate::operate::registry::{Filter, Registries};
use crate::process::apply::{ApplyError, Process};
use crate::process::listening_sockets::{Begin, ListeningSockets};
use crate::process::reload::{self, Asker, Parts, Reloader};
use crate::process::reporter::{Reporter, Sources};
use crate::process::signals::{Requested, Signals};
use crate::process::systemd;
use crate::process::upgrade::{Inheritance, Predecessor, Successor, UpgradeError};
use crate::process::worker::{self, Worker};
use crate::relay;
use crate::settings::Address;
use crate::snapshot::Snapshot;
use crate::sources::docker::Containers;
use crate::sources::kubernetes::ClusterFollower;
use crate::supervise::{supervise, vital};
use crate::telemetry::{LogGuard, Metrics, Reason, ReloadResult, Task, Trigger};

/// A proxy with its sockets bound and its workers running.
pub(crate) struct Server {
    /// Name and bound address of each listener; with port 0, the port that the kernel chose.
    pub listening: Vec<(Arc<str>, SocketAddr)>,
    pub admin: Vec<Address>,
    shared: Shared,
    drain: Drain,
    workers: Vec<Worker>,
    process: Arc<Mutex<Process>>,
    readiness: Readiness,
    reloader: Option<Reloader>,
    discovery: Discovery,
    containers: Containers,
    cluster: ClusterFollower,
    signals: Signals,
    predecessor: Option<Predecessor>,
    reporter: Arc<Reporter>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All connections ended on their own.
    Drained,
    /// The drain deadline, or a second signal, cut off `connections` connections.
    Cut { connections: usize },
}

impl Server {
    /// Starts on the current runtime, which becomes the control runtime. Takes the sockets it needs from `inheritance`.
    ///
    /// # Errors
    /// An address cannot be bound, or a thread or descriptor cannot be created. Nothing keeps running then.
    pub(crate) async fn start(loaded: Loaded, file: PathBuf, inheritance: Inheritance) -> Result<Self, ApplyError> {
        // Before anything is bound: as the first process of a container, signals have no default action.
        let signals = Signals::listen().map_err(ApplyError::Io)?;
        let (config, routes) = (loaded.config.settings.clone(), loaded.config.routes.len());
        let workers = config.runtime.workers.unwrap_or_else(available_cores);
        let metrics = Metrics::new();
        let snapshot = Snapshot::build(loaded.config, None, &metrics);
        let (drain, watch) = drain::channel();
        let open_files = descriptors::raise_limit();
        let budget = Budget::new(open_files, workers, *config.limits.max_connections, relay::MOST_PIPES);
        log_start(&config, routes, &file, workers, open_files, &budget);
        let shared = share(snapshot, budget, watch, metrics, workers);
        let (to_workers, openings): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let Inheritance { sockets, predecessor } = inheritance;
        // The old process keeps serving until this one can.
        let begin = if predecessor.is_some() { Begin::Later } else { Begin::AtOnce };
        let listeners = ListeningSockets::new(to_workers, begin, shared.clone());
        figures::collect(&shared, listeners.queues());
        let mut process = Process::new(listeners, &config, budget, sockets)?;
        let prepared = process.prepare(&config)?;
        let workers = start_workers(openings, &shared)?;
        prepared.commit(&shared.snapshot.load_full());
        shared.metrics.reload(ReloadResult::Applied, Trigger::Start, &config.hash);
        let listening =
            process.listening_sockets().listening().map(|(name, address)| (Arc::clone(name), address)).collect();
        let admin = process.admin().addresses().cloned().collect();
        let our_addresses = process.listening_sockets().watch_addresses();
        let bound = process.listening_sockets().watch_bound();
        let process = Arc::new(Mutex::new(process));
        let (snapshot, metrics) = (Arc::clone(&shared.snapshot), Arc::clone(&shared.metrics));
        let discovery = Discovery::new(Arc::clone(&snapshot), Arc::clone(&metrics), our_addresses.clone());
        let found = Arc::new(watch::Sender::default());
        let containers = Containers::new(Arc::clone(&snapshot), Arc::clone(&metrics), Arc::clone(&found));
        let cluster = ClusterFollower::new(
            Arc::clone(&snapshot),
            Arc::clone(&metrics),
            Arc::clone(&found),
            our_addresses.clone(),
        );
        let readiness = Readiness::new(Arc::clone(&shared.pause));
        let reporter = Reporter::new(Sources {
            snapshot: Arc::clone(&snapshot),
            metrics: Arc::clone(&metrics),
            permits: Arc::clone(&shared.permits),
            readiness: readiness.clone(),
            file: file.clone(),
            workers: workers.len(),
            bound,
            most_connections: budget.max_connections(),
        });
        reporter.started();
        let reloader = Some(Reloader::new(Parts {
            file,
            snapshot,
            metrics,
            process: Arc::clone(&process),
            registries: shared.registries.clone(),
            reporter: Arc::clone(&reporter),
            containers: containers.clone(),
            cluster: cluster.clone(),
            found: found.subscribe(),
            listening: our_addresses,
        }));
        Ok(Self {
            listening,
            admin,
            shared,
            drain,
            workers,
            process,
            readiness,
            reloader,
            discovery,
            containers,
            cluster,
            signals,
            predecessor,
            reporter,
        })
    }

    /// Runs until a signal asks it to stop, or a new process has taken over: drains, and returns once everything has
    /// ended.
    ///
    /// `log` provides the count of dropped lines.
    pub(crate) async fn run(mut self, log: Option<LogGuard>) -> Ended {
        let (reloads, asked) = reload::channel();
        let app = self.open_admin(&reloads, log.as_ref()).await;
        let metrics = Arc::clone(&self.shared.metrics);
        let upkeep =
            tokio::spawn(async move { supervise(Task::Upkeep, &metrics, || upkeep(&metrics, log.as_ref())).await });
        if let Some(reloader) = &mut self.reloader {
            // Before `ready` is reported: whoever waits for it may change the files at once.
            reloader.listen().await;
        }
        let reloading = self.reloader.take().map(|reloader| tokio::spawn(reloader.run(asked)));
        let mut background = self.background();
        let starting = tokio::spawn(vital("the start", self.starting(app)));
        let parting = self.serve(&reloads).await;
        // What others change from now on is not put in force here any more.
        self.cluster.leave().await;
        // A reload is either complete or not started: it makes its changes between two await points of this runtime.
        if let Some(reloading) = reloading {
            reloading.abort();
            let _ = reloading.await;
        }
        // Finished or not, it reports nothing after this.
        starting.abort();
        let _ = starting.await;
        let left = self.part(parting).await;
        self.drain.enter(Phase::Over);
        for worker in self.workers {
            worker.ended().await;
        }
        // Without the lock: a request in progress may need it.
        let closed = self.process.lock().await.close_admin();
        closed.await;
        background.shutdown().await;
        let ended = if left == 0 { Ended::Drained } else { Ended::Cut { connections: left } };
        tracing::info!(event = "ended", cut = left, "stopped");
        upkeep.abort();
        // This drops its log guard, which writes the queued lines.
        let _ = upkeep.await;
        ended
    }

    /// Starts the tasks that go on until the end: checks, DNS lookups, containers, the cluster, figures, and what looks after those who wait.
    fn background(&self) -> JoinSet<()> {
        let Shared { snapshot, metrics, registries, pause, permits, budget, .. } = &self.shared;
        let mut tasks = JoinSet::new();
        tasks.spawn(health::run(Arc::clone(snapshot), Arc::clone(metrics), registries.clone()));
        tasks.spawn(long_connections::log(Arc::clone(snapshot), Arc::clone(metrics), registries.clone()));
        tasks.spawn(pause::follow(pause::Followed {
            pause: Arc::clone(pause),
            permits: Arc::clone(permits),
            snapshot: Arc::clone(snapshot),
            budget: *budget,
            registries: registries.clone(),
            metrics: Arc::clone(metrics),
        }));
        tasks.spawn(report(Arc::clone(&self.reporter), Arc::clone(metrics)));
        tasks.spawn(self.discovery.clone().run());
        tasks.spawn(self.containers.clone().run());
        tasks.spawn(self.cluster.clone().run());
        tasks.spawn(call_waiting(Arc::clone(snapshot), Arc::clone(metrics)));
        tasks
    }

    /// Serves the admin addresses, unless the old process still does: then returns the app, to be served when this
    /// process starts serving.
    async fn open_admin(&self, reloads: &Asker, log: Option<&LogGuard>) -> Option<App> {
        let app = self.app(reloads.clone());
        let mut process = self.process.lock().await;
        if let Some(log) = log {
            process.control_log(log.control());
        }
        if self.predecessor.is_some() {
            return Some(app);
        }
        process.serve_admin(Arc::new(app));
        None
    }

    /// Starts serving once the backend names are resolved, and reports it to the old process and to systemd.
    fn starting(&mut self, app: Option<App>) -> impl Future<Output = ()> + use<> {
        let (discovery, readiness) = (self.discovery.clone(), self.readiness.clone());
        let (containers, cluster) = (self.containers.clone(), self.cluster.clone());
        let (process, predecessor) = (Arc::clone(&self.process), self.predecessor.take());
        async move {
            // Bounded, since other pools may need neither DNS nor containers.
            let until = Instant::now() + FIRST_LOOKUPS;
            if timeout_at(until, containers.tried()).await.is_err() {
                let waited_s = FIRST_LOOKUPS.as_secs();
                tracing::warn!(
                    event = "ready_before_containers",
                    waited_s,
                    "serving although the Docker API has not answered yet"
                );
            }
            if timeout_at(until, discovery.tried()).await.is_err() {
                let waited_s = FIRST_LOOKUPS.as_secs();
                tracing::warn!(
                    event = "ready_before_dns",
                    waited_s,
                    "serving although some backend names have not been resolved yet"
                );
            }
            // Not bounded: without its objects, nothing that is described in the cluster would be served.
            cluster.tried().await;
            readiness.enter(Stage::Ready);
            let unwanted = {
                let mut process = process.lock().await;
                if let Some(app) = app {
                    process.serve_admin(Arc::new(app));
                }
                process.begin()
            };
            if let Some(predecessor) = predecessor
                && let Err(error) = predecessor.serving(unwanted).await
            {
                tracing::warn!(event = "upgrade_parent_gone", %error, "the old process exited before the upgrade was reported");
            }
            tracing::info!(event = "ready", pid = std::process::id(), "ready");
            systemd::ready();
        }
    }

    /// Handles signals until one ends the process.
    async fn serve(&mut self, reloads: &Asker) -> Parting {
        loop {
            match self.signals.next().await {
                Requested::Reload => reloads.ask(Trigger::Signal),
                Requested::Stop => return Parting::Requested,
                Requested::Upgrade => match self.upgrade(reloads).await {
                    Upgrade::Over => return Parting::HandedOver,
                    Upgrade::Failed => {}
                    Upgrade::EndAsked => return Parting::Requested,
                },
            }
        }
    }

    /// Starts the new process, and hands the sockets over once it serves.
    async fn upgrade(&mut self, reloads: &Asker) -> Upgrade {
        if self.readiness.stage() != Stage::Ready {
            return not_upgraded(&UpgradeError::NotReady);
        }
        let limit = *self.shared.snapshot.load().config.timeouts.upgrade;
        // Reloads wait meanwhile: they would change the sockets being handed over.
        let process = Arc::clone(&self.process);
        let mut process = process.lock().await;
        let mut successor = match Successor::start() {
            Ok(successor) => successor,
            Err(error) => return not_upgraded(&error),
        };
        let new_pid = successor.id();
        tracing::info!(event = "upgrade_started", new_pid, "upgrade: starting a new process");
        let served = {
            let sockets = process.hand_over();
            tokio::select! {
                served = successor.serve(&sockets, limit) => Some(served),
                () = self.signals.stop(reloads) => None,
            }
        };
        match served {
            None => {
                tracing::warn!(event = "upgrade_abandoned", new_pid, "upgrade abandoned: a stop was requested");
                Upgrade::EndAsked
            }
            Some(Err(error)) => not_upgraded(&error),
            Some(Ok(unwanted)) => {
                systemd::main_process_is(new_pid);
                successor.release();
                process.leave(&unwanted);
                tracing::info!(event = "upgrade_finished", new_pid, "upgrade finished: the new process is serving");
                Upgrade::Over
            }
        }
    }

    /// Drains; returns the number of connections that are left and will be reset.
    async fn part(&mut self, parting: Parting) -> usize {
        self.readiness.enter(Stage::Draining);
        let (pre_stop, wait) = {
            let timeouts = self.shared.snapshot.load().config.timeouts;
            (*timeouts.pre_stop, *timeouts.drain)
        };
        let (nobody, _) = reload::channel();
        if parting == Parting::Requested {
            systemd::stopping();
            if !pre_stop.is_zero() {
                tracing::info!(
                    event = "pre_stop",
                    for_s = pre_stop.as_secs_f64(),
                    "stopping: still accepting connections for timeouts.pre_stop"
                );
                tokio::select! {
                    () = sleep(pre_stop) => {}
                    () = self.signals.stop(&nobody) => return self.cut().await,
                }
            }
            self.process.lock().await.drain();
        }
        self.drain.enter(Phase::Draining);
        tracing::info!(
            event = "draining",
            open = self.shared.permits.open(),
            deadline_s = wait.as_secs_f64(),
            "draining"
        );
        tokio::select! {
            _ = timeout(wait, served(&self.shared)) => self.shared.permits.open(),
            () = self.signals.stop(&nobody) => self.cut().await,
        }
    }

    /// Ends all connections after a second signal; returns their number.
    async fn cut(&self) -> usize {
        self.signals.stopping_now();
        tracing::warn!(event = "stop_forced", "second signal: stopping now");
        let left = self.shared.permits.open();
        self.shared.registries.end(&Filter::default(), Reason::Killed).await;
        left
    }

    fn app(&self, reloads: Asker) -> App {
        App {
            metrics: Arc::clone(&self.shared.metrics),
            ready: self.readiness.clone(),
            control: Box::new(Controls {
                snapshot: Arc::clone(&self.shared.snapshot),
                discovery: self.discovery.clone(),
                containers: self.containers.clone(),
                cluster: self.cluster.clone(),
                reloads,
                registries: self.shared.registries.clone(),
                reporter: Arc::clone(&self.reporter),
            }),
        }
    }
}

/// Waits until the queues of all listening sockets are empty and every connection has ended.
async fn served(shared: &Shared) {
    shared.listening_sockets.wait_until(|open| open == 0).await;
    shared.permits.wait_until(|open| open == 0).await;
}

/// What the workers share.
fn share(snapshot: Snapshot, budget: Budget, drain: drain::Watch, metrics: Arc<Metrics>, workers: usize) -> Shared {
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
    Shared {
        snapshot,
        permits: Arc::default(),
        pause: Arc::default(),
        listening_sockets: Arc::default(),
        ids: Arc::new(AtomicU64::new(1)),
        budget,
        drain,
        registries: Registries::default(),
        balance: Balance::new(workers),
        metrics,
    }
}

fn start_workers(
    openings: Vec<mpsc::UnboundedReceiver<worker::NewSocket>>,
    shared: &Shared,
) -> Result<Vec<Worker>, ApplyError> {
    let spawn = |(number, openings)| worker::spawn(number, openings, shared.clone());
    openings.into_iter().enumerate().map(spawn).collect::<Result<_, _>>().map_err(ApplyError::Io)
}

/// Keeps the histograms small even if nothing scrapes them, and reports which log lines are missing.
async fn upkeep(metrics: &Metrics, log: Option<&LogGuard>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    for second in 0_u64.. {
        every.tick().await;
        if second.is_multiple_of(UPKEEP_SECONDS) {
            metrics.upkeep();
        }
        if let Some(log) = log {
            log.report_suppressed();
            metrics.log_lines_dropped(log.dropped_lines());
        }
    }
}

/// Follows what the status shows.
async fn report(reporter: Arc<Reporter>, metrics: Arc<Metrics>) {
    supervise(Task::Upkeep, &metrics, || reporter.run()).await;
}

/// Looks whether clients that wait in queues need not any more. What has an event of its own calls them at once.
async fn call_waiting(snapshot: Arc<ArcSwap<Snapshot>>, metrics: Arc<Metrics>) {
    let call = || async {
        let mut every = tokio::time::interval(CALLS);
        loop {
            let now = every.tick().await;
            snapshot.load().call_waiting(now);
        }
    };
    supervise(Task::Upkeep, &metrics, call).await;
}

/// Why this process stops serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parting {
    Requested,
    HandedOver,
}

/// The result of an upgrade.
enum Upgrade {
    Over,
    Failed,
    EndAsked,
}

fn not_upgraded(error: &UpgradeError) -> Upgrade {
    tracing::error!(event = "upgrade_failed", why = %error, "upgrade failed: the old process keeps serving");
    Upgrade::Failed
}

/// The first line of the log.
fn log_start(config: &Settings, routes: usize, file: &Path, workers: usize, open_files: u64, budget: &Budget) {
    tracing::info!(
        event = "starting",
        version = env!("CARGO_PKG_VERSION"),
        file = %file.display(),
        listeners = config.listeners.len(),
        routes,
        pools = config.pools.len(),
        hash = &*config.hash,
        workers,
        max_connections = config.limits.max_connections.unwrap_or_else(|| budget.max_connections()),
        max_hello_bytes = *config.limits.max_hello,
        open_files,
        "starting"
    );
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

const FIRST_LOOKUPS: Duration = Duration::from_secs(5);
const UPKEEP_SECONDS: u64 = 5;
const CALLS: Duration = Duration::from_millis(250);
