//! Copies through the worker's scratch buffer: the engine for messages, and for streams that cannot splice.
//!
//! In:  a stream to read.
//! Out: its bytes written to the other; what that one does not take goes to an exact-size buffer.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::Stream;
use super::direction::{Fault, Moved, Prefix};

/// Reads once and writes once. The scratch is borrowed inside this call only, never across an await.
pub(super) fn message(
    cx: &mut Context<'_>,
    from: &mut impl Stream,
    to: &mut impl Stream,
    carried: &mut u64,
    rest: &mut Prefix,
) -> Poll<Result<Moved, Fault>> {
    with_scratch(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(from).poll_read(cx, &mut buffer)).map_err(Fault::Read)?;
        let read = buffer.filled();
        if read.is_empty() {
            return Poll::Ready(Ok(Moved::End));
        }
        let written = match write(cx, to, read) {
            Poll::Ready(result) => result.map_err(Fault::Write)?,
            Poll::Pending => 0,
        };
        *carried += written as u64;
        if written < read.len() {
            *rest = Prefix::new(read[written..].to_vec());
        }
        Poll::Ready(Ok(Moved::Bytes(read.len())))
    })
}

pub(super) fn write(cx: &mut Context<'_>, to: &mut impl Stream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        result => Poll::Ready(result),
    }
}

/// Lends the worker's scratch buffer, which belongs to nobody between two polls.
pub fn with_scratch<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.is_empty() {
            *scratch = vec![0; SCRATCH_BYTES].into_boxed_slice();
        }
        f(scratch)
    })
}

const SCRATCH_BYTES: usize = 256 << 10;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(Box::default());
}
