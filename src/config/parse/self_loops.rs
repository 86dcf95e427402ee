//! Rejects a backend where snigate itself listens: its connections would loop back endlessly, or get at the admin server.
//!
//! In:  the address of a backend, where the file's listeners and admin server listen.
//! Out: a problem, or nothing. Cases that depend on the machine or on DNS (local addresses, a resolved name) are
//!      checked when the configuration comes into force.

use std::net::SocketAddr;

use super::Cursor;
use crate::config::Config;
use crate::config::problem::{Place, Problem, Problems, Severity};
use crate::self_loop::is_own_listener;
use crate::settings::{AcmeChallenge, Address, Admin, BackendAddress};

/// Where snigate itself listens.
#[derive(Clone, Copy)]
pub(super) struct Ours<'a> {
    /// The addresses of listeners and of the admin server.
    pub bound: &'a [(SocketAddr, Place)],
    pub admin: &'a Admin,
}

pub(super) fn refuse(address: &BackendAddress, Ours { bound, admin }: Ours<'_>, backend: &Cursor<'_>) {
    let own = match address {
        BackendAddress::Inet(address) => {
            bound.iter().find(|(ours, _)| is_own_listener(*address, &[*ours], &[])).map(|(ours, place)| {
                let is_admin = admin.bind.contains(&Address::Tcp(*ours));
                let what = if is_admin { "the admin address" } else { "the listener" };
                let listens = if ours == address { String::new() } else { format!(", which listens on `{ours}`") };
                format!("{what} at {place}{listens}")
            })
        }
        BackendAddress::Unix(path) => {
            let is_ours = |bind: &Address| matches!(bind, Address::Unix(ours) if **ours == **path);
            admin.bind.iter().any(is_ours).then(|| "the socket of the admin server".to_owned())
        }
        BackendAddress::Name { .. } | BackendAddress::Srv { .. } | BackendAddress::Service(_) => None,
    };
    if let Some(own) = own {
        backend.error(format_args!(
            "`{address}` is {own}: snigate would connect to itself in a loop; write the address that the backend itself \
             listens on"
        ));
    }
}

/// Warns about a pool whose ACME challenges would come back: none of them is answered.
pub(super) fn warn_of_challenges(config: &Config, places: &[Place], problems: &mut Problems) {
    if !config.listeners.iter().any(|listener| listener.acme_challenge == Some(AcmeChallenge::Pool)) {
        return;
    }
    let bound: Vec<SocketAddr> = config.listeners.iter().flat_map(|l| l.bind.iter().map(|bind| bind.0)).collect();
    let mut asked = vec![false; config.pools.len()];
    for to in config.routes.iter().map(|route| &route.to).chain([&config.no_sni, &config.unmatched]) {
        to.pools().for_each(|pool| asked[pool] = true);
    }
    for ((pool, place), _) in config.pools.iter().zip(places).zip(&asked).filter(|(_, asked)| **asked) {
        let port = pool.http_port.0;
        let comes_back = |address: &BackendAddress| match address {
            BackendAddress::Inet(address) => is_own_listener(SocketAddr::new(address.ip(), port), &bound, &[]),
            _ => false,
        };
        let Some(backend) = pool.backends.iter().find(|backend| comes_back(&backend.address)) else { continue };
        problems.push(Problem {
            severity: Severity::Warning,
            place: place.clone(),
            path: format!("pools.{}", pool.name),
            message: format!(
                "ACME challenges for `{}` go to its port {port}, where snigate itself listens, and are refused; set \
                 `http_port` to the port on which the backend serves HTTP",
                backend.address
            ),
        });
    }
}
