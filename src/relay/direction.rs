//! Moves one direction of a relay: first the unwritten rest, then a message or a pipe's worth, then the end.
//!
//! In:  readiness of the two streams.
//! Out: bytes moved; ready when this direction is closed, or when one of the streams failed.
//! Source: docs/design.md.

use std::io;
use std::mem;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tokio::task::coop::has_budget_remaining;

use super::copy::{Message, Then};
use super::pipe::{self, Pipe};
use super::stream::Fault;
use super::{Engine, Heard, Meter, Stream, copy};
use crate::prefix::Prefix;
use crate::scratch::with_scratch;
use crate::way::Way;

/// The state of one direction. Polling a closed one is allowed.
#[derive(Debug)]
pub(super) struct Flow {
    way: Way,
    state: State,
    mode: Mode,
    /// Read but not yet accepted by the other side; an exact-size buffer, empty most of the time.
    rest: Prefix,
    /// Whether the meter has seen the first bytes.
    heard: Heard,
    /// There was nothing to read, and the polling task will be woken when there is.
    waits: bool,
    /// Present only while it holds bytes.
    pipe: Option<Box<Pipe>>,
    /// Bytes the other side's kernel has accepted.
    pub(super) carried: u64,
}

#[derive(Debug)]
enum State {
    Open,
    /// EOF was read; the bytes before it are still to be written.
    Ending,
    /// Reading failed; the bytes before the error are still to be written.
    Failing(io::Error),
    Closed,
}

/// How bytes are moved, and how many consecutive transfers have argued for the other engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The meter sees every byte before it is passed on.
    Inspect,
    CopyOnly,
    Message {
        large: u8,
    },
    Bulk {
        short: u8,
    },
}

/// How a transfer into user space or a pipe ended.
pub(super) enum Moved {
    Bytes(usize),
    /// Everything was moved.
    All,
    End,
}

impl Flow {
    pub(super) fn new(way: Way, engine: Engine, rest: Prefix, heard: Heard) -> Self {
        Self { way, state: State::Open, mode: Mode::of(engine), rest, heard, waits: false, pipe: None, carried: 0 }
    }

    /// The meter inspects what is read for as long as it wants to.
    pub(super) fn begin_inspected(&mut self) {
        self.mode = Mode::Inspect;
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether bytes were read that the other side has not accepted.
    pub(super) fn holds_bytes(&self) -> bool {
        !self.rest.is_empty() || self.pipe.is_some()
    }

    /// A different task polls now, and has no wakeup registered.
    pub(super) fn is_polled_anew(&mut self) {
        self.waits = false;
    }

    /// Closes without delivering the bytes held; for a side that can accept no more.
    pub(super) fn abandon(&mut self) {
        self.state = State::Closed;
        self.waits = false;
        self.rest = Prefix::default();
        // It may hold bytes, so it is not returned to the pool.
        self.pipe = None;
    }

    /// Moves what can be moved now. `last`: the other direction is closed, so dropping the stream will send FIN.
    pub(super) fn poll<M: Meter>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Stream,
        to: &mut impl Stream,
        last: bool,
        engine: Engine,
        meter: &mut M,
    ) -> Poll<Result<(), Fault>> {
        if self.waits {
            if !from.is_read_ready() {
                return if self.is_refused(cx, meter) { REFUSED } else { Poll::Pending };
            }
            self.waits = false;
        }
        let mut budget = BUDGET_BYTES;
        loop {
            if self.is_refused(cx, meter) {
                return REFUSED;
            }
            let Poll::Ready(written) = self.write_rest(cx, to) else { return BLOCKED };
            written?;
            let Poll::Ready(emptied) = self.empty_pipe(cx, to, meter) else { return BLOCKED };
            emptied?;
            if !matches!(self.state, State::Open) {
                return self.poll_end(cx, to, last);
            }
            if budget == 0 {
                return yield_to_others(cx);
            }
            if self.mode == Mode::Inspect && !meter.inspects() {
                self.mode = Mode::of(engine);
            }
            let moved = match self.mode {
                Mode::Bulk { .. } => self.poll_splice(cx, from, engine),
                Mode::CopyOnly | Mode::Message { .. } => self.poll_copy(cx, from, to, meter),
                Mode::Inspect => self.poll_inspected(cx, from, meter),
            };
            match moved {
                Poll::Ready(moved) => match moved? {
                    Moved::Bytes(bytes) => budget = budget.saturating_sub(bytes),
                    Moved::All if !self.rest.is_empty() => {}
                    Moved::All => return self.wait(),
                    Moved::End => self.state = State::Ending,
                },
                Poll::Pending => return self.wait(),
            }
        }
    }

    fn is_refused<M: Meter>(&self, cx: &mut Context<'_>, meter: &mut M) -> bool {
        self.mode == Mode::Inspect && matches!(self.state, State::Open) && meter.refuses_now(cx)
    }

    /// Passes on how the stream ended, once everything read before has been written.
    fn poll_end(&mut self, cx: &mut Context<'_>, to: &mut impl Stream, last: bool) -> Poll<Result<(), Fault>> {
        if matches!(self.state, State::Ending) && !last {
            // An error here is reported again by the other direction, with its reason.
            let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
        }
        match mem::replace(&mut self.state, State::Closed) {
            State::Failing(error) => Poll::Ready(Err(Fault::Read(error))),
            State::Open | State::Ending | State::Closed => Poll::Ready(Ok(())),
        }
    }

    /// Writes what was read and not written before.
    fn write_rest(&mut self, cx: &mut Context<'_>, to: &mut impl Stream) -> Poll<Result<(), Fault>> {
        while !self.rest.is_empty() {
            let bytes = ready!(copy::write(cx, to, self.rest.unwritten())).map_err(Fault::Write)?;
            self.rest.wrote(bytes);
            self.carried += bytes as u64;
        }
        Poll::Ready(Ok(()))
    }

    /// Call after the stream returned pending, so that it is not polled again before it is ready.
    fn wait<T>(&mut self) -> Poll<T> {
        // Out of coop budget the runtime also returns pending, but registers no wakeup for readiness.
        self.waits = has_budget_remaining();
        Poll::Pending
    }

    /// Reads one message and writes it; bytes not accepted become the rest.
    fn poll_copy<M: Meter>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Stream,
        to: &mut impl Stream,
        meter: &mut M,
    ) -> Poll<Result<Moved, Fault>> {
        let heard = &mut self.heard;
        let hear = |bytes: &[u8]| {
            if *heard == Heard::No && !bytes.is_empty() {
                *heard = meter.first_bytes(bytes);
            }
        };
        let Message { bytes, then } = ready!(copy::message(cx, from, to, &mut self.carried, &mut self.rest, hear))?;
        if let Mode::Message { large } = self.mode {
            self.mode = match large + 1 {
                _ if bytes < LARGE_READ_BYTES => Mode::Message { large: 0 },
                LARGE_READS => Mode::Bulk { short: 0 },
                large => Mode::Message { large },
            };
        }
        match then {
            Then::Drained => Poll::Ready(Ok(Moved::All)),
            Then::Open => Poll::Ready(Ok(Moved::Bytes(bytes))),
            Then::End => Poll::Ready(Ok(Moved::End)),
            Then::Failed(error) => {
                self.state = State::Failing(error);
                Poll::Ready(Ok(Moved::Bytes(bytes)))
            }
        }
    }

    /// Reads what is available; what the meter returns of it becomes the rest.
    #[cold]
    fn poll_inspected<M: Meter>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Stream,
        meter: &mut M,
    ) -> Poll<Result<Moved, Fault>> {
        let (bytes, passed) = ready!(with_scratch(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(cx, &mut buffer)).map_err(Fault::Read)?;
            Poll::Ready(Ok((buffer.filled().len(), meter.inspect(buffer.filled()))))
        }))?;
        self.rest = Prefix::new(passed.ok_or(Fault::Refused)?);
        Poll::Ready(Ok(if bytes == 0 || meter.ends_client() { Moved::End } else { Moved::Bytes(bytes) }))
    }

    #[cfg(target_os = "linux")]
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Stream,
        engine: Engine,
    ) -> Poll<Result<Moved, Fault>> {
        let (Mode::Bulk { short }, Engine::Adaptive { pipe_bytes }) = (self.mode, engine) else {
            self.mode = Mode::CopyOnly;
            return Poll::Ready(Ok(Moved::Bytes(0)));
        };
        let Some(mut pipe) = pipe::take(pipe_bytes) else {
            self.mode = Mode::Message { large: 0 };
            return Poll::Ready(Ok(Moved::Bytes(0)));
        };
        match super::splice::fill(cx, from, &mut pipe) {
            Poll::Pending => {
                pipe::give_back(pipe);
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => {
                pipe::give_back(pipe);
                Poll::Ready(Ok(Moved::End))
            }
            Poll::Ready(Ok(bytes)) => {
                self.pipe = Some(pipe);
                self.mode = match short + 1 {
                    _ if bytes >= SHORT_SPLICE_BYTES => Mode::Bulk { short: 0 },
                    SHORT_SPLICES => Mode::Message { large: 0 },
                    short => Mode::Bulk { short },
                };
                Poll::Ready(Ok(Moved::Bytes(bytes)))
            }
            // This kind of socket, or this kernel, does not support splice.
            Poll::Ready(Err(error)) if super::splice::is_unsupported(&error) => {
                self.mode = Mode::CopyOnly;
                Poll::Ready(Ok(Moved::Bytes(0)))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(Fault::Read(error))),
        }
    }

    #[cfg(target_os = "linux")]
    fn empty_pipe<M: Meter>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut impl Stream,
        meter: &mut M,
    ) -> Poll<Result<(), Fault>> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(())) };
        while !pipe.is_empty() {
            let bytes = ready!(super::splice::empty(cx, pipe, to)).map_err(Fault::Write)?;
            self.carried += bytes as u64;
            meter.spliced(self.way, bytes as u64);
        }
        if let Some(pipe) = self.pipe.take() {
            pipe::give_back(pipe);
        }
        Poll::Ready(Ok(()))
    }

    #[cfg(not(target_os = "linux"))]
    fn poll_splice(&mut self, _: &mut Context<'_>, _: &mut impl Stream, _: Engine) -> Poll<Result<Moved, Fault>> {
        self.mode = Mode::CopyOnly;
        Poll::Ready(Ok(Moved::Bytes(0)))
    }

    #[cfg(not(target_os = "linux"))]
    fn empty_pipe<M: Meter>(&mut self, _: &mut Context<'_>, _: &mut impl Stream, _: &mut M) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }
}

impl Mode {
    fn of(engine: Engine) -> Self {
        match engine {
            Engine::Adaptive { .. } if cfg!(target_os = "linux") => Self::Message { large: 0 },
            Engine::Adaptive { .. } | Engine::Copy => Self::CopyOnly,
        }
    }
}

/// Schedules another poll of this task after others have had a turn, and after the runtime has polled for I/O events. A
/// plain `wake` would run the task before that, and a few bulk transfers would keep everything else waiting.
fn yield_to_others<T>(cx: &mut Context<'_>) -> Poll<T> {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
    Poll::Pending
}

const REFUSED: Poll<Result<(), Fault>> = Poll::Ready(Err(Fault::Refused));
const BLOCKED: Poll<Result<(), Fault>> = Poll::Ready(Err(Fault::Blocked));
/// How many bytes one direction moves before other connections of the worker get a turn.
const BUDGET_BYTES: usize = 1 << 20;
/// This many consecutive reads of at least this size make a bulk transfer; below it, splice costs more than copying.
const LARGE_READ_BYTES: usize = 32 << 10;
const LARGE_READS: u8 = 2;
/// This many consecutive splices below this size end a bulk transfer.
const SHORT_SPLICE_BYTES: usize = 8 << 10;
const SHORT_SPLICES: u8 = 3;
