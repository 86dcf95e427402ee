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

use self::direction::Flow;
pub(crate) use self::meter::End;
pub(crate) use self::meter::Meter;
pub(crate) use self::pipe::{MOST_OPEN as MOST_PIPES, Pipes, all as pipes, bound as bound_pipes};
use self::stream::Fault;
pub(crate) use self::stream::Stream;
use crate::prefix::Prefix;
use crate::settings::Tcp;
use crate::socket;
use crate::sys;
use crate::way::Way;

/// Relay settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The relay ends after this long without a byte in either direction.
    pub idle: Duration,
    /// The same after the first FIN, for the other direction.
    pub half_closed: Duration,
    /// How long a connection may live, more or less a tenth; `None`: as long as it likes.
    pub max_age: Option<Duration>,
    pub engine: Engine,
    pub tcp: Tcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Copies through user space; works for any stream on any system.
    Copy,
    /// Copies messages, and splices bulk transfers through pipes of `pipe_bytes` (Linux).
    Adaptive { pipe_bytes: usize },
}

/// How long one relay may last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    /// It ends after this long without a byte in either direction.
    pub idle: Duration,
    /// It ends this long after the client was accepted, more or less a tenth.
    pub max_age: Option<Duration>,
}

/// Bytes read before the relay began and not yet written, and whether the backend has sent anything.
#[derive(Debug, Default)]
pub(crate) struct Opening {
    pub to_backend: Prefix,
    pub to_client: Prefix,
    pub heard: Heard,
}

/// Whether the meter has seen enough of the backend's first bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Heard {
    #[default]
    No,
    Yes,
}

impl Heard {
    /// Enough only if the `other` is, too.
    pub(crate) fn and(self, other: Self) -> Self {
        if self == Self::Yes { other } else { Self::No }
    }
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
    /// `lifetime` replaces what `settings` has.
    pub(crate) fn new(
        client: C,
        backend: B,
        opening: Opening,
        settings: Arc<Settings>,
        lifetime: Lifetime,
        meter: M,
    ) -> Self {
        let now = Instant::now();
        let mut carrier = Carrier {
            ends: Ends { client, backend, closing: Closing::Reset },
            to_backend: Flow::new(Way::ToBackend, settings.engine, opening.to_backend, Heard::Yes),
            to_client: Flow::new(Way::ToClient, settings.engine, opening.to_client, opening.heard),
            stage: Stage::Carrying,
            broken: None,
            last_activity: now,
            keepalive_set: false,
            unanswered: None,
            watches: true,
            polled_by: None,
            timer_waits: false,
            idle_ms: u32::try_from(lifetime.idle.as_millis()).unwrap_or(u32::MAX),
            age_ms: lifetime.max_age.map_or(u32::MAX, jittered_ms),
            settings,
            meter,
        };
        if carrier.meter.inspects() {
            carrier.to_backend.begin_inspected();
        }
        let first_look = carrier.next_look().min(now + carrier.settings.tcp.keepalive.idle.0);
        Self { timer: sleep_until(first_look), carrier }
    }
}

impl<C: Stream, B: Stream, M> Relay<C, B, M> {
    /// After [`End::Refused`]: the client, which still gets an answer, and the meter.
    pub(crate) fn refused(self: Pin<&mut Self>) -> (&mut C, &M) {
        let carrier = self.project().carrier;
        (&mut carrier.ends.client, &carrier.meter)
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
    /// Since when the client and the backend have acknowledged nothing that the kernel sent; nearly always `None`.
    unanswered: Option<Box<[Option<Instant>; 2]>>,
    /// The timer fires in time for the next look at what is unacknowledged, or no look is needed.
    watches: bool,
    /// The task to wake.
    polled_by: Option<Waker>,
    /// The timer will wake the task.
    timer_waits: bool,
    /// At most 49 days, in the place of a `Duration`, since every idle relay pays for its size.
    idle_ms: u32,
    /// From when the meter began; `u32::MAX` is never.
    age_ms: u32,
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
        let begins_to_watch = is_active && !self.watches;
        self.watches |= is_active;
        if (begins_to_watch || self.to_backend.holds_bytes()) && self.next_look() < timer.deadline() {
            timer.as_mut().reset(self.next_look());
        }
        self.poll_timer(cx, timer)
    }

    fn poll_directions(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Ends { client, backend, .. } = &mut self.ends;
        let last = self.to_client.is_closed();
        let to_backend = self.to_backend.poll(cx, client, backend, last, self.settings.engine, &mut self.meter);
        let last = self.to_backend.is_closed();
        // Also after a fault: the backend may have finished, and a client that has everything may end as it likes.
        let to_client = self.to_client.poll(cx, backend, client, last, self.settings.engine, &mut self.meter);
        match to_backend {
            // Look sooner: nobody reads from the client now, so its reset would wake no task.
            Poll::Ready(Err(Fault::Blocked)) => self.timer_waits = false,
            Poll::Ready(Err(fault)) => self.break_off(fault, Way::ToBackend),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        match to_client {
            Poll::Ready(Err(Fault::Blocked) | Ok(())) | Poll::Pending => {}
            Poll::Ready(Err(fault)) => self.break_off(fault, Way::ToClient),
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
        let is_served = self.to_client.is_closed() && self.broken.is_none() && is_delivered(&self.ends.client);
        let (side, error) = match (fault, way) {
            (Fault::Blocked, _) => return,
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
            (Fault::Refused, _) => {
                self.to_backend.abandon();
                self.to_client.abandon();
                self.ends.closing = Closing::ResetBackend;
                self.broken.get_or_insert((Side::Client, End::Refused));
                return;
            }
        };
        let end = match (dead(&error), side) {
            (true, _) => End::PeerDead,
            // The client has everything that the backend sent up to its FIN, if not all was read: a close_notify, say.
            (false, Side::Client) if is_served => End::Finished,
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
            if let Some(end) = self.reset_after_fin().or_else(|| self.death()).or_else(|| self.futile()) {
                return Poll::Ready(end);
            }
            let deadline = self.deadline();
            if deadline <= Instant::now() {
                return Poll::Ready(match self.expires() {
                    Some(expires) if expires <= deadline => End::MaxAge,
                    _ if self.half_closed() => End::HalfCloseTimeout,
                    _ => End::IdleTimeout,
                });
            }
            timer.as_mut().reset(self.next_look());
        }
        self.timer_waits = self.watches && has_budget_remaining();
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

    /// Finds a side that has acknowledged nothing for `user_timeout`. A side that pauses acknowledges each probe of its
    /// closed window, but TCP_USER_TIMEOUT would end it all the same.
    fn death(&mut self) -> Option<End> {
        let user_timeout = *(*self.settings.tcp.user_timeout)?;
        let now = Instant::now();
        let mut unanswered = self.unanswered.as_deref().copied().unwrap_or_default();
        let waits_for_client = look(&self.ends.client, &mut unanswered[0], now);
        let waits_for_backend = look(&self.ends.backend, &mut unanswered[1], now);
        self.unanswered = (unanswered != [None; 2]).then(|| Box::new(unanswered));
        // Where nothing is unacknowledged, nothing changes before the next byte.
        self.watches = waits_for_client || waits_for_backend;
        let is_dead = |since: Option<Instant>| since.is_some_and(|since| now >= since + user_timeout);
        let way = match unanswered.map(is_dead) {
            [true, _] => Way::ToClient,
            [false, true] => Way::ToBackend,
            [false, false] => return None,
        };
        self.break_off(Fault::Write(io::ErrorKind::TimedOut.into()), way);
        self.broken.map(|(_, end)| end)
    }

    /// Finds a client that is gone while its backend accepts nothing of what it sent before.
    fn futile(&mut self) -> Option<End> {
        let patience = Duration::from_millis(SETTLE_PATIENCE_MS.into());
        if !self.to_backend.holds_bytes() || self.last_activity.elapsed() < patience {
            return None;
        }
        // Taken, since the backend has had its time already.
        match self.broken.take_if(|(side, _)| *side == Side::Client) {
            Some((_, end)) => Some(end),
            None if self.broken.is_some() || !socket::has_failed(&self.ends.client) => None,
            None if socket::error(&self.ends.client).is_some_and(|error| dead(&error)) => Some(End::PeerDead),
            None => Some(End::ClientReset),
        }
    }

    /// When the timer should fire next.
    fn next_look(&self) -> Instant {
        let deadline = self.deadline();
        let user_timeout = self.settings.tcp.user_timeout.filter(|_| self.watches);
        let look = user_timeout.map_or(Duration::MAX, |timeout| (*timeout / LOOKS_IN_USER_TIMEOUT).max(LEAST_LOOK));
        let look = if self.half_closed() || self.to_backend.holds_bytes() { look.min(RESET_LOOK) } else { look };
        Instant::now().checked_add(look).map_or(deadline, |look| look.min(deadline))
    }

    fn deadline(&self) -> Instant {
        let silence =
            if self.half_closed() { self.settings.half_closed } else { Duration::from_millis(self.idle_ms.into()) };
        let silent = self.last_activity + silence;
        self.expires().map_or(silent, |expires| expires.min(silent))
    }

    /// When the connection is too old.
    fn expires(&self) -> Option<Instant> {
        (self.age_ms != u32::MAX).then(|| self.meter.began() + Duration::from_millis(self.age_ms.into()))
    }

    fn half_closed(&self) -> bool {
        self.to_backend.is_closed() != self.to_client.is_closed()
    }

    /// The stage that follows once the last byte has been relayed.
    fn closing_stage(&mut self, end: End) -> Stage {
        let side = match self.broken {
            Some((_, End::Refused)) => return Stage::Ended(end),
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
    ResetBackend,
}

impl<C: Stream, B: Stream> Drop for Ends<C, B> {
    fn drop(&mut self) {
        if self.closing == Closing::Reset {
            socket::reset_on_drop(&self.client);
        }
        if self.closing != Closing::Fin {
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
        Ok(bytes) if bytes > 0 && sys::tcp_state(socket).is_none_or(|state| !state.is_closed) => {
            u32::try_from(bytes).unwrap_or(u32::MAX - 1)
        }
        _ => 0,
    }
}

/// Whether the client has received everything, up to what a delayed acknowledgement leaves open: two segments and the
/// FIN.
fn is_delivered(client: &impl AsFd) -> bool {
    let delayed_bytes = sys::tcp_state(client).map_or(0, |state| 2 * state.max_segment_bytes);
    sys::unsent_bytes(client).is_ok_and(|bytes| bytes <= 1 + delayed_bytes)
        && sys::never_sent_bytes(client).is_ok_and(|bytes| bytes == 0)
}

/// Keeps in `since` since when the peer has not answered the kernel; returns whether anything is unacknowledged.
fn look(socket: &impl AsFd, since: &mut Option<Instant>, now: Instant) -> bool {
    let waits = sys::unsent_bytes(socket).is_ok_and(|bytes| bytes > 0);
    let silence = if waits { sys::tcp_state(socket).and_then(|state| state.unanswered) } else { None };
    // It may be older than what is unacknowledged, so it counts from the first look on.
    *since =
        silence.map(|silence| since.map_or(now, |since| now.checked_sub(silence).map_or(since, |at| at.max(since))));
    waits
}

/// Spread by a tenth to either side, so that connections opened together do not end together.
fn jittered_ms(max_age: Duration) -> u32 {
    let jitter = 0.9 + 0.2 * fastrand::f64();
    u32::try_from(max_age.mul_f64(jitter).as_millis()).unwrap_or(u32::MAX)
}

/// Whether the kernel gave up on the peer, rather than the peer closing on us.
fn dead(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable)
}

/// How much later than `user_timeout` a dead peer is found, at most: a quarter of it.
const LOOKS_IN_USER_TIMEOUT: u32 = 4;
const LEAST_LOOK: Duration = Duration::from_millis(100);
/// How long a reset may go unnoticed on a side that nobody reads from.
const RESET_LOOK: Duration = Duration::from_secs(1);
const SETTLE_PAUSE_MS: u16 = 1;
const SETTLE_PAUSE_MOST_MS: u16 = 200;
/// How long a reset is held back while the other side reads nothing.
const SETTLE_PATIENCE_MS: u16 = 5000;

#[cfg(test)]
mod tests;
