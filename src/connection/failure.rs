//! The cause of an end, as the log shows it.
//!
//! In:  the error of a stage.
//! Out: `error` of the connection line.

use std::fmt;

use super::admission::NotAdmitted;
use super::second_hello::SecondHelloError;
use crate::client_hello::NotHello;
use crate::connect::{ConnectError, NotTls};
use crate::ech::Illegal;
use crate::peek::PeekError;
use crate::request_head::BadRequest;

/// The cause of an end, for the log.
pub(super) enum Failure {
    NotAdmitted(NotAdmitted),
    Peek(PeekError),
    Connect(ConnectError),
    Answer(NotTls),
    Ech(Illegal),
    SecondHello(SecondHelloError),
    Loop,
}

impl Failure {
    /// The same without the name that the client asked for. `None`: there is no name in it.
    pub(super) fn without_name(&self) -> Option<String> {
        match self {
            Self::Peek(PeekError::Hello(NotHello::Name { error, .. })) => Some(format!("invalid server name: {error}")),
            Self::Peek(PeekError::Request(BadRequest::Host { error, .. })) => {
                Some(format!("the host cannot be used: {error}"))
            }
            Self::Ech(Illegal::Hello(NotHello::Name { error, .. }))
            | Self::SecondHello(SecondHelloError::Ech(Illegal::Hello(NotHello::Name { error, .. }))) => {
                Some(format!("the inner hello: invalid server name: {error}"))
            }
            Self::SecondHello(SecondHelloError::NameChanged { to: Some(_) }) => {
                Some("the second ClientHello has another name".to_owned())
            }
            Self::SecondHello(SecondHelloError::Hello(NotHello::Name { error, .. })) => {
                Some(format!("the second ClientHello: invalid server name: {error}"))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAdmitted(error) => error.fmt(f),
            Self::Peek(error) => error.fmt(f),
            Self::Connect(error) => error.fmt(f),
            Self::Answer(error) => error.fmt(f),
            Self::Ech(illegal) => illegal.fmt(f),
            Self::SecondHello(error) => error.fmt(f),
            Self::Loop => f.write_str("the connection came back from the backends to one of our own listeners"),
        }
    }
}
