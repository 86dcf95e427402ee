//! Runs one data thread: its runtime, its listening sockets, and every connection they accept.
//!
//! A connection lives and dies on its worker: no lock, no wake-up across threads, no work stealing.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime;

use crate::drain::Phase;
use crate::limits::Permit;
use crate::listener::{self, Listener, Shared};
use crate::relay;

/// A listening socket of this worker's own, the listener it belongs to, and its place among the doors.
pub type Socket = (std::net::TcpListener, Listener, Permit);

/// Starts worker `number`; its thread ends when the drain is over.
///
/// # Errors
/// No thread, or no runtime, is to be had.
pub fn spawn(number: usize, sockets: Vec<Socket>, shared: Shared) -> io::Result<JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        relay::bound_pipes(shared.most_pipes);
        runtime.block_on(serve(sockets, shared));
        // Connections that are still open are dropped with their runtime: reset, and counted as drained.
    })
}

async fn serve(sockets: Vec<Socket>, shared: Shared) {
    let mut drain = shared.drain.clone();
    for (socket, listener, door) in sockets {
        match TcpListener::from_std(socket) {
            Ok(socket) => drop(tokio::spawn(listener::accept(socket, listener, shared.clone(), door))),
            Err(error) => tracing::error!(%error, "a listening socket could not be used"),
        }
    }
    tokio::select! {
        () = drain.reached(Phase::Over) => {}
        () = beat() => {}
    }
}

/// Keeps a timer pending that is nearer than any deadline of a connection. The runtime wakes itself through the kernel
/// for each timer that becomes the nearest one; so none ever does, which saves some system calls a connection.
async fn beat() {
    loop {
        tokio::time::sleep(BEAT).await;
    }
}

/// Below the shortest time that a relay sets a timer for.
const BEAT: Duration = Duration::from_millis(500);
