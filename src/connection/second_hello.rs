//! Refuses a second ClientHello with another server name than the one that the connection was routed by.
//!
//! In:  what the client sends after its hello, before the backend's first answer and after a HelloRetryRequest.
//! Out: the same bytes, to be passed on; or [`SecondHelloError`] if a second hello is among them with another name.
//! Source: RFC 8446 §4.1.2 (a second hello keeps its server_name), §4.2.10 (early data), §D.4 (ChangeCipherSpec).
//!
//! Every other record is passed on as it comes. A hello is held until it is complete: a backend must not see the end of
//! one that has not been checked here.

use std::fmt;
use std::ops::RangeInclusive;

use crate::client_hello::{ClientHello, Hello, NotHello, Reader};

/// Reads records until a hello has been passed on.
#[derive(Debug)]
pub(super) struct SecondHello {
    /// The start of a record header, or of a hello.
    held: Vec<u8>,
    /// Bytes still to come of a record of another type.
    record_bytes: usize,
    reader: Reader,
    state: SecondHelloState,
}

#[derive(Debug)]
enum SecondHelloState {
    /// The backend may still ask for a second hello.
    Expected,
    /// It has accepted the first one.
    Unneeded,
    /// It was passed on, or the client does not speak TLS.
    Passed,
}

/// Why a second hello is refused.
#[derive(Debug)]
pub(super) enum SecondHelloError {
    NameChanged { to: Option<Box<str>> },
    Hello(NotHello),
}

impl SecondHello {
    pub(super) fn new(max_hello_bytes: usize) -> Self {
        let reader = Reader::new(max_hello_bytes);
        Self { held: Vec::new(), record_bytes: 0, reader, state: SecondHelloState::Expected }
    }

    /// The backend has answered, and not with a HelloRetryRequest.
    pub(super) fn accepted(&mut self) {
        self.state = SecondHelloState::Unneeded;
    }

    /// Whether all that follows can be passed on unread.
    pub(super) fn is_over(&self) -> bool {
        match self.state {
            SecondHelloState::Expected => false,
            SecondHelloState::Unneeded => self.held.is_empty(),
            SecondHelloState::Passed => true,
        }
    }

    /// Takes what the client sent next, and returns what can be passed on. `first` is the hello it was routed by.
    ///
    /// # Errors
    /// [`SecondHelloError`].
    pub(super) fn read(&mut self, bytes: &[u8], first: Option<&ClientHello>) -> Result<Vec<u8>, SecondHelloError> {
        self.held.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let rest = &self.held[at..];
            match *rest {
                _ if self.record_bytes > 0 && !rest.is_empty() => {
                    let bytes = self.record_bytes.min(rest.len());
                    self.record_bytes -= bytes;
                    at += bytes;
                }
                [HANDSHAKE, ..] => match self.reader.read(rest).map_err(SecondHelloError::Hello)? {
                    Hello::Needs(_) => break,
                    Hello::Whole(hello) => {
                        let name = hello.name();
                        if name != first.and_then(ClientHello::name) {
                            return Err(SecondHelloError::NameChanged { to: name.map(Box::from) });
                        }
                        self.state = SecondHelloState::Passed;
                        at = self.held.len();
                        break;
                    }
                },
                // Not TLS: every backend ends here.
                [kind, ..] if !CONTENT_TYPES.contains(&kind) => {
                    self.state = SecondHelloState::Passed;
                    at = self.held.len();
                    break;
                }
                [_, _, _, high, low, ..] => {
                    self.record_bytes = RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
                }
                _ => break,
            }
        }
        let held = self.held.split_off(at);
        Ok(std::mem::replace(&mut self.held, held))
    }

    /// What is held of a hello or a record that the client did not complete.
    pub(super) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

impl fmt::Display for SecondHelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameChanged { to: Some(name) } => write!(f, "the second ClientHello names {name}"),
            Self::NameChanged { to: None } => f.write_str("the second ClientHello has no server name"),
            Self::Hello(error) => write!(f, "the second ClientHello: {error}"),
        }
    }
}

/// RFC 8446 §B.1, RFC 6520 §2.
const CONTENT_TYPES: RangeInclusive<u8> = 20..=24;
const HANDSHAKE: u8 = 22;
const RECORD_HEADER_BYTES: usize = 5;
