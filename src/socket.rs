//! Sets every socket option, one function per purpose; the only user of socket2.
//!
//! An option the kernel rejects is fatal only if the purpose fails without it; each function documents which.

mod label;

use std::borrow::Borrow;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
#[cfg(any(target_os = "linux", target_os = "android"))]
use socket2::SockFilter;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

pub(crate) use self::label::{Kind, Label};
use crate::descriptors;
use crate::settings::{Address, Tcp};

/// Options for connecting to a backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Towards<'a> {
    pub from: From,
    pub nodelay: bool,
    /// The SYN waits for the first write, if the backend has issued a cookie before (RFC 7413).
    pub fast_open: bool,
    /// Whether we write as soon as the connection is established.
    pub writes_first: bool,
    pub congestion: Option<&'a str>,
}

/// The local address of a connection to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// The kernel chooses.
    Any,
    /// One of this machine's.
    Own(IpAddr),
    /// A client's, which this machine need not have.
    Client(IpAddr),
}

/// How to bind the socket of a listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    pub sharing: Sharing,
    /// The machine need not have the address.
    pub freebind: bool,
}

/// Whether a socket may share its address with sockets that already listen there (SO_REUSEPORT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Not until [`listen_on_all`]. On systems other than Linux, where several sockets could not be bound then, the same
    /// as `Shared`.
    Alone,
    Shared,
}

/// Binds one of possibly several sockets that will [`listen_on_all`] on an address; the kernel spreads connections over
/// them.
///
/// # Errors
/// The address is in use or not ours, the process may not bind it, or the kernel does not have the congestion control
/// algorithm. Other rejected options are ignored: without `freebind`, an address that is not ours is an error.
pub(crate) fn for_listener(
    address: SocketAddr,
    settings: &Tcp,
    congestion: Option<&str>,
    Binding { sharing, freebind }: Binding,
) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // Dual-stack regardless of net.ipv6.bindv6only.
        let _ = socket.set_only_v6(false);
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Shared || cfg!(not(any(target_os = "linux", target_os = "android"))))?;
    configure_listener(&socket, settings, congestion)?;
    if freebind {
        let _ = free_bind(&socket, address);
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Sets what accepted sockets inherit, so that nothing has to be set per client (tcp(7) on Linux). Also works on a
/// socket that already listens, for clients accepted later.
///
/// # Errors
/// The kernel does not have the congestion control algorithm. Other rejected options are ignored.
pub(crate) fn configure_listener(socket: &impl AsFd, settings: &Tcp, congestion: Option<&str>) -> io::Result<()> {
    keep_alive(socket, settings);
    let socket = SockRef::from(socket);
    // A socket from another process may have it.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket.set_tcp_user_timeout(None);
    let _ = socket.set_tcp_nodelay(settings.nodelay);
    match congestion {
        Some(congestion) => set_congestion(&socket, congestion),
        None => reset_congestion(&socket),
    }
}

/// Starts to listen; called again, changes the backlog.
///
/// # Errors
/// The kernel's error: another socket has started to listen on the address in the meantime.
fn listen(socket: &std::net::TcpListener, backlog: u32) -> io::Result<()> {
    SockRef::from(socket).listen(i32::try_from(backlog).unwrap_or(i32::MAX))
}

/// Starts to listen on all of `sockets`, which are bound to one address.
///
/// The first one starts alone, because the kernel then checks the address again: it is an error if another program is
/// listening by now, and from then on no other program can bind it. Only then may the others share the address. With
/// SO_REUSEPORT from the start, a second instance could join and would get half of the connections.
///
/// # Errors
/// The kernel's error: another socket has started to listen on the address in the meantime.
pub(crate) fn listen_on_all(sockets: &[impl Borrow<std::net::TcpListener>], backlog: u32) -> io::Result<()> {
    let Some((first, others)) = sockets.split_first() else { return Ok(()) };
    listen(first.borrow(), backlog)?;
    sockets.iter().try_for_each(|socket| SockRef::from(socket.borrow()).set_reuse_port(true))?;
    others.iter().try_for_each(|socket| listen(socket.borrow(), backlog))
}

/// Whether clients wait in the queue of a listening socket.
pub(crate) fn has_clients(socket: &impl AsFd) -> bool {
    let mut queue = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut queue, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// Makes the kernel drop new SYNs to a listening socket, as if they had been lost in transit. Handshakes in progress
/// continue. Clients accepted from now on inherit the filter, which none of their segments match.
///
/// If the kernel rejects the filter, new handshakes still begin, and those unfinished when the socket closes are lost.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn begin_no_handshakes(socket: &impl AsFd) {
    const FLAGS_OFFSET: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    // Classic BPF over the TCP header (RFC 9293 §3.1): drop segments with SYN but not ACK.
    let filter = [
        SockFilter::new(0x30, 0, 0, FLAGS_OFFSET), // A = byte of the flags
        SockFilter::new(0x54, 0, 0, SYN | ACK),    // A &= SYN | ACK
        SockFilter::new(0x15, 0, 1, SYN),          // if A == SYN go on, else skip one
        SockFilter::new(0x06, 0, 0, 0),            // drop
        SockFilter::new(0x06, 0, 0, u32::MAX),     // keep all of it
    ];
    let _ = SockRef::from(socket).attach_filter(&filter);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn begin_no_handshakes(_: &impl AsFd) {}

/// Whether other sockets may be bound to the same address, each with its own queue.
pub(crate) fn shares_address(socket: &std::net::TcpListener) -> bool {
    SockRef::from(socket).reuse_port().unwrap_or(false)
}

/// A listening socket opened by another process.
#[derive(Debug)]
pub(crate) enum Listening {
    Tcp(std::net::TcpListener, SocketAddr),
    Unix(UnixListener),
}

impl Listening {
    /// `None` if it is not a listening stream socket.
    pub(crate) fn of(socket: OwnedFd) -> Option<Self> {
        let looked_at = SockRef::from(&socket);
        if looked_at.r#type().ok()? != Type::STREAM || !looked_at.is_listener().ok()? {
            return None;
        }
        let address = looked_at.local_addr().ok()?;
        match address.as_socket() {
            Some(address) => Some(Self::Tcp(socket.into(), address)),
            None if address.is_unix() => Some(Self::Unix(socket.into())),
            None => None,
        }
    }
}

/// A bound socket of the admin server.
#[derive(Debug)]
pub(crate) enum AdminSocket {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

/// Binds a socket on which the admin server will listen. Unlike a listener it has its address to itself, so that a
/// second process with the same configuration gets an error; only sockets in `leaving`, which are about to close, may
/// overlap.
///
/// # Errors
/// The address is in use or not ours, the process may not bind it, or the path is too long.
pub(crate) fn for_admin(address: &Address, leaving: &[&AdminSocket]) -> io::Result<AdminSocket> {
    match address {
        Address::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_nonblocking(true)?;
            socket.set_reuse_address(true)?;
            let port = |socket: &AdminSocket| socket.address().ok().and_then(|address| Some(address.tcp()?.port()));
            let overlapping = leaving.iter().filter(|other| address.port() != 0 && port(other) == Some(address.port()));
            let overlapping: Vec<SockRef<'_>> = overlapping.map(SockRef::from).collect();
            let share = |on| overlapping.iter().try_for_each(|other| other.set_reuse_port(on));
            socket.set_reuse_port(!overlapping.is_empty())?;
            share(true)?;
            // Also listen, since that checks for conflicts again.
            let bound = socket.bind(&(*address).into()).and_then(|()| socket.listen(ADMIN_BACKLOG));
            share(false)?;
            socket.set_reuse_port(false)?;
            bound.map(|()| AdminSocket::Tcp(socket.into()))
        }
        Address::Unix(path) => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.bind(&SockAddr::unix(path)?)?;
            Ok(AdminSocket::Unix(socket.into()))
        }
    }
}

impl AdminSocket {
    /// Starts to listen.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn listen(&self) -> io::Result<()> {
        SockRef::from(self).listen(ADMIN_BACKLOG)
    }

    /// # Errors
    /// The kernel's error.
    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        SockRef::from(self).set_nonblocking(true)
    }

    /// # Errors
    /// The kernel's error; a unix socket without a path has no address.
    pub(crate) fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(socket) => socket.local_addr().map(Address::Tcp),
            Self::Unix(socket) => {
                let address = socket.local_addr()?;
                let path = address.as_pathname().ok_or(io::ErrorKind::AddrNotAvailable)?;
                Ok(Address::Unix(path.to_owned()))
            }
        }
    }

    /// # Errors
    /// Out of descriptors.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }
}

impl AsFd for AdminSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

/// Opens a socket to `backend` and starts to connect it; the first write reports the result.
///
/// # Errors
/// Out of descriptors or ports, `from` is not ours (EADDRNOTAVAIL of both is told apart by [`NotOurs`]), or is a client's
/// and the process may not use those, or there is no route to `backend`.
pub(crate) fn for_backend(backend: SocketAddr, options: Towards<'_>) -> io::Result<(std::net::TcpStream, Connected)> {
    let Towards { from, nodelay, fast_open, writes_first, congestion } = options;
    let socket = Socket::new(Domain::for_address(backend), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if descriptors::is_reserved(&socket) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    if nodelay {
        let _ = socket.set_tcp_nodelay(true);
    }
    if writes_first {
        // The third packet of the handshake is then carried by the hello, which follows at once. A backend that speaks
        // first would wait for that packet.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let _ = socket.set_tcp_quickack(false);
    }
    if let Some(congestion) = congestion {
        // The kernel's support was checked when the configuration came into force.
        let _ = set_congestion(&socket, congestion);
    }
    bind_to(&socket, from)?;
    if fast_open {
        // A system without support for it connects in the usual way.
        let _ = crate::sys::fast_open_connect(&socket);
    }
    let connected = match socket.connect(&backend.into()) {
        // With TCP Fast Open, the handshake begins with the first write.
        Ok(()) if fast_open => Connected::Later,
        Ok(()) => Connected::Now,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Connected::Later,
        Err(error) => return Err(error),
    };
    Ok((socket.into(), connected))
}

/// Whether a connection is established when `connect` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connected {
    /// So it is on one machine, where the handshake needs no wait.
    Now,
    Later,
}

/// An address in `source_addresses` that this machine does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotOurs(IpAddr);

impl fmt::Display for NotOurs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this machine does not have the source address {}", self.0)
    }
}

impl std::error::Error for NotOurs {}

fn bind_to(socket: &Socket, from: From) -> io::Result<()> {
    let address = match from {
        From::Any => return Ok(()),
        From::Own(address) => address,
        From::Client(address) => {
            be_transparent(socket, address.is_ipv4())?;
            address
        }
    };
    // `connect` chooses the port, which may then be one that is in use towards other backends.
    let _ = crate::sys::bind_address_no_port(socket);
    socket.bind(&SocketAddr::new(address, 0).into()).map_err(|error| match error.kind() {
        io::ErrorKind::AddrNotAvailable => io::Error::new(io::ErrorKind::InvalidInput, NotOurs(address)),
        _ => error,
    })
}

/// Whether this process may connect from addresses that are not this machine's.
///
/// # Errors
/// It may not, or the kernel cannot.
pub(crate) fn check_transparent() -> io::Result<()> {
    be_transparent(&Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?, true)
}

#[cfg(target_os = "linux")]
fn be_transparent(socket: &Socket, is_ipv4: bool) -> io::Result<()> {
    if is_ipv4 { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
}

#[cfg(not(target_os = "linux"))]
fn be_transparent(_: &Socket, _: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn free_bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv4() { socket.set_freebind_v4(true) } else { socket.set_freebind_v6(true) }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn free_bind(_: &Socket, _: SocketAddr) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether the kernel has this congestion control algorithm and lets us use it.
///
/// # Errors
/// The kernel does not have it, or does not let us use it.
pub(crate) fn check_congestion(name: &str) -> io::Result<()> {
    set_congestion(&Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?, name)
}

/// Restores the kernel's default for a new socket.
#[cfg(any(target_os = "linux", target_os = "freebsd"))]
fn reset_congestion(socket: &Socket) -> io::Result<()> {
    let default = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?.tcp_congestion()?;
    if socket.tcp_congestion()? == default { Ok(()) } else { socket.set_tcp_congestion(&default) }
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
fn reset_congestion(_: &Socket) -> io::Result<()> {
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "freebsd"))]
fn set_congestion(socket: &Socket, name: &str) -> io::Result<()> {
    socket.set_tcp_congestion(name.as_bytes())
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
fn set_congestion(_: &Socket, _: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Enables keepalive, so that the kernel detects a silent peer that is gone. Rejected options are ignored: the idle
/// timeout still applies.
pub(crate) fn keep_alive(socket: &impl AsFd, settings: &Tcp) {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new().with_time(*settings.keepalive.idle).with_interval(*settings.keepalive.interval);
    let _ = socket.set_tcp_keepalive(&keepalive.with_retries(settings.keepalive.probes));
}

/// A stream that sends RST, not FIN, if it is dropped before it is released: at a drain deadline or in a panic.
#[derive(Debug)]
pub(crate) struct ResetUnlessReleased(Option<TcpStream>);

impl ResetUnlessReleased {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Some(stream))
    }

    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        self.0.as_mut().expect("only `release` takes it, and that consumes self")
    }

    pub(crate) fn release(mut self) -> TcpStream {
        self.0.take().expect("only `release` takes it, and that consumes self")
    }
}

impl Drop for ResetUnlessReleased {
    fn drop(&mut self) {
        if let Some(stream) = &self.0 {
            reset_on_drop(stream);
        }
    }
}

/// Makes dropping `socket` send RST instead of FIN (SO_LINGER 0). If the kernel rejects that, the peer sees a FIN.
pub(crate) fn reset_on_drop(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Makes dropping `socket` send neither FIN nor RST: in repair mode the kernel forgets a connection without a word.
///
/// Whatever the client sends afterwards belongs to no connection, so the kernel answers it with RST. To delay that, what
/// has come is acknowledged first: otherwise the client would send it again.
///
/// # Errors
/// Repair mode is refused, for want of CAP_NET_ADMIN. Dropping the socket then sends a RST that no router forwards, since
/// its time to live is 1: clients on the same network still see it.
pub(crate) fn vanish_on_drop(socket: &impl AsFd) -> io::Result<()> {
    let options = SockRef::from(socket);
    #[cfg(target_os = "linux")]
    let _ = options.set_tcp_quickack(true);
    crate::sys::repair(socket).inspect_err(|_| {
        // A socket of IPv6 may carry IPv4.
        let _ = (options.set_ttl_v4(1), options.set_unicast_hops_v6(1));
        reset_on_drop(socket);
    })
}

/// Writes `header` and `bytes` in one system call, without asking the runtime whether the socket is writable.
pub(crate) fn send_now(socket: &impl AsFd, header: &[u8], bytes: &[u8]) -> io::Result<usize> {
    let socket = SockRef::from(socket);
    match header {
        [] => socket.send(bytes),
        _ => socket.send_vectored(&[IoSlice::new(header), IoSlice::new(bytes)]),
    }
}

/// Takes the socket's pending error, if there is one.
pub(crate) fn error(socket: &impl AsFd) -> Option<io::Error> {
    SockRef::from(socket).take_error().ok().flatten()
}

/// Whether the socket has an error that nobody has taken yet; it stays for the next read.
pub(crate) fn has_failed(socket: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec::default())).is_ok() && polled[0].revents().contains(PollFlags::ERR)
}

/// The same as in std.
const ADMIN_BACKLOG: i32 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_congestion_control_that_the_kernel_lacks_is_reported() {
        // Every kernel has reno built in.
        assert!(check_congestion("reno").is_ok());
        assert!(check_congestion("no-such-one").is_err());
    }
}
