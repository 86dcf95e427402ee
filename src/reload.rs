//! Puts a changed routing file in force: watch, poll or signal -> load -> build -> swap.
//!
//! In:  the file, and whoever asks.
//! Out: a new snapshot for the connections to come; or none, the old one serving on, and the problems in the log.
//!
//! Directories are watched, not files: an editor or a ConfigMap replaces the file, and a watch on it would go with it.
//! The poll is the guarantee, the watch is the speed.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::sleep;

use crate::config::{Config, Loaded, Problem, Problems};
use crate::process::{ApplyError, Process};
use crate::roster::{Fates, Rosters};
use crate::snapshot::Snapshot;
use crate::telemetry::{Metrics, ReloadResult, Trigger};

/// Keeps the snapshot in step with its file.
pub struct Reloader {
    file: PathBuf,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    /// What a reload changes besides the snapshot.
    process: Arc<Mutex<Process>>,
    rosters: Rosters,
    /// The files and directories in force, and the files that kept the last attempt from coming into force.
    watched: Vec<PathBuf>,
    /// What the files looked like when they were last read.
    seen: Fingerprint,
}

/// Asks for reloads from elsewhere.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::Sender<Request>);

/// Somebody wants a reload, and may wait for what comes of it.
#[derive(Debug)]
pub struct Request {
    trigger: Trigger,
    answer: Option<oneshot::Sender<Outcome>>,
}

/// What a reload came to.
#[derive(Debug)]
pub struct Outcome {
    pub result: ReloadResult,
    /// Of the configuration that is in force now.
    pub hash: String,
    pub took: Duration,
    /// Why it was rejected, if it was.
    pub why: Option<String>,
    /// All of the file, or its warnings if it is in force.
    pub problems: Problems,
}

/// Makes both ends: who asks, and what [`Reloader::run`] listens to.
pub fn channel() -> (Asker, mpsc::Receiver<Request>) {
    let (sender, receiver) = mpsc::channel(MOST_WAITING);
    (Asker(sender), receiver)
}

impl Asker {
    /// Asks, and waits for nothing. What is not taken has others before it, whose reload is still to come.
    pub fn ask(&self, trigger: Trigger) {
        let _ = self.0.try_send(Request { trigger, answer: None });
    }

    /// Asks, and waits for what comes of it; `None` when nobody reloads any more.
    pub async fn outcome(&self, trigger: Trigger) -> Option<Outcome> {
        let (answer, outcome) = oneshot::channel();
        self.0.send(Request { trigger, answer: Some(answer) }).await.ok()?;
        outcome.await.ok()
    }
}

/// Why a configuration did not come into force.
#[derive(Debug)]
pub enum Rejected {
    Problems(Problems),
    Apply(ApplyError),
    /// A fault in snigate itself.
    Panicked,
}

impl Reloader {
    pub fn new(
        file: PathBuf,
        snapshot: Arc<ArcSwap<Snapshot>>,
        metrics: Arc<Metrics>,
        process: Arc<Mutex<Process>>,
        rosters: Rosters,
    ) -> Self {
        let watched = watched(&snapshot.load().config);
        let seen = fingerprint(&watched);
        Self { file, snapshot, metrics, process, rosters, watched, seen }
    }

    /// Reloads whenever the file changes or `asked` says so; ends when nobody can ask any more.
    pub async fn run(mut self, mut asked: mpsc::Receiver<Request>) {
        let (changes, mut changed) = mpsc::channel(1);
        let mut watch = self.watch(&changes);
        loop {
            let reload = self.snapshot.load().config.reload;
            let (trigger, answer) = tokio::select! {
                request = asked.recv() => match request {
                    Some(Request { trigger, answer }) => (trigger, answer),
                    None => return,
                },
                Some(()) = changed.recv() => (Trigger::File, None),
                () = sleep(reload.poll) => (Trigger::Poll, None),
            };
            if trigger != Trigger::Signal && trigger != Trigger::Api {
                settle(&mut changed).await;
                if fingerprint(&self.watched) == self.seen {
                    continue;
                }
            }
            let outcome = self.reload(trigger).await;
            watch = self.watch(&changes).or(watch);
            if let Some(answer) = answer {
                // Whoever asked may have gone.
                let _ = answer.send(outcome);
            }
        }
    }

    /// Reads the file once and puts it in force, or says why not. All triggers end here.
    async fn reload(&mut self, trigger: Trigger) -> Outcome {
        let started = Instant::now();
        self.seen = fingerprint(&self.watched);
        let (file, before, metrics) = (self.file.clone(), self.snapshot.load_full(), Arc::clone(&self.metrics));
        // Parsing a large file must not hold up probes and scrapes.
        let built = tokio::task::spawn_blocking(move || build(&file, &before, &metrics)).await;
        let swapped = match built.unwrap_or_else(|_panic| Err(Rejected::Panicked)) {
            Ok(Some(Built { snapshot, warnings, fates })) => {
                self.swap(snapshot).await.map(|()| Some((warnings, fates)))
            }
            Ok(None) => Ok(None),
            Err(rejected) => Err(rejected),
        };
        let (result, why, problems) = match swapped {
            Ok(None) => (ReloadResult::Unchanged, None, Problems::default()),
            Ok(Some((warnings, fates))) => {
                self.watch_also(&[]);
                if let Some(fates) = fates {
                    self.meet(fates).await;
                }
                (ReloadResult::Applied, None, warnings)
            }
            Err(rejected) => {
                let why = rejected.to_string();
                let problems = if let Rejected::Problems(problems) = rejected { problems } else { Problems::default() };
                let broken: Vec<_> = problems.iter().map(|problem| problem.place.file.to_path_buf()).collect();
                self.watch_also(&broken);
                (ReloadResult::Rejected, Some(why), problems)
            }
        };
        let hash = self.snapshot.load().hash().to_owned();
        let outcome = Outcome { result, hash, took: started.elapsed(), why, problems };
        self.metrics.reload(outcome.result, trigger, &outcome.hash);
        self.log(trigger, &outcome);
        outcome
    }

    /// Ends the connections whose route or backend is gone, at once or at the end of the drain.
    async fn meet(&self, Fates { now, mut later }: Fates) {
        if !now.is_empty() {
            self.rosters.condemn(&now).await;
        }
        if !later.is_empty() {
            let (snapshot, rosters) = (Arc::clone(&self.snapshot), self.rosters.clone());
            let drain = snapshot.load().config.timeouts.drain;
            tokio::spawn(async move {
                sleep(drain).await;
                later.spare(&snapshot.load());
                rosters.condemn(&Arc::new(later)).await;
            });
        }
    }

    fn log(&self, trigger: Trigger, outcome: &Outcome) {
        outcome.problems.iter().for_each(log_problem);
        let trigger = trigger.as_str();
        let took_ms = u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX);
        match outcome.result {
            ReloadResult::Unchanged => tracing::info!(trigger, hash = outcome.hash, "reload unchanged"),
            ReloadResult::Applied => {
                let snapshot = self.snapshot.load();
                let (routes, pools) = (snapshot.routes.len(), snapshot.pools.len());
                tracing::info!(trigger, hash = outcome.hash, routes, pools, took_ms, "reload applied");
            }
            ReloadResult::Rejected => {
                let problems = outcome.problems.errors().max(1);
                let why = outcome.why.as_deref().unwrap_or_default();
                tracing::error!(trigger, problems, why, "reload rejected: the configuration before it serves on");
            }
        }
    }

    /// Puts `snapshot` in force, and what else its configuration changes; all of it or, with an error, nothing.
    async fn swap(&self, snapshot: Snapshot) -> Result<(), Rejected> {
        let mut process = self.process.lock().await;
        // From here on there is no await: nobody sees a half of it, and nobody ends the process in between.
        let prepared = match process.prepare(&snapshot.config) {
            Ok(prepared) => prepared,
            Err(error) => {
                // Building has registered the series of routes and backends that do not come.
                self.snapshot.load().retire_series();
                return Err(Rejected::Apply(error));
            }
        };
        let snapshot = Arc::new(snapshot);
        self.snapshot.swap(Arc::clone(&snapshot)).set_replaced();
        prepared.commit(&snapshot);
        snapshot.retire_series();
        Ok(())
    }

    /// Keeps an eye on what is in force and on `broken`: a file that was included anew and refused is mended there.
    fn watch_also(&mut self, broken: &[PathBuf]) {
        self.watched = [watched(&self.snapshot.load().config), broken.to_vec()].concat();
        let mut seen = fingerprint(&self.watched);
        // What was watched already may have changed since it was read, and that is still to be seen.
        for (path, look) in &mut seen {
            if let Some(before) = self.seen.get(path) {
                *look = *before;
            }
        }
        self.seen = seen;
    }

    /// Watches the directories of all files; `None` when the kernel gives no watch, and then the poll must do.
    fn watch(&self, changes: &mpsc::Sender<()>) -> Option<RecommendedWatcher> {
        let config = &self.snapshot.load().config;
        if !config.reload.watch {
            return None;
        }
        let changes = changes.clone();
        let heard = move |event: notify::Result<notify::Event>| {
            // Reading is no change; a full channel has one waiting already.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = changes.try_send(());
            }
        };
        let mut watcher = match notify::recommended_watcher(heard) {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::warn!(%error, "no file watch: the file is polled only");
                return None;
            }
        };
        let directory = |path: &PathBuf| match path.parent() {
            _ if path.is_dir() => path.clone(),
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        for directory in self.watched.iter().map(directory).collect::<BTreeSet<_>>() {
            if let Err(error) = watcher.watch(&directory, RecursiveMode::NonRecursive) {
                tracing::warn!(%error, directory = %directory.display(), "no file watch: the file is polled only");
            }
        }
        Some(watcher)
    }
}

/// What is to be put in force.
struct Built {
    snapshot: Snapshot,
    warnings: Problems,
    fates: Option<Fates>,
}

/// Loads and builds; `None` when the text is what is in force already.
fn build(file: &Path, before: &Snapshot, metrics: &Arc<Metrics>) -> Result<Option<Built>, Rejected> {
    let Loaded { config, warnings } = Config::load(file).map_err(Rejected::Problems)?;
    // The token has no part in the hash.
    if config.hash == before.config.hash && config.admin.token == before.config.admin.token {
        return Ok(None);
    }
    let snapshot = Snapshot::build(config, Some(before), metrics);
    let fates = Fates::of(before, &snapshot);
    Ok(Some(Built { snapshot, warnings, fates }))
}

/// Waits until nothing has changed for a while: a file is often written in several steps.
async fn settle(changed: &mut mpsc::Receiver<()>) {
    let latest = tokio::time::Instant::now() + SETTLE_AT_MOST;
    while let Ok(Some(())) = tokio::time::timeout(QUIET, changed.recv()).await {
        if tokio::time::Instant::now() >= latest {
            break;
        }
    }
}

fn log_problem(problem: &Problem) {
    match problem.severity {
        crate::config::Severity::Error => tracing::error!("{problem}"),
        crate::config::Severity::Warning => tracing::warn!("{problem}"),
    }
}

/// What a configuration depends on: its files, and the directories in which others may come.
fn watched(config: &Config) -> Vec<PathBuf> {
    config.files.iter().chain(&config.include_directories).cloned().collect()
}

/// What shows that files changed without reading them; a directory's shows that one came or went.
type Fingerprint = BTreeMap<PathBuf, Option<(u64, u64, Option<SystemTime>)>>;

fn fingerprint(paths: &[PathBuf]) -> Fingerprint {
    use std::os::unix::fs::MetadataExt;
    let look = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.ino(), metadata.len(), metadata.modified().ok()))
    };
    paths.iter().map(|path| (path.clone(), look(path))).collect()
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Problems(_) => f.write_str("the file has problems"),
            // In one line, as the log wants it.
            Self::Apply(error) => match error.source() {
                Some(cause) => write!(f, "{error}: {cause}"),
                None => write!(f, "{error}"),
            },
            Self::Panicked => f.write_str("reading the file panicked; please report it"),
        }
    }
}

impl Error for Rejected {}

/// Who asks while so many wait need not: theirs is still to come.
const MOST_WAITING: usize = 16;
const QUIET: Duration = Duration::from_millis(150);
const SETTLE_AT_MOST: Duration = Duration::from_millis(1500);
