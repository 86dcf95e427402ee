//! Runs one data thread: its runtime, the listening sockets it is given, and every connection they accept.
//!
//! A connection lives and dies on its worker: no lock, no wake-up across threads, no work stealing.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{mpsc, watch};

use crate::drain::Phase;
use crate::limits::Permit;
use crate::listener::{self, Order, Shared, Standing};
use crate::operate::registry;
use crate::relay;

/// A listening socket of this worker's own, and what its accept loop is to know.
pub(crate) struct Opening {
    /// Non-blocking.
    pub socket: std::net::TcpListener,
    pub orders: watch::Receiver<Order>,
    pub standing: Standing,
    /// Among the sockets that may still have clients queued.
    pub place: Permit,
}

/// Starts worker `number`; its thread ends when the drain is over.
///
/// # Errors
/// No thread, or no runtime, is to be had.
pub(crate) fn spawn(
    number: usize,
    openings: mpsc::UnboundedReceiver<Opening>,
    shared: Shared,
) -> io::Result<JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        relay::bound_pipes(shared.most_pipes);
        runtime.block_on(serve(openings, shared));
        // Connections that are still open are dropped with their runtime: reset, and counted as drained.
    })
}

async fn serve(openings: mpsc::UnboundedReceiver<Opening>, shared: Shared) {
    let mut drain = shared.drain.clone();
    tokio::spawn(registry::serve(shared.rosters.join()));
    tokio::select! {
        () = drain.reached(Phase::Over) => {}
        () = open(openings, &shared) => {}
        () = beat() => {}
    }
}

/// Never ends: without more to open there is still what was opened.
async fn open(mut openings: mpsc::UnboundedReceiver<Opening>, shared: &Shared) {
    while let Some(Opening { socket, orders, standing, place }) = openings.recv().await {
        tokio::spawn(listener::accept(socket, orders, standing, shared.clone(), place));
    }
    std::future::pending().await
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
