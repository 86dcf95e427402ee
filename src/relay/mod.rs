//! Relays bytes both ways until both directions are closed.
//!
//! In:  two connected streams, what the backend must read first, the timeouts.
//! Out: [`End`]: why it ended. FIN and RST are passed on as received, after the bytes read before them.
//! Source: docs/design.md.
//!
//! One future polls both directions on one task: no `split`, no lock, no buffer per connection. Small messages are
//! copied through the worker's scratch buffer; a direction in bulk transfer switches to splice.

mod copy;
mod direction;
mod meter;
mod pipe;
#[cfg(target_os = "linux")]
mod splice;
mod stream;

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep_until};

use self::direction::{Fault, Flow};
pub(crate) use self::meter::End;
pub(crate) use self::meter::Meter;
pub(crate) use self::pipe::{MOST_OPEN as MOST_PIPES, bound as bound_pipes};
pub(crate) use self::stream::Stream;
use crate::prefix::Prefix;
use crate::socket::{self, TcpSettings};
use crate::sys;
use crate::way::Way;

/// Relay settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The relay ends after this long without a byte in either direction.
    pub idle: Duration,
    /// The same after the first FIN, for the other direction.
    pub half_closed: Duration,
    pub engine: Engine,
    pub tcp: TcpSettings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Copies through user space; works for any stream on any system.
    Copy,
    /// Copies messages, and splices bulk transfers through pipes of `pipe_bytes` (Linux).
    Adaptive { pipe_bytes: usize },
}

/// Bytes read before the relay began and not yet written, and whether the backend has sent anything.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    pub to_backend: Prefix,
    pub to_client: Prefix,
    pub heard: Heard,
}

/// Whether the meter has seen the backend's first bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Heard {
    #[default]
    No,
    Yes,
}

pin_project! {
    /// Relays bytes between a client and a backend until both directions are closed; its output says why it ended.
    ///
    /// Dropped before that, it resets both sides.
    pub(crate) struct Relay<C: Stream, B: Stream, M> {
        #[pin]
        timer: Sleep,
        carrier: Carrier<C, B, M>,
    }
}

impl<C: Stream, B: Stream, M: Meter> Relay<C, B, M> {
    /// `idle` replaces the one in `settings`.
    pub(crate) fn new(
        client: C,
        backend: B,
        opening: Opening,
        settings: Arc<Settings>,
        idle: Duration,
        meter: M,
    ) -> Self {
        let now = Instant::now();
        let carrier = Carrier {
            ends: Ends { client, backend, closing: Closing::Reset },
            to_backend: Flow::new(Way::ToBackend, settings.engine, opening.to_backend, Heard::Yes),
            to_client: Flow::new(Way::ToClient, settings.engine, opening.to_client, opening.heard),
            stage: Stage::Carrying,
            broken: None,
            last_activity: now,
            keepalive_set: false,
            polled_by: None,
            timer_waits: false,
            idle,
            settings,
            meter,
        };
        Self { timer: sleep_until(now + idle.min(carrier.settings.tcp.keepalive_idle)), carrier }
    }
}

impl<C: Stream, B: Stream, M: Meter> Future for Relay<C, B, M> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let mut this = self.project();
        if this.carrier.stage == Stage::Carrying {
            let end = ready!(this.carrier.poll(cx, this.timer.as_mut()));
            this.carrier.meter.ended(end);
            this.carrier.stage = this.carrier.closing_stage(end);
        }
        this.carrier.poll_settled(cx, this.timer)
    }
}

/// Everything in a relay except its timer.
struct Carrier<C: Stream, B: Stream, M> {
    // Dropped first, so that the counts a meter reports on its own drop are already final.
    ends: Ends<C, B>,
    to_backend: Flow,
    to_client: Flow,
    stage: Stage,
    /// The side that failed, if any; bytes received from it earlier are still delivered.
    broken: Option<(Side, End)>,
    last_activity: Instant,
    /// The backend's keepalive is not set until a connection is old enough for its first probe to be due.
    keepalive_set: bool,
    /// The task to wake.
    polled_by: Option<Waker>,
    /// The timer will wake the task.
    timer_waits: bool,
    idle: Duration,
    settings: Arc<Settings>,
    meter: M,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Carrying,
    /// The reset is held back until the kernel has delivered to `side` what was written before, since a reset would
    /// discard it.
    Settling {
        end: End,
        side: Side,
        unsent_bytes: u32,
        pause_ms: u16,
        patience_ms: u16,
    },
    Ended(End),
}

impl<C: Stream, B: Stream, M: Meter> Carrier<C, B, M> {
    fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<End> {
        if !self.polled_by.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.polled_by = Some(cx.waker().clone());
            self.to_backend.is_polled_anew();
            self.to_client.is_polled_anew();
            self.timer_waits = false;
        }
        let half_closed = self.half_closed();
        let before = (self.to_backend.carried, self.to_client.carried);
        let end = self.poll_directions(cx);
        let is_active =
            before != (self.to_backend.carried, self.to_client.carried) || half_closed != self.half_closed();
        if is_active {
            self.account(before);
        }
        if let Poll::Ready(end) = end {
            return Poll::Ready(end);
        }
        if half_closed != self.half_closed() {
            self.meter.half_closed(if self.to_client.is_closed() { Way::ToClient } else { Way::ToBackend });
            if self.next_look() < timer.deadline() {
                timer.as_mut().reset(self.next_look());
            }
        }
        if is_active && self.timer_waits && self.last_activity < timer.deadline() {
            return Poll::Pending;
        }
        self.poll_timer(cx, timer)
    }

    fn poll_directions(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Ends { client, backend, .. } = &mut self.ends;
        let last = self.to_client.is_closed();
        let poll = self.to_backend.poll(cx, client, backend, last, self.settings.engine, &mut self.meter);
        if let Poll::Ready(Err(fault)) = poll {
            self.break_off(fault, Way::ToBackend);
        }
        let Ends { client, backend, .. } = &mut self.ends;
        let last = self.to_backend.is_closed();
        let poll = self.to_client.poll(cx, backend, client, last, self.settings.engine, &mut self.meter);
        if let Poll::Ready(Err(fault)) = poll {
            self.break_off(fault, Way::ToClient);
        }
        match self.broken {
            _ if !(self.to_backend.is_closed() && self.to_client.is_closed()) => Poll::Pending,
            Some((_, end)) => Poll::Ready(end),
            None => Poll::Ready(End::Finished),
        }
    }

    /// Ends what can no longer be relayed: nothing more is written to a side that failed, and what it sent is read to
    /// the end.
    fn break_off(&mut self, fault: Fault, way: Way) {
        let (side, error) = match (fault, way) {
            (Fault::Read(error), _) => {
                // Everything read has been written, or this direction would not have read on.
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
        let (more_to_backend, more_to_client) =
            (self.to_backend.carried - to_backend, self.to_client.carried - to_client);
        if more_to_client > 0 {
            self.meter.carried(Way::ToClient, more_to_client);
        }
        if more_to_backend > 0 {
            self.meter.carried(Way::ToBackend, more_to_backend);
        }
    }

    /// Re-armed only when it fires, however many bytes have passed in the meantime.
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
        self.timer_waits = has_budget_remaining();
        Poll::Pending
    }

    /// Finds a side that sent FIN and then RST. Nothing reads from it any more, so its error would wake no task.
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
        self.last_activity + if self.half_closed() { self.settings.half_closed } else { self.idle }
    }

    fn half_closed(&self) -> bool {
        self.to_backend.is_closed() != self.to_client.is_closed()
    }

    /// The stage that follows once the last byte has been relayed.
    fn closing_stage(&mut self, end: End) -> Stage {
        let side = match self.broken {
            Some((Side::Client, _)) => Side::Backend,
            Some((Side::Backend, _)) => Side::Client,
            None => {
                if end == End::Finished {
                    self.ends.closing = Closing::Fin;
                }
                return Stage::Ended(end);
            }
        };
        let (pause_ms, patience_ms) = (SETTLE_PAUSE_MS, SETTLE_PATIENCE_MS);
        Stage::Settling { end, side, unsent_bytes: u32::MAX, pause_ms, patience_ms }
    }

    /// Waits, polling at growing intervals, while the kernel still holds bytes for the healthy side and keeps making
    /// progress.
    fn poll_settled(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<End> {
        loop {
            match self.stage {
                Stage::Ended(end) => return Poll::Ready(end),
                Stage::Carrying => return Poll::Pending,
                Stage::Settling { end, side, unsent_bytes: before, pause_ms, patience_ms } => {
                    if before != u32::MAX {
                        ready!(timer.as_mut().poll(cx));
                    }
                    let unsent_bytes = match side {
                        Side::Client => deliverable_bytes(&self.ends.client),
                        Side::Backend => deliverable_bytes(&self.ends.backend),
                    };
                    let patience_ms =
                        if unsent_bytes < before { SETTLE_PATIENCE_MS } else { patience_ms.saturating_sub(pause_ms) };
                    if unsent_bytes == 0 || patience_ms == 0 {
                        self.stage = Stage::Ended(end);
                        continue;
                    }
                    timer.as_mut().reset(Instant::now() + Duration::from_millis(pause_ms.into()));
                    let pause_ms = (pause_ms * 2).min(SETTLE_PAUSE_MOST_MS);
                    self.stage = Stage::Settling { end, side, unsent_bytes, pause_ms, patience_ms };
                }
            }
        }
    }
}

/// Both streams. Dropped before the relay has finished they send RST, so that the peers can see the truncation.
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

/// How many written bytes can still reach the peer. The kernel keeps counting them after a connection has died.
fn deliverable_bytes(socket: &impl AsFd) -> u32 {
    match sys::unsent_bytes(socket) {
        Ok(bytes) if bytes > 0 && !sys::is_closed(socket) => u32::try_from(bytes).unwrap_or(u32::MAX - 1),
        _ => 0,
    }
}

/// Whether the kernel gave up on the peer, rather than the peer closing on us.
fn dead(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable)
}

/// How long a reset that follows a FIN may go unnoticed.
const RESET_LOOK: Duration = Duration::from_secs(1);
const SETTLE_PAUSE_MS: u16 = 1;
const SETTLE_PAUSE_MOST_MS: u16 = 200;
/// How long a reset is held back while the other side reads nothing.
const SETTLE_PATIENCE_MS: u16 = 5000;

#[cfg(test)]
mod tests;
