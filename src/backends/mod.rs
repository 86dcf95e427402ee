//! Learns about backends off the path of a connection: where they are and whether they work.
//!
//! In:  the snapshot in force.
//! Out: addresses and health verdicts, written into its pools.

pub(crate) mod health;
pub(crate) mod discovery;
pub(crate) mod resolve;
pub(crate) mod handshake;
