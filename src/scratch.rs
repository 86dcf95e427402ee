//! The worker's scratch buffer: one for each thread, borrowed within one poll.
//!
//! In:  a function that reads into it.
//! Out: what that function returns. Bytes that must outlive the call are copied out.

use std::cell::RefCell;

/// Lends this thread's scratch buffer to `f`, which must not call this again. The first call allocates it.
///
/// # Panics
/// If `f` calls it: the buffer is borrowed already.
pub(crate) fn with_scratch<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.is_empty() {
            *scratch = vec![0; SCRATCH_BYTES].into_boxed_slice();
        }
        f(scratch)
    })
}

/// The most that one read takes, and so the most that is kept for a peer that accepts no more bytes.
const SCRATCH_BYTES: usize = 64 << 10;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(Box::default());
}
