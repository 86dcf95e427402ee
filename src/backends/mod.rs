//! Finds out about backends off the connection path: their addresses and their health.
//!
//! In:  the snapshot in force.
//! Out: addresses and health verdicts, written into its pools.

pub(crate) mod confirmation;
pub(crate) mod health;
pub(crate) mod discovery;
pub(crate) mod resolve;
pub(crate) mod handshake;
