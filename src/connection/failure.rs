//! The cause of an end, as the log shows it.
//!
//! In:  the error of a stage.
//! Out: `error` of the connection line.

use std::fmt;

use super::admission::NotAdmitted;
use super::second_hello::SecondHelloError;
use crate::connect::{ConnectError, NotTls};
use crate::peek::PeekError;

/// The cause of an end, for the log.
pub(super) enum Failure {
    NotAdmitted(NotAdmitted),
    Peek(PeekError),
    Connect(ConnectError),
    Answer(NotTls),
    SecondHello(SecondHelloError),
    Loop,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAdmitted(error) => error.fmt(f),
            Self::Peek(error) => error.fmt(f),
            Self::Connect(error) => error.fmt(f),
            Self::Answer(error) => error.fmt(f),
            Self::SecondHello(error) => error.fmt(f),
            Self::Loop => f.write_str("the connection came back from the backends to one of our own listeners"),
        }
    }
}
