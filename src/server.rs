//! Builds everything, binds, starts the workers and the control tasks, and waits for the drain.
//!
//! In:  a loaded configuration and its file.
//! Out: a [`Server`]: the addresses it listens on; [`Server::run`] returns when the last connection has ended.

mod controls;
mod pools;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use self::controls::Controls;
use crate::admin::{App, Readiness, Stage};
use crate::config::Loaded;
use crate::discovery::Discovery;
use crate::doors::Doors;
use crate::drain::{self, Drain, Phase};
use crate::health;
use crate::limits::auto_max_connections;
use crate::listener::Shared;
use crate::process::{ApplyError, Process};
use crate::reload::{self, Asker, Reloader};
use crate::roster::Rosters;
use crate::snapshot::Snapshot;
use crate::socket::Address;
use crate::telemetry::{LogGuard, Metrics, ReloadResult, Trigger};
use crate::{relay, worker};

/// A proxy with its sockets bound and its workers running.
pub struct Server {
    /// Where each listener is bound, by its name; port 0 is told as what the kernel gave.
    pub listening: Vec<(Arc<str>, SocketAddr)>,
    pub admin: Vec<Address>,
    shared: Shared,
    drain: Drain,
    workers: Vec<JoinHandle<()>>,
    process: Arc<Mutex<Process>>,
    readiness: Readiness,
    reloader: Reloader,
    discovery: Discovery,
    signals: Signals,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every connection ended by itself.
    Drained,
    /// The drain deadline, or a second signal, ended `connections` of them.
    Cut { connections: usize },
}

impl Server {
    /// Starts on the current runtime, which becomes the control runtime.
    ///
    /// # Errors
    /// An address cannot be bound, or no thread or descriptor is to be had. Nothing keeps running then.
    pub async fn start(loaded: Loaded, file: PathBuf) -> Result<Self, ApplyError> {
        // Before anything is bound: as the first process of a container there are no default actions.
        let signals = Signals::listen().map_err(ApplyError::Io)?;
        let config = loaded.config;
        let workers = config.runtime.workers.unwrap_or_else(available_cores);
        let metrics = Metrics::new();
        let snapshot = Snapshot::build(config.clone(), None, &metrics);
        let (drain, watch) = drain::channel();
        let descriptors = raise_descriptor_limit();
        let most_pipes = most_pipes(workers, descriptors);
        let shared = Shared {
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            permits: Arc::default(),
            doors: Arc::default(),
            ids: Arc::new(AtomicU64::new(1)),
            auto_max_connections: auto_max_connections(descriptors, reserved_descriptors(workers, most_pipes)),
            most_pipes,
            drain: watch,
            rosters: Rosters::default(),
            metrics,
        };
        let in_force = Arc::clone(&shared.snapshot);
        shared.metrics.collect_with(move || in_force.load().publish());
        let (to_workers, openings): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let mut process = Process::new(Doors::new(to_workers, shared.clone()), config.runtime);
        let prepared = process.prepare(&config)?;
        let workers = start_workers(openings, &shared)?;
        prepared.commit(&shared.snapshot.load_full());
        shared.metrics.reload(ReloadResult::Applied, Trigger::Start, &config.hash);
        let listening = process.doors().listening().map(|(name, address)| (Arc::clone(name), address)).collect();
        let admin = process.admin().addresses().cloned().collect();
        let process = Arc::new(Mutex::new(process));
        let (snapshot, metrics) = (Arc::clone(&shared.snapshot), Arc::clone(&shared.metrics));
        let discovery = Discovery::new(Arc::clone(&snapshot), Arc::clone(&metrics), Arc::clone(&process));
        let reloader = Reloader::new(file, snapshot, metrics, Arc::clone(&process), shared.rosters.clone());
        let readiness = Readiness::default();
        Ok(Self { listening, admin, shared, drain, workers, process, readiness, reloader, discovery, signals })
    }

    /// Runs until a signal asks for the end: drains, and returns when all is over.
    ///
    /// `log` is looked at for lines it dropped.
    pub async fn run(mut self, log: Option<LogGuard>) -> Ended {
        let (reloads, asked) = reload::channel();
        let app = Arc::new(self.app(reloads.clone()));
        {
            let mut process = self.process.lock().await;
            process.serve_admin(app);
            if let Some(log) = &log {
                process.control_log(log.control());
            }
        }
        let upkeep = tokio::spawn(upkeep(Arc::clone(&self.shared.metrics), log));
        let reloading = tokio::spawn(self.reloader.run(asked));
        let checking = tokio::spawn(health::run(Arc::clone(&self.shared.snapshot)));
        let discovering = tokio::spawn(self.discovery.clone().run());
        let starting = tokio::spawn(ready(self.discovery.clone(), self.readiness.clone()));
        while self.signals.next().await == Asked::Reload {
            reloads.ask(Trigger::Signal);
        }
        // A reload is over or has not begun: what it changes, it changes between two turns of this runtime.
        reloading.abort();
        let _ = reloading.await;
        // Whether it came to an end or not, it says nothing after this.
        starting.abort();
        let _ = starting.await;
        self.readiness.enter(Stage::Draining);
        self.drain.enter(Phase::Draining);
        self.process.lock().await.drain();
        let wait = self.shared.snapshot.load().config.timeouts.drain;
        let open = self.shared.permits.open();
        tracing::info!(open, deadline_s = wait.as_secs_f64(), "draining");
        tokio::select! {
            _ = timeout(wait, served(&self.shared)) => {}
            () = self.signals.end() => tracing::warn!("second signal: ending at once"),
        }
        let left = self.shared.permits.open();
        self.drain.enter(Phase::Over);
        join(self.workers).await;
        checking.abort();
        self.process.lock().await.close_admin();
        discovering.abort();
        let ended = if left == 0 { Ended::Drained } else { Ended::Cut { connections: left } };
        tracing::info!(cut = left, "ended");
        upkeep.abort();
        // Its log guard is dropped with it, which writes what is queued.
        let _ = upkeep.await;
        ended
    }

    fn app(&self, reloads: Asker) -> App {
        App {
            metrics: Arc::clone(&self.shared.metrics),
            ready: self.readiness.clone(),
            control: Box::new(Controls {
                snapshot: Arc::clone(&self.shared.snapshot),
                discovery: self.discovery.clone(),
                reloads,
                rosters: self.shared.rosters.clone(),
            }),
        }
    }
}

/// Tells that new connections may be sent here, once the names of the backends were looked up; it does not wait long for
/// that, since other pools may need no name.
async fn ready(discovery: Discovery, readiness: Readiness) {
    if timeout(FIRST_LOOKUPS, discovery.tried()).await.is_err() {
        let waited_s = FIRST_LOOKUPS.as_secs();
        tracing::warn!(waited_s, "not every name of a backend was looked up yet");
    }
    readiness.enter(Stage::Ready);
    tracing::info!("ready");
}

/// Waits until nobody is queued on a listening socket any more, and everybody who was has been served.
async fn served(shared: &Shared) {
    shared.doors.wait_until(|open| open == 0).await;
    shared.permits.wait_until(|open| open == 0).await;
}

fn start_workers(
    openings: Vec<mpsc::UnboundedReceiver<worker::Opening>>,
    shared: &Shared,
) -> Result<Vec<JoinHandle<()>>, ApplyError> {
    let spawn = |(number, openings)| worker::spawn(number, openings, shared.clone());
    openings.into_iter().enumerate().map(spawn).collect::<Result<_, _>>().map_err(ApplyError::Io)
}

/// Waits for the worker threads without blocking the control runtime.
async fn join(workers: Vec<JoinHandle<()>>) {
    let joined = tokio::task::spawn_blocking(move || {
        for worker in workers {
            if worker.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    });
    let _ = joined.await;
}

/// Keeps the histograms small while nobody scrapes.
async fn upkeep(metrics: Arc<Metrics>, log: Option<LogGuard>) {
    let mut every = tokio::time::interval(UPKEEP);
    loop {
        every.tick().await;
        metrics.upkeep();
        if let Some(log) = &log {
            metrics.log_lines_dropped(log.dropped_lines());
        }
    }
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
        }
    }

    /// A reload during the drain changes nothing.
    async fn end(&mut self) {
        while self.next().await != Asked::End {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Reload,
    End,
}

/// Raises the soft limit to the hard one, as every proxy does; the limit now in force.
fn raise_descriptor_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if raised.is_ok() { maximum } else { current }.unwrap_or(u64::MAX)
}

/// How many pipes each worker may have open. Where descriptors are few, pipes get a quarter of them: bulk that finds
/// no pipe is copied, but a client that finds no descriptor is not served at all.
fn most_pipes(workers: usize, descriptors: u64) -> usize {
    let quarter = usize::try_from(descriptors / 4).unwrap_or(usize::MAX);
    (quarter / (2 * workers)).min(relay::MOST_PIPES)
}

/// Descriptors that are no connection's: pipes, runtimes, listeners, admin, log, files.
fn reserved_descriptors(workers: usize, pipes: usize) -> u64 {
    64 + (workers * (8 + 2 * pipes)) as u64
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

const FIRST_LOOKUPS: Duration = Duration::from_secs(5);
const UPKEEP: Duration = Duration::from_secs(5);
