//! Applies a configuration to the running process: its listeners, its admin addresses, its log.
//!
//! In:  a configuration whose snapshot is built.
//! Out: [`Prepared`], with everything done that can fail and nothing changed yet; once the snapshot is in force,
//!      [`Prepared::commit`] makes the rest so.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::admin::{App, sockets};
use crate::config::{self, Config};
use crate::doors::{CannotBind, Doors, Plan};
use crate::snapshot::{Snapshot, log_format, missing_congestion};
use crate::telemetry::{Level, LogControl, LogSettings};

/// What of the process is not in the snapshot.
pub struct Process {
    doors: Doors,
    admin: sockets::Sockets,
    /// `None`: the log is not ours to change.
    log: Option<LogControl>,
    /// What it runs with; a restart alone changes that.
    runtime: config::Runtime,
}

/// A configuration that can be put in force; dropped, nothing has changed.
#[must_use]
pub struct Prepared<'a> {
    process: &'a mut Process,
    doors: Plan,
    admin: sockets::Plan,
    log: LogSettings,
}

/// Why a configuration cannot be put in force here, though nothing is wrong with it.
#[derive(Debug)]
pub enum ApplyError {
    Bind(CannotBind),
    BindAdmin(sockets::CannotBind),
    /// The kernel does not have it, or does not let us use it.
    Congestion {
        name: String,
        error: io::Error,
    },
    /// It changes what is fixed while the process runs.
    NeedsRestart {
        what: &'static str,
    },
    /// No thread, or no runtime, is to be had.
    Io(io::Error),
}

impl Process {
    pub fn new(doors: Doors, runtime: config::Runtime) -> Self {
        Self { doors, admin: sockets::Sockets::default(), log: None, runtime }
    }

    /// Does what can fail: binds every new address.
    ///
    /// # Errors
    /// One of them cannot be bound, or something else that `config` asks for cannot be had; nothing has changed then.
    pub fn prepare(&mut self, config: &Config) -> Result<Prepared<'_>, ApplyError> {
        if config.runtime != self.runtime {
            return Err(ApplyError::NeedsRestart { what: "runtime" });
        }
        if let Some((name, error)) = missing_congestion(config) {
            return Err(ApplyError::Congestion { name: name.to_owned(), error });
        }
        let admin = self.admin.prepare(&config.admin.bind).map_err(ApplyError::BindAdmin)?;
        let doors = self.doors.prepare(config).map_err(ApplyError::Bind)?;
        Ok(Prepared { doors, admin, log: log_settings(config.log), process: self })
    }

    pub fn doors(&self) -> &Doors {
        &self.doors
    }

    pub fn admin(&self) -> &sockets::Sockets {
        &self.admin
    }

    /// Lets reloads change the log.
    pub fn control_log(&mut self, log: LogControl) {
        self.log = Some(log);
    }

    /// Answers at the admin addresses from now on, and at those to come.
    pub fn serve_admin(&mut self, app: Arc<App>) {
        self.admin.serve(app);
    }

    /// Takes no new connections; those that the kernel has accepted already are served.
    pub fn drain(&mut self) {
        self.doors.drain();
    }

    pub fn close_admin(&mut self) {
        self.admin.close();
    }
}

impl Prepared<'_> {
    /// Makes it so. To be called right after `now`, the snapshot of the same configuration, came into force: those who
    /// come in by a new address, or under a new name, are looked up there.
    pub fn commit(self, now: &Arc<Snapshot>) {
        self.process.doors.commit(self.doors, now);
        self.process.admin.commit(self.admin);
        if let Some(log) = &self.process.log {
            log.set(self.log);
        }
    }
}

/// How the log is, as `config` says it.
pub fn log_settings(log: config::Log) -> LogSettings {
    let level = match log.level {
        config::Level::Error => Level::Error,
        config::Level::Warn => Level::Warn,
        config::Level::Info => Level::Info,
        config::Level::Debug => Level::Debug,
        config::Level::Trace => Level::Trace,
    };
    LogSettings { level, format: log_format(log.format) }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(CannotBind { listener, address, error }) => {
                write!(f, "listener {listener}: cannot bind {address}{}", advice(error))
            }
            Self::BindAdmin(sockets::CannotBind { address, error }) => {
                write!(f, "admin: cannot bind {address}{}", advice(error))
            }
            Self::Congestion { name, .. } => write!(
                f,
                "no congestion control `{name}` here (`sysctl net.ipv4.tcp_available_congestion_control` lists them)"
            ),
            Self::NeedsRestart { what } => write!(f, "{what} cannot change while snigate runs: restart it"),
            Self::Io(_) => f.write_str("cannot start"),
        }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another program listens there: `ss -ltnp` shows which)",
        io::ErrorKind::AlreadyExists => " (there is a file of that name, and it is no socket)",
        io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need CAP_NET_BIND_SERVICE, or the sysctl net.ipv4.ip_unprivileged_port_start)"
        }
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        _ => "",
    }
}

impl Error for ApplyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Bind(CannotBind { error, .. })
            | Self::BindAdmin(sockets::CannotBind { error, .. })
            | Self::Congestion { error, .. }
            | Self::Io(error) => Some(error),
            Self::NeedsRestart { .. } => None,
        }
    }
}
