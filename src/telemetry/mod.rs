//! Tells operators what happened: the metrics, the connection log, the names of all outcomes.
//!
//! Imports no other room, so that every room can call it.

mod reason;

pub use self::reason::Reason;
