//! Detects a backend that is one of our own listeners, where every connection would loop forever.
//!
//! A loop that leads through other proxies shows only when a connection comes back: see [`in_flight`].
//!
//! In:  the backend's address, our listeners' addresses; where these do not decide, a trial connection.
//! Out: yes or no.
//! Source: bind(2), connect(2): a wildcard listens on every address of its family, and `[::]` on those of IPv4 as well;
//!         a connection to a wildcard goes to loopback. proc_net(5): the table of TCP sockets.

pub(crate) mod in_flight;
mod suspicion;

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// Whether a connection to `address` comes back to one of `listeners`. Tries it for an address that is local but not
/// loopback: there, the kernel may send it elsewhere (a Kubernetes ClusterIP is on a local device in IPVS mode).
pub(crate) fn comes_back(address: SocketAddr, listeners: &[SocketAddr]) -> bool {
    is_own_listener(address, listeners, &[])
        || (is_own_listener(address, listeners, &[address.ip().to_canonical()]) && is_local(address) && is_met(address))
}

/// Whether `address` is one of `listeners` on this machine, without a trial: for a backend that is not meant to be here.
pub(crate) fn is_here(address: SocketAddr, listeners: &[SocketAddr]) -> bool {
    is_own_listener(address, listeners, &[])
        || (is_own_listener(address, listeners, &[address.ip().to_canonical()]) && is_local(address))
}

/// To a local address the kernel sends from that address. Unlike a list of the addresses, this needs no netlink, which a
/// sandbox may deny; and unlike binding, it holds with `net.ipv4.ip_nonlocal_bind`. No packet is sent.
fn is_local(address: SocketAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(address).and_then(|()| socket.local_addr()));
    from.is_ok_and(|from| from.ip() == address.ip())
}

/// Connects to `address` and looks for the other end among the sockets of this network namespace. If it is refused,
/// nothing listens there yet, and our own listener is about to.
fn is_met(address: SocketAddr) -> bool {
    let probe = match TcpStream::connect_timeout(&address, PROBE_TIMEOUT) {
        Ok(probe) => probe,
        Err(error) => return error.kind() == ErrorKind::ConnectionRefused,
    };
    let Ok(from) = probe.local_addr() else { return true };
    let tables: Vec<String> = TABLES.iter().filter_map(|table| fs::read_to_string(table).ok()).collect();
    tables.is_empty() || tables.iter().any(|table| has_other_end(table, from, address.port()))
}

/// Whether `table` has a socket at `port` that is connected to `from`.
fn has_other_end(table: &str, from: SocketAddr, port: u16) -> bool {
    let (port, peers) = (format!(":{port:04X}"), [shown(from), shown(mapped(from))]);
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port))
            && fields.next().is_some_and(|remote| peers.iter().any(|peer| peer == remote))
    })
}

/// As the kernel shows it: 32-bit words in the byte order of the machine.
fn shown(address: SocketAddr) -> String {
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (words, _) = octets.as_chunks();
    let words: String = words.iter().map(|word| format!("{:08X}", u32::from_ne_bytes(*word))).collect();
    format!("{words}:{:04X}", address.port())
}

/// As a dual-stack listener sees it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Whether a connection to `address` would reach one of `listeners`. `local` are the addresses of this machine's
/// interfaces; it may omit loopback, and is empty where no I/O is allowed.
///
/// A listener at port 0 has no address yet, so it never matches.
pub(crate) fn is_own_listener(address: SocketAddr, listeners: &[SocketAddr], local: &[IpAddr]) -> bool {
    let to = destination(address.ip());
    let is_here = || to.is_loopback() || local.iter().any(|local| local.to_canonical() == to);
    listeners.iter().filter(|listener| listener.port() != 0 && listener.port() == address.port()).any(|listener| {
        match listener.ip().to_canonical() {
            IpAddr::V4(ip) if ip.is_unspecified() => to.is_ipv4() && is_here(),
            IpAddr::V6(ip) if ip.is_unspecified() => is_here(),
            ip => ip == to,
        }
    })
}

/// Where a connection to `ip` actually goes.
fn destination(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
/// A local address answers at once; one that leads elsewhere may not answer at all.
const PROBE_TIMEOUT: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_of_a_connection_is_found_in_the_table_of_the_kernel() {
        for bind in ["127.0.0.1:0", "[::]:0"] {
            let listener = std::net::TcpListener::bind(bind).expect("a port");
            let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().expect("bound").port()));
            assert!(is_met(address), "{bind}");
            let client = TcpStream::connect(address).expect("it listens");
            let from = client.local_addr().expect("connected");
            let tables = TABLES.map(|table| fs::read_to_string(table).expect("Linux"));
            let found = |from, port| tables.iter().any(|table| has_other_end(table, from, port));
            assert!(found(from, address.port()));
            // Elsewhere, as after a translation of the address.
            assert!(!found(from, address.port() ^ 1));
            assert!(!found(SocketAddr::from(([127, 0, 0, 77], from.port())), address.port()));
            drop(listener);
            assert!(is_met(address), "nothing listens there yet");
        }
    }

    #[test]
    fn only_addresses_of_this_machine_are_local() {
        for (address, wanted) in
            [("127.0.0.1:1", true), ("[::1]:1", true), ("192.0.2.1:1", false), ("[2001:db8::1]:1", false)]
        {
            assert_eq!(is_local(address.parse().expect("an address")), wanted, "{address}");
        }
    }

    fn loops(backend: &str, listener: &str, local: &[&str]) -> bool {
        let [backend, listener] = [backend, listener].map(|address| address.parse().expect(address));
        let local: Vec<IpAddr> = local.iter().map(|ip| ip.parse().expect(ip)).collect();
        is_own_listener(backend, &[([127, 0, 0, 9], 9).into(), listener], &local)
    }

    #[test]
    fn the_same_address_is_a_loop_and_another_is_none() {
        assert!(loops("192.0.2.1:443", "192.0.2.1:443", &[]));
        assert!(loops("[2001:db8::1]:443", "[2001:db8::1]:443", &[]));
        assert!(loops("[::ffff:192.0.2.1]:443", "192.0.2.1:443", &[]));
        assert!(!loops("192.0.2.1:444", "192.0.2.1:443", &[]));
        assert!(!loops("192.0.2.2:443", "192.0.2.1:443", &["192.0.2.1", "192.0.2.2"]));
        // The addresses of 127.0.0.0/8 are distinct.
        assert!(!loops("127.0.0.2:443", "127.0.0.1:443", &[]));
    }

    #[test]
    fn a_wildcard_listens_on_every_address_that_is_here() {
        assert!(loops("127.0.0.1:443", "0.0.0.0:443", &[]));
        assert!(loops("127.1.2.3:443", "[::]:443", &[]));
        assert!(loops("[::1]:443", "[::]:443", &[]));
        assert!(!loops("[::1]:443", "0.0.0.0:443", &["::1"]), "of the other family");
        assert!(!loops("192.0.2.1:443", "0.0.0.0:443", &[]), "not known to be here");
        assert!(!loops("192.0.2.1:443", "0.0.0.0:443", &["192.0.2.2"]));
        assert!(loops("192.0.2.1:443", "0.0.0.0:443", &["192.0.2.1"]));
        assert!(loops("192.0.2.1:443", "[::]:443", &["192.0.2.1"]));
        assert!(loops("[2001:db8::1]:443", "[::]:443", &["2001:db8::1"]));
        assert!(!loops("[2001:db8::1]:443", "0.0.0.0:443", &["2001:db8::1"]), "of the other family");
    }

    #[test]
    fn a_connection_to_a_wildcard_goes_to_loopback() {
        assert!(loops("0.0.0.0:443", "127.0.0.1:443", &[]));
        assert!(loops("0.0.0.0:443", "0.0.0.0:443", &[]));
        assert!(loops("[::]:443", "[::1]:443", &[]));
        assert!(loops("[::]:443", "[::]:443", &[]));
        assert!(!loops("[::]:443", "127.0.0.1:443", &[]));
    }

    #[test]
    fn a_listener_at_port_0_is_never_met() {
        assert!(!loops("127.0.0.1:0", "127.0.0.1:0", &[]));
    }
}
