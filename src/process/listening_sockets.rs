//! Opens, renames and closes the listening sockets of all workers, so that a reload may change every listener.
//!
//! In:  the listeners of a configuration; at start-up, inherited sockets.
//! Out: a [`Plan`] with every new address bound, or the one that cannot be; after commit, orders to the accept loops.
//!
//! A socket outlives its configuration: when a listener is renamed or its options change, its sockets stay open and
//! keep their queued clients. Only an address that no listener uses any more is closed.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::slice;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::config::Settings;
use crate::limits::Permits;
use crate::listener::{AcceptOrder, CurrentListener, Listener, Shared};
use crate::process::accept_queues::AcceptQueues;
use crate::process::worker::NewSocket;
use crate::settings::{Tcp, Text};
use crate::snapshot::Snapshot;
use crate::socket::{self, Kind, Label, Sharing};

/// The listening sockets of the process.
pub(crate) struct ListeningSockets {
    /// In the order of the configuration.
    open: Vec<Open>,
    /// By name, so that a listener that stays, or comes back, keeps its count.
    permits: HashMap<Arc<str>, Arc<Permits>>,
    workers: Vec<mpsc::UnboundedSender<NewSocket>>,
    begin: Begin,
    shared: Shared,
    /// Sockets of former listeners, which stay open until their queues are empty.
    closing: Vec<Closing>,
    /// The addresses of `open`, for tasks that must know which addresses are our own.
    addresses: watch::Sender<Arc<[SocketAddr]>>,
    /// The addresses of `open` with the names of their listeners, for the status.
    bound: watch::Sender<Bound>,
    queues: AcceptQueues,
}

/// The addresses that are bound, each with the name of its listener.
pub(crate) type Bound = Arc<[(Arc<str>, SocketAddr)]>;

/// When the sockets start to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    AtOnce,
    /// When [`ListeningSockets::begin`] is called. Until then new sockets are bound but do not listen, so that no
    /// client is lost if this process fails to start.
    Later,
}

/// A listening socket inherited by this process.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub label: Label,
    pub address: SocketAddr,
    pub socket: TcpListener,
    /// See [`crate::process::upgrade::Inherited::number`].
    pub number: Option<usize>,
}

/// An address that cannot be bound.
#[derive(Debug)]
pub(crate) struct CannotBind {
    pub listener: Arc<str>,
    pub address: SocketAddr,
    pub error: io::Error,
}

/// The listening sockets that a configuration needs. Dropping it leaves everything unchanged.
pub(crate) struct Plan(Vec<Planned>);

struct Planned {
    wanted: Wanted,
    binding: Binding,
}

enum Binding {
    /// An index into [`ListeningSockets::open`].
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
    tcp: Tcp,
    congestion: Option<Arc<str>>,
    freebind: bool,
}

struct Open {
    wanted: Wanted,
    /// The bound address, with the actual port instead of 0.
    address: SocketAddr,
    /// One per worker, unless they are inherited.
    sockets: Vec<Arc<TcpListener>>,
    /// The service manager keeps the sockets open too.
    lent: bool,
    orders: watch::Sender<AcceptOrder>,
}

/// A closed listener; the workers drop `orders` with their sockets.
struct Closing {
    address: SocketAddr,
    orders: watch::Sender<AcceptOrder>,
}

/// The sockets of one address. Each worker gets a second handle to one or more of them.
struct Sockets {
    address: SocketAddr,
    ours: Vec<TcpListener>,
    theirs: Vec<(usize, TcpListener)>,
    lent: bool,
}

impl ListeningSockets {
    /// Opens no sockets yet.
    pub(crate) fn new(workers: Vec<mpsc::UnboundedSender<NewSocket>>, begin: Begin, shared: Shared) -> Self {
        let (addresses, bound) = (watch::Sender::new(Arc::from([])), watch::Sender::new(Arc::from([])));
        let (open, permits, closing) = (Vec::new(), HashMap::new(), Vec::new());
        Self { open, permits, workers, begin, shared, closing, addresses, bound, queues: AcceptQueues::default() }
    }

    /// Starts to listen on the sockets that were bound with [`Begin::Later`].
    pub(crate) fn begin(&mut self) {
        if self.begin == Begin::AtOnce {
            return;
        }
        self.begin = Begin::AtOnce;
        for number in 0..self.open.len() {
            let name = Arc::clone(&self.open[number].wanted.listener);
            let listener = self.listener(&name);
            let Open { address, sockets, wanted, lent, orders } = &self.open[number];
            let listening = if *lent { Ok(()) } else { wanted.options.listen(sockets) };
            if let Err(error) = listening {
                tracing::error!(event = "listen_failed", listener = &*name, %address, %error, "cannot listen");
            }
            orders.send_replace(AcceptOrder::Serve(listener));
        }
    }

    /// Name and bound address of each listener; with port 0, the port that the kernel chose.
    pub(crate) fn listening(&self) -> impl Iterator<Item = (&Arc<str>, SocketAddr)> {
        self.open.iter().map(|open| (&open.wanted.listener, open.address))
    }

    /// Binds every address of `config` that is not bound yet. Takes the sockets it needs from `inherited`.
    ///
    /// # Errors
    /// One of them cannot be bound; then none is.
    pub(crate) fn bind(&self, config: &Settings, inherited: &mut Vec<Inherited>) -> Result<Plan, CannotBind> {
        let wanted = wanted(config);
        let kept = self.kept(&wanted);
        let adopted = adopted(&wanted, inherited);
        let mut plan = Vec::with_capacity(wanted.len());
        let mut ours = self.own_addresses(inherited);
        for ((wanted, kept), adopted) in wanted.into_iter().zip(kept).zip(adopted) {
            let beside_ours = ours.iter().any(|ours| overlap(*ours, wanted.address));
            let sharing = if beside_ours { Sharing::Shared } else { Sharing::Alone };
            ours.push(wanted.address);
            let workers = self.workers.len();
            let new = |sockets: io::Result<Sockets>| sockets.map(Binding::New).map_err(|error| wanted.cannot(error));
            let binding = match kept {
                Some(open) => Binding::Kept(open),
                None if adopted.is_empty() => new(Sockets::bind(&wanted, workers, sharing))?,
                None => new(Sockets::adopt(adopted, &wanted, workers))?,
            };
            plan.push(Planned { wanted, binding });
        }
        Ok(Plan(plan))
    }

    /// The addresses of `plan`; with port 0, the port that the kernel chose.
    pub(crate) fn addresses(&self, Plan(plan): &Plan) -> Vec<SocketAddr> {
        let address = |planned: &Planned| match &planned.binding {
            Binding::Kept(number) => self.open[*number].address,
            Binding::New(sockets) => sockets.address,
        };
        plan.iter().map(address).collect()
    }

    /// Starts to listen on the new addresses. Call it last, when nothing else of the configuration can fail: a client
    /// that the kernel has accepted would be lost.
    ///
    /// # Errors
    /// The kernel refuses one of them.
    pub(crate) fn listen(&self, Plan(plan): &Plan) -> Result<(), CannotBind> {
        if self.begin == Begin::Later {
            return Ok(());
        }
        for Planned { wanted, binding } in plan {
            if let Binding::New(sockets) = binding {
                sockets.listen(&wanted.options).map_err(|error| wanted.cannot(error))?;
            }
        }
        Ok(())
    }

    /// Puts `plan` in force. `now` is the snapshot of the same configuration, already in force.
    pub(crate) fn commit(&mut self, Plan(plan): Plan, now: &Arc<Snapshot>) {
        let mut before: Vec<Option<Open>> = self.open.drain(..).map(Some).collect();
        for Planned { wanted, binding } in plan {
            let listener = self.listener(&wanted.listener);
            let open = match binding {
                Binding::Kept(number) => {
                    let order = self.order(listener);
                    before[number].take().map(|open| open.keep(wanted, order))
                }
                Binding::New(sockets) => self.open(wanted, sockets, listener, now),
            };
            self.open.extend(open);
        }
        self.bound.send_replace(self.listening().map(|(name, address)| (Arc::clone(name), address)).collect());
        self.closing.retain(|closing| !closing.orders.is_closed());
        self.closing.extend(before.into_iter().flatten().map(|open| open.close(self.begin)));
        let open = &self.open;
        let is_bound = |name: &Arc<str>| open.iter().any(|open| open.wanted.listener == *name);
        self.permits.retain(|name, permits| permits.open() > 0 || is_bound(name));
        let open = self.open.iter();
        let sockets = open.flat_map(|open| open.sockets.iter().map(move |socket| (&open.wanted.listener, socket)));
        self.queues.watch(sockets);
    }

    /// The kernel's queues of the sockets.
    pub(crate) fn queues(&self) -> AcceptQueues {
        self.queues.clone()
    }

    /// Publishes where this process listens, its admin server included.
    pub(crate) fn publish(&self, addresses: Arc<[SocketAddr]>) {
        self.addresses.send_if_modified(|known| {
            let moved = *known != addresses;
            *known = addresses;
            moved
        });
    }

    /// Where this process listens, now and after each change.
    pub(crate) fn watch_addresses(&self) -> watch::Receiver<Arc<[SocketAddr]>> {
        self.addresses.subscribe()
    }

    /// The addresses that are bound, with the names of their listeners, now and after each change.
    pub(crate) fn watch_bound(&self) -> watch::Receiver<Bound> {
        self.bound.subscribe()
    }

    /// Closes every socket, after accepting the clients queued there.
    pub(crate) fn drain(&mut self) {
        self.open.drain(..).for_each(|open| _ = open.close(self.begin));
    }

    /// All sockets, for the hand-over.
    pub(crate) fn hand_over(&self) -> Vec<(Label, BorrowedFd<'_>)> {
        let of = |open: &Open| Label {
            kind: Kind::Listener,
            name: open.wanted.listener.to_string(),
            wanted: Some(open.wanted.address.to_string()),
            lent: open.lent,
        };
        let all = self.open.iter().flat_map(|open| open.sockets.iter().map(move |socket| (of(open), socket.as_fd())));
        all.collect()
    }

    /// Closes all sockets after [`Self::hand_over`]. Adopted ones close at once; `unwanted` (indices into the
    /// handed-over list) drain their queue first, since no other process will.
    pub(crate) fn leave(&mut self, unwanted: &[usize]) {
        let mut first = 0;
        for open in self.open.drain(..) {
            let numbers = first..first + open.sockets.len();
            first = numbers.end;
            if numbers.into_iter().all(|number| unwanted.contains(&number)) {
                open.close(self.begin);
            } else {
                open.orders.send_replace(AcceptOrder::Leave);
            }
        }
    }

    /// Where sockets of ours may still listen. A new socket may share these: there is no other way to replace
    /// 127.0.0.1:443 by 0.0.0.0:443 without a gap.
    fn own_addresses(&self, inherited: &[Inherited]) -> Vec<SocketAddr> {
        let closing = self.closing.iter().filter(|closing| !closing.orders.is_closed()).map(|closing| closing.address);
        let inherited = inherited.iter().map(|inherited| inherited.address);
        self.open.iter().map(|open| open.address).chain(closing).chain(inherited).collect()
    }

    /// Which open sockets each address of `wanted` keeps.
    fn kept(&self, wanted: &[Wanted]) -> Vec<Option<usize>> {
        let mut kept = vec![None; wanted.len()];
        let mut free = vec![true; self.open.len()];
        // First those whose listener keeps its name, so that a renamed listener does not take another one's socket.
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

    fn order(&self, listener: Listener) -> AcceptOrder {
        if self.begin == Begin::AtOnce { AcceptOrder::Serve(listener) } else { AcceptOrder::Wait }
    }

    /// Hands each worker its socket.
    fn open(&self, wanted: Wanted, sockets: Sockets, listener: Listener, now: &Arc<Snapshot>) -> Option<Open> {
        let Sockets { address, ours, theirs, lent } = sockets;
        let name = &*wanted.listener;
        let Some(current) = CurrentListener::find(&listener, now) else {
            tracing::error!(
                event = "listener_not_opened",
                listener = name,
                %address,
                "listener not opened: it is not in the configuration in force"
            );
            return None;
        };
        let (orders, ordered) = watch::channel(self.order(listener));
        for (worker, socket) in theirs {
            let (orders, current, place) = (ordered.clone(), current.clone(), self.shared.listening_sockets.acquire());
            if self.workers[worker].send(NewSocket { socket, orders, current, place }).is_err() {
                tracing::error!(event = "worker_gone", listener = name, %address, "listener not served by a worker: its thread has ended");
            }
        }
        tracing::info!(event = "listening", listener = name, %address, "listening");
        Some(Open { wanted, address, sockets: ours.into_iter().map(Arc::new).collect(), lent, orders })
    }
}

impl Open {
    /// Keeps the sockets, with the options of the new configuration.
    fn keep(mut self, wanted: Wanted, order: AcceptOrder) -> Self {
        let address = self.address;
        if wanted.options != self.wanted.options {
            self.sockets.iter().for_each(|socket| wanted.options.set(socket, self.lent, &wanted.listener, address));
        }
        if wanted.listener != self.wanted.listener {
            tracing::info!(
                event = "listener_renamed",
                listener = &*wanted.listener,
                was = &*self.wanted.listener,
                %address,
                "listener renamed"
            );
        }
        self.wanted = wanted;
        // Also sent when nothing changes, so that the accept loop releases the previous snapshot.
        self.orders.send_replace(order);
        self
    }

    fn close(self, begin: Begin) -> Closing {
        // A socket that stays open in another process keeps its queue, and must keep accepting.
        let stays = self.lent || begin == Begin::Later;
        self.orders.send_replace(if stays { AcceptOrder::Leave } else { AcceptOrder::Drain });
        tracing::info!(
            event = "listener_closed",
            listener = &*self.wanted.listener,
            address = %self.address,
            "stopped listening"
        );
        Closing { address: self.address, orders: self.orders }
    }
}

impl Sockets {
    /// One socket per worker; all share the port that the first one got.
    fn bind(wanted: &Wanted, workers: usize, sharing: Sharing) -> io::Result<Self> {
        let mut ours: Vec<TcpListener> = Vec::with_capacity(workers);
        let mut address = wanted.address;
        for _ in 0..workers {
            let socket = wanted.options.bind(address, sharing)?;
            address = socket.local_addr()?;
            ours.push(socket);
        }
        let theirs = ours.iter().map(TcpListener::try_clone).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { address, ours, theirs: theirs.into_iter().enumerate().collect(), lent: false })
    }

    /// Accepts from all of `inherited`, which share one address: each has its own queue. If there are fewer than
    /// workers, more are bound beside them; if that fails, workers share.
    fn adopt(inherited: Vec<Inherited>, wanted: &Wanted, workers: usize) -> io::Result<Self> {
        let address = inherited.first().map_or(wanted.address, |first| first.address);
        let lent = inherited.iter().any(|inherited| inherited.label.lent);
        let mut ours: Vec<TcpListener> = inherited.into_iter().map(|inherited| inherited.socket).collect();
        for socket in &ours {
            socket.set_nonblocking(true)?;
            wanted.options.configure(socket)?;
        }
        let shares_address = !lent && ours.iter().all(socket::shares_address);
        while shares_address && ours.len() < workers {
            let Ok(socket) = wanted.options.bind(address, Sharing::Shared) else { break };
            ours.push(socket);
        }
        let shared = (0..ours.len().max(workers)).map(|number| (number % workers, &ours[number % ours.len()]));
        let theirs = shared.map(|(worker, socket)| Ok((worker, socket.try_clone()?))).collect::<io::Result<_>>()?;
        Ok(Self { address, ours, theirs, lent })
    }

    fn listen(&self, options: &Options) -> io::Result<()> {
        // The owner of a lent socket chooses its backlog.
        if self.lent { Ok(()) } else { options.listen(&self.ours) }
    }
}

impl Wanted {
    fn cannot(&self, error: io::Error) -> CannotBind {
        CannotBind { listener: Arc::clone(&self.listener), address: self.address, error }
    }
}

impl Options {
    fn bind(&self, address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
        let binding = socket::Binding { sharing, freebind: self.freebind };
        socket::for_listener(address, &self.tcp, self.congestion.as_deref(), binding)
    }

    fn configure(&self, socket: &TcpListener) -> io::Result<()> {
        socket::configure_listener(socket, &self.tcp, self.congestion.as_deref())
    }

    fn listen(&self, sockets: &[impl Borrow<TcpListener>]) -> io::Result<()> {
        socket::listen_on_all(sockets, self.tcp.backlog)
    }

    /// Sets the options on a socket that is already listening.
    fn set(&self, socket: &TcpListener, lent: bool, listener: &str, address: SocketAddr) {
        let listen = || if lent { Ok(()) } else { self.listen(slice::from_ref(socket)) };
        if let Err(error) = self.configure(socket).and_then(|()| listen()) {
            tracing::warn!(
                event = "socket_options_refused",
                listener,
                %address,
                %error,
                "cannot change socket options: the old ones stay"
            );
        }
    }
}

type Rule = fn(&Wanted, &Inherited) -> bool;

/// Which of `inherited` each address of `wanted` gets: the sockets bound to it or, for port 0, to its earlier port;
/// otherwise one that the service manager named after its listener.
fn adopted(wanted: &[Wanted], inherited: &mut Vec<Inherited>) -> Vec<Vec<Inherited>> {
    let is_there = |wanted: &Wanted, inherited: &Inherited| {
        let was_wanted = || inherited.label.wanted.as_deref() == Some(&*wanted.address.to_string());
        inherited.address == wanted.address || (was_wanted() && inherited.label.name == *wanted.listener)
    };
    let is_named = |wanted: &Wanted, inherited: &Inherited| {
        inherited.label.kind == Kind::Unknown && inherited.label.name == *wanted.listener
    };
    let mut adopted: Vec<Vec<Inherited>> = wanted.iter().map(|_| Vec::new()).collect();
    for rule in [is_there as Rule, is_named] {
        for (wanted, adopted) in wanted.iter().zip(&mut adopted).filter(|(_, adopted)| adopted.is_empty()) {
            let Some(found) = inherited.iter().position(|inherited| rule(wanted, inherited)) else { continue };
            let address = inherited[found].address;
            adopted.extend(inherited.extract_if(.., |inherited| inherited.address == address));
        }
    }
    adopted
}

/// Whether sockets bound to `a` and `b` can receive the same connections.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |wild: IpAddr, ip: IpAddr| wild.is_unspecified() && (wild.is_ipv6() || ip.is_ipv4());
    let (port, a, b) = (a.port() == b.port(), a.ip().to_canonical(), b.ip().to_canonical());
    port && (a == b || covers(a, b) || covers(b, a))
}

/// Every address of every listener, in the order of the file.
fn wanted(config: &Settings) -> Vec<Wanted> {
    let of = |listener: &crate::settings::Listener| {
        let options = Options {
            tcp: config.tcp.clone(),
            congestion: listener.congestion.as_ref().and_then(|congestion| congestion.0.clone()),
            freebind: listener.freebind,
        };
        let listener_name = Arc::clone(&listener.name);
        let wanted = move |address: &Text<SocketAddr>| Wanted {
            listener: Arc::clone(&listener_name),
            address: **address,
            options: options.clone(),
        };
        listener.bind.iter().map(wanted).collect::<Vec<_>>()
    };
    config.listeners.iter().flat_map(of).collect()
}
