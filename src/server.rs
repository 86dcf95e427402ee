//! Builds everything, binds, starts the workers and the control tasks, and waits for the drain.
//!
//! In:  a loaded configuration and its file.
//! Out: a [`Server`]: the addresses it listens on; [`Server::run`] returns when the last connection has ended.

mod controls;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;

use self::controls::Controls;
use crate::admin::{self, App, Readiness, Stage};
use crate::config::{Config, Loaded};
use crate::drain::{self, Drain, Phase};
use crate::limits::auto_max_connections;
use crate::listener::{Listener, Shared};
use crate::reload::{Asker, Reloader};
use crate::snapshot::{Snapshot, missing_congestion, tcp_settings};
use crate::telemetry::{LogGuard, Metrics, ReloadResult, Trigger};
use crate::{relay, reload, socket, worker};

/// A proxy with its sockets bound and its workers running.
pub struct Server {
    /// Where each listener is bound, by its name; port 0 is told as what the kernel gave.
    pub listening: Vec<(Arc<str>, SocketAddr)>,
    pub admin: Vec<SocketAddr>,
    shared: Shared,
    drain: Drain,
    workers: Vec<JoinHandle<()>>,
    admin_sockets: Vec<TcpListener>,
    readiness: Readiness,
    reloader: Reloader,
    signals: Signals,
}

/// Why a server could not start.
#[derive(Debug)]
pub enum StartError {
    Bind {
        what: String,
        address: SocketAddr,
        error: io::Error,
    },
    /// The kernel does not have it, or does not let us use it.
    Congestion {
        name: String,
        error: io::Error,
    },
    Io(io::Error),
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
    pub async fn start(loaded: Loaded, file: PathBuf) -> Result<Self, StartError> {
        // Before anything is bound: as the first process of a container there are no default actions.
        let signals = Signals::listen().map_err(StartError::Io)?;
        let config = loaded.config;
        let workers = config.runtime.workers.unwrap_or_else(available_cores);
        if let Some((name, error)) = missing_congestion(&config) {
            return Err(StartError::Congestion { name: name.to_owned(), error });
        }
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
            metrics,
        };
        let in_force = Arc::clone(&shared.snapshot);
        shared.metrics.collect_with(move || in_force.load().publish());
        let (listening, sockets) = bind(&config, workers, &shared)?;
        let admin_sockets = bind_admin(&config).await?;
        let admin =
            admin_sockets.iter().map(TcpListener::local_addr).collect::<Result<_, _>>().map_err(StartError::Io)?;
        shared.metrics.reload(ReloadResult::Applied, Trigger::Start, &config.hash);
        let workers = start_workers(sockets, &shared)?;
        let reloader = Reloader::new(file, Arc::clone(&shared.snapshot), Arc::clone(&shared.metrics));
        let readiness = Readiness::default();
        Ok(Self { listening, admin, shared, drain, workers, admin_sockets, readiness, reloader, signals })
    }

    /// Runs until a signal asks for the end: drains, and returns when all is over.
    ///
    /// `log` is looked at for lines it dropped.
    pub async fn run(mut self, log: Option<LogGuard>) -> Ended {
        let (reloads, asked) = reload::channel();
        let admin = self.start_admin(reloads.clone());
        let upkeep = tokio::spawn(upkeep(Arc::clone(&self.shared.metrics), log));
        let reloading = tokio::spawn(self.reloader.run(asked));
        self.readiness.enter(Stage::Ready);
        tracing::info!("ready");
        while self.signals.next().await == Asked::Reload {
            reloads.ask(Trigger::Signal);
        }
        self.readiness.enter(Stage::Draining);
        self.drain.enter(Phase::Draining);
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
        reloading.abort();
        drop(admin);
        let ended = if left == 0 { Ended::Drained } else { Ended::Cut { connections: left } };
        tracing::info!(cut = left, "ended");
        upkeep.abort();
        // Its log guard is dropped with it, which writes what is queued.
        let _ = upkeep.await;
        ended
    }

    fn start_admin(&mut self, reloads: Asker) -> Vec<oneshot::Sender<()>> {
        let app = Arc::new(App {
            metrics: Arc::clone(&self.shared.metrics),
            ready: self.readiness.clone(),
            control: Box::new(Controls { snapshot: Arc::clone(&self.shared.snapshot), reloads }),
        });
        let serve = |socket| {
            let (stop, stopped) = oneshot::channel();
            tokio::spawn(admin::serve(socket, Arc::clone(&app), async {
                let _ = stopped.await;
            }));
            stop
        };
        self.admin_sockets.drain(..).map(serve).collect()
    }
}

/// Waits until nobody is queued on a listening socket any more, and everybody who was has been served.
async fn served(shared: &Shared) {
    shared.doors.wait_until(|open| open == 0).await;
    shared.permits.wait_until(|open| open == 0).await;
}

type Bound = (Vec<(Arc<str>, SocketAddr)>, Vec<Vec<worker::Socket>>);

/// Binds every address once for each worker.
fn bind(config: &Config, workers: usize, shared: &Shared) -> Result<Bound, StartError> {
    let tcp = tcp_settings(config.tcp);
    let mut listening = Vec::new();
    let mut sockets: Vec<Vec<worker::Socket>> = (0..workers).map(|_| Vec::new()).collect();
    for (number, listener) in config.listeners.iter().enumerate() {
        let ours = Listener { number, metrics: shared.metrics.listener(&listener.name), permits: Arc::default() };
        for &wanted in &listener.bind {
            let mut address = wanted;
            for sockets in &mut sockets {
                let what = || format!("listener {}", listener.name);
                let failed = |error| StartError::Bind { what: what(), address, error };
                let congestion = listener.congestion.as_deref();
                let socket = socket::for_listener(address, &tcp, congestion).map_err(failed)?;
                // The other workers share the port that the first one was given.
                address = socket.local_addr().map_err(StartError::Io)?;
                sockets.push((socket, ours.clone(), shared.doors.acquire()));
            }
            tracing::info!(listener = &*listener.name, %address, "listening");
            listening.push((Arc::clone(&listener.name), address));
        }
    }
    Ok((listening, sockets))
}

async fn bind_admin(config: &Config) -> Result<Vec<TcpListener>, StartError> {
    let mut sockets = Vec::new();
    for &address in &config.admin.bind {
        let failed = |error| StartError::Bind { what: "admin".to_owned(), address, error };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        tracing::info!(address = %socket.local_addr().map_err(StartError::Io)?, "admin listening");
        sockets.push(socket);
    }
    Ok(sockets)
}

fn start_workers(sockets: Vec<Vec<worker::Socket>>, shared: &Shared) -> Result<Vec<JoinHandle<()>>, StartError> {
    let spawn = |(number, sockets)| worker::spawn(number, sockets, shared.clone());
    sockets.into_iter().enumerate().map(spawn).collect::<Result<_, _>>().map_err(StartError::Io)
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

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bind { what, address, error } => {
                write!(f, "{what}: cannot bind {address}")?;
                match error.kind() {
                    io::ErrorKind::AddrInUse => f.write_str(" (another program listens there: `ss -ltnp` shows which)"),
                    io::ErrorKind::PermissionDenied => f.write_str(
                        " (ports below 1024 need CAP_NET_BIND_SERVICE, or the sysctl net.ipv4.ip_unprivileged_port_start)",
                    ),
                    io::ErrorKind::AddrNotAvailable => f.write_str(" (no interface of this machine has that address)"),
                    _ => Ok(()),
                }
            }
            Self::Congestion { name, .. } => write!(
                f,
                "no congestion control `{name}` here (`sysctl net.ipv4.tcp_available_congestion_control` lists them)"
            ),
            Self::Io(_) => f.write_str("cannot start"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind { error, .. } | Self::Congestion { error, .. } | Self::Io(error) => Some(error),
        }
    }
}

const UPKEEP: Duration = Duration::from_secs(5);
