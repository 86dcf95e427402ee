//! Opens, renames and closes the listening sockets of all workers, so that a reload may change every listener.
//!
//! In:  the listeners of a configuration.
//! Out: a [`Plan`] with every new address bound, or the one that cannot be; put in force, orders to the accept loops.
//!
//! A socket outlives what is said of it: a listener that is renamed, and options that change, keep the sockets and
//! whoever is queued on them. Only an address that nobody names any more is closed.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::limits::Permits;
use crate::listener::{Listener, Order, Shared, Standing};
use crate::snapshot::{Snapshot, tcp_settings};
use crate::socket::{self, TcpSettings};
use crate::worker::Opening;

/// The listening sockets of the process.
pub struct Doors {
    /// In the order of the configuration.
    open: Vec<Open>,
    /// By name, so that a listener that stays, or comes back, counts on.
    permits: HashMap<Arc<str>, Arc<Permits>>,
    workers: Vec<mpsc::UnboundedSender<Opening>>,
    shared: Shared,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct CannotBind {
    pub listener: Arc<str>,
    pub address: SocketAddr,
    pub error: io::Error,
}

/// What a configuration makes of the doors; dropped, nothing has changed.
pub struct Plan(Vec<Planned>);

struct Planned {
    wanted: Wanted,
    door: Door,
}

enum Door {
    /// An index into [`Doors::open`].
    Kept(usize),
    New(Sockets),
}

/// One address of one listener.
#[derive(Clone)]
struct Wanted {
    listener: Arc<str>,
    address: SocketAddr,
    options: Options,
}

#[derive(Clone, PartialEq)]
struct Options {
    tcp: TcpSettings,
    congestion: Option<Arc<str>>,
}

struct Open {
    wanted: Wanted,
    /// Where it really is: not port 0.
    address: SocketAddr,
    /// One a worker.
    sockets: Vec<TcpListener>,
    orders: watch::Sender<Order>,
}

/// Bound and listening, one a worker, with the second handle that the worker gets.
struct Sockets {
    address: SocketAddr,
    ours: Vec<TcpListener>,
    theirs: Vec<TcpListener>,
}

impl Doors {
    /// No door is open yet.
    pub fn new(workers: Vec<mpsc::UnboundedSender<Opening>>, shared: Shared) -> Self {
        Self { open: Vec::new(), permits: HashMap::new(), workers, shared }
    }

    /// Where each listener is bound, by its name; port 0 is told as what the kernel gave.
    pub fn listening(&self) -> impl Iterator<Item = (&Arc<str>, SocketAddr)> {
        self.open.iter().map(|open| (&open.wanted.listener, open.address))
    }

    /// Binds every address of `config` that is not bound yet.
    ///
    /// # Errors
    /// One of them cannot be bound; then none of them is.
    pub fn bind(&self, config: &Config) -> Result<Plan, CannotBind> {
        let wanted = wanted(config);
        let kept = self.kept(&wanted);
        let mut plan = Vec::with_capacity(wanted.len());
        for (wanted, kept) in wanted.into_iter().zip(kept) {
            let door = match kept {
                Some(open) => Door::Kept(open),
                None => Door::New(Sockets::bind(&wanted, self.workers.len()).map_err(|error| wanted.cannot(error))?),
            };
            plan.push(Planned { wanted, door });
        }
        Ok(Plan(plan))
    }

    /// Where `plan` listens; port 0 is told as what the kernel gave.
    pub fn addresses(&self, Plan(plan): &Plan) -> Vec<SocketAddr> {
        let address = |planned: &Planned| match &planned.door {
            Door::Kept(number) => self.open[*number].address,
            Door::New(sockets) => sockets.address,
        };
        plan.iter().map(address).collect()
    }

    /// Has the kernel take clients at the new addresses. To be called last: nobody is turned away for something else of
    /// the configuration that cannot be had.
    ///
    /// # Errors
    /// The kernel refuses one of them.
    pub fn listen(&self, Plan(plan): &Plan) -> Result<(), CannotBind> {
        for Planned { wanted, door } in plan {
            if let Door::New(sockets) = door {
                sockets.listen(&wanted.options).map_err(|error| wanted.cannot(error))?;
            }
        }
        Ok(())
    }

    /// Puts `plan` in force. `now`, in force already, is the snapshot of the same configuration.
    pub fn commit(&mut self, Plan(plan): Plan, now: &Arc<Snapshot>) {
        let mut before: Vec<Option<Open>> = self.open.drain(..).map(Some).collect();
        for Planned { wanted, door } in plan {
            let listener = self.listener(&wanted.listener);
            let open = match door {
                Door::Kept(number) => before[number].take().map(|open| open.keep(wanted, listener)),
                Door::New(sockets) => self.open(wanted, sockets, listener, now),
            };
            self.open.extend(open);
        }
        before.into_iter().flatten().for_each(Open::drain);
        let open = &self.open;
        let has_door = |name: &Arc<str>| open.iter().any(|open| open.wanted.listener == *name);
        self.permits.retain(|name, permits| permits.open() > 0 || has_door(name));
    }

    /// Closes every door, once whoever is queued there has been let in.
    pub fn drain(&mut self) {
        self.open.drain(..).for_each(Open::drain);
    }

    /// Which open door each address of `wanted` keeps.
    fn kept(&self, wanted: &[Wanted]) -> Vec<Option<usize>> {
        let mut kept = vec![None; wanted.len()];
        let mut free = vec![true; self.open.len()];
        // First those whose listener keeps its name, so that a name that moves takes nobody else's socket.
        for same_name in [true, false] {
            for (wanted, kept) in wanted.iter().zip(&mut kept).filter(|(_, kept)| kept.is_none()) {
                *kept = self.open.iter().enumerate().position(|(number, open)| {
                    free[number]
                        && [open.wanted.address, open.address].contains(&wanted.address)
                        && (!same_name || open.wanted.listener == wanted.listener)
                });
                if let Some(number) = *kept {
                    free[number] = false;
                }
            }
        }
        kept
    }

    fn listener(&mut self, name: &Arc<str>) -> Listener {
        let permits = Arc::clone(self.permits.entry(Arc::clone(name)).or_default());
        Listener { name: Arc::clone(name), metrics: self.shared.metrics.listener(name), permits }
    }

    /// Hands each worker its socket.
    fn open(&self, wanted: Wanted, sockets: Sockets, listener: Listener, now: &Arc<Snapshot>) -> Option<Open> {
        let Sockets { address, ours, theirs } = sockets;
        let name = &*wanted.listener;
        let Some(standing) = Standing::find(&listener, now) else {
            tracing::error!(listener = name, %address, "not opened: the configuration in force is another");
            return None;
        };
        let (orders, ordered) = watch::channel(Order::Serve(listener));
        for (worker, socket) in self.workers.iter().zip(theirs) {
            let (orders, standing, place) = (ordered.clone(), standing.clone(), self.shared.doors.acquire());
            if worker.send(Opening { socket, orders, standing, place }).is_err() {
                tracing::error!(listener = name, %address, "a worker is gone");
            }
        }
        tracing::info!(listener = name, %address, "listening");
        Some(Open { wanted, address, sockets: ours, orders })
    }
}

impl Open {
    /// Goes on with the same sockets, under what the configuration says of them now.
    fn keep(mut self, wanted: Wanted, listener: Listener) -> Self {
        let address = self.address;
        if wanted.options != self.wanted.options {
            self.sockets.iter().for_each(|socket| wanted.options.set(socket, &wanted.listener, address));
        }
        if wanted.listener != self.wanted.listener {
            tracing::info!(listener = &*wanted.listener, was = &*self.wanted.listener, %address, "listener renamed");
        }
        self.wanted = wanted;
        // Also to a loop for which nothing changes: it is to let go of the snapshot before.
        self.orders.send_replace(Order::Serve(listener));
        self
    }

    fn drain(self) {
        self.orders.send_replace(Order::Drain);
        tracing::info!(listener = &*self.wanted.listener, address = %self.address, "no longer listening");
    }
}

impl Sockets {
    /// The other workers share the port that the first one was given.
    fn bind(wanted: &Wanted, workers: usize) -> io::Result<Self> {
        let Options { tcp, congestion } = &wanted.options;
        let mut address = wanted.address;
        let mut ours = Vec::with_capacity(workers);
        for _ in 0..workers {
            let socket = socket::for_listener(address, tcp, congestion.as_deref())?;
            address = socket.local_addr()?;
            ours.push(socket);
        }
        let theirs = ours.iter().map(TcpListener::try_clone).collect::<Result<_, _>>()?;
        Ok(Self { address, ours, theirs })
    }

    fn listen(&self, options: &Options) -> io::Result<()> {
        self.ours.iter().try_for_each(|socket| socket::listen(socket, options.tcp.backlog))
    }
}

impl Wanted {
    fn cannot(&self, error: io::Error) -> CannotBind {
        CannotBind { listener: Arc::clone(&self.listener), address: self.address, error }
    }
}

impl Options {
    /// Sets them on a socket that is listening already.
    fn set(&self, socket: &TcpListener, listener: &str, address: SocketAddr) {
        let set = socket::configure_listener(socket, &self.tcp, self.congestion.as_deref());
        if let Err(error) = set.and_then(|()| socket::listen(socket, self.tcp.backlog)) {
            tracing::warn!(listener, %address, %error, "the kernel refuses new socket options: the old ones stay");
        }
    }
}

/// Every address of every listener, in the order of the file.
fn wanted(config: &Config) -> Vec<Wanted> {
    let of = |listener: &crate::config::Listener| {
        let options = Options { tcp: tcp_settings(config.tcp), congestion: listener.congestion.clone() };
        let listener_name = Arc::clone(&listener.name);
        let wanted = move |&address| Wanted { listener: Arc::clone(&listener_name), address, options: options.clone() };
        listener.bind.iter().map(wanted).collect::<Vec<_>>()
    };
    config.listeners.iter().flat_map(of).collect()
}
