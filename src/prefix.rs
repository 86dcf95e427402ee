//! Bytes to write before anything else, and how many of them are already written.
//!
//! In:  bytes that were read before there was a peer to write them to, or that a socket did not accept.
//! Out: the unwritten ones, until none is left and the memory is freed.

/// Bytes to write first. Nearly always empty, so an empty one is a null pointer and no more.
#[derive(Debug, Default)]
pub(crate) struct Prefix(Option<Box<Unwritten>>);

#[derive(Debug)]
struct Unwritten {
    bytes: Vec<u8>,
    written: usize,
}

impl Prefix {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self((!bytes.is_empty()).then(|| Box::new(Unwritten { bytes, written: 0 })))
    }

    pub(crate) fn unwritten(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |unwritten| &unwritten.bytes[unwritten.written..])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Counts `bytes` more as written, and frees the memory after the last.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        if let Some(unwritten) = &mut self.0 {
            unwritten.written += bytes;
        }
        if self.unwritten().is_empty() {
            self.0 = None;
        }
    }
}
