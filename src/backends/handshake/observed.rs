//! Wraps a stream and records how much we sent first, how much the peer sent, and the peer's first bytes.
//!
//! In:  any stream.
//! Out: the same stream, and what was recorded.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Debug)]
pub(super) struct ObservedStream<S> {
    stream: S,
    said_first: u64,
    got: u64,
    first: Vec<u8>,
}

impl<S> ObservedStream<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, said_first: 0, got: 0, first: Vec::new() }
    }

    /// How many bytes we had sent when the peer's first byte arrived.
    pub(super) fn said_first(&self) -> u64 {
        self.said_first
    }

    /// How many bytes the peer has sent.
    pub(super) fn got(&self) -> u64 {
        self.got
    }

    /// The first bytes from the peer, at most 64.
    pub(super) fn first(&self) -> &[u8] {
        &self.first
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ObservedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        self.got += new.len() as u64;
        let missing = FIRST_BYTES.saturating_sub(self.first.len());
        self.first.extend(new.iter().take(missing));
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ObservedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let (Poll::Ready(Ok(written)), 0) = (&written, self.got) {
            self.said_first += *written as u64;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

const FIRST_BYTES: usize = 64;
