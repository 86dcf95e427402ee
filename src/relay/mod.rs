//! Carries bytes both ways until both ways are closed.
//!
//! In:  two connected streams, what the backend must read first, the timeouts.
//! Out: [`End`]: why it ended. FIN and RST are passed on as they came, after what was read before them.
//! Source: DESIGN §9.
//!
//! One future polls both directions on one task: no `split`, no lock, no buffer of its own per connection. Small
//! messages are copied through the worker's scratch buffer; a direction in full flow goes over to splice.

mod copy;
mod direction;
mod pipe;
#[cfg(target_os = "linux")]
mod splice;

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep_until};

pub use self::copy::with_scratch;
pub use self::direction::Prefix;
use self::direction::{Direction, Fault};
pub use self::pipe::MOST_OPEN as MOST_PIPES;
use crate::socket::{self, TcpSettings};
use crate::sys;

/// What a relay must know besides its two streams.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// No byte in either direction.
    pub idle: Duration,
    /// After the first FIN, no byte in the other direction.
    pub half_closed: Duration,
    pub engine: Engine,
    pub tcp: TcpSettings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Through user space; for any stream on any system.
    Copy,
    /// Copies messages, and splices through pipes of `pipe_bytes` what flows in bulk (Linux).
    Adaptive { pipe_bytes: usize },
}

/// Where bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToBackend,
    ToClient,
}

/// Told of every byte as it is handed to the kernel; called often, so it should be an atomic add.
pub trait Meter {
    fn carried(&self, way: Way, bytes: u64);
    fn spliced(&self, way: Way, bytes: u64);
}

/// What a relay carried; kept by the caller, so that it survives an error and a cancelled relay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried {
    pub to_backend: u64,
    pub to_client: u64,
    /// When the backend's first byte was passed on.
    pub first_byte: Option<Instant>,
}

/// Why a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides closed with FIN.
    Finished,
    ClientReset,
    BackendReset,
    IdleTimeout,
    HalfCloseTimeout,
    /// The kernel gave a side up: keepalive or user timeout.
    PeerDead,
}

/// A stream that a relay can carry: bytes, readiness, a descriptor.
pub trait Stream: AsyncRead + AsyncWrite + AsFd + Unpin {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Runs `operation`; a WouldBlock of it clears the readiness.
    ///
    /// # Errors
    /// The operation's.
    fn try_io<R>(&self, interest: Interest, operation: impl FnMut() -> io::Result<R>) -> io::Result<R>;
}

/// Carries bytes between `client` and `backend`; `prefix` is what the backend has not read of the first bytes.
///
/// Cancel-safe in that a dropped relay resets both sides, with what it carried in `carried`.
pub async fn run<C: Stream, B: Stream, M: Meter>(
    client: C,
    backend: B,
    prefix: Prefix,
    settings: &Settings,
    carried: &mut Carried,
    meter: &M,
) -> End {
    let now = Instant::now();
    let mut relay = Relay {
        ends: Ends { client, backend, closing: Closing::Reset },
        to_backend: Direction::new(Way::ToBackend, settings.engine, prefix),
        to_client: Direction::new(Way::ToClient, settings.engine, Prefix::default()),
        broken: None,
        last_activity: now,
        keepalive_set: false,
        settings,
        carried,
        meter,
    };
    let end = {
        let mut timer = pin!(sleep_until(now + settings.idle.min(settings.tcp.keepalive_idle)));
        poll_fn(|cx| relay.poll(cx, timer.as_mut())).await
    };
    match relay.broken {
        Some((Side::Client, _)) => settle(&relay.ends.backend).await,
        Some((Side::Backend, _)) => settle(&relay.ends.client).await,
        None if end == End::Finished => relay.ends.closing = Closing::Fin,
        None => {}
    }
    end
}

/// The portable engine by its name: [`run`] through user space alone.
pub async fn copy_bidirectional<C: Stream, B: Stream, M: Meter>(
    client: C,
    backend: B,
    prefix: Prefix,
    settings: &Settings,
    carried: &mut Carried,
    meter: &M,
) -> End {
    let settings = Settings { engine: Engine::Copy, ..*settings };
    run(client, backend, prefix, &settings, carried, meter).await
}

struct Relay<'a, C: Stream, B: Stream, M> {
    ends: Ends<C, B>,
    to_backend: Direction,
    to_client: Direction,
    /// The side that failed, once one did; what it sent before is still delivered.
    broken: Option<(Side, End)>,
    last_activity: Instant,
    /// The backend's keepalive is set when a connection has lived as long as its first probe would take.
    keepalive_set: bool,
    settings: &'a Settings,
    carried: &'a mut Carried,
    meter: &'a M,
}

impl<C: Stream, B: Stream, M: Meter> Relay<'_, C, B, M> {
    fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<End> {
        let half_closed = self.half_closed();
        let before = (self.carried.to_backend, self.carried.to_client);
        let end = self.poll_directions(cx);
        if before != (self.carried.to_backend, self.carried.to_client) || half_closed != self.half_closed() {
            self.account(before);
        }
        if let Poll::Ready(end) = end {
            return Poll::Ready(end);
        }
        if half_closed != self.half_closed() && self.next_look() < timer.deadline() {
            timer.as_mut().reset(self.next_look());
        }
        self.poll_timer(cx, timer)
    }

    fn poll_directions(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Ends { client, backend, .. } = &mut self.ends;
        let last = self.to_client.is_closed();
        let poll = self.to_backend.poll(cx, client, backend, last, &mut self.carried.to_backend, self.meter);
        if let Poll::Ready(Err(fault)) = poll {
            self.break_off(fault, Way::ToBackend);
        }
        let Ends { client, backend, .. } = &mut self.ends;
        let last = self.to_backend.is_closed();
        let poll = self.to_client.poll(cx, backend, client, last, &mut self.carried.to_client, self.meter);
        if let Poll::Ready(Err(fault)) = poll {
            self.break_off(fault, Way::ToClient);
        }
        match self.broken {
            _ if !(self.to_backend.is_closed() && self.to_client.is_closed()) => Poll::Pending,
            Some((_, end)) => Poll::Ready(end),
            None => Poll::Ready(End::Finished),
        }
    }

    /// Ends what can no longer be carried: nothing more goes to a side that failed, and what it sent is read to its end.
    fn break_off(&mut self, fault: Fault, way: Way) {
        let (side, error) = match (fault, way) {
            (Fault::Read(error), _) => {
                // All that was read has been written, or this direction would not have read on.
                self.to_backend.abandon();
                self.to_client.abandon();
                (if way == Way::ToBackend { Side::Client } else { Side::Backend }, error)
            }
            (Fault::Write(error), Way::ToBackend) => {
                self.to_backend.abandon();
                (Side::Backend, error)
            }
            (Fault::Write(error), Way::ToClient) => {
                self.to_client.abandon();
                (Side::Client, error)
            }
        };
        let end = match (dead(&error), side) {
            (true, _) => End::PeerDead,
            (false, Side::Client) => End::ClientReset,
            (false, Side::Backend) => End::BackendReset,
        };
        self.broken.get_or_insert((side, end));
    }

    fn account(&mut self, (to_backend, to_client): (u64, u64)) {
        self.last_activity = Instant::now();
        if to_client == 0 && self.carried.to_client > 0 {
            self.carried.first_byte = Some(self.last_activity);
        }
        let (more_to_backend, more_to_client) =
            (self.carried.to_backend - to_backend, self.carried.to_client - to_client);
        if more_to_backend > 0 {
            self.meter.carried(Way::ToBackend, more_to_backend);
        }
        if more_to_client > 0 {
            self.meter.carried(Way::ToClient, more_to_client);
        }
    }

    /// Re-armed only when it fires, however many bytes have passed meanwhile.
    fn poll_timer(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<End> {
        while timer.as_mut().poll(cx).is_ready() {
            if !self.keepalive_set {
                self.keepalive_set = true;
                socket::keep_alive(&self.ends.backend, &self.settings.tcp);
            }
            if let Some(end) = self.reset_after_fin() {
                return Poll::Ready(end);
            }
            let deadline = self.deadline();
            if deadline <= Instant::now() {
                return Poll::Ready(if self.half_closed() { End::HalfCloseTimeout } else { End::IdleTimeout });
            }
            timer.as_mut().reset(self.next_look());
        }
        Poll::Pending
    }

    /// Finds a side that said FIN and then RST. Nobody reads from it any more, so that its error would wake nobody.
    fn reset_after_fin(&mut self) -> Option<End> {
        let (error, way) = match (self.to_backend.is_closed(), self.to_client.is_closed()) {
            (true, false) => (socket::error(&self.ends.client)?, Way::ToClient),
            (false, true) => (socket::error(&self.ends.backend)?, Way::ToBackend),
            _ => return None,
        };
        self.break_off(Fault::Write(error), way);
        self.broken.map(|(_, end)| end)
    }

    /// When the timer should fire next.
    fn next_look(&self) -> Instant {
        if self.half_closed() { self.deadline().min(Instant::now() + RESET_LOOK) } else { self.deadline() }
    }

    fn deadline(&self) -> Instant {
        self.last_activity + if self.half_closed() { self.settings.half_closed } else { self.settings.idle }
    }

    fn half_closed(&self) -> bool {
        self.to_backend.is_closed() != self.to_client.is_closed()
    }
}

/// Both streams; dropped before the relay is finished, they send RST, so that a truncation is seen as one.
struct Ends<C: Stream, B: Stream> {
    client: C,
    backend: B,
    closing: Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    Fin,
    Reset,
}

impl<C: Stream, B: Stream> Drop for Ends<C, B> {
    fn drop(&mut self) {
        if self.closing == Closing::Reset {
            socket::reset_on_drop(&self.client);
            socket::reset_on_drop(&self.backend);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Backend,
}

/// Waits until the kernel has delivered what was written to `stream`, since RST discards what it still holds.
async fn settle(stream: &impl Stream) {
    let mut unsent = sys::unsent_bytes(stream).unwrap_or(0);
    let (mut pause, mut patience) = (SETTLE_PAUSE, SETTLE_PATIENCE);
    while unsent > 0 && !patience.is_zero() {
        tokio::time::sleep(pause).await;
        patience = patience.saturating_sub(pause);
        pause = (pause * 2).min(SETTLE_PAUSE_MOST);
        let now_unsent = sys::unsent_bytes(stream).unwrap_or(0);
        if now_unsent < unsent {
            patience = SETTLE_PATIENCE;
        }
        unsent = now_unsent;
    }
}

/// Whether the kernel gave the peer up, rather than the peer us.
fn dead(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable)
}

macro_rules! streams {
    ($($stream:ty),*) => {$(
        impl Stream for $stream {
            fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                <$stream>::poll_read_ready(self, cx)
            }

            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                <$stream>::poll_write_ready(self, cx)
            }

            fn try_io<R>(&self, interest: Interest, operation: impl FnMut() -> io::Result<R>) -> io::Result<R> {
                <$stream>::try_io(self, interest, operation)
            }
        }
    )*};
}

streams!(TcpStream, UnixStream);

/// How long a reset that follows a FIN may go unseen.
const RESET_LOOK: Duration = Duration::from_secs(1);
const SETTLE_PAUSE: Duration = Duration::from_millis(1);
const SETTLE_PAUSE_MOST: Duration = Duration::from_millis(200);
/// How long a reset is held back while the other side takes nothing.
const SETTLE_PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
