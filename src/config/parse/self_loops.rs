//! Rejects a backend that is one of the file's own listeners: its connections would loop back endlessly.
//!
//! In:  the address of a backend, the addresses of the listeners.
//! Out: a problem, or nothing. Cases that depend on the machine or on DNS (local addresses, a resolved name) are
//!      checked when the configuration comes into force.

use std::net::SocketAddr;

use super::Cursor;
use crate::config::problem::Place;
use crate::self_loop::is_own_listener;

pub(super) fn refuse(address: SocketAddr, bound: &[(SocketAddr, Place)], backend: &Cursor<'_>) {
    let Some((listener, place)) = bound.iter().find(|(listener, _)| is_own_listener(address, &[*listener], &[])) else {
        return;
    };
    let listens = if *listener == address { String::new() } else { format!(", which listens on `{listener}`") };
    backend.error(format_args!(
        "`{address}` is the listener at {place}{listens}: snigate would connect to itself in a loop; \
         write the address that the backend itself listens on"
    ));
}
