//! Waits in the queue of a pool whose backends are all full.
//!
//! In:  the pool, the client, which may leave.
//! Out: a place on a backend, when it is the client's turn; else why there is none.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use super::answer::{has_more, reset_of};
use super::{ConnectError, Said};
use crate::pool::{InLine, Lease, PickRequest, Pool};

/// A place on a backend for a client that has waited.
#[derive(Debug)]
pub(crate) struct Place {
    /// The pool in force by now, if a reload has replaced the one that the client came with.
    pub pool: Arc<Pool>,
    pub lease: Lease,
}

/// Waits for a place, at most `queue.timeout`.
///
/// # Errors
/// The queue is full; no place became free in time; the client left; a reload took the queue away; or no backend can be
/// used any more.
pub(crate) async fn wait(
    pool: &Arc<Pool>,
    request: PickRequest<'_>,
    client: &TcpStream,
    said: Said,
) -> Result<Place, ConnectError> {
    let began = Instant::now();
    let settings = pool.settings.queue;
    let Some(in_line) = pool.queue.join(settings.size as usize) else {
        return Err(ConnectError::QueueFull { size: settings.size });
    };
    // A place may have become free before anybody was there to be called.
    pool.call_waiting(began);
    loop {
        tokio::select! {
            biased;
            () = in_line.called() => {}
            left = leaves(client, said) => return Err(left),
            () = sleep_until(began + *settings.timeout) => {
                pool.queue_metrics.iter().for_each(|metrics| metrics.timed_out());
                return Err(ConnectError::QueueTimeout { after: began.elapsed() });
            }
        }
        let pool = pool.queue.in_force().unwrap_or_else(|| Arc::clone(pool));
        if let Some(lease) = turn(&pool, &in_line, request)? {
            in_line.served();
            // Several places may be free although one was called: a backend is back, or a limit was raised.
            pool.call_waiting(Instant::now());
            pool.queue_metrics.iter().for_each(|metrics| metrics.waited(began.elapsed()));
            return Ok(Place { pool, lease });
        }
        // Others on this worker may be about to give a place back.
        yield_now().await;
    }
}

/// Tries to take a place. `None`: another connection was faster, and the client waits again.
fn turn(pool: &Pool, in_line: &InLine, request: PickRequest<'_>) -> Result<Option<Lease>, ConnectError> {
    let now = Instant::now();
    let mut picks = pool.picks_again(request);
    if let Some(lease) = picks.next(now) {
        return Ok(Some(lease));
    }
    if !picks.met_full() {
        return Err(ConnectError::NoBackend);
    }
    if !pool.has_queue() {
        return Err(ConnectError::Full);
    }
    in_line.goes_back();
    pool.call_waiting(now);
    Ok(None)
}

/// Waits until the client has reset the connection or, if it needs to send more to finish its handshake, has sent FIN.
async fn leaves(client: &TcpStream, said: Said) -> ConnectError {
    let fin_is_the_end = said == Said::HelloAlone;
    loop {
        if client.readable().await.is_err() {
            return ConnectError::ClientLeft;
        }
        match has_more(client) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return ConnectError::ClientGone(error),
            Ok(0) if fin_is_the_end => return ConnectError::ClientLeft,
            Ok(_) => break,
        }
    }
    // What it has sent must be left for the relay, and makes the socket readable from now on.
    loop {
        tokio::select! {
            _ = client.ready(Interest::ERROR) => {
                let Err(error) = reset_of(client);
                if error.kind() != std::io::ErrorKind::WouldBlock {
                    return ConnectError::ClientGone(error);
                }
            }
            () = sleep(LOOK), if fin_is_the_end => {
                if client.ready(Interest::READABLE).await.is_ok_and(|ready| ready.is_read_closed()) {
                    return ConnectError::ClientLeft;
                }
            }
        }
    }
}

/// How soon a FIN is noticed of a client that has sent more than its hello, which is rare.
const LOOK: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
