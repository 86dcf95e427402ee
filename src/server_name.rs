//! Validates the names that routing compares: a name from the wire, a pattern from the configuration.
//!
//! In:  the bytes of a `host_name` as a client sent them, or a pattern as an operator wrote it.
//! Out: [`Sni`] (a [`ServerName`], or an IP literal), or a [`Pattern`]; both lower-case, so that they compare as bytes.
//! Source: RFC 6066 §3 (server_name), RFC 1035 §2.3.4 (sizes), RFC 5891 (A-labels).

mod habit;

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use self::habit::Habit;

/// A DNS name that a client asked for: lower-case, without a trailing dot, 1 to 253 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName(Box<str>);

/// What a `host_name` turned out to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sni {
    /// A name to route by.
    Name(ServerName),
    /// An address, which RFC 6066 §3 forbids there; it is treated as no name at all.
    IpLiteral(Box<str>),
}

/// What a route takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// `a.example.com`: that name.
    Exact(ServerName),
    /// `*.example.com`: exactly one label more than the suffix held here.
    OneLabel(ServerName),
    /// `**.example.com`: one or more labels more than the suffix held here.
    ManyLabels(ServerName),
    /// `*`: any name that is present.
    Any,
}

/// Why bytes are no server name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidName {
    Empty,
    EmptyLabel,
    /// A label of `bytes` bytes; 63 are allowed.
    LongLabel {
        bytes: usize,
    },
    /// A name of `bytes` bytes; 253 are allowed.
    LongName {
        bytes: usize,
    },
    /// A byte other than letters, digits, `-`, `_` and `.` of ASCII.
    Byte(u8),
    /// A label that begins or ends with `-` (RFC 5890 §2.3.1).
    Hyphen,
}

/// Why a pattern was refused; `Display` gives the right spelling where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternError {
    Name(InvalidName),
    /// Unicode that IDNA does not map to A-labels.
    Idna,
    /// A star that is not a whole label at the front.
    Star {
        suggestion: Option<String>,
    },
    /// An IP address, which no client may send as a server name.
    Address,
    /// A URL, or a name with a port.
    MoreThanAName {
        suggestion: Option<String>,
    },
    /// What the file of another program would say here.
    Habit(Habit),
}

impl Sni {
    /// Validates the bytes of a `host_name` (docs/design.md: one trailing dot goes, case is folded, `_` is allowed).
    ///
    /// # Errors
    /// [`InvalidName`]; such a name must be refused, never routed by default.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, InvalidName> {
        let name = bytes.strip_suffix(b".").unwrap_or(bytes);
        if is_ip_literal(name) {
            return Ok(Self::IpLiteral(String::from_utf8_lossy(bytes).into()));
        }
        ServerName::from_bytes(name).map(Self::Name)
    }
}

impl ServerName {
    /// Lower-case, without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks and folds `name`, from which a trailing dot is already gone.
    fn from_bytes(name: &[u8]) -> Result<Self, InvalidName> {
        check_labels(name)?;
        let mut lower = Vec::with_capacity(name.len());
        lower.extend(name.iter().map(u8::to_ascii_lowercase));
        let lower = String::from_utf8(lower).expect("check_labels leaves only ASCII");
        Ok(Self(lower.into_boxed_str()))
    }
}

impl FromStr for ServerName {
    type Err = InvalidName;

    /// Reads a plain name as an operator or a test writes it; no wildcard, no Unicode.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::from_bytes(text.strip_suffix('.').unwrap_or(text).as_bytes())
    }
}

impl Pattern {
    /// The name or suffix, without the stars; `None` for `*`.
    pub fn base(&self) -> Option<&ServerName> {
        match self {
            Self::Exact(name) | Self::OneLabel(name) | Self::ManyLabels(name) => Some(name),
            Self::Any => None,
        }
    }

    /// Whether every name that `other` matches is also matched by this one.
    pub fn covers(&self, other: &Self) -> bool {
        // By at least one label.
        let is_below = |name: &ServerName, suffix: &ServerName| {
            name.as_str().strip_suffix(suffix.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        };
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Exact(name), Self::Exact(other)) | (Self::OneLabel(name), Self::OneLabel(other)) => name == other,
            (Self::OneLabel(suffix), Self::Exact(name)) => {
                name.as_str().split_once('.').is_some_and(|(_, rest)| rest == suffix.as_str())
            }
            (Self::ManyLabels(suffix), Self::Exact(name)) => is_below(name, suffix),
            (Self::ManyLabels(suffix), Self::OneLabel(other) | Self::ManyLabels(other)) => {
                other == suffix || is_below(other, suffix)
            }
            _ => false,
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    /// Reads a pattern from the configuration; Unicode becomes A-labels (RFC 5891).
    fn from_str(text: &str) -> Result<Self, PatternError> {
        let read = Self::read(text);
        // Habits of other programs are looked for only where they can be: a file may hold a million good names.
        if matches!(read, Err(PatternError::Address)) || (read.is_ok() && !Habit::is_boolean(text)) {
            return read;
        }
        Habit::of(text).map_or(read, |habit| Err(PatternError::Habit(habit)))
    }
}

impl Pattern {
    fn read(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let unrooted = text.strip_suffix('.').unwrap_or(text);
        if is_ip_literal(unrooted.as_bytes()) {
            return Err(PatternError::Address);
        }
        let (wrap, base): (fn(ServerName) -> Self, &str) = if let Some(base) = text.strip_prefix("**.") {
            (Self::ManyLabels, base)
        } else if let Some(base) = text.strip_prefix("*.") {
            (Self::OneLabel, base)
        } else {
            (Self::Exact, text)
        };
        if base.contains('*') {
            return Err(PatternError::Star { suggestion: right_spelling(text) });
        }
        let base = base.strip_suffix('.').unwrap_or(base);
        if is_ip_literal(base.as_bytes()) {
            return Err(PatternError::Address);
        }
        if base.contains(['/', ':']) {
            return Err(PatternError::MoreThanAName { suggestion: name_within(text) });
        }
        let ascii = if base.is_ascii() {
            Cow::Borrowed(base)
        } else {
            idna::domain_to_ascii(base).map_err(|_| PatternError::Idna)?.into()
        };
        ServerName::from_bytes(ascii.as_bytes()).map(wrap).map_err(PatternError::Name)
    }
}

/// Guesses the intended form of `*foo.example.com` or `a.*.example.com`.
fn right_spelling(text: &str) -> Option<String> {
    let suffix = text.rsplit_once('*')?.1;
    let suffix = suffix.split_once('.').map_or(suffix, |(_, rest)| rest);
    let suffix = ServerName::from_str(suffix).ok()?;
    Some(format!("*.{suffix} (one label more) or **.{suffix} (one or more)"))
}

/// Guesses the name in `https://shop.example.com:443/cart`.
fn name_within(text: &str) -> Option<String> {
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let name = text.split(['/', ':']).next()?;
    Pattern::from_str(name).ok().map(|name| name.to_string())
}

fn check_labels(name: &[u8]) -> Result<(), InvalidName> {
    if name.is_empty() {
        return Err(InvalidName::Empty);
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(InvalidName::LongName { bytes: name.len() });
    }
    let mut label_bytes = 0;
    let mut last = b'.';
    for &byte in name {
        match byte {
            b'.' if label_bytes == 0 => return Err(InvalidName::EmptyLabel),
            b'.' if last == b'-' => return Err(InvalidName::Hyphen),
            b'-' if label_bytes == 0 => return Err(InvalidName::Hyphen),
            b'.' => label_bytes = 0,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {
                label_bytes += 1;
                if label_bytes > MAX_LABEL_BYTES {
                    let bytes = name.split(|&b| b == b'.').map(<[u8]>::len).max().unwrap_or(label_bytes);
                    return Err(InvalidName::LongLabel { bytes });
                }
            }
            _ => return Err(InvalidName::Byte(byte)),
        }
        last = byte;
    }
    match last {
        b'.' => Err(InvalidName::EmptyLabel),
        b'-' => Err(InvalidName::Hyphen),
        _ => Ok(()),
    }
}

/// Tells an address from a name. Only what starts and ends like one is parsed, since most names do not.
fn is_ip_literal(name: &[u8]) -> bool {
    let Some((&first, &last)) = name.first().zip(name.last()) else { return false };
    let bracketed = first == b'[' && last == b']';
    if !bracketed && !last.is_ascii_digit() && !name.contains(&b':') {
        return false;
    }
    let inner = if bracketed { &name[1..name.len() - 1] } else { name };
    let Ok(inner) = std::str::from_utf8(inner) else { return false };
    let zoneless = inner.split_once('%').map_or(inner, |(address, _)| address);
    (!bracketed && Ipv4Addr::from_str(inner).is_ok()) || Ipv6Addr::from_str(zoneless).is_ok()
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::OneLabel(suffix) => write!(f, "*.{suffix}"),
            Self::ManyLabels(suffix) => write!(f, "**.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the name is empty"),
            Self::EmptyLabel => f.write_str("the name has an empty label (two dots in a row, or one at the front)"),
            Self::LongLabel { bytes } => write!(f, "a label is {bytes} bytes long; the limit is {MAX_LABEL_BYTES}"),
            Self::LongName { bytes } => write!(f, "the name is {bytes} bytes long; the limit is {MAX_NAME_BYTES}"),
            Self::Byte(byte) => write!(f, "the name contains the byte 0x{byte:02x} ('{}')", byte.escape_ascii()),
            Self::Hyphen => f.write_str("a label of a name must not begin or end with `-`"),
        }
    }
}

impl std::error::Error for InvalidName {}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(reason @ InvalidName::Byte(_)) => {
                write!(f, "{reason}; letters, digits, `-`, `_` and `.` are allowed")
            }
            Self::Name(reason) => write!(f, "{reason}"),
            Self::Idna => f.write_str("the name is not valid under IDNA"),
            Self::Star { suggestion: Some(right) } => {
                write!(f, "a star must replace whole labels at the front; write {right}")
            }
            Self::Star { suggestion: None } => {
                f.write_str("a star must replace whole labels at the front: `*`, `*.example.com`, `**.example.com`")
            }
            Self::Habit(habit) => habit.fmt(f),
            Self::MoreThanAName { suggestion: Some(name) } => {
                write!(f, "a server name has no scheme, port or path; write {name}")
            }
            Self::MoreThanAName { suggestion: None } => f.write_str("a server name has no scheme, port or path"),
            Self::Address => {
                f.write_str("clients never send an IP address as a server name; use `no_sni` for such clients")
            }
        }
    }
}

impl std::error::Error for PatternError {}

/// RFC 1035 §2.3.4, without the length bytes and the root.
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(bytes: &[u8]) -> Result<Sni, InvalidName> {
        Sni::from_wire(bytes)
    }

    fn name(text: &str) -> ServerName {
        text.parse().expect("a valid name")
    }

    #[test]
    fn case_is_folded_and_one_trailing_dot_goes() {
        assert_eq!(wire(b"Shop.Example.COM."), Ok(Sni::Name(name("shop.example.com"))));
        assert_eq!(wire(b"a.."), Err(InvalidName::EmptyLabel));
        assert_eq!(wire(b"."), Err(InvalidName::Empty));
    }

    #[test]
    fn an_ip_literal_is_no_name() {
        for literal in ["192.0.2.7", "192.0.2.7.", "::1", "[::1]", "2001:db8::1", "fe80::1%eth0"] {
            assert_eq!(wire(literal.as_bytes()), Ok(Sni::IpLiteral(literal.into())), "{literal}");
        }
        for near in ["192.0.2", "192.0.2.7.example", "1.2.3.4.5", "a1"] {
            assert!(matches!(wire(near.as_bytes()), Ok(Sni::Name(_))), "{near}");
        }
    }

    #[test]
    fn what_dns_cannot_hold_is_invalid() {
        assert_eq!(wire(b""), Err(InvalidName::Empty));
        assert_eq!(wire(b"a\0b"), Err(InvalidName::Byte(0)));
        assert_eq!(wire(b"a b"), Err(InvalidName::Byte(b' ')));
        assert_eq!(wire(b"a\r\nb"), Err(InvalidName::Byte(b'\r')));
        assert_eq!(wire(b"*.example.com"), Err(InvalidName::Byte(b'*')));
        assert_eq!(wire("bücher.test".as_bytes()), Err(InvalidName::Byte(0xc3)));
        for byte in *b"<>;:/$(),'\"\\`%~@+" {
            assert_eq!(wire(&[b'a', byte, b'.', b'b']), Err(InvalidName::Byte(byte)));
        }
        for name in ["-lead.test", "a.-b", "trail-.test", "trail-", "-"] {
            assert_eq!(wire(name.as_bytes()), Err(InvalidName::Hyphen), "{name}");
        }
        for name in ["_svc._tcp.a", "a_b.test", "r3---sn-4g5e6nz7.test", "xn--bcher-kva.test", "1.a"] {
            assert!(wire(name.as_bytes()).is_ok(), "{name}");
        }
        assert_eq!(wire(b".a"), Err(InvalidName::EmptyLabel));
        assert_eq!(wire(b"a..b"), Err(InvalidName::EmptyLabel));
        assert_eq!(wire(&[b'a'; 64]), Err(InvalidName::LongLabel { bytes: 64 }));
        let long = [[b'a'; 62].as_slice(), b"."].concat().repeat(5);
        assert_eq!(wire(&long[..254]), Err(InvalidName::LongName { bytes: 254 }));
        assert!(wire(&long[..253]).is_ok());
    }

    #[test]
    fn patterns_read_and_print_alike() {
        for text in ["a.example.com", "*.example.com", "**.example.com", "*", "_svc._tcp.a", "localhost"] {
            let pattern: Pattern = text.parse().expect(text);
            assert_eq!(pattern.to_string(), text);
        }
    }

    #[test]
    fn unicode_in_a_pattern_becomes_a_labels() {
        let pattern: Pattern = "*.Bücher.test".parse().expect("valid IDN");
        assert_eq!(pattern.to_string(), "*.xn--bcher-kva.test");
    }

    #[test]
    fn a_misplaced_star_is_reported_the_right_spelling() {
        for text in ["*shop.example.com", "a.*.example.com", "***.example.com", "foo*.example.com"] {
            let error = text.parse::<Pattern>().expect_err(text);
            assert!(error.to_string().contains("**.example.com"), "{text}: {error}");
        }
        assert!(matches!("a.*".parse::<Pattern>(), Err(PatternError::Star { suggestion: None })));
        assert_eq!("10.0.0.1".parse::<Pattern>(), Err(PatternError::Address));
    }

    #[test]
    fn a_url_or_a_port_is_reported_the_name_in_it() {
        for (text, name) in [
            ("https://a.example.com/x", "a.example.com"),
            ("a.example.com:443", "a.example.com"),
            ("a.example.com/", "a.example.com"),
            ("*.a.example.com:443", "*.a.example.com"),
        ] {
            let error = text.parse::<Pattern>().expect_err(text).to_string();
            assert!(error.ends_with(&format!("write {name}")), "{text}: {error}");
        }
    }

    #[test]
    fn the_habits_of_other_programs_get_the_name_to_write() {
        for (text, cause, cure) in [
            ("HostSNI(`shop.example.test`)", "Traefik", ": shop.example.test"),
            ("HostSNI(`a.test`) || HostSNI(`b.test`)", "Traefik", ": [a.test, b.test]"),
            ("HostSNI(`*`)", "Traefik", ": *"),
            ("~^shop", "regular expressions", ": *.example.com"),
            (r"^app-[0-9]+\.x\.test$", "regular expressions", ": *.x.test"),
            (r"^shop\.x\.test$", "regular expressions", ": shop.x.test"),
            (r".*\.x\.test$", "regular expressions", ": *.x.test"),
            ("(a|b).test", "regular expressions", ": [a.test, b.test]"),
            ("a.test,b.test", "YAML list", " [a.test, b.test]"),
            ("a.test b.test", "YAML list", " [a.test, b.test]"),
            ("a.test;", "`;`", ": a.test"),
            ("server_name a.test b.test;", "`;`", ": [a.test, b.test]"),
            ("$host", "variable", ": shop.example.com"),
            ("${DOMAIN}", "variable", ": shop.example.com"),
            ("<host>", "placeholder", ": shop.example.com"),
            ("'a.test'", "quotes", ": a.test"),
            ("`a.test`", "quotes", ": a.test"),
            ("true", "boolean", "`*` for any name"),
            ("-bad.test", "begin or end with `-`", ""),
            ("bad-.test", "begin or end with `-`", ""),
        ] {
            let error = text.parse::<Pattern>().expect_err(text).to_string();
            assert!(error.contains(cause) && error.ends_with(cure), "{text}: {error}");
        }
    }
}
