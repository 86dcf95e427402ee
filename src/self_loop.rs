//! Tells a backend that is one of our own listeners: what goes there comes in again, for ever.
//!
//! In:  where a backend is, where we listen, which addresses this machine has.
//! Out: yes or no; no I/O.
//! Source: bind(2), connect(2): a wildcard listens on every address of its family, `[::]` on those of IPv4 too; a
//!         connection to a wildcard goes to loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whether a connection to `address` would come in at one of `listeners`. `local` are the addresses of this machine's
/// interfaces ([`crate::sys::local_addresses`]); loopback need not be among them, and without I/O it is empty.
///
/// A listener at port 0 has no address yet, and so is never met.
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

/// Where a connection to `ip` ends up.
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
        // Each address of 127.0.0.0/8 is one of its own.
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
