//! Answers operators: what is in force, why, and which connections are live.
//!
//! In:  questions over HTTP or from the command line; the connections themselves, which enter the [`registry`].
//! Out: answers, and the ends of connections that an operator or a reload asked for.

pub(crate) mod admin;
pub(crate) mod diagnosis;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod history;
pub(crate) mod recent_refusals;
pub(crate) mod registry;
pub(crate) mod status;
mod top_names;
