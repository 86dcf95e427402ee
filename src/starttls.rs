//! Speaks what comes before TLS on ports where TLS begins on request (STARTTLS): with the client as its server, with the
//! backend as its client.
//!
//! In:  the bytes that the other side has sent so far.
//! Out: a [`Step`]: what to send, that more bytes are needed, or that TLS begins; no I/O.
//! Source: the protocol of each submodule.
//!
//! A protocol is a variant of [`Starttls`] and a module with one function per side. A step may also send something
//! before a byte has been read, as protocols need in which the server speaks first (SMTP, IMAP, MySQL).

mod postgres;

use std::fmt;
use std::num::NonZeroUsize;

use crate::settings::Starttls;

/// What comes next in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing can be decided without at least so many bytes more.
    Needs(NonZeroUsize),
    /// Drop the first `taken` bytes, send these, and ask for the next step.
    Send { taken: usize, bytes: &'static [u8] },
    /// Drop the first `taken` bytes; TLS begins behind them.
    Tls { taken: usize },
}

/// The exchange with a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WithClient(postgres::Client);

impl WithClient {
    /// `None`: TLS begins with the first byte.
    pub(crate) fn new(protocol: Starttls) -> Option<Self> {
        match protocol {
            Starttls::None => None,
            Starttls::Postgres => Some(Self(postgres::Client::default())),
        }
    }

    /// `bytes` are all that have come and were not yet taken.
    ///
    /// # Errors
    /// [`Refused`], as soon as the bytes show it.
    pub(crate) fn step(&mut self, bytes: &[u8]) -> Result<Step, Refused> {
        self.0.step(bytes)
    }
}

/// The exchange with a backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WithBackend(postgres::Backend);

impl WithBackend {
    /// `None`: TLS begins with the first byte.
    pub(crate) fn new(protocol: Starttls) -> Option<Self> {
        match protocol {
            Starttls::None => None,
            Starttls::Postgres => Some(Self(postgres::Backend::default())),
        }
    }

    /// `bytes` are all that have come and were not yet taken.
    ///
    /// # Errors
    /// [`Declined`].
    pub(crate) fn step(&mut self, bytes: &[u8]) -> Result<Step, Declined> {
        self.0.step(bytes)
    }
}

/// Why a client's exchange does not lead to TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// These are not bytes of the protocol.
    Foreign,
    /// The client begins without TLS.
    Plain,
    /// The client wants a query cancelled, and does not say by TLS which server runs it.
    Cancel,
    /// The client speaks a version of the protocol that does not exist.
    Version { major: u16, minor: u16 },
    /// The client sent bytes behind its request, before it had the answer: somebody else may have added them.
    Injected { bytes: usize },
    /// The length of a packet is not that of its kind.
    Length { bytes: u32 },
    /// The client asks again for what it was denied.
    Again,
}

impl Refused {
    /// What the client is sent in its own protocol; it may be nothing.
    pub(crate) fn answer(self) -> Vec<u8> {
        postgres::refusal(self)
    }

    /// Whether the bytes break the protocol, instead of doing without TLS.
    pub(crate) fn is_malformed(self) -> bool {
        matches!(self, Self::Injected { .. } | Self::Length { .. } | Self::Again)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("the first bytes are neither PostgreSQL nor TLS"),
            Self::Plain => f.write_str("the client connects without TLS (sslmode=disable)"),
            Self::Cancel => f.write_str("a CancelRequest without TLS does not say for which server it is"),
            Self::Version { major, minor } => write!(f, "there is no PostgreSQL protocol {major}.{minor}"),
            Self::Injected { bytes } => {
                write!(f, "{bytes} bytes follow the request for encryption before it was answered")
            }
            Self::Length { bytes } => write!(f, "a PostgreSQL packet of this kind cannot have {bytes} bytes"),
            Self::Again => f.write_str("the client asked twice for GSSAPI encryption"),
        }
    }
}

/// Why a backend's exchange does not lead to TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Declined {
    /// The backend does not offer TLS.
    NoTls,
    /// The backend answered with this error message, of which at most [`MAX_SHOWN_BYTES`] are kept.
    Error(Box<str>),
    /// The backend sent bytes behind its answer, before TLS began: somebody else may have added them.
    Injected { bytes: usize },
    /// The backend speaks another protocol; how its answer begins.
    Foreign(Box<str>),
}

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTls => f.write_str("the backend does not offer TLS (PostgreSQL: ssl = off)"),
            Self::Error(message) => write!(f, "the backend answered the SSLRequest with an error ({message})"),
            Self::Injected { bytes } => {
                write!(f, "{bytes} bytes follow the backend's answer to the SSLRequest before TLS began")
            }
            Self::Foreign(beginning) => {
                write!(f, "the backend's answer to the SSLRequest is not PostgreSQL ({beginning})")
            }
        }
    }
}

/// Whether the first bytes of a client are a packet that begins a connection to PostgreSQL.
pub(crate) fn looks_like_postgres(bytes: &[u8]) -> bool {
    postgres::is_first_packet(bytes)
}

/// How `bytes` begin, printable.
fn shown(bytes: &[u8]) -> Box<str> {
    bytes[..bytes.len().min(MAX_SHOWN_BYTES)].escape_ascii().to_string().into()
}

/// Enough for the first line of a message.
const MAX_SHOWN_BYTES: usize = 80;
