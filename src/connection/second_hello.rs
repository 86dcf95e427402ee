//! Refuses a second ClientHello with another server name or ALPN than those that the connection was routed by.
//!
//! In:  what the client sends after its hello, before the backend's first answer and after a HelloRetryRequest.
//! Out: the same bytes, to be passed on; or [`SecondHelloError`] if a second hello is among them with another name.
//! Source: RFC 8446 §4.1.2 (a second hello keeps its server_name and ALPN), §4.2.10 (early data), §D.4
//!         (ChangeCipherSpec).
//!
//! Every other record is passed on as it comes. A hello is held until it is complete: a backend must not see the end of
//! one that has not been checked here. What is held is limited in memory and time as a first hello is.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::Context;

use tokio::time::{Sleep, sleep};

use crate::client_hello::{Alpn, ClientHello, Hello, NotHello, Reader};
use crate::ech::{self, Illegal, Second};
use crate::hello_memory::{self, Held, Refused};
use crate::refuse::{self, Refusal, TurnedAway};
use crate::snapshot::Terms;
use crate::telemetry::Reason;

/// Reads records until a hello has been passed on.
pub(super) struct SecondHello {
    /// The start of a record header, or of a hello; empty while it is parked.
    held: Vec<u8>,
    /// The least that is missing of a hello.
    missing_bytes: usize,
    /// The limits of what is held, if anything is.
    limits: Option<Limits>,
    /// Bytes still to come of a record of another type.
    record_bytes: usize,
    reader: Reader,
    state: SecondHelloState,
    /// The [`digest`] of the first hello's ALPN, if the list was shortened.
    first_alpn: Option<u64>,
    /// Opens the hello, if the first one was sealed.
    ech: Option<Box<Second>>,
    /// How the backend's answer begins, as long as it can be a HelloRetryRequest or a ServerHello.
    answer: Vec<u8>,
}

struct Limits {
    memory: Held<'static>,
    timeout: Pin<Box<Sleep>>,
}

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
    NameChanged {
        to: Option<Box<str>>,
    },
    AlpnChanged,
    Hello(NotHello),
    /// It should have been sealed as the first one was.
    Ech(Illegal),
    /// All unfinished hellos together are over their budget, and this one was to be refused.
    Memory,
    TimedOut,
}

impl SecondHello {
    pub(super) fn new(max_hello_bytes: usize) -> Self {
        Self {
            held: Vec::new(),
            missing_bytes: 0,
            limits: None,
            record_bytes: 0,
            reader: Reader::new(max_hello_bytes),
            state: SecondHelloState::Expected,
            first_alpn: None,
            ech: None,
            answer: Vec::new(),
        }
    }

    /// The first hello was sealed, so this one must be.
    pub(super) fn is_sealed_for(&mut self, ech: Second) {
        self.ech = Some(Box::new(ech));
    }

    /// Whether a sealed hello may still come.
    pub(super) fn is_sealed(&self) -> bool {
        self.ech.is_some()
    }

    /// The first hello no longer has its `whole` list.
    pub(super) fn shortened(&mut self, whole: &Alpn) {
        self.first_alpn = Some(digest(whole));
    }

    /// The beginning of the backend's answer, if it does not show yet which it is.
    pub(super) fn answer(&mut self) -> &mut Vec<u8> {
        &mut self.answer
    }

    /// The backend has answered, and not with a HelloRetryRequest.
    pub(super) fn accepted(&mut self) {
        self.state = SecondHelloState::Unneeded;
    }

    /// Whether all that follows can be passed on unread.
    pub(super) fn is_over(&self) -> bool {
        match self.state {
            SecondHelloState::Expected => false,
            SecondHelloState::Unneeded => self.limits.is_none(),
            SecondHelloState::Passed => true,
        }
    }

    /// Takes what the client sent next, and returns what can be passed on. `first` is the hello it was routed by.
    ///
    /// # Errors
    /// [`SecondHelloError`].
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        first: Option<&ClientHello>,
        terms: &Terms,
    ) -> Result<Vec<u8>, SecondHelloError> {
        self.unpark()?;
        hello_memory::append(&mut self.held, bytes, self.missing_bytes);
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
                    Hello::Needs(bytes) => {
                        self.missing_bytes = bytes.get();
                        break;
                    }
                    Hello::Whole(mut hello) => {
                        if let Some(mut second) = self.ech.take() {
                            let opened = ech::open_second(rest, &hello, &mut second, terms.max_hello_bytes);
                            let (inner, wire) = opened.map_err(SecondHelloError::Ech)?;
                            self.held.truncate(at);
                            self.held.extend_from_slice(&wire);
                            hello = inner;
                        }
                        first.map_or(Ok(()), |first| compare(first, self.first_alpn, &hello))?;
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
        if at == 0 {
            return self.limit(terms).map(|()| Vec::new());
        }
        let held = self.held.split_off(at);
        let passed = std::mem::replace(&mut self.held, held);
        self.limits = None;
        self.limit(terms).map(|()| passed)
    }

    fn limit(&mut self, terms: &Terms) -> Result<(), SecondHelloError> {
        if self.held.is_empty() {
            return Ok(());
        }
        let limits = self.limits.get_or_insert_with(|| Limits {
            memory: hello_memory::all().hold(),
            timeout: Box::pin(sleep(terms.hello_timeout)),
        });
        let limit = terms.hello_memory_bytes.unwrap_or_else(hello_memory::auto_bytes);
        limits.memory.park(&mut self.held, limit).map_err(|Refused| SecondHelloError::Memory)
    }

    fn unpark(&mut self) -> Result<(), SecondHelloError> {
        let Some(limits) = &mut self.limits else { return Ok(()) };
        limits.memory.unpark(&mut self.held).map_err(|Refused| SecondHelloError::Memory)
    }

    /// Why what is held must not be held any longer. If it still may, the task is woken once that changes.
    pub(super) fn poll_limits(&mut self, cx: &mut Context<'_>) -> Option<SecondHelloError> {
        let limits = self.limits.as_mut()?;
        if limits.memory.poll_refused(cx) {
            return Some(SecondHelloError::Memory);
        }
        limits.timeout.as_mut().poll(cx).is_ready().then_some(SecondHelloError::TimedOut)
    }

    /// What is held of a hello or a record that the client did not complete.
    ///
    /// # Errors
    /// [`SecondHelloError::Memory`].
    pub(super) fn take_held(&mut self) -> Result<Vec<u8>, SecondHelloError> {
        self.unpark()?;
        Ok(std::mem::take(&mut self.held))
    }
}

/// Stands for the whole list where it is not kept. A client cannot find two lists with the same one.
fn digest(alpn: &Alpn) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEYS.hash_one(alpn.as_wire())
}

/// Compares everything that routes can depend on.
fn compare(first: &ClientHello, first_alpn: Option<u64>, second: &ClientHello) -> Result<(), SecondHelloError> {
    if first.server_name != second.server_name {
        return Err(SecondHelloError::NameChanged { to: second.name_or_literal().map(Box::from) });
    }
    let is_same = first_alpn.map_or_else(|| first.alpn == second.alpn, |alpn| alpn == digest(&second.alpn));
    if is_same { Ok(()) } else { Err(SecondHelloError::AlpnChanged) }
}

/// How a client is turned away whose second hello is refused.
pub(super) fn turned_away(error: &SecondHelloError) -> TurnedAway {
    match error {
        SecondHelloError::NameChanged { .. } | SecondHelloError::AlpnChanged => refuse::NAME_CHANGED,
        SecondHelloError::Hello(error) => refuse::for_not_hello(error),
        SecondHelloError::Ech(illegal) => refuse::for_illegal_ech(illegal),
        SecondHelloError::Memory => TurnedAway { reason: Reason::Memory, refusal: Refusal::Reset },
        SecondHelloError::TimedOut => TurnedAway { reason: Reason::HelloTimeout, refusal: Refusal::Leave },
    }
}

impl fmt::Display for SecondHelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameChanged { to: Some(name) } => write!(f, "the second ClientHello names {name}"),
            Self::NameChanged { to: None } => f.write_str("the second ClientHello has no server name"),
            Self::AlpnChanged => f.write_str("the second ClientHello offers other ALPN protocols"),
            Self::Hello(error) => write!(f, "the second ClientHello: {error}"),
            Self::Ech(illegal) => illegal.fmt(f),
            Self::Memory => {
                f.write_str("the second ClientHello: the memory for unfinished hellos is used up (limits.hello_memory)")
            }
            Self::TimedOut => f.write_str("the second ClientHello was not complete in time"),
        }
    }
}

/// RFC 8446 §B.1, RFC 6520 §2.
const CONTENT_TYPES: RangeInclusive<u8> = 20..=24;
const HANDSHAKE: u8 = 22;
const RECORD_HEADER_BYTES: usize = 5;
