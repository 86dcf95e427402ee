//! Runs one data thread: its runtime, its listening sockets, and every connection they accept.
//!
//! A connection stays on its worker for its whole life: no locks, no wake-ups across threads, no work stealing. Which
//! worker that is, is decided when it is accepted. Its
//! registry ticket is not `Send`, so the runtime is tokio's local one: other runtimes do not compile.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{self, LocalOptions};
use tokio::sync::{mpsc::UnboundedReceiver, oneshot, watch};
use tokio::task::spawn_local;

use crate::drain::Phase;
use crate::limits::Permit;
use crate::listener::{self, AcceptOrder, CurrentListener, Shared};
use crate::operate::registry;
use crate::relay;
use crate::supervise::{vital, vital_thread};

/// A listening socket for this worker, and the context of its accept loop.
pub(crate) struct NewSocket {
    /// Non-blocking.
    pub socket: std::net::TcpListener,
    pub orders: watch::Receiver<AcceptOrder>,
    pub current: CurrentListener,
    /// Held while the socket may still have queued clients.
    pub place: Permit,
}

/// A data thread that runs.
pub(crate) struct Worker {
    thread: JoinHandle<()>,
    /// Closed at the end of the thread.
    ended: oneshot::Receiver<()>,
}

impl Worker {
    /// Waits for the end of the thread without blocking the runtime.
    pub(crate) async fn ended(self) {
        let _ = self.ended.await;
        // A panic would have ended the process.
        let _ = self.thread.join();
    }
}

/// Starts worker `number`; its thread ends after the drain. A panic outside of its connections ends the process: its
/// sockets would otherwise keep clients waiting that nobody accepts.
///
/// # Errors
/// A thread or a runtime cannot be created.
pub(crate) fn spawn(number: usize, openings: UnboundedReceiver<NewSocket>, shared: Shared) -> io::Result<Worker> {
    let (built, result) = mpsc::sync_channel(1);
    let (ends, ended) = oneshot::channel();
    let name = format!("worker-{number}");
    let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
        let _until_the_end = ends;
        vital_thread(&name, move || {
            // Built here, since it belongs to its thread.
            let mut runtime = runtime::Builder::new_current_thread();
            match runtime.enable_io().enable_time().build_local(LocalOptions::default()) {
                Err(error) => _ = built.send(Err(error)),
                Ok(runtime) => {
                    let _ = built.send(Ok(()));
                    relay::bound_pipes(shared.budget.most_pipes);
                    runtime.block_on(serve(number, openings, shared));
                    // Connections that are still open are dropped with the runtime: reset, and counted as drained.
                }
            }
        });
    })?;
    result.recv().unwrap_or_else(|_| Err(io::Error::other("the worker thread ended immediately")))?;
    Ok(Worker { thread, ended })
}

async fn serve(number: usize, openings: UnboundedReceiver<NewSocket>, mut shared: Shared) {
    let mut drain = shared.drain.clone();
    spawn_local(vital("the list of connections", registry::serve(shared.registries.join(number))));
    if let Some(load) = registry::load() {
        let handed = shared.balance.join(number, load);
        spawn_local(vital("connections of other workers", listener::take_over(handed, shared.clone())));
    }
    tokio::select! {
        () = drain.reached(Phase::Over) => {}
        () = open(openings, &shared) => {}
        () = beat() => {}
    }
}

/// Never returns: sockets that were opened stay in use when no more can arrive.
async fn open(mut openings: UnboundedReceiver<NewSocket>, shared: &Shared) {
    while let Some(NewSocket { socket, orders, current, place }) = openings.recv().await {
        let accepting = listener::accept(socket, orders, current, shared.clone(), place);
        spawn_local(vital("an accept loop", accepting));
    }
    std::future::pending().await
}

/// Keeps a timer pending that is earlier than any deadline of a connection. The runtime makes a system call whenever a
/// timer becomes the earliest one; this way none does, which saves a few per connection.
async fn beat() {
    loop {
        tokio::time::sleep(BEAT).await;
    }
}

/// Shorter than any timer that a relay sets.
const BEAT: Duration = Duration::from_millis(500);
