//! Serves HTTP to a bounded number of clients for a bounded time each, so that no admin client can cost the process
//! much, whatever it does.
//!
//! In:  a listener, the pages, the clients of all listeners, the time to stop.
//! Out: answers.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};

use super::Peer;
use super::clients::{Clients, MAX_CLIENTS, Place};
use crate::socket::AdminSocket;
use crate::supervise::log_panic;
use crate::telemetry::{Metrics, Task};

/// Serves until `shutdown` completes; then idle clients are closed and answers in progress get one more second.
pub(super) async fn serve(
    socket: AdminSocket,
    router: Router,
    clients: Arc<Clients>,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) {
    let listener = match Listener::of(socket) {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::error!(event = "admin_socket_failed", %error, "cannot serve an admin address");
        }
    };
    let (stop, stopped) = watch::channel(());
    let mut tasks = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let mut look = interval(STUCK_LOOK);
    let start = |tasks: &mut JoinSet<()>, (stream, peer): (Box<dyn Stream>, Peer)| {
        let place = clients.admit();
        let router = router.clone().layer(Extension(peer)).layer(Extension(place.asking()));
        tasks.spawn(converse(stream, router, place, stopped.clone()));
    };
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(client) => {
                    clients.may_admit().await;
                    start(&mut tasks, client);
                }
                // Most likely out of file descriptors: retrying at once would spin.
                Err(error) => {
                    tracing::debug!(event = "admin_accept_failed", %error, "admin accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = tasks.join_next() => if let Err(error) = ended && let Ok(panic) = error.try_into_panic() {
                log_panic(Task::Admin, &metrics, &*panic);
            },
            _ = look.tick() => clients.evict_stuck(STUCK),
            () = &mut shutdown => break,
        }
    }
    // Closing the socket resets the clients in its queue, so they are answered first.
    while tasks.len() < MAX_CLIENTS
        && let Ok(Ok(client)) = timeout(QUEUE_LOOK, listener.accept()).await
    {
        start(&mut tasks, client);
    }
    drop((listener, stop));
    let _ = timeout(GRACE, async { while tasks.join_next().await.is_some() {} }).await;
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Listener {
    fn of(socket: AdminSocket) -> io::Result<Self> {
        Ok(match socket {
            AdminSocket::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            AdminSocket::Unix(socket) => Self::Unix(UnixListener::from_std(socket)?),
        })
    }

    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Peer)> {
        match self {
            Self::Tcp(listener) => {
                listener.accept().await.map(|(stream, peer)| (Box::new(stream) as _, Peer::Tcp(peer)))
            }
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| (Box::new(stream) as _, Peer::Unix)),
        }
    }
}

/// Serves one client. hyper ends it after [`IDLE`] without a complete request; [`LIFETIME`] ends a client that keeps
/// sending requests or does not read its answer, but not one that follows the events; it ends at once when another client needs its place.
async fn converse(stream: Box<dyn Stream>, router: Router, place: Place, mut stopped: watch::Receiver<()>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let accepted = Instant::now();
    // Errors of a client's connection are not logged: an operator cannot fix them.
    tokio::select! {
        _ = &mut connection => return,
        () = place.evicted() => return,
        () = place.outlived(LIFETIME) => {}
        // hyper would close a client that has not sent a request yet. A client that has just connected gets a moment
        // to send it; for older ones this checks once whether a request has arrived.
        _ = stopped.changed() => {
            place.end_stream();
            if timeout_at(accepted + FIRST_REQUEST, &mut connection).await.is_ok() {
                return;
            }
        },
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}

const MAX_HEADER_BYTES: usize = 16 << 10;
const IDLE: Duration = Duration::from_secs(5);
const LIFETIME: Duration = Duration::from_secs(120);
const GRACE: Duration = Duration::from_secs(1);
const FIRST_REQUEST: Duration = Duration::from_millis(200);
/// tokio sees a queued client only at its next poll of the kernel, so checking once is not enough.
const QUEUE_LOOK: Duration = Duration::from_millis(10);
/// A client that follows the events and takes none for so long is not there any more, or does not read.
const STUCK: Duration = Duration::from_secs(15);
const STUCK_LOOK: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
