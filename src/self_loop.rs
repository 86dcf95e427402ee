//! Detects a backend that is one of our own listeners, where every connection would loop forever.
//!
//! In:  the backend's address, our listeners' addresses, this machine's addresses.
//! Out: yes or no; no I/O.
//! Source: bind(2), connect(2): a wildcard listens on every address of its family, and `[::]` on those of IPv4 as well;
//!         a connection to a wildcard goes to loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whether a connection to `address` would reach one of `listeners`. `local` are the addresses of this machine's
/// interfaces ([`crate::sys::local_addresses`]); it may omit loopback, and is empty where no I/O is allowed.
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

#[cfg(test)]
mod tests {
    use super::*;

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
