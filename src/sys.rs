//! Wraps the system calls that have no safe wrapper; the only module with `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

/// Makes mimalloc return freed pages immediately and turns transparent huge pages off.
///
/// A proxy's memory should shrink with its connections: cached pages, and 2 MiB pages pinned by a few relays, are what
/// a peak would leave behind (docs/performance.md has the figures). `MIMALLOC_PURGE_DELAY` overrides this.
pub fn give_memory_back() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    #[cfg(feature = "mimalloc")]
    {
        /// `mi_option_purge_delay` in mimalloc.h, in milliseconds; the same number in versions 2 and 3.
        const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
        // SAFETY: it writes one number into the allocator's options, which are static.
        unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, 0) };
    }
}

/// Defers the choice of a local port until `connect` (ip(7), IP_BIND_ADDRESS_NO_PORT), so that one source address has a
/// full port range per destination instead of one for all of them.
///
/// # Errors
/// The kernel's error; kernels before 4.2 do not support it.
#[cfg(target_os = "linux")]
pub(crate) fn bind_address_no_port(socket: impl AsFd) -> io::Result<()> {
    set_flag(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT)
}

#[cfg(not(target_os = "linux"))]
pub fn bind_address_no_port(_: impl AsFd) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes `connect` defer the SYN to the first write, so that the data travels with it if the peer has allowed that
/// before (tcp(7), TCP_FASTOPEN_CONNECT; RFC 7413).
///
/// # Errors
/// The kernel's error; kernels before 4.11 do not support it.
#[cfg(target_os = "linux")]
pub(crate) fn fast_open_connect(socket: impl AsFd) -> io::Result<()> {
    set_flag(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT)
}

#[cfg(not(target_os = "linux"))]
pub fn fast_open_connect(_: impl AsFd) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Puts a connection into repair mode, in which closing it sends nothing (tcp(7), TCP_REPAIR).
///
/// # Errors
/// The kernel's error; EPERM without CAP_NET_ADMIN.
#[cfg(target_os = "linux")]
pub(crate) fn repair(socket: impl AsFd) -> io::Result<()> {
    set_flag(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR)
}

#[cfg(not(target_os = "linux"))]
pub fn repair(_: impl AsFd) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
fn set_flag(socket: impl AsFd, level: libc::c_int, name: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let bytes = libc::socklen_t::try_from(size_of_val(&on)).expect("4 fits");
    // SAFETY: the descriptor is borrowed and open, the value is a live c_int of the length given.
    let result = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const on).cast(), bytes) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes a descriptor this process was started with, and sets close-on-exec on it.
///
/// Call once per number, before anything is opened: nothing else may own it.
///
/// # Errors
/// The descriptor is not open.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD accepts any number; for one that is not open it returns EBADF.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above has shown that it is open, and it was inherited from the parent process: no value in this
    // process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// How many bytes the kernel still holds that the peer has not acknowledged (tcp(7), SIOCOUTQ).
///
/// # Errors
/// The kernel's error.
pub fn unsent_bytes(socket: impl AsFd) -> io::Result<usize> {
    queued_bytes(socket, libc::TIOCOUTQ)
}

/// How many of them it has not sent even once (tcp(7), SIOCOUTQNSD).
///
/// # Errors
/// The kernel's error; only TCP has it.
pub(crate) fn never_sent_bytes(socket: impl AsFd) -> io::Result<usize> {
    /// In the kernel's sockios.h.
    const SIOCOUTQNSD: libc::Ioctl = 0x894b;
    queued_bytes(socket, SIOCOUTQNSD)
}

fn queued_bytes(socket: impl AsFd, request: libc::Ioctl) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed and open; both requests (TIOCOUTQ equals SIOCOUTQ) write one c_int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request, &raw mut bytes) };
    if result == 0 { Ok(usize::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

/// What the kernel reports about a TCP connection (tcp(7), TCP_INFO).
pub(crate) struct TcpState {
    /// Reset, timed out, or closed by both sides and acknowledged.
    pub is_closed: bool,
    /// Since when the peer has acknowledged nothing, if it has not answered the kernel's last retransmission, or its
    /// last probe of a closed window.
    pub unanswered: Option<Duration>,
    pub max_segment_bytes: usize,
}

/// `None` for other sockets than TCP, and where the kernel does not report it.
#[cfg(target_os = "linux")]
pub(crate) fn tcp_state(socket: impl AsFd) -> Option<TcpState> {
    let info = tcp_info(socket)?;
    let retransmits = info.tcpi_unacked > 0 && (info.tcpi_retransmits > 0 || info.tcpi_backoff > 0);
    // A peer with a closed window answers each retransmission. The second figure is for those that no device sends.
    let sent_ms = info.tcpi_last_data_sent.min(info.tcpi_rto / 1000);
    let is_unanswered = info.tcpi_probes > 0 || retransmits && info.tcpi_last_ack_recv > sent_ms;
    Some(TcpState {
        is_closed: info.tcpi_state == CLOSED,
        unanswered: is_unanswered.then(|| Duration::from_millis(info.tcpi_last_ack_recv.into())),
        max_segment_bytes: info.tcpi_snd_mss as usize,
    })
}

/// The kernel's queue of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AcceptQueue {
    /// Clients that are connected and not accepted yet.
    pub length: u32,
    /// The backlog.
    pub limit: u32,
    /// Attempts to connect that were dropped since the socket was made, mostly because the queue was full. Wraps.
    pub dropped: u32,
}

/// `None` for sockets that do not listen, and where the kernel does not report it.
#[cfg(target_os = "linux")]
pub(crate) fn accept_queue(socket: impl AsFd) -> Option<AcceptQueue> {
    // Of a listening socket these two fields are its queue and its backlog (tcp_get_info in the kernel's tcp.c).
    let info = tcp_info(&socket).filter(|info| info.tcpi_state == LISTENS)?;
    Some(AcceptQueue { length: info.tcpi_unacked, limit: info.tcpi_sacked, dropped: dropped(&socket)? })
}

#[cfg(not(target_os = "linux"))]
pub fn accept_queue(_: impl AsFd) -> Option<AcceptQueue> {
    None
}

#[cfg(target_os = "linux")]
fn tcp_info(socket: impl AsFd) -> Option<libc::tcp_info> {
    // SAFETY: a struct of integers only, for which zeros are valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut bytes = libc::socklen_t::try_from(size_of_val(&info)).expect("some hundred bytes");
    let (fd, value) = (socket.as_fd().as_raw_fd(), (&raw mut info).cast());
    // SAFETY: the descriptor is borrowed and open, and the kernel writes at most `bytes` bytes to a live local of that
    // length.
    let result = unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, value, &raw mut bytes) };
    (result == 0).then_some(info)
}

/// What the kernel has dropped for this socket (socket(7), SO_MEMINFO).
#[cfg(target_os = "linux")]
fn dropped(socket: impl AsFd) -> Option<u32> {
    /// SK_MEMINFO_DROPS in the kernel's sock_diag.h: the last of nine numbers.
    const DROPS: usize = 8;
    let mut numbers = [0_u32; DROPS + 1];
    let mut bytes = libc::socklen_t::try_from(size_of_val(&numbers)).expect("36");
    let (fd, value) = (socket.as_fd().as_raw_fd(), numbers.as_mut_ptr().cast());
    // SAFETY: the descriptor is borrowed and open, and the kernel writes at most `bytes` bytes to a live local of that
    // length.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, value, &raw mut bytes) };
    (result == 0 && bytes as usize == size_of_val(&numbers)).then_some(numbers[DROPS])
}

/// The clock of the CPU time that one thread has used (pthread_getcpuclockid(3)).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadClock(libc::clockid_t);

#[cfg(target_os = "linux")]
impl ThreadClock {
    /// `None`: the system has no such clock.
    pub(crate) fn of_this_thread() -> Option<Self> {
        let mut clock = 0;
        // SAFETY: the calling thread exists, and one clockid_t is written to a live local.
        let result = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        (result == 0).then_some(Self(clock))
    }

    /// User and system time; any thread of the process may ask. `None`: the thread has ended.
    pub(crate) fn read(self) -> Option<Duration> {
        // SAFETY: a struct of integers only, for which zeros are valid.
        let mut time: libc::timespec = unsafe { std::mem::zeroed() };
        // SAFETY: for a number that is not a clock, or not any more, the kernel returns EINVAL; the time is a live local.
        let result = unsafe { libc::clock_gettime(self.0, &raw mut time) };
        let nanos = u32::try_from(time.tv_nsec).ok()?;
        (result == 0).then(|| Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos))
    }
}

#[cfg(not(target_os = "linux"))]
impl ThreadClock {
    pub fn of_this_thread() -> Option<Self> {
        None
    }

    pub fn read(self) -> Option<Duration> {
        None
    }
}

/// TCP_CLOSE and TCP_LISTEN in the kernel's tcp_states.h.
#[cfg(target_os = "linux")]
const CLOSED: u8 = 7;
#[cfg(target_os = "linux")]
const LISTENS: u8 = 10;

#[cfg(not(target_os = "linux"))]
pub fn tcp_state(_: impl AsFd) -> Option<TcpState> {
    None
}

/// The addresses of this machine's interfaces, including loopback (getifaddrs(3)).
///
/// # Errors
/// The kernel's error.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    let mut first: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: it writes one pointer to the given location, which is a live local.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut addresses = Vec::new();
    let mut next: *const libc::ifaddrs = first;
    // SAFETY: null, or an entry of the list, which lives until freeifaddrs below.
    while let Some(interface) = unsafe { next.as_ref() } {
        // SAFETY: null, or an address in that list, as long as its family requires.
        addresses.extend(unsafe { ip_of(interface.ifa_addr) });
        next = interface.ifa_next;
    }
    // SAFETY: the list came from getifaddrs, is freed once, and nothing borrowed from it is left.
    unsafe { libc::freeifaddrs(first) };
    Ok(addresses)
}

/// # Safety
/// `address` is null, or points to a live socket address of the length its family requires.
unsafe fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller's promise.
    let family = unsafe { address.as_ref() }?.sa_family;
    match libc::c_int::from(family) {
        // SAFETY: AF_INET means that this is a sockaddr_in; it may be unaligned.
        libc::AF_INET => unsafe {
            let address = address.cast::<libc::sockaddr_in>().read_unaligned();
            Some(Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes()).into())
        },
        // SAFETY: AF_INET6 means that this is a sockaddr_in6; it may be unaligned.
        libc::AF_INET6 => unsafe {
            let address = address.cast::<libc::sockaddr_in6>().read_unaligned();
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn another_thread_reads_the_clock_of_a_busy_one() {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let busy = std::thread::spawn(move || {
            let clock = ThreadClock::of_this_thread().unwrap();
            while clock.read().unwrap() < Duration::from_millis(20) {}
            tell.send(clock).unwrap();
            let _ = ends.recv();
        });
        let clock = told.recv().unwrap();
        let used = clock.read().unwrap();
        assert!(used >= Duration::from_millis(20) && used < Duration::from_secs(10), "{used:?}");
        drop(end);
        busy.join().unwrap();
    }

    #[test]
    fn loopback_is_one_of_the_local_addresses() {
        let addresses = local_addresses().expect("a kernel with interfaces");
        assert!(addresses.contains(&Ipv4Addr::LOCALHOST.into()), "{addresses:?}");
        // An address can be bound if and only if it is one of them.
        let strangers = [[192, 0, 2, 1], [198, 51, 100, 77], [203, 0, 113, 77]].map(|ip| Ipv4Addr::from(ip).into());
        for ip in addresses.iter().copied().filter(IpAddr::is_ipv4).chain(strangers) {
            assert_eq!(TcpListener::bind((ip, 0)).is_ok(), addresses.contains(&ip), "{ip} of {addresses:?}");
        }
    }

    #[test]
    fn what_was_acknowledged_is_not_unsent() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut sender = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (mut receiver, _) = listener.accept().expect("accepts");
        sender.write_all(b"hello").expect("written");
        receiver.read_exact(&mut [0; 5]).expect("read");
        while unsent_bytes(&sender).expect("a socket") > 0 {
            std::thread::yield_now();
        }
    }
}
