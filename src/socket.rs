//! Sets every socket option, one function a purpose; the only user of socket2.
//!
//! What the kernel refuses is never fatal unless the purpose fails with it: each function says so.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

/// How our TCP sockets behave, on both sides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TcpSettings {
    pub nodelay: bool,
    pub keepalive_idle: Duration,
    pub keepalive_interval: Duration,
    pub keepalive_probes: u32,
    /// How long sent data may stay unacknowledged before the peer counts as dead.
    pub user_timeout: Duration,
    pub backlog: u32,
}

/// Binds one of possibly several listening sockets of an address; the kernel spreads connections over them.
///
/// Accepted sockets inherit the options, so that none is set for each client (tcp(7) on Linux).
///
/// # Errors
/// The address is in use or not ours, the process may not bind it, or the kernel has no such congestion control. Other
/// refused options are passed over.
pub fn for_listener(
    address: SocketAddr,
    settings: &TcpSettings,
    congestion: Option<&str>,
) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // Dual-stack whatever net.ipv6.bindv6only says.
        let _ = socket.set_only_v6(false);
    }
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    let _ = socket.set_tcp_nodelay(settings.nodelay);
    keep_alive(&socket, settings);
    if let Some(congestion) = congestion {
        set_congestion(&socket, congestion)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(settings.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Opens a socket to `backend` and starts to connect it; the first write tells how that went.
///
/// # Errors
/// No descriptor or port is left, `from` is not ours, or there is no route to `backend`.
pub fn for_backend(
    backend: SocketAddr,
    from: Option<IpAddr>,
    nodelay: bool,
    congestion: Option<&str>,
) -> io::Result<std::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(backend), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if nodelay {
        let _ = socket.set_tcp_nodelay(true);
    }
    // The third packet of the handshake then rides on the hello that follows at once.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket.set_tcp_quickack(false);
    if let Some(congestion) = congestion {
        // Whether the kernel has it was seen when the configuration came into force.
        let _ = set_congestion(&socket, congestion);
    }
    if let Some(from) = from {
        let _ = crate::sys::bind_address_no_port(&socket);
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    match socket.connect(&backend.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

/// Whether the kernel has this congestion control, and lets us use it.
///
/// # Errors
/// It does not.
pub fn check_congestion(name: &str) -> io::Result<()> {
    set_congestion(&Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?, name)
}

#[cfg(any(target_os = "linux", target_os = "freebsd"))]
fn set_congestion(socket: &Socket, name: &str) -> io::Result<()> {
    socket.set_tcp_congestion(name.as_bytes())
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
fn set_congestion(_: &Socket, _: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Has the kernel find out that a silent peer is gone. Refused options are passed over: the idle timeout is still there.
pub fn keep_alive(socket: &impl AsFd, settings: &TcpSettings) {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new().with_time(settings.keepalive_idle).with_interval(settings.keepalive_interval);
    let _ = socket.set_tcp_keepalive(&keepalive.with_retries(settings.keepalive_probes));
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket.set_tcp_user_timeout(Some(settings.user_timeout));
}

/// A stream that says RST, not FIN, if it is dropped before it is released: by a drain deadline or a panic.
#[derive(Debug)]
pub struct ResetUnlessReleased(Option<TcpStream>);

impl ResetUnlessReleased {
    pub fn new(stream: TcpStream) -> Self {
        Self(Some(stream))
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        self.0.as_mut().expect("only `release` takes it, and that consumes self")
    }

    pub fn release(mut self) -> TcpStream {
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

/// Has the drop of `socket` send RST, not FIN (SO_LINGER 0). If that is refused, the peer sees a FIN.
pub fn reset_on_drop(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Takes the error that the kernel holds for `socket`, if there is one.
pub fn error(socket: &impl AsFd) -> Option<io::Error> {
    SockRef::from(socket).take_error().ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_congestion_control_that_the_kernel_lacks_is_told() {
        // Every kernel has reno built in.
        assert!(check_congestion("reno").is_ok());
        assert!(check_congestion("no-such-one").is_err());
    }
}
