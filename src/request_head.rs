//! Reads the head of one HTTP/1 request: its method, its host and its target.
//!
//! In:  all bytes received so far, from the first one on.
//! Out: [`Head::Whole`], [`Head::Needs`] with the number of bytes missing, or [`BadRequest`]; no I/O, no clock.
//! Source: RFC 9112 §2.2 (line ends), §3.2 (targets), §5 (header fields), RFC 9110 §7.2 (Host), RFC 8555 §8.3 (the path
//!         of a challenge).
//!
//! httparse reads the head once it is whole. It accepts lines that end with LF alone; those are refused here, since a
//! backend might read them differently.

use std::fmt;
use std::num::NonZeroUsize;

use crate::server_name::{InvalidName, Sni};

/// The result of parsing the bytes so far.
#[derive(Debug)]
pub(crate) enum Head {
    /// A whole head; any bytes after it are the body, or another request.
    Whole(RequestHead),
    /// A valid beginning; at least this many more bytes are needed.
    Needs(NonZeroUsize),
}

/// The parts of a request that decide what happens to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestHead {
    /// As sent; a token of RFC 9110 §5.6.2.
    pub method: Box<str>,
    /// From an absolute target, otherwise from the Host field; without its port.
    pub host: Sni,
    /// The path and the query as sent; begins with `/`.
    pub target: Box<str>,
    /// Whether a body follows.
    pub has_body: bool,
    /// Whether the client asks for another protocol on the same connection.
    pub upgrades: bool,
    /// Bytes up to the end of the empty line.
    pub bytes: usize,
}

/// Why bytes are not a request that can be answered by its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadRequest {
    /// A TLS handshake.
    Tls,
    /// The text says what is wrong.
    Malformed(&'static str),
    NoHost,
    TwoHosts,
    /// The host is not a name.
    Host {
        error: InvalidName,
        /// Its first bytes, for the log.
        sent: Box<[u8]>,
    },
    /// The port of the host is not a number.
    Port,
    /// The target names another host than the Host field.
    OtherHost,
    /// CONNECT, or `OPTIONS *`: requests that are not for a resource of a host.
    Method,
    /// A challenge is fetched with GET or HEAD.
    ChallengeMethod,
    /// A challenge is fetched without a body.
    ChallengeBody,
    /// The request line is longer than the limit.
    LongLine,
    /// The head is longer than the limit.
    LongHead,
    TooManyFields,
    /// Not HTTP/1.0 or HTTP/1.1.
    Version,
}

/// Remembers how far a head has been read, so that one that arrives in small pieces is still read in linear time.
#[derive(Debug)]
pub(crate) struct Reader {
    max_bytes: usize,
    /// How many bytes have been looked at.
    seen: usize,
    /// Whether the request line is whole.
    has_line: bool,
}

impl Reader {
    /// A reader that refuses a head of more bytes.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, seen: 0, has_line: false }
    }

    /// Reads `bytes`, which must begin with all the bytes passed to earlier calls.
    ///
    /// # Errors
    /// [`BadRequest`], as soon as the bytes can no longer become a head of at most `max_bytes`.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<Head, BadRequest> {
        match bytes.first() {
            None => return Ok(Head::Needs(NonZeroUsize::MIN)),
            Some(&TLS_HANDSHAKE) => return Err(BadRequest::Tls),
            Some(byte) if byte.is_ascii_graphic() => {}
            Some(_) => return Err(BadRequest::Malformed("it does not begin with a method")),
        }
        while self.seen < bytes.len().min(self.max_bytes) {
            let at = self.seen;
            let is_after_cr = at > 0 && bytes[at - 1] == b'\r';
            match bytes[at] {
                b'\n' if !is_after_cr => return Err(BadRequest::Malformed("a line ends with LF alone")),
                _ if is_after_cr && bytes[at] != b'\n' => return Err(BadRequest::Malformed("a CR inside a line")),
                b'\t' | b'\r' | b'\n' => {}
                byte if byte.is_ascii_control() => return Err(BadRequest::Malformed("a control character")),
                _ => {}
            }
            self.seen += 1;
            if bytes[at] == b'\n' {
                if bytes[..self.seen].ends_with(END) {
                    return head(&bytes[..self.seen]).map(Head::Whole);
                }
                self.has_line = true;
            }
        }
        match self.seen == self.max_bytes {
            true if self.has_line => Err(BadRequest::LongHead),
            true => Err(BadRequest::LongLine),
            false => Ok(Head::Needs(NonZeroUsize::MIN)),
        }
    }
}

impl RequestHead {
    /// The name, if it is one and not an address.
    pub(crate) fn name(&self) -> Option<&str> {
        match &self.host {
            Sni::Name(name) => Some(name.as_str()),
            Sni::IpLiteral(_) => None,
        }
    }

    /// The name or the address.
    pub(crate) fn host(&self) -> &str {
        match &self.host {
            Sni::Name(name) => name.as_str(),
            Sni::IpLiteral(address) => address,
        }
    }

    /// The target without its query.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Whether the answer must have no body.
    pub(crate) fn is_head(&self) -> bool {
        &*self.method == "HEAD"
    }

    /// Whether this fetches an ACME challenge, by its path as sent: a path that only decodes to the same one does not.
    pub(crate) fn is_challenge(&self) -> bool {
        self.target.starts_with(CHALLENGES)
    }

    /// Checks that no backend can take a challenge for anything else: it is GET or HEAD of a plain file name, and nothing
    /// follows the head.
    ///
    /// # Errors
    /// [`BadRequest`]
    pub(crate) fn check_challenge(&self) -> Result<(), BadRequest> {
        if !matches!(&*self.method, "GET" | "HEAD") {
            return Err(BadRequest::ChallengeMethod);
        }
        let token = self.target.strip_prefix(CHALLENGES).unwrap_or_default();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if token.is_empty() || matches!(token, "." | "..") || !token.bytes().all(is_plain) {
            return Err(BadRequest::Malformed("the path of a challenge ends with one plain name"));
        }
        if self.upgrades {
            return Err(BadRequest::Malformed("a challenge is not fetched with Upgrade"));
        }
        if self.has_body { Err(BadRequest::ChallengeBody) } else { Ok(()) }
    }
}

impl BadRequest {
    /// The status of the answer.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Method | Self::ChallengeMethod => 405,
            Self::ChallengeBody => 413,
            Self::LongLine => 414,
            Self::LongHead | Self::TooManyFields => 431,
            Self::Version => 505,
            _ => 400,
        }
    }
}

/// Reads a head that ends with an empty line, and all of whose lines end with CR LF.
fn head(bytes: &[u8]) -> Result<RequestHead, BadRequest> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(BadRequest::Malformed("an empty line inside the head")),
        Err(httparse::Error::TooManyHeaders) => return Err(BadRequest::TooManyFields),
        Err(httparse::Error::Version) if has_version(bytes) => return Err(BadRequest::Version),
        Err(httparse::Error::HeaderName) => return Err(BadRequest::Malformed("the name of a field, or a folded line")),
        Err(httparse::Error::HeaderValue) => return Err(BadRequest::Malformed("the value of a field")),
        Err(_) => return Err(BadRequest::Malformed("the request line")),
    }
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    if method.len() > MOST_METHOD_BYTES {
        return Err(BadRequest::Malformed("the method"));
    }
    let (authority, target) = split_target(method, target)?;
    let Fields { host, has_body, upgrades } = Fields::of(request.headers)?;
    let host = match (authority, host) {
        (None, None) => return Err(BadRequest::NoHost),
        (None, Some(host)) => read_host(host)?,
        // RFC 9112 §3.2: a request of HTTP/1.1 must have the field.
        (Some(_), None) if request.version == Some(1) => return Err(BadRequest::NoHost),
        (Some(authority), None) => read_host(authority)?,
        (Some(authority), Some(host)) => {
            let (authority, host) = (read_host(authority)?, read_host(host)?);
            if authority != host {
                return Err(BadRequest::OtherHost);
            }
            host
        }
    };
    Ok(RequestHead { method: method.into(), host: host.0, target, has_body, upgrades, bytes: bytes.len() })
}

/// Whether the request line ends with a version of HTTP.
fn has_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let version = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    matches!(version, [b'H', b'T', b'T', b'P', b'/', digit, ..] if digit.is_ascii_digit())
}

/// The authority of an absolute target, and what stands behind it; or the whole target.
fn split_target<'t>(method: &str, target: &'t str) -> Result<(Option<&'t [u8]>, Box<str>), BadRequest> {
    if method == "CONNECT" || target == "*" {
        return Err(BadRequest::Method);
    }
    if target.contains('#') || !target.is_ascii() {
        return Err(BadRequest::Malformed("the target"));
    }
    if target.starts_with('/') {
        return Ok((None, target.into()));
    }
    let (scheme, rest) = target.split_once("://").ok_or(BadRequest::Malformed("the target"))?;
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(BadRequest::Malformed("the target has another scheme than http"));
    }
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let rest = if rest.starts_with('/') { rest.into() } else { format!("/{rest}").into() };
    Ok((Some(authority.as_bytes()), rest))
}

/// What the header fields say.
struct Fields<'h> {
    host: Option<&'h [u8]>,
    has_body: bool,
    upgrades: bool,
}

impl<'h> Fields<'h> {
    fn of(fields: &[httparse::Header<'h>]) -> Result<Self, BadRequest> {
        let mut found = Self { host: None, has_body: false, upgrades: false };
        for field in fields {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            let value = field.value.trim_ascii();
            if is("host") && found.host.replace(value).is_some() {
                return Err(BadRequest::TwoHosts);
            }
            found.has_body |= is("transfer-encoding") || (is("content-length") && value != b"0");
            found.upgrades |= is("upgrade");
        }
        Ok(found)
    }
}

/// The name and the port of `uri-host [ ":" port ]` (RFC 9110 §7.2).
fn read_host(text: &[u8]) -> Result<(Sni, u16), BadRequest> {
    let end_of_literal = text.iter().position(|&byte| byte == b']').filter(|_| text.starts_with(b"["));
    let end = end_of_literal.map_or_else(|| text.iter().position(|&byte| byte == b':'), |at| Some(at + 1));
    let (name, port) = text.split_at(end.unwrap_or(text.len()));
    let port = match port {
        [] | [b':'] => HTTP,
        [b':', digits @ ..] if digits.iter().all(u8::is_ascii_digit) => {
            std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(BadRequest::Port)?
        }
        _ => return Err(BadRequest::Port),
    };
    let invalid = |error| BadRequest::Host { error, sent: name[..name.len().min(MOST_SHOWN_BYTES)].into() };
    if let Some(&byte) = name.iter().find(|byte| **byte == b'%') {
        return Err(invalid(InvalidName::Byte(byte)));
    }
    Sni::from_wire(name).map(|name| (name, port)).map_err(invalid)
}

impl fmt::Display for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls => f.write_str("the client speaks TLS, and this port HTTP"),
            Self::Malformed(what) => write!(f, "malformed request: {what}"),
            Self::NoHost => f.write_str("the request has no Host"),
            Self::TwoHosts => f.write_str("the request has more than one Host"),
            Self::Host { error, sent } => write!(f, "the host \"{}\" cannot be used: {error}", sent.escape_ascii()),
            Self::Port => f.write_str("the port of the host is not a number"),
            Self::OtherHost => f.write_str("the target and Host name different hosts"),
            Self::Method => f.write_str("the request is not for a resource of a host"),
            Self::ChallengeMethod => f.write_str("a challenge is fetched with GET or HEAD"),
            Self::ChallengeBody => f.write_str("a challenge is fetched without a body"),
            Self::LongLine => f.write_str("the request line is longer than limits.max_hello"),
            Self::LongHead => f.write_str("the request head is longer than limits.max_hello"),
            Self::TooManyFields => write!(f, "the request has more than {MOST_FIELDS} header fields"),
            Self::Version => f.write_str("the request is not HTTP/1.0 or HTTP/1.1"),
        }
    }
}

impl std::error::Error for BadRequest {}

/// RFC 8555 §8.3.
const CHALLENGES: &str = "/.well-known/acme-challenge/";
const END: &[u8] = b"\r\n\r\n";
const TLS_HANDSHAKE: u8 = 0x16;
const HTTP: u16 = 80;
/// Browsers send about twenty.
const MOST_FIELDS: usize = 100;
/// The longest registered method, UPDATEREDIRECTREF, has 17.
const MOST_METHOD_BYTES: usize = 32;
const MOST_SHOWN_BYTES: usize = 64;

#[cfg(test)]
mod tests;
