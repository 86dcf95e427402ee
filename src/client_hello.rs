//! Reads a ClientHello from the first bytes of a connection.
//!
//! In:  all bytes received so far, from the first one on.
//! Out: [`Hello::Whole`], [`Hello::Needs`] with the number of bytes missing, or [`NotHello`]; no I/O, no clock.
//! Source: RFC 8446 §5.1 (records), §4.1.2 (ClientHello), §4.2 (extensions), RFC 6066 §3 (server_name), RFC 7301 §3.1
//!         (ALPN).
//!
//! ```text
//! record:    type 0x16 | version 0x03 xx | length (2) | fragment        one message, cut into 1 or more records
//! message:   type 0x01 | length (3) | version (2) | random (32) | session id | cipher suites | compression | extensions
//! ```
//!
//! tls-parser reads the message once it is whole. Records are assembled by [`Reader`], since its record parsers return an
//! error for a fragment. The extension list is walked here, since its own parser drops what it cannot read, and a name
//! that we read differently from the backend would be a way around the routing.

mod reader;

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::ops::Range;

use self::reader::MAX_FRAGMENT_BYTES;
pub use self::reader::{MAX_RECORDS, Reader};
use crate::server_name::{InvalidName, Sni};

/// The result of parsing the bytes so far.
#[derive(Debug)]
pub enum Hello {
    /// A whole hello; any bytes after it are left for the backend.
    Whole(ClientHello),
    /// A valid beginning; at least this many more bytes are needed.
    Needs(NonZeroUsize),
}

/// The parts of a hello that routing and the log use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// `None`: the client sent no server_name extension, or an empty name in it.
    pub server_name: Option<Sni>,
    /// Position of that name in the message.
    server_name_at: Range<u32>,
    /// RFC 7301.
    pub alpn: Alpn,
    /// Which versions, groups and extensions the client offers.
    pub offers: Offers,
    /// Bytes on the wire up to the end of the record that completes the hello.
    pub wire_bytes: usize,
    /// Over how many records the hello was spread.
    pub records: usize,
}

/// The protocols a client offers: a well-formed `ProtocolNameList` as it was sent; empty if there was none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alpn(Box<[u8]>);

/// Other features a client offers that have a metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// The highest version offered, as on the wire: 0x0304 is TLS 1.3.
    pub version: u16,
    /// Whether X25519MLKEM768 is among the supported groups.
    pub x25519mlkem768: bool,
    /// Whether there is an encrypted_client_hello extension, real or GREASE: the outer name is the public one (RFC 9849
    /// §6).
    pub ech: bool,
    /// Whether these are among the ALPN protocols.
    pub h2: bool,
    pub http11: bool,
    pub acme_tls: bool,
    pub session: Session,
}

/// Whether a client goes on with an earlier session. One byte: every open connection keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Session {
    #[default]
    New,
    /// It asks to resume one, with a pre-shared key (RFC 8446 §4.2.11), a ticket (RFC 5077 §3.2) or a session id (RFC 5246
    /// §7.4.1.2).
    Resumed,
    /// The same, and data follow the hello at once (RFC 8446 §4.2.10).
    EarlyData,
}

/// Why bytes are not a ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotHello {
    /// The first bytes are not a TLS handshake record.
    NotTls,
    /// A handshake message that violates its own format; the text says where.
    Malformed(&'static str),
    /// The server name cannot be used for routing.
    Name {
        /// What is wrong with it.
        error: InvalidName,
        /// Its first bytes, for the log.
        sent: Box<[u8]>,
    },
    /// More than one server name: two extensions, or two names in one.
    TwoNames,
    /// The message announces `bytes` bytes, more than the limit.
    TooLong {
        /// As announced.
        bytes: usize,
    },
    /// Split into more records than any client needs.
    TooManyRecords,
}

/// Parses a hello in one go; see [`Reader`] for one that arrives in pieces.
///
/// # Errors
/// [`NotHello`], as soon as the bytes can no longer become a hello of at most `max_message_bytes`.
pub fn parse(bytes: &[u8], max_message_bytes: usize) -> Result<Hello, NotHello> {
    Reader::new(max_message_bytes).read(bytes)
}

/// Cuts a handshake message into records of the largest size (RFC 8446 §5.1).
pub(crate) fn in_records(message: &[u8], record_version: [u8; 2]) -> Vec<u8> {
    let [major, minor] = record_version;
    let records = message.len().div_ceil(MAX_FRAGMENT_BYTES);
    let mut wire = Vec::with_capacity(message.len() + records * RECORD_HEADER_BYTES);
    for fragment in message.chunks(MAX_FRAGMENT_BYTES) {
        let [high, low] = u16::try_from(fragment.len()).expect("at most 2^14").to_be_bytes();
        wire.extend_from_slice(&[HANDSHAKE, major, minor, high, low]);
        wire.extend_from_slice(fragment);
    }
    wire
}

impl ClientHello {
    /// The name, or what the client sent in its place.
    pub fn name_or_literal(&self) -> Option<&str> {
        match self.server_name.as_ref()? {
            Sni::Name(name) => Some(name.as_str()),
            Sni::IpLiteral(address) => Some(address),
        }
    }

    /// The name to route by; none for an IP literal.
    pub fn name(&self) -> Option<&str> {
        match self.server_name.as_ref()? {
            Sni::Name(name) => Some(name.as_str()),
            Sni::IpLiteral(_) => None,
        }
    }

    /// The record version for alerts to this client (RFC 8446 §5.1: 0x0303 unless the hello is older than TLS 1.2).
    pub fn alert_version(&self) -> u16 {
        if self.offers.version >= TLS12 { TLS12 } else { TLS10 }
    }

    /// The server name as the client sent it, with its case and trailing dot, from the `wire` bytes the hello was
    /// parsed from. Allocates only if the hello was split over records.
    pub fn server_name_as_sent<'a>(&self, wire: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        self.server_name.as_ref()?;
        let Range { start, end } = self.server_name_at;
        let (start, end) = (start as usize, end as usize);
        if self.records == 1 {
            return wire.get(RECORD_HEADER_BYTES + start..RECORD_HEADER_BYTES + end).map(Cow::Borrowed);
        }
        let message = fragments(wire.get(..self.wire_bytes)?).flatten();
        Some(message.copied().skip(start).take(end - start).collect())
    }

    /// The handshake message, with its header, from the `wire` bytes the hello was parsed from. Allocates only if the
    /// hello was split over records.
    pub fn message<'a>(&self, wire: &'a [u8]) -> Cow<'a, [u8]> {
        let wire = wire.get(..self.wire_bytes).unwrap_or_default();
        if self.records == 1 {
            return wire.get(RECORD_HEADER_BYTES..).unwrap_or_default().into();
        }
        let mut message = Vec::with_capacity(wire.len());
        fragments(wire).for_each(|fragment| message.extend_from_slice(fragment));
        message.into()
    }
}

impl Alpn {
    /// The protocols in the client's order; bytes, not text (RFC 7301 §3.1).
    pub fn protocols(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (&length, after) = rest.split_first()?;
            let (protocol, after) = after.split_at_checked(length.into())?;
            rest = after;
            Some(protocol)
        })
    }

    /// The list as it was sent, without its own length: each name preceded by a length byte.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// The protocol, if the client offers exactly one.
    pub fn only(&self) -> Option<&[u8]> {
        let mut protocols = self.protocols();
        protocols.next().filter(|_| protocols.next().is_none())
    }

    /// Makes a long list as short as `protocols` of `bytes` each, for the log line: no decision may be made by it
    /// afterwards. Returns the whole list if it was.
    pub fn shorten(&mut self, protocols: usize, bytes: usize) -> Option<Self> {
        (self.0.len() > protocols * (1 + bytes)).then(|| {
            let kept = self.protocols().take(protocols).map(|protocol| &protocol[..protocol.len().min(bytes)]);
            let kept = Self::of(&kept.collect::<Vec<_>>());
            std::mem::replace(self, kept)
        })
    }

    /// Whether the client offers `protocol`.
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.protocols().any(|offered| offered == protocol)
    }

    /// Makes a list as a client would send it; for `explain` and tests.
    ///
    /// # Panics
    /// If a protocol is empty or longer than 255 bytes.
    pub fn of<P: AsRef<[u8]>>(protocols: &[P]) -> Self {
        let mut list = Vec::new();
        for protocol in protocols.iter().map(AsRef::as_ref) {
            assert!(!protocol.is_empty(), "RFC 7301 §3.1: protocol names are 1 to 255 bytes");
            list.push(u8::try_from(protocol.len()).expect("RFC 7301 §3.1: protocol names are 1 to 255 bytes"));
            list.extend_from_slice(protocol);
        }
        Self(list.into())
    }
}

impl Offers {
    pub fn tls13(&self) -> bool {
        self.version >= TLS13
    }

    fn at_least(&mut self, session: Session) {
        self.session = self.session.max(session);
    }

    /// The highest version offered, in readable form.
    pub fn version_name(&self) -> &'static str {
        match self.version {
            0x0300 => "ssl3.0",
            TLS10 => "1.0",
            0x0302 => "1.1",
            TLS12 => "1.2",
            TLS13 => "1.3",
            _ => "unknown",
        }
    }
}

/// Parses one whole message whose header has been checked.
fn read_message(message: &[u8]) -> Result<ClientHello, NotHello> {
    const BROKEN: NotHello = NotHello::Malformed("the fields before the extensions");
    let body = &message[MESSAGE_HEADER_BYTES..];
    let (trailing, hello) = tls_parser::parse_tls_handshake_client_hello(body).map_err(|_| BROKEN)?;
    if !trailing.is_empty() || hello.ciphers.is_empty() || hello.comp.is_empty() {
        return Err(BROKEN);
    }
    let mut read = ClientHello {
        server_name: None,
        server_name_at: 0..0,
        alpn: Alpn::default(),
        offers: Offers { version: hello.version.0, ..Offers::default() },
        wire_bytes: 0,
        records: 0,
    };
    walk_extensions(hello.ext.unwrap_or_default(), message.len(), &mut read)?;
    // With TLS 1.3 a session id says nothing: clients send one to look like older ones (RFC 8446 §D.4).
    if !read.offers.tls13() && hello.session_id.is_some_and(|id| !id.is_empty()) {
        read.offers.at_least(Session::Resumed);
    }
    Ok(read)
}

/// Walks the list strictly: every length must fit, and no type may occur twice (RFC 8446 §4.2). The list ends where the
/// message of `message_bytes` ends.
fn walk_extensions(mut list: &[u8], message_bytes: usize, read: &mut ClientHello) -> Result<(), NotHello> {
    let mut seen = Seen::default();
    while !list.is_empty() {
        let Some((&[kind_high, kind_low, high, low], rest)) = list.split_first_chunk() else {
            return Err(NotHello::Malformed("the extension list"));
        };
        let kind = u16::from_be_bytes([kind_high, kind_low]);
        let length = u16::from_be_bytes([high, low]);
        let Some((data, rest)) = rest.split_at_checked(length.into()) else {
            return Err(NotHello::Malformed("an extension longer than its list"));
        };
        list = rest;
        if !seen.first_time(kind) {
            return Err(match kind {
                SERVER_NAME => NotHello::TwoNames,
                _ => NotHello::Malformed("an extension that comes twice"),
            });
        }
        match kind {
            SERVER_NAME => {
                read.server_name = read_server_name(data)?;
                // It is the only name in its list, so it ends where the extension does.
                let end = message_bytes - list.len();
                read.server_name_at = in_message(end - data.len() + BEFORE_NAME_BYTES)..in_message(end);
            }
            ALPN => {
                read.alpn = read_alpn(data)?;
                let offers = [&b"h2"[..], b"http/1.1", b"acme-tls/1"].map(|protocol| read.alpn.offers(protocol));
                [read.offers.h2, read.offers.http11, read.offers.acme_tls] = offers;
            }
            SUPPORTED_GROUPS => read.offers.x25519mlkem768 = read_groups(data)?,
            SUPPORTED_VERSIONS => read.offers.version = read_versions(data)?,
            ENCRYPTED_CLIENT_HELLO => read.offers.ech = true,
            PRE_SHARED_KEY => read.offers.at_least(Session::Resumed),
            // An empty one asks for a ticket.
            SESSION_TICKET if !data.is_empty() => read.offers.at_least(Session::Resumed),
            EARLY_DATA => read.offers.at_least(Session::EarlyData),
            _ => {}
        }
    }
    Ok(())
}

/// `ServerNameList`, RFC 6066 §3: one `host_name` and nothing else, since no other type was ever defined.
///
/// An empty `host_name` violates the RFC (`HostName<1..2^16-1>`), but real clients send it and OpenSSL treats it as
/// absent. It names no host, so it cannot route a client differently at the backend than here: `None`.
fn read_server_name(data: &[u8]) -> Result<Option<Sni>, NotHello> {
    const BROKEN: NotHello = NotHello::Malformed("the server_name extension");
    let list = u16_prefixed(data).ok_or(BROKEN)?;
    let (&[kind, high, low], rest) = list.split_first_chunk().ok_or(BROKEN)?;
    let (name, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into()).ok_or(BROKEN)?;
    if kind != HOST_NAME {
        return Err(NotHello::Malformed("a server name whose type is not host_name"));
    }
    if !rest.is_empty() {
        // Distinguished so that a name length that is too short is not reported as two names.
        let second = rest.split_first_chunk().and_then(|(&[_, high, low], after)| {
            (usize::from(u16::from_be_bytes([high, low])) == after.len()).then_some(())
        });
        return Err(if second.is_some() { NotHello::TwoNames } else { BROKEN });
    }
    if name.is_empty() {
        return Ok(None);
    }
    let shown = || name[..name.len().min(MAX_SHOWN_NAME)].into();
    Sni::from_wire(name).map(Some).map_err(|error| NotHello::Name { error, sent: shown() })
}

/// `ProtocolNameList`, RFC 7301 §3.1.
fn read_alpn(data: &[u8]) -> Result<Alpn, NotHello> {
    const BROKEN: NotHello = NotHello::Malformed("the ALPN extension");
    let list = u16_prefixed(data).filter(|list| !list.is_empty()).ok_or(BROKEN)?;
    let mut rest = list;
    while let Some((&length, after)) = rest.split_first() {
        if length == 0 {
            return Err(BROKEN);
        }
        rest = after.get(length.into()..).ok_or(BROKEN)?;
    }
    Ok(Alpn(list.into()))
}

/// `NamedGroupList`, RFC 8446 §4.2.7; returns whether X25519MLKEM768 is in it.
fn read_groups(data: &[u8]) -> Result<bool, NotHello> {
    let list = u16_prefixed(data).filter(|list| list.len() % 2 == 0);
    let list = list.ok_or(NotHello::Malformed("the supported_groups extension"))?;
    Ok(list.chunks_exact(2).any(|group| group == X25519MLKEM768))
}

/// `SupportedVersions`, RFC 8446 §4.2.1; returns the highest that is neither GREASE nor a draft.
fn read_versions(data: &[u8]) -> Result<u16, NotHello> {
    const BROKEN: NotHello = NotHello::Malformed("the supported_versions extension");
    let (&length, list) = data.split_first().ok_or(BROKEN)?;
    if usize::from(length) != list.len() || list.is_empty() || list.len() % 2 != 0 {
        return Err(BROKEN);
    }
    let known = list.chunks_exact(2).map(|v| u16::from_be_bytes([v[0], v[1]])).filter(|v| (0x0300..=TLS13).contains(v));
    Ok(known.max().unwrap_or(TLS12))
}

/// The extension types seen so far. Real hellos have about fifteen, most of them below 64.
#[derive(Default)]
struct Seen {
    low: u64,
    high: [u16; 16],
    high_count: usize,
    /// All other types; a hostile list of thousands must not take quadratic time.
    more: Option<Box<[u64; 1024]>>,
}

impl Seen {
    fn first_time(&mut self, kind: u16) -> bool {
        if kind < 64 {
            let bit = 1 << kind;
            let new = self.low & bit == 0;
            self.low |= bit;
            return new;
        }
        if self.high[..self.high_count].contains(&kind) {
            return false;
        }
        if let Some(place) = self.high.get_mut(self.high_count) {
            *place = kind;
            self.high_count += 1;
            return true;
        }
        let more = self.more.get_or_insert_with(|| Box::new([0; 1024]));
        let (word, bit) = (&mut more[usize::from(kind / 64)], 1 << (kind % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

/// What the records of `wire` hold, up to the first incomplete one.
fn fragments(mut wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&[.., high, low], after) = wire.split_first_chunk::<RECORD_HEADER_BYTES>()?;
        let (fragment, after) = after.split_at_checked(u16::from_be_bytes([high, low]).into())?;
        wire = after;
        Some(fragment)
    })
}

/// The announced length of a handshake message, including its header; `None` until the header is complete.
fn message_bytes(begun: &[u8]) -> Option<usize> {
    let &[_, high, middle, low] = begun.first_chunk()?;
    Some(MESSAGE_HEADER_BYTES + usize::try_from(u32::from_be_bytes([0, high, middle, low])).expect("24 bits"))
}

fn in_message(at: usize) -> u32 {
    u32::try_from(at).expect("a message is at most 24 bits long")
}

/// The content of a vector that fills `data`, without its two-byte length prefix.
fn u16_prefixed(data: &[u8]) -> Option<&[u8]> {
    let (&length, content) = data.split_first_chunk()?;
    (usize::from(u16::from_be_bytes(length)) == content.len()).then_some(content)
}

fn needs(bytes: usize) -> Result<Hello, NotHello> {
    Ok(Hello::Needs(NonZeroUsize::new(bytes).expect("something is missing, or the hello would be whole")))
}

impl std::fmt::Display for NotHello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotTls => f.write_str("the first bytes are not a TLS handshake"),
            Self::Malformed(place) => write!(f, "malformed: {place}"),
            Self::Name { error, sent } => write!(f, "invalid server name `{}`: {error}", sent.escape_ascii()),
            Self::TwoNames => f.write_str("more than one server name"),
            Self::TooLong { bytes } => write!(f, "a hello of {bytes} bytes is over the limit"),
            Self::TooManyRecords => write!(f, "a hello in more than {MAX_RECORDS} records"),
        }
    }
}

impl std::error::Error for NotHello {}

/// Enough to recognise a name in the log.
const MAX_SHOWN_NAME: usize = 64;
const HANDSHAKE: u8 = 0x16;
const CLIENT_HELLO: u8 = 0x01;
const RECORD_HEADER_BYTES: usize = 5;
const MESSAGE_HEADER_BYTES: usize = 4;

/// <https://www.iana.org/assignments/tls-extensiontype-values>
const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const SESSION_TICKET: u16 = 35;
const PRE_SHARED_KEY: u16 = 41;
const EARLY_DATA: u16 = 42;

const HOST_NAME: u8 = 0;
/// Length of the list, type of the name, length of the name.
const BEFORE_NAME_BYTES: usize = 2 + 1 + 2;
const X25519MLKEM768: [u8; 2] = [0x11, 0xec];
const TLS10: u16 = 0x0301;
const TLS12: u16 = 0x0303;
const TLS13: u16 = 0x0304;

#[cfg(test)]
mod tests;
