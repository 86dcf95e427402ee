//! Applies a configuration to the running process: its listeners, its admin addresses, its log.
//!
//! In:  a configuration whose snapshot is built.
//! Out: [`Prepared`], for which everything that can fail has been done and nothing has changed; once the snapshot is in
//!      force, [`Prepared::commit`] applies the rest.

use std::error::Error;
use std::fmt;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Settings;
use crate::descriptors::{Budget, TooMany};
use crate::operate::admin::{App, sockets};
use crate::process::listening_sockets::{self, CannotBind, ListeningSockets, Plan};
use crate::process::{needs, upgrade};
use crate::sandbox;
use crate::self_loop::comes_back;
use crate::settings::{Address, BackendAddress, Log, Origin, Runtime, Sandbox};
use crate::snapshot::{Snapshot, lacks_transparent, missing_congestion};
use crate::socket::{AdminSocket, Listening};
use crate::socket::{Kind, Label};
use crate::telemetry::{LogControl, LogFile};

/// The parts of the process that are not in the snapshot.
pub(crate) struct Process {
    listeners: ListeningSockets,
    admin: sockets::Sockets,
    /// `None`: the log is not under our control.
    log: Option<LogControl>,
    /// The values in use; changing them requires a restart.
    runtime: Runtime,
    sandbox: Sandbox,
    budget: Budget,
    /// Sockets that existed before this process, until the first configuration has taken those it needs.
    before: Before,
}

#[derive(Default)]
struct Before {
    listeners: Vec<listening_sockets::Inherited>,
    admin: Vec<sockets::Inherited>,
    unwanted: Vec<usize>,
}

/// A configuration that is ready to be put in force. Dropping it leaves everything unchanged.
#[must_use]
pub(crate) struct Prepared<'a> {
    process: &'a mut Process,
    listeners: Plan,
    admin: sockets::Plan,
    ours: Arc<[SocketAddr]>,
    log: Log,
    log_file: Option<LogFile>,
}

/// Why a valid configuration cannot be put in force on this machine.
#[derive(Debug)]
pub(crate) enum ApplyError {
    Bind(CannotBind),
    BindAdmin(sockets::CannotBind),
    /// The kernel does not have the algorithm, or does not allow us to use it.
    Congestion {
        name: String,
        error: io::Error,
    },
    /// The process may not connect from the addresses of clients.
    Transparent {
        pool: Arc<str>,
        error: io::Error,
    },
    /// The log file.
    LogFile {
        path: PathBuf,
        error: io::Error,
    },
    /// A backend address is one of our own listening addresses.
    SelfLoop {
        pool: Arc<str>,
        backend: String,
    },
    TooManyConnections(TooMany),
    /// It changes a setting that is fixed while the process runs.
    NeedsRestart {
        what: &'static str,
        how: &'static str,
    },
    /// `sandbox: require` allows connections to some ports, and this is none of them; `None`: DNS decides which it is.
    ConnectPort(Option<u16>),
    /// A thread or a runtime cannot be created.
    Io(io::Error),
}

impl Process {
    pub(crate) fn new(
        listeners: ListeningSockets,
        config: &Settings,
        budget: Budget,
        inherited: Vec<upgrade::Inherited>,
    ) -> Result<Self, ApplyError> {
        Ok(Self {
            listeners,
            admin: sockets::Sockets::new().map_err(ApplyError::Io)?,
            log: None,
            runtime: config.runtime,
            sandbox: config.sandbox,
            budget,
            before: Before::sort(inherited),
        })
    }

    /// Does everything that can fail: binds every new address.
    ///
    /// # Errors
    /// An address cannot be bound, or another resource that `config` needs is unavailable; nothing has changed then.
    pub(crate) fn prepare(&mut self, config: &Settings) -> Result<Prepared<'_>, ApplyError> {
        if config.runtime != self.runtime {
            return Err(ApplyError::NeedsRestart { what: "runtime", how: "restart it, or upgrade it (SIGUSR2)" });
        }
        if config.sandbox != self.sandbox {
            return Err(ApplyError::NeedsRestart { what: "sandbox", how: "restart it (an upgrade keeps the sandbox)" });
        }
        check_connect_ports(config)?;
        self.budget.check(*config.limits.max_connections).map_err(ApplyError::TooManyConnections)?;
        if let Some((name, error)) = missing_congestion(config) {
            return Err(ApplyError::Congestion { name: name.to_owned(), error });
        }
        if let Some((pool, error)) = lacks_transparent(config) {
            return Err(ApplyError::Transparent { pool: Arc::clone(pool), error });
        }
        // Listeners first: an inherited socket of the service manager may serve either, if its address matches.
        let listeners = self.listeners.bind(config, &mut self.before.listeners).map_err(ApplyError::Bind)?;
        self.before.rest_may_be_admin();
        let admin = self.admin.prepare(&config.admin.bind, &mut self.before.admin).map_err(ApplyError::BindAdmin)?;
        let mut ours = self.listeners.addresses(&listeners);
        ours.extend(self.admin.addresses_of(&admin));
        refuse_self_loop(config, &ours)?;
        let log_file = match &self.log {
            Some(log) => log.prepare(&config.log).map_err(|error| ApplyError::log_file(&config.log, error))?,
            None => None,
        };
        // Last, since clients may connect from here on.
        self.listeners.listen(&listeners).map_err(ApplyError::Bind)?;
        Ok(Prepared { listeners, admin, ours: ours.into(), log: config.log.clone(), log_file, process: self })
    }

    pub(crate) fn listening_sockets(&self) -> &ListeningSockets {
        &self.listeners
    }

    pub(crate) fn admin(&self) -> &sockets::Sockets {
        &self.admin
    }

    /// Allows reloads to change the log.
    pub(crate) fn control_log(&mut self, log: LogControl) {
        self.log = Some(log);
    }

    /// Serves the admin addresses from now on, including those added later.
    pub(crate) fn serve_admin(&mut self, app: Arc<App>) {
        self.admin.serve(app);
    }

    /// Takes no new connections; those already accepted by the kernel are served.
    pub(crate) fn drain(&mut self) {
        self.listeners.drain();
    }

    /// Starts accepting, if it has not already, and closes inherited sockets that are not needed. Returns the numbers
    /// of those that the old process handed over.
    pub(crate) fn begin(&mut self) -> Vec<usize> {
        self.listeners.begin();
        mem::take(&mut self.before).close()
    }

    /// All sockets, to be handed over to another process.
    pub(crate) fn hand_over(&self) -> Vec<(Label, BorrowedFd<'_>)> {
        [self.listeners.hand_over(), self.admin.hand_over()].concat()
    }

    /// Leaves all sockets to the process that [`Self::hand_over`] gave them to. Those it does not need, `unwanted` by
    /// index, are closed here.
    pub(crate) fn leave(&mut self, unwanted: &[usize]) {
        let first_admin = self.listeners.hand_over().len();
        self.listeners.leave(unwanted);
        self.admin.leave(|number| unwanted.contains(&(first_admin + number)));
    }

    /// Closes the admin sockets, those already left to another process included, and answers the last requests.
    pub(crate) fn close_admin(&mut self) -> impl Future<Output = ()> + use<> {
        self.admin.close()
    }
}

impl Before {
    fn sort(inherited: Vec<upgrade::Inherited>) -> Self {
        let mut before = Self::default();
        for upgrade::Inherited { label, socket, number } in inherited {
            match Listening::of(socket) {
                Some(Listening::Tcp(socket, address)) if label.kind == Kind::Admin => {
                    before.admin.push(sockets::Inherited {
                        label,
                        address: Address::Tcp(address),
                        socket: AdminSocket::Tcp(socket),
                        number,
                    })
                }
                Some(Listening::Tcp(socket, address)) => {
                    before.listeners.push(listening_sockets::Inherited { label, address, socket, number });
                }
                Some(Listening::Unix(socket)) => {
                    let socket = AdminSocket::Unix(socket);
                    match socket.address() {
                        Ok(address) => before.admin.push(sockets::Inherited { label, address, socket, number }),
                        Err(_) => before.unwanted.extend(number),
                    }
                }
                None => {
                    tracing::warn!(
                        event = "inherited_not_a_listener",
                        name = label.name,
                        "closed an inherited descriptor: it is not a listening socket"
                    );
                    before.unwanted.extend(number);
                }
            }
        }
        before
    }

    /// Sockets of the service manager that no listener took may belong to the admin server.
    fn rest_may_be_admin(&mut self) {
        let rest = self.listeners.extract_if(.., |inherited| inherited.label.kind == Kind::Unknown);
        self.admin.extend(rest.map(|listening_sockets::Inherited { label, address, socket, number }| {
            sockets::Inherited { label, address: Address::Tcp(address), socket: AdminSocket::Tcp(socket), number }
        }));
    }

    fn close(mut self) -> Vec<usize> {
        for listening_sockets::Inherited { label, address, number, .. } in self.listeners {
            tracing::info!(
                event = "inherited_unused",
                name = label.name,
                %address,
                "closed an inherited socket: no listener uses it"
            );
            self.unwanted.extend(number);
        }
        for sockets::Inherited { label, address, number, .. } in self.admin {
            tracing::info!(
                event = "inherited_unused",
                name = label.name,
                %address,
                "closed an inherited socket: no listener or admin address uses it"
            );
            self.unwanted.extend(number);
        }
        self.unwanted
    }
}

impl Prepared<'_> {
    /// Puts the changes in force. Call it right after `now`, the snapshot of the same configuration, came into force:
    /// connections that arrive on a new address, or under a new name, are routed by it.
    pub(crate) fn commit(self, now: &Arc<Snapshot>) {
        self.process.listeners.commit(self.listeners, now);
        self.process.admin.commit(self.admin);
        self.process.listeners.publish(self.ours);
        if let Some(log) = &self.process.log {
            log.set(&self.log, self.log_file);
        }
    }
}

/// Rejects ports that connections would fail to, one by one.
fn check_connect_ports(config: &Settings) -> Result<(), ApplyError> {
    let Some(allowed) = sandbox::connect_ports() else { return Ok(()) };
    let wanted = needs::connect_ports(config).ok_or(ApplyError::ConnectPort(None))?;
    wanted.difference(allowed).next().map_or(Ok(()), |port| Err(ApplyError::ConnectPort(Some(*port))))
}

/// Rejects a backend where we listen ourselves, under any address of this machine or path of the admin server's socket:
/// its clients would come back, or get at the admin server. Backends with DNS names are checked when they resolve.
fn refuse_self_loop(config: &Settings, listening: &[SocketAddr]) -> Result<(), ApplyError> {
    let admin = config.admin.bind.iter().filter_map(|address| match address {
        Address::Unix(path) => path.canonicalize().ok(),
        Address::Tcp(_) => None,
    });
    let admin: Vec<_> = admin.collect();
    let is_ours = |backend: &BackendAddress| match backend {
        BackendAddress::Inet(address) => comes_back(*address, listening),
        BackendAddress::Unix(path) => !admin.is_empty() && path.canonicalize().is_ok_and(|path| admin.contains(&path)),
        BackendAddress::Name { .. } | BackendAddress::Srv { .. } | BackendAddress::Service(_) => false,
    };
    // Containers that lead here have been left out; one must not make a reload fail.
    for pool in config.pools.iter().filter(|pool| pool.origin == Origin::File) {
        if let Some(backend) = pool.backends.iter().find(|backend| is_ours(&backend.address)) {
            return Err(ApplyError::SelfLoop { pool: Arc::clone(&pool.name), backend: backend.address.to_string() });
        }
    }
    Ok(())
}

impl ApplyError {
    /// The log file of `settings` cannot be opened.
    pub(crate) fn log_file(settings: &Log, error: io::Error) -> Self {
        Self::LogFile { path: settings.file.as_ref().map(|path| path.0.clone()).unwrap_or_default(), error }
    }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(CannotBind { listener, address, error }) => {
                let freebind = match error.kind() {
                    io::ErrorKind::AddrNotAvailable => "; `freebind: true` on the listener binds it before it is there",
                    _ => "",
                };
                let advice = advice(error, Some(address.port()));
                write!(f, "listener {listener}: cannot bind {address}{advice}{freebind}")
            }
            Self::BindAdmin(sockets::CannotBind { address, error }) => {
                let port = address.tcp().map(|address| address.port());
                write!(f, "admin: cannot bind {address}{}", advice(error, port))
            }
            Self::LogFile { path, error } => {
                write!(f, "log.file: cannot open {}{}", path.display(), advice(error, None))
            }
            Self::Congestion { name, .. } => write!(
                f,
                "the kernel has no congestion control `{name}` (see `sysctl net.ipv4.tcp_available_congestion_control`)"
            ),
            Self::Transparent { pool, error } if error.kind() == io::ErrorKind::PermissionDenied => write!(
                f,
                "pool {pool}: `transparent` needs CAP_NET_ADMIN: with systemd, set `AmbientCapabilities=CAP_NET_ADMIN` and \
                 `CapabilityBoundingSet=` likewise; in a container, add the capability NET_ADMIN; or remove `transparent`"
            ),
            Self::Transparent { pool, .. } => write!(f, "pool {pool}: `transparent` does not work on this system"),
            Self::SelfLoop { pool, backend } => write!(
                f,
                "pool {pool}: its backend `{backend}` is where snigate itself listens: snigate would connect to itself \
                 in a loop; write the address that the backend itself listens on"
            ),
            Self::TooManyConnections(too_many) => too_many.fmt(f),
            Self::NeedsRestart { what, how } => write!(f, "{what} cannot change while snigate runs: {how}"),
            Self::ConnectPort(port) => {
                match port {
                    Some(port) => write!(f, "the sandbox forbids connections to port {port}"),
                    None => {
                        f.write_str("the sandbox forbids connections to ports that an SRV record or a container names")
                    }
                }?;
                write!(f, ": {}", sandbox::PORT_ADVICE)
            }
            Self::Io(_) => f.write_str("cannot start"),
        }
    }
}

/// How to mend it; with the port, if it has one.
fn advice(error: &io::Error, port: Option<u16>) -> String {
    match (error.kind(), port) {
        (io::ErrorKind::AddrInUse, _) => " (another program listens there: `ss -ltnp` shows which)".to_owned(),
        (io::ErrorKind::AlreadyExists, _) => " (there is a file of that name, and it is not a socket)".to_owned(),
        (io::ErrorKind::AddrNotAvailable, _) => " (no interface of this machine has that address)".to_owned(),
        (io::ErrorKind::PermissionDenied, Some(_)) if sandbox::restricts_bind() => {
            format!(" ({})", sandbox::PORT_ADVICE)
        }
        (io::ErrorKind::PermissionDenied, Some(port @ ..1024)) => format!(
            " (a port below 1024 needs one of: the capability CAP_NET_BIND_SERVICE; `sysctl \
             net.ipv4.ip_unprivileged_port_start={port}`; a socket that systemd opens (snigate.socket), or another port \
             here, such as {}, published as {port})",
            8000 + port
        ),
        (io::ErrorKind::PermissionDenied, None) if sandbox::restricts_files() => format!(" ({})", sandbox::ADVICE),
        _ => String::new(),
    }
}

impl Error for ApplyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Bind(CannotBind { error, .. })
            | Self::BindAdmin(sockets::CannotBind { error, .. })
            | Self::Congestion { error, .. }
            | Self::Transparent { error, .. }
            | Self::LogFile { error, .. }
            | Self::Io(error) => Some(error),
            Self::SelfLoop { .. } | Self::TooManyConnections(_) | Self::NeedsRestart { .. } | Self::ConnectPort(_) => {
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn for_a_low_port_there_are_three_ways_out() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let low = advice(&denied, Some(443));
        for way in
            ["CAP_NET_BIND_SERVICE", "net.ipv4.ip_unprivileged_port_start=443", "snigate.socket", "8443, published"]
        {
            assert!(low.contains(way), "{low}");
        }
        assert_eq!(advice(&denied, Some(1024)), "");
    }

    #[test]
    fn a_backend_where_we_listen_is_refused_under_the_name_of_its_pool() {
        let config = crate::config::Config::parse(
            "listeners: [{ name: l, bind: \"127.0.0.1:0\" }]\nunmatched: { pool: p }\nno_sni: { pool: q }\n\
             pools:\n  p: { backends: [\"unix:/run/a.sock\", \"127.0.0.1:7001\", \"localhost:7002\"] }\n  \
             q: { backends: [224.0.0.1:7002, 127.0.0.1:7003] }\n",
            Path::new("f.yaml"),
        );
        let config = config.unwrap_or_else(|problems| panic!("{problems}")).config;
        let refused = |listening: &[&str]| {
            let listening: Vec<_> = listening.iter().map(|address| address.parse().expect("an address")).collect();
            refuse_self_loop(&config, &listening).err().map(|error| error.to_string())
        };
        // A multicast address is never a local address.
        assert_eq!(refused(&["127.0.0.1:7000", "0.0.0.0:7002", "127.0.0.2:7003"]), None);
        let reported = refused(&["127.0.0.1:7000", "0.0.0.0:7003"]).expect("refused");
        assert!(
            reported.starts_with("pool q: its backend `127.0.0.1:7003` is where snigate itself listens"),
            "{reported}"
        );
    }
}
