//! Opens and closes the admin sockets, so that a reload can change the admin addresses.
//!
//! In:  addresses; the app, once it exists.
//! Out: a [`Plan`] with every new address bound, or the one that cannot be; after commit, a server task per address.

use std::fs;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::clients::Clients;
use super::serve::serve;
use super::{App, router};
use crate::settings::Address;
use crate::socket::{self, AdminSocket};
use crate::socket::{Kind, Label};
use crate::supervise::{vital, vital_thread};
use crate::telemetry::Metrics;

/// The admin sockets of the process.
pub(crate) struct Sockets {
    open: Vec<Open>,
    /// `None`: not started yet; clients wait in the kernel's queue.
    router: Option<Router>,
    clients: Arc<Clients>,
    metrics: Option<Arc<Metrics>>,
    /// The server of each address, past ones included until they have answered.
    servers: JoinSet<()>,
    /// Has its own thread, so that admin requests never delay checks, DNS or signals.
    runtime: Handle,
    /// Dropping this ends the thread.
    _until_closed: oneshot::Sender<()>,
}

/// The sockets that a configuration needs. Dropping it leaves everything unchanged.
pub(crate) struct Plan(Vec<(Address, Planned)>);

/// An address that cannot be bound.
#[derive(Debug)]
pub(crate) struct CannotBind {
    pub address: Address,
    pub error: io::Error,
}

enum Planned {
    /// An index into [`Sockets::open`].
    Kept(usize),
    New(Bound),
}

/// A listening socket inherited by this process.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub label: Label,
    pub address: Address,
    pub socket: AdminSocket,
    /// See [`crate::process::upgrade::Inherited::number`].
    pub number: Option<usize>,
}

impl Inherited {
    /// Matches by address; for port 0 by the configured address; otherwise by the service manager's name.
    fn is_for(&self, address: &Address, wanted: &[Address]) -> bool {
        let Label { kind, name, wanted: was_wanted, .. } = &self.label;
        let is_named = *kind == Kind::Unknown && name == ADMIN_NAME && !wanted.contains(&self.address);
        let was_wanted = || *kind == Kind::Admin && was_wanted.as_deref() == Some(&*address.to_string());
        self.address == *address || is_named || was_wanted()
    }
}

struct Open {
    wanted: Address,
    /// The bound address, with the actual port instead of 0.
    address: Address,
    socket: AdminSocket,
    /// The socket, until the app serves it.
    waiting: Option<AdminSocket>,
    /// Dropping this stops the server.
    stop: Option<oneshot::Sender<()>>,
    file: Option<SocketFile>,
    lent: bool,
}

struct Bound {
    address: Address,
    socket: AdminSocket,
    /// A second handle to the socket, for the server.
    served: AdminSocket,
    file: Option<SocketFile>,
    lent: bool,
}

impl Sockets {
    /// # Errors
    /// The thread cannot be created.
    pub(crate) fn new() -> io::Result<Self> {
        let mut runtime = runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(2).thread_keep_alive(ALWAYS).thread_name("answers").enable_all();
        let runtime = runtime.build()?;
        let handle = runtime.handle().clone();
        // Starts the first of its threads, which is kept: later there may be none to be had.
        handle.spawn_blocking(|| {});
        let (_until_closed, closed) = oneshot::channel::<()>();
        thread::Builder::new().name("admin".to_owned()).spawn(move || {
            vital_thread("the admin thread", move || {
                let _ = runtime.block_on(closed);
                runtime.shutdown_background();
            });
        })?;
        Ok(Self {
            open: Vec::new(),
            router: None,
            clients: Arc::default(),
            metrics: None,
            servers: JoinSet::new(),
            runtime: handle,
            _until_closed,
        })
    }

    /// The bound addresses; with port 0, the port that the kernel chose.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.open.iter().map(|open| &open.address)
    }

    /// Binds every address that is not bound yet.
    ///
    /// Takes the sockets it needs from `inherited`.
    ///
    /// # Errors
    /// One of them cannot be bound; then none is.
    pub(crate) fn prepare(&self, wanted: &[Address], inherited: &mut Vec<Inherited>) -> Result<Plan, CannotBind> {
        let mut free = vec![true; self.open.len()];
        let mut keep = |wanted: &Address| {
            let is_it = |open: &Open| open.wanted == *wanted || open.address == *wanted;
            let number = (0..self.open.len()).find(|&number| free[number] && is_it(&self.open[number]))?;
            free[number] = false;
            Some(number)
        };
        let kept: Vec<_> = wanted.iter().map(&mut keep).collect();
        let leaving: Vec<_> =
            self.open.iter().zip(&free).filter(|(_, free)| **free).map(|(open, _)| &open.socket).collect();
        let plan = wanted.iter().zip(kept).map(|(address, kept)| {
            let cannot = |error| CannotBind { address: address.clone(), error };
            let planned = match (kept, inherited.iter().position(|inherited| inherited.is_for(address, wanted))) {
                (Some(number), _) => Planned::Kept(number),
                (None, Some(found)) => Planned::New(Bound::adopt(inherited.remove(found)).map_err(cannot)?),
                (None, None) => Planned::New(Bound::to(address, &leaving).map_err(cannot)?),
            };
            Ok((address.clone(), planned))
        });
        plan.collect::<Result<_, _>>().map(Plan)
    }

    /// The IP addresses of a plan; with port 0, the port that the kernel chose.
    pub(crate) fn addresses_of(&self, Plan(plan): &Plan) -> Vec<SocketAddr> {
        let address = |(_, planned): &(Address, Planned)| match planned {
            Planned::Kept(number) => self.open[*number].address.tcp(),
            Planned::New(bound) => bound.address.tcp(),
        };
        plan.iter().filter_map(address).collect()
    }

    pub(crate) fn commit(&mut self, Plan(plan): Plan) {
        let mut before: Vec<Option<Open>> = self.open.drain(..).map(Some).collect();
        for (wanted, planned) in plan {
            match planned {
                Planned::Kept(number) => {
                    self.open.extend(before[number].take().map(|open| Open { wanted, ..open }));
                }
                Planned::New(Bound { address, socket, served, file, lent }) => {
                    tracing::info!(event = "admin_listening", %address, "admin listening");
                    let waiting = Some(served);
                    self.open.push(Open { wanted, address, socket, waiting, stop: None, file, lent });
                }
            }
        }
        for gone in before.into_iter().flatten() {
            tracing::info!(event = "admin_closed", address = %gone.address, "admin stopped listening");
        }
        self.start();
    }

    /// Serves `app` on all sockets from now on.
    pub(crate) fn serve(&mut self, app: Arc<App>) {
        self.metrics = Some(Arc::clone(&app.metrics));
        self.router = Some(router(app, Arc::clone(&self.clients)));
        self.start();
    }

    /// Closes all sockets. The future ends once the requests in progress are answered: within about a second,
    /// whatever clients do.
    pub(crate) fn close(&mut self) -> impl Future<Output = ()> + use<> {
        self.open.clear();
        let mut servers = mem::take(&mut self.servers);
        async move { while servers.join_next().await.is_some() {} }
    }

    /// All sockets, for the hand-over.
    pub(crate) fn hand_over(&self) -> Vec<(Label, BorrowedFd<'_>)> {
        let label = |open: &Open| Label {
            kind: Kind::Admin,
            name: ADMIN_NAME.to_owned(),
            wanted: Some(open.wanted.to_string()),
            lent: open.lent,
        };
        self.open.iter().map(|open| (label(open), open.socket.as_fd())).collect()
    }

    /// Closes all sockets after [`Self::hand_over`]. Those not in `unwanted` are now served by another process.
    pub(crate) fn leave(&mut self, unwanted: impl Fn(usize) -> bool) {
        for (number, open) in self.open.drain(..).enumerate() {
            if let Some(file) = open.file.filter(|_| !unwanted(number)) {
                file.leave();
            }
        }
    }

    fn start(&mut self) {
        let (Some(router), Some(metrics)) = (&self.router, &self.metrics) else { return };
        while self.servers.try_join_next().is_some() {}
        for open in &mut self.open {
            if let Some(socket) = open.waiting.take() {
                let (stop, stopped) = oneshot::channel::<()>();
                let (clients, metrics) = (Arc::clone(&self.clients), Arc::clone(metrics));
                let served = serve(socket, router.clone(), clients, metrics, async { _ = stopped.await });
                self.servers.spawn_on(vital("an admin address", served), &self.runtime);
                open.stop = Some(stop);
            }
        }
    }
}

impl Bound {
    /// `leaving` may overlap with `wanted`, as 127.0.0.1:9901 does with 0.0.0.0:9901.
    fn to(wanted: &Address, leaving: &[&AdminSocket]) -> io::Result<Self> {
        if let Address::Unix(path) = wanted {
            remove_stale(path)?;
        }
        let socket = socket::for_admin(wanted, leaving)?;
        let mut file = None;
        if let Address::Unix(path) = wanted {
            file = Some(SocketFile::of(path)?);
            // Nobody can connect before it listens, so the mode left by the umask is never in effect.
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        }
        socket.listen()?;
        Ok(Self { address: socket.address()?, served: socket.try_clone()?, socket, file, lent: false })
    }

    fn adopt(Inherited { label, address, socket, .. }: Inherited) -> io::Result<Self> {
        socket.set_nonblocking()?;
        let file = match &address {
            // If the file is already gone or can never be reached again, there is nothing to remove.
            Address::Unix(path) if !label.lent => SocketFile::of(path).ok(),
            _ => None,
        };
        Ok(Self { address, served: socket.try_clone()?, socket, file, lent: label.lent })
    }
}

/// Removes the socket file left behind by a process that crashed.
///
/// # Errors
/// Another process listens on it, or it is not a socket.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            Err(error) => Err(error),
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        },
    }
}

/// A socket file. Dropping this removes the file, unless another one has replaced it.
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }

    /// Keeps the file, since another process now owns it.
    fn leave(mut self) {
        self.identity = NOBODYS;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The name that an admin socket must have in the service manager if its address does not identify it.
const ADMIN_NAME: &str = "admin";
const ALWAYS: Duration = Duration::from_secs(u32::MAX as u64);
/// Matches no file: inode 0 does not exist.
const NOBODYS: (u64, u64) = (0, 0);
