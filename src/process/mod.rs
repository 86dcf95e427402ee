//! Starts, changes and stops the process: everything in one `snigate run`, from its sockets to its last connection.
//!
//! In:  a routing file, the sockets of a predecessor or of the service manager, signals.
//! Out: [`worker`] threads that serve connections, and control tasks beside them, until the process ends.

// In reading order: first the module that starts everything.
pub(crate) mod server;
pub(crate) mod reload;
pub(crate) mod reporter;
pub(crate) mod apply;
pub(crate) mod needs;
mod accept_queues;
pub(crate) mod listening_sockets;
pub(crate) mod worker;
pub(crate) mod upgrade;
pub(crate) mod signals;
pub(crate) mod systemd;
