//! Finds the addresses of this machine, for the statuses of Gateways that name none.
//!
//! In:  the addresses of the pod, which `POD_IPS` has; without it, those of all interfaces.
//! Out: the addresses at which others reach this machine.

use std::net::IpAddr;

use super::members::is_reachable;

/// The addresses at which others reach this machine.
pub(super) fn own_addresses() -> Vec<IpAddr> {
    let of_pod = std::env::var("POD_IPS").unwrap_or_default();
    chosen(&of_pod, || crate::sys::local_addresses().unwrap_or_default())
}

/// Those of the pod, or else `all`. In the network of a node those would be too many: with IPVS it has the address of every
/// Service.
fn chosen(of_pod: &str, all: impl FnOnce() -> Vec<IpAddr>) -> Vec<IpAddr> {
    let of_pod: Vec<IpAddr> = of_pod.split(',').filter_map(|ip| ip.trim().parse().ok()).collect();
    let mut addresses = if of_pod.is_empty() { all() } else { of_pod };
    addresses.retain(|ip| is_reachable(*ip));
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MOST);
    addresses
}

/// A status with more addresses is refused by the API server.
const MOST: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_the_pod_are_chosen_and_never_too_many() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let all = || {
            (0..20).rev().map(|last| ip(&format!("10.0.0.{last}"))).chain([ip("127.0.0.1"), ip("fe80::1")]).collect()
        };
        assert_eq!(chosen("192.0.2.7,2001:db8::7", all), [ip("192.0.2.7"), ip("2001:db8::7")]);
        for none in ["", "nonsense"] {
            let addresses = chosen(none, all);
            assert_eq!((addresses.len(), addresses[0], addresses[15]), (16, ip("10.0.0.0"), ip("10.0.0.15")));
        }
        assert_eq!(chosen("", || vec![ip("127.0.0.1"), ip("10.0.0.1"), ip("10.0.0.1")]), [ip("10.0.0.1")]);
    }
}
