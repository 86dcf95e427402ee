//! Puts a changed configuration in force: watch, poll, signal or call -> load -> build -> swap.
//!
//! In:  the routing file and the files it includes; requests to reload.
//! Out: a new snapshot for new connections; or, on errors, the old one stays and the problems are logged.
//!
//! A change is new content in a file, or a new set of files, compared with the last attempt. The watch makes reloads
//! fast and shows whether a writer is still busy; the poll catches what the watch misses. A half-written file is never
//! used: the fingerprint is taken before and after loading, and both must agree.

mod background;
mod lines;
mod triggers;
mod fingerprint;
mod found;
#[cfg(target_os = "linux")]
mod inotify;
#[cfg(not(target_os = "linux"))]
#[path = "reload/inotify_elsewhere.rs"]
mod inotify;
mod watch_paths;

use std::any::Any;
use std::collections::BTreeSet;
use std::error::Error;
use std::mem;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::background::Background;
use self::fingerprint::Fingerprint;
pub(crate) use self::lines::problem_of;
use self::lines::with_lines;
use self::triggers::{Triggers, Watching};
use self::watch_paths::WatchPaths;
use crate::config::{Config, Loaded, Problem, Problems, Sources};
use crate::operate::registry::{Registries, Removals};
use crate::operate::status::LastReload;
use crate::process::apply::{ApplyError, Process};
use crate::process::reporter::Reporter;
use crate::process::systemd;
use crate::snapshot::Snapshot;
use crate::sources::docker::{Container, Containers};
use crate::sources::kubernetes::ClusterFollower;
use crate::sources::{Found, Merged, Reports};
use crate::supervise::{caught, log_panic, observed, report};
use crate::telemetry::{Metrics, ReloadResult, Task, Trigger};

/// Keeps the snapshot in step with its file.
pub(crate) struct Reloader {
    file: PathBuf,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    /// The parts of the process besides the snapshot that a reload changes.
    process: Arc<Mutex<Process>>,
    registries: Registries,
    reporter: Arc<Reporter>,
    triggers: Triggers,
    background: Background,
    /// Sources of the last attempt, accepted or not. Watched together with those of the configuration in force.
    tried: Sources,
    /// Fingerprint of `tried`. `None`: the files may have changed between reading and fingerprinting.
    seen: Option<Fingerprint>,
    /// The warnings of the content in `seen`, if that is in force.
    accepted: Option<Problems>,
    /// Snapshots that connections, or the accept loops, may still hold.
    retired: Vec<Arc<Snapshot>>,
    containers: Containers,
    cluster: ClusterFollower,
    /// What of the containers was put in force last.
    containers_in_force: Option<Arc<[Container]>>,
    /// What the sources beside the files have found.
    found: watch::Receiver<Found>,
    /// Where snigate itself listens.
    listening: watch::Receiver<Arc<[SocketAddr]>>,
}

/// What a [`Reloader`] works with.
pub(crate) struct Parts {
    pub file: PathBuf,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub metrics: Arc<Metrics>,
    pub process: Arc<Mutex<Process>>,
    pub registries: Registries,
    pub reporter: Arc<Reporter>,
    pub containers: Containers,
    pub cluster: ClusterFollower,
    pub found: watch::Receiver<Found>,
    pub listening: watch::Receiver<Arc<[SocketAddr]>>,
}

/// Requests reloads from other tasks.
#[derive(Clone, Debug)]
pub(crate) struct Asker(mpsc::Sender<Request>);

/// A request for a reload. With `answer`, the sender waits for the outcome.
#[derive(Debug)]
pub(crate) struct Request {
    trigger: Trigger,
    answer: Option<oneshot::Sender<Outcome>>,
}

/// The result of a reload.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub result: ReloadResult,
    /// The hash of the configuration now in force.
    pub hash: String,
    pub took: Duration,
    /// The reason, if it was rejected.
    pub why: Option<String>,
    /// All problems of a rejected file, or the warnings of an accepted one.
    pub problems: Problems,
}

/// Makes both ends: the one that requests reloads, and the one that [`Reloader::run`] receives from.
pub(crate) fn channel() -> (Asker, mpsc::Receiver<Request>) {
    let (sender, receiver) = mpsc::channel(MOST_WAITING);
    (Asker(sender), receiver)
}

impl Asker {
    /// Requests a reload without waiting. Dropped if the queue is full: a queued reload will see the same change.
    pub(crate) fn ask(&self, trigger: Trigger) {
        let _ = self.0.try_send(Request { trigger, answer: None });
    }

    /// Requests a reload and waits for its outcome; `None` when the reloader has stopped.
    pub(crate) async fn outcome(&self, trigger: Trigger) -> Option<Outcome> {
        let (answer, outcome) = oneshot::channel();
        self.0.send(Request { trigger, answer: Some(answer) }).await.ok()?;
        outcome.await.ok()
    }
}

/// Why a configuration did not come into force.
#[derive(Debug)]
pub(crate) enum Rejected {
    Problems(Problems),
    Apply(ApplyError),
    /// A fault in snigate itself.
    Panicked,
}

impl Reloader {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { file, snapshot, metrics, process, registries, reporter, containers, cluster, found, listening } =
            parts;
        Self {
            file,
            snapshot,
            metrics,
            process,
            registries,
            reporter,
            triggers: Triggers::new(),
            background: Background::default(),
            tried: Sources::default(),
            seen: None,
            accepted: None,
            retired: Vec::new(),
            found,
            containers,
            cluster,
            containers_in_force: None,
            listening,
        }
    }

    /// Reloads whenever the files change or a request arrives; ends when all senders are gone.
    pub(crate) async fn run(mut self, mut asked: mpsc::Receiver<Request>) {
        while let Err(panic) = caught(self.serve(&mut asked)).await {
            report(Task::Reload, &self.metrics, &*panic, PAUSE_OF_A_PANIC);
            sleep(PAUSE_OF_A_PANIC).await;
        }
    }

    async fn serve(&mut self, asked: &mut mpsc::Receiver<Request>) {
        let fingerprint = self.fingerprint().await;
        // If the files last changed before we started, the start-up load already saw this content.
        if fingerprint.quiet_for() > self.metrics.uptime() + CLOCK_SLACK {
            self.seen = Some(fingerprint);
        }
        let mut next_poll = Instant::now() + self.poll();
        // When a change was last applied that no call has asked about since.
        let mut noticed: Option<Instant> = None;
        loop {
            let (trigger, answer) = tokio::select! {
                request = asked.recv() => match request {
                    Some(Request { trigger, answer }) => (trigger, answer),
                    None => return,
                },
                () = self.triggers.changed() => (Trigger::File, None),
                () = sleep_until(next_poll.min(Instant::now() + self.poll())) => (Trigger::Poll, None),
                Ok(()) = self.found.changed() => {
                    if let Err(panic) = caught(self.rebuild()).await {
                        report(Task::Reload, &self.metrics, &*panic, Duration::ZERO);
                    }
                    self.sweep();
                    continue;
                }
                () = sleep(SWEEP), if !self.retired.is_empty() => {
                    self.sweep();
                    continue;
                }
            };
            if trigger == Trigger::Poll {
                next_poll = Instant::now() + self.poll();
            }
            let outcome = match caught(self.reload(trigger)).await {
                Ok(outcome) => outcome,
                Err(panic) => {
                    report(Task::Reload, &self.metrics, &*panic, Duration::ZERO);
                    // systemd may have been notified that a reload began.
                    systemd::ready();
                    Some(self.conclude(trigger, Duration::ZERO, Err(Rejected::Panicked)))
                }
            };
            if let Some(outcome) = &outcome {
                self.report(trigger, outcome).await;
            }
            self.sweep();
            let is_applied = outcome.as_ref().is_some_and(|outcome| outcome.result == ReloadResult::Applied);
            if let (Some(answer), Some(mut outcome)) = (answer, outcome) {
                // The watch was faster than the call that follows a save.
                if outcome.result == ReloadResult::Unchanged && noticed.is_some_and(|at| at.elapsed() < JUST_NOW) {
                    outcome.result = ReloadResult::Applied;
                }
                noticed = None;
                // The requester may no longer be waiting.
                let _ = answer.send(outcome);
            } else if is_applied {
                noticed = Some(Instant::now());
            }
        }
    }

    /// Waits until the files are stable and puts them in force, or logs why not. All triggers end here.
    ///
    /// `None`: nothing has changed. An explicit request always gets an outcome.
    async fn reload(&mut self, trigger: Trigger) -> Option<Outcome> {
        let (started, is_asked) = (Instant::now(), matches!(trigger, Trigger::Signal | Trigger::Api));
        let patience = started + if is_asked { PATIENCE_OF_WHO_ASKS } else { PATIENCE };
        loop {
            let mut fingerprint = self.fingerprint().await;
            if is_asked && let Some(warnings) = self.in_force(&fingerprint) {
                systemd::reloading();
                systemd::ready();
                return Some(self.conclude(trigger, started.elapsed(), Ok(Applied::Already { warnings })));
            }
            if !is_asked {
                if trigger == Trigger::Poll && self.is_seen(&fingerprint) {
                    return None;
                }
                fingerprint = self.settle(trigger, fingerprint, patience).await;
                self.listen().await;
                if self.is_seen(&fingerprint) {
                    return None;
                }
            }
            let file = self.file.clone();
            let loaded = match self.background.run(move || Config::load_from(&file)).await {
                Ok((loaded, sources)) => {
                    self.tried = sources;
                    loaded.map_err(Rejected::Problems)
                }
                Err(panic) => Err(self.panicked(&*panic)),
            };
            self.listen().await;
            let after = self.fingerprint().await;
            let is_late = Instant::now() >= patience;
            if !after.is_same(&fingerprint) && !is_late {
                // The files changed while being read, or include files that were not fingerprinted before.
                sleep(RETRY_DELAY).await;
                continue;
            }
            if loaded.is_err() && self.triggers.has_writer() && !is_late {
                // Most likely a half-written file. The next write, or the close, wakes us.
                let _ = timeout(patience - Instant::now(), self.triggers.changed()).await;
                continue;
            }
            let was_sure = self.seen.is_some();
            let began = Instant::now();
            systemd::reloading();
            let applied = match loaded {
                Ok(loaded) => self.apply(loaded).await,
                Err(rejected) => Err(rejected),
            };
            systemd::ready();
            self.accepted = match &applied {
                Ok(Applied::Now { warnings } | Applied::Already { warnings }) if after.is_same(&fingerprint) => {
                    Some(warnings.clone())
                }
                _ => None,
            };
            // Files that are no longer read no longer count.
            let paths = self.paths().await;
            self.seen = Some(fingerprint.only(&paths));
            if !is_asked && !was_sure && matches!(applied, Ok(Applied::Already { .. })) {
                // It was unknown whether the files had changed; they had not.
                return None;
            }
            return Some(self.conclude(trigger, began.elapsed(), applied));
        }
    }

    /// Waits until the files are stable: no writer has one open, none is missing or empty, and nothing changes any
    /// more. Each wait is bounded, since a missing or empty file may be intended.
    async fn settle(&mut self, trigger: Trigger, mut fingerprint: Fingerprint, patience: Instant) -> Fingerprint {
        let mut since = Instant::now();
        loop {
            let quiet = match self.triggers.quiet_for() {
                Some(quiet) if trigger == Trigger::File => quiet,
                // A missing file has no modification time.
                _ if fingerprint.has_gap(QUIET_OF_A_WRITER) => since.elapsed(),
                _ => since.elapsed().max(fingerprint.quiet_for()),
            };
            let needed = match trigger {
                _ if fingerprint.has_gap(QUIET_OF_A_WRITER) || self.triggers.has_writer() => QUIET_OF_A_WRITER,
                Trigger::File => QUIET,
                // Without a watch, writers cannot be detected.
                _ => QUIET_UNHEARD,
            };
            let now = Instant::now();
            if quiet >= needed || now >= patience {
                return fingerprint;
            }
            let _ = timeout((needed - quiet).min(RECHECK), self.triggers.changed()).await;
            let again = self.fingerprint().await;
            if !again.is_untouched(&fingerprint) {
                since = Instant::now();
            }
            fingerprint = again;
        }
    }

    /// Builds the snapshot and swaps it in.
    async fn apply(&mut self, Loaded { config, warnings }: Loaded) -> Result<Applied, Rejected> {
        let (before, metrics) = (self.snapshot.load_full(), Arc::clone(&self.metrics));
        // The hash does not cover the token.
        if config.hash == before.config.hash && config.token == before.config.token {
            return Ok(Applied::Already { warnings });
        }
        let (merge, cluster) = (self.merge(), self.cluster.clone());
        let build = self.background.run(move || {
            let Merged { config, reports } = merge(config);
            (Built::new(config, &before, &metrics).with_endpoints(&cluster, &reports), reports)
        });
        let (built, reports) = build.await.map_err(|panic| self.panicked(&*panic))?;
        self.put_in_force(built).await.inspect_err(|rejected| self.leave_out(rejected))?;
        self.report_in_force(reports);
        Ok(Applied::Now { warnings })
    }

    async fn put_in_force(&mut self, Built { snapshot, removals }: Built) -> Result<(), Rejected> {
        self.swap(snapshot).await?;
        self.listen().await;
        if let Some(removals) = removals {
            self.end_removed(removals).await;
        }
        Ok(())
    }

    /// Counts and logs the outcome of a reload.
    fn conclude(&self, trigger: Trigger, took: Duration, applied: Result<Applied, Rejected>) -> Outcome {
        let (result, why, problems) = match applied {
            Ok(Applied::Already { warnings }) => (ReloadResult::Unchanged, None, warnings),
            Ok(Applied::Now { warnings }) => (ReloadResult::Applied, None, warnings),
            Err(rejected) => {
                let why = rejected.to_string();
                let problems = if let Rejected::Problems(problems) = rejected { problems } else { Problems::default() };
                (ReloadResult::Rejected, Some(why), problems)
            }
        };
        let hash = self.snapshot.load().hash().to_owned();
        let outcome = Outcome { result, hash, took, why, problems };
        self.metrics.reload(outcome.result, trigger, &outcome.hash);
        self.log(trigger, &outcome);
        outcome
    }

    /// Passes the outcome to the status, with the lines of the files that its problems are about.
    async fn report(&mut self, trigger: Trigger, outcome: &Outcome) {
        let problems: Vec<Problem> = outcome.problems.iter().cloned().collect();
        let read = self.background.run(move || with_lines(&problems)).await;
        let millis = u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX);
        self.reporter.reloaded(LastReload {
            result: outcome.result.as_str().into(),
            trigger: trigger.as_str().into(),
            at: SystemTime::now().into(),
            took_ms: millis,
            error: outcome.why.clone(),
            problems: read.unwrap_or_default(),
            problems_left_off: outcome.problems.left_off(),
        });
    }

    /// Ends the connections whose route or backend is gone, at once or at the end of the drain.
    async fn end_removed(&self, Removals { now, mut later }: Removals) {
        if !now.is_empty() {
            self.registries.remove(&now).await;
        }
        if !later.is_empty() {
            let (snapshot, registries) = (Arc::clone(&self.snapshot), self.registries.clone());
            let drain = *snapshot.load().config.timeouts.drain;
            let metrics = Arc::clone(&self.metrics);
            tokio::spawn(async move {
                let remove = async {
                    sleep(drain).await;
                    later.restore(&snapshot.load());
                    registries.remove(&Arc::new(later)).await;
                };
                observed(Task::Reload, &metrics, remove).await;
            });
        }
    }

    fn log(&self, trigger: Trigger, outcome: &Outcome) {
        if outcome.result != ReloadResult::Unchanged {
            outcome.problems.iter().for_each(log_problem);
        }
        let trigger = trigger.as_str();
        let took_ms = u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX);
        match outcome.result {
            ReloadResult::Unchanged => {
                tracing::info!(event = "reload_unchanged", trigger, hash = outcome.hash, "reload unchanged")
            }
            ReloadResult::Applied => {
                let snapshot = self.snapshot.load();
                let (routes, pools) = (snapshot.routes.len(), snapshot.pools.len());
                tracing::info!(
                    event = "reload_applied",
                    trigger,
                    hash = outcome.hash,
                    routes,
                    pools,
                    took_ms,
                    "reload applied"
                );
            }
            ReloadResult::Rejected => {
                let problems = outcome.problems.errors().max(1);
                let why = outcome.why.as_deref().unwrap_or_default();
                tracing::error!(
                    event = "reload_rejected",
                    trigger,
                    problems,
                    why,
                    "reload rejected: the previous configuration stays in force"
                );
            }
        }
    }

    /// Puts `snapshot` in force, with everything else that its configuration changes. On error, nothing has changed.
    async fn swap(&mut self, snapshot: Snapshot) -> Result<(), Rejected> {
        let mut process = self.process.lock().await;
        // No await from here on: the change must not be observed half done, nor be interrupted by shutdown.
        let prepared = match process.prepare(&snapshot.config) {
            Ok(prepared) => prepared,
            Err(error) => {
                // Building registered series of routes and backends that will not come into force.
                self.snapshot.load().retire_series();
                return Err(Rejected::Apply(error));
            }
        };
        snapshot.catch_up(&self.snapshot.load());
        let snapshot = Arc::new(snapshot);
        let before = self.snapshot.swap(Arc::clone(&snapshot));
        before.set_replaced();
        snapshot.take_over_queues();
        self.retired.push(before);
        prepared.commit(&snapshot);
        snapshot.retire_series();
        Ok(())
    }

    /// Frees unused snapshots on another thread: otherwise the worker that drops the last reference would do it.
    fn sweep(&mut self) {
        let (free, held) = mem::take(&mut self.retired).into_iter().partition(|old| Arc::strong_count(old) == 1);
        self.retired = held;
        let free: Vec<Arc<Snapshot>> = free;
        if !free.is_empty() {
            let (freed, metrics) = (self.background.run(move || drop(free)), Arc::clone(&self.metrics));
            tokio::spawn(async move {
                if let Err(panic) = freed.await {
                    log_panic(Task::Reload, &metrics, &*panic);
                }
            });
        }
    }

    fn panicked(&self, panic: &(dyn Any + Send)) -> Rejected {
        log_panic(Task::Reload, &self.metrics, panic);
        Rejected::Panicked
    }

    /// Watches the paths where changes would show. From the first call on, changes are noticed, by [`Self::run`] if it is
    /// called later.
    pub(crate) async fn listen(&mut self) {
        let (in_force, tried) = self.sources();
        let find = move || {
            let sources = [&in_force, &tried];
            let files: BTreeSet<PathBuf> = sources.iter().flat_map(|sources| sources.present()).collect();
            let directories: Vec<PathBuf> = sources.iter().flat_map(|sources| sources.directories()).collect();
            WatchPaths::of(files.iter().map(PathBuf::as_path), directories.iter().map(PathBuf::as_path))
        };
        let paths = self.aside(find).await;
        let watching = if self.snapshot.load().config.reload.watch { Watching::On } else { Watching::Off };
        self.triggers.watch(paths, watching);
    }

    async fn fingerprint(&mut self) -> Fingerprint {
        let (in_force, tried) = self.sources();
        let before = self.seen.clone().unwrap_or_default();
        self.aside(move || Fingerprint::of(&in_force.present() | &tried.present(), &before)).await
    }

    async fn paths(&mut self) -> BTreeSet<PathBuf> {
        let (in_force, tried) = self.sources();
        self.aside(move || &in_force.present() | &tried.present()).await
    }

    /// What `look` sees in the file system, which may take a while to answer.
    async fn aside<T: Default + Send + 'static>(&mut self, look: impl FnOnce() -> T + Send + 'static) -> T {
        self.background.run(look).await.unwrap_or_else(|panic| {
            log_panic(Task::Reload, &self.metrics, &*panic);
            T::default()
        })
    }

    /// Of the configuration in force, and of the last attempt.
    fn sources(&self) -> (Sources, Sources) {
        (self.snapshot.load().config.sources.clone(), self.tried.clone())
    }

    fn is_seen(&self, fingerprint: &Fingerprint) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.is_same(fingerprint))
    }

    /// The warnings of what is in force, if the files are those that it was read from, to the time of their last change:
    /// to read a million names again takes a second.
    fn in_force(&self, fingerprint: &Fingerprint) -> Option<Problems> {
        let is_it = self.seen.as_ref().is_some_and(|seen| seen.is_same(fingerprint) && seen.is_untouched(fingerprint));
        self.accepted.clone().filter(|_| is_it)
    }

    fn poll(&self) -> Duration {
        *self.snapshot.load().config.reload.poll
    }
}

/// A snapshot that is ready to be put in force.
struct Built {
    snapshot: Snapshot,
    removals: Option<Removals>,
}

impl Built {
    fn new(config: Config, before: &Snapshot, metrics: &Arc<Metrics>) -> Self {
        let snapshot = Snapshot::build(config, Some(before), metrics);
        let removals = Removals::of(before, &snapshot);
        Self { snapshot, removals }
    }

    /// Passes the endpoints of Services that are known to the pools.
    fn with_endpoints(self, cluster: &ClusterFollower, reports: &Reports) -> Self {
        if let Some((_, translation)) = &reports.kubernetes {
            cluster.fill(&self.snapshot, translation);
        }
        self
    }
}

/// What happened to a valid configuration.
enum Applied {
    Now {
        warnings: Problems,
    },
    /// It is already in force.
    Already {
        warnings: Problems,
    },
}

fn log_problem(problem: &Problem) {
    match problem.severity {
        crate::config::Severity::Error => tracing::error!(event = "config_problem", "{problem}"),
        crate::config::Severity::Warning => tracing::warn!(event = "config_problem", "{problem}"),
    }
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Problems(_) => f.write_str("the file has problems"),
            // On one line, for the log.
            Self::Apply(error) => match error.source() {
                Some(cause) => write!(f, "{error}: {cause}"),
                None => write!(f, "{error}"),
            },
            Self::Panicked => f.write_str("snigate panicked during the reload; please report it"),
        }
    }
}

impl Error for Rejected {}

const PAUSE_OF_A_PANIC: Duration = Duration::from_secs(1);
/// Requests beyond this are dropped: a queued reload has yet to read the file and will see their change.
const MOST_WAITING: usize = 16;
/// After the last change; a file is often written in several steps.
const QUIET: Duration = Duration::from_millis(150);
/// When a writer has a file open, or a file is missing or empty. Including loading, less than two seconds.
const QUIET_OF_A_WRITER: Duration = Duration::from_millis(1500);
/// Without a watch, when neither changes nor writers are seen.
const QUIET_UNHEARD: Duration = Duration::from_secs(1);
/// After this, files are read even if they keep changing.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_OF_WHO_ASKS: Duration = Duration::from_secs(2);
const RECHECK: Duration = Duration::from_millis(250);
/// For how long after a change a call counts as being about that change.
const JUST_NOW: Duration = Duration::from_secs(10);
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// How often unused old snapshots are freed.
const SWEEP: Duration = Duration::from_secs(2);
/// The possible difference between a file system's clock and ours.
const CLOCK_SLACK: Duration = Duration::from_secs(2);
