//! Keeps a log entry as the bytes that its writer needs, so that whoever has something to log formats nothing.
//!
//! In:  the values of an entry, each under its key.
//! Out: a [`Record`] in a buffer: a header, then key, kind and value of each field. It never leaves the process.
//!
//! ```text
//! length u32 | microseconds since 1970 u64 | severity u8 | kind u8 | { key u8 [name] | type u8 | value }*
//! ```
//!
//! Text is a length (u32) and bytes. A key of 0 is followed by its name, as text.

use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::keys::Key;

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A connection that ended.
    Connection,
    /// A connection that is still open.
    Open,
    /// A message to operators.
    Message,
}

/// How serious an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl Severity {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "TRACE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }

    /// OpenTelemetry's SeverityNumber.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Trace => 1,
            Self::Debug => 5,
            Self::Info => 9,
            Self::Warn => 13,
            Self::Error => 17,
        }
    }
}

/// The key of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// A field of connections, and those that all entries have.
    Known(Key),
    /// Of a message; ours, not the network's.
    Other(&'a str),
}

impl From<Key> for Name<'_> {
    fn from(key: Key) -> Self {
        Self::Known(key)
    }
}

/// The value of a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    /// UTF-8, unless it is from the network.
    Text(&'a [u8]),
    Number(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Duration(Duration),
    /// The number of a connection.
    Id(u64),
    Socket(SocketAddr),
    List(Texts<'a>),
}

/// An entry being written. `finish` ends it.
pub(super) struct Entry<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
}

impl<'o> Entry<'o> {
    pub(super) fn new(out: &'o mut Vec<u8>, at: SystemTime, severity: Severity, kind: Kind) -> Self {
        let start = out.len();
        let since_1970 = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX).to_ne_bytes());
        out.extend_from_slice(&[severity as u8, kind as u8]);
        Self { out, start }
    }

    pub(super) fn bytes<'n>(&mut self, name: impl Into<Name<'n>>, value: &[u8]) {
        self.head(name.into(), TEXT);
        self.raw_text(value);
    }

    pub(super) fn text<'n>(&mut self, name: impl Into<Name<'n>>, value: &str) {
        self.bytes(name, value.as_bytes());
    }

    /// Text that has to be formatted.
    pub(super) fn display<'n>(&mut self, name: impl Into<Name<'n>>, value: impl fmt::Display) {
        self.head(name.into(), TEXT);
        let at = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        // Only a broken `Display` fails; what it has written stays.
        let _ = write!(Text(self.out), "{value}");
        let length = length(self.out.len() - at - 4);
        self.out[at..at + 4].copy_from_slice(&length.to_ne_bytes());
    }

    pub(super) fn number<'n>(&mut self, name: impl Into<Name<'n>>, value: u64) {
        self.eight(name.into(), NUMBER, value);
    }

    pub(super) fn signed<'n>(&mut self, name: impl Into<Name<'n>>, value: i64) {
        self.eight(name.into(), SIGNED, value.cast_unsigned());
    }

    pub(super) fn float<'n>(&mut self, name: impl Into<Name<'n>>, value: f64) {
        self.eight(name.into(), FLOAT, value.to_bits());
    }

    pub(super) fn bool<'n>(&mut self, name: impl Into<Name<'n>>, value: bool) {
        self.eight(name.into(), BOOL, u64::from(value));
    }

    /// In microseconds.
    pub(super) fn duration<'n>(&mut self, name: impl Into<Name<'n>>, value: Duration) {
        self.eight(name.into(), DURATION, u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn id<'n>(&mut self, name: impl Into<Name<'n>>, value: u64) {
        self.eight(name.into(), ID, value);
    }

    pub(super) fn socket<'n>(&mut self, name: impl Into<Name<'n>>, value: SocketAddr) {
        let port = value.port().to_ne_bytes();
        match value.ip() {
            IpAddr::V4(ip) => {
                self.head(name.into(), SOCKET_V4);
                self.out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.head(name.into(), SOCKET_V6);
                self.out.extend_from_slice(&ip.octets());
            }
        }
        self.out.extend_from_slice(&port);
    }

    pub(super) fn list<'n, 'v>(&mut self, name: impl Into<Name<'n>>, values: impl Iterator<Item = &'v [u8]>) {
        self.head(name.into(), LIST);
        let at = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        values.for_each(|value| self.raw_text(value));
        let length = length(self.out.len() - at - 4);
        self.out[at..at + 4].copy_from_slice(&length.to_ne_bytes());
    }

    pub(super) fn finish(self) {
        let length = length(self.out.len() - self.start);
        self.out[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn head(&mut self, name: Name<'_>, kind: u8) {
        match name {
            Name::Known(key) => self.out.push(key as u8 + 1),
            Name::Other(name) => {
                self.out.push(0);
                self.raw_text(name.as_bytes());
            }
        }
        self.out.push(kind);
    }

    fn eight(&mut self, name: Name<'_>, kind: u8, value: u64) {
        self.head(name, kind);
        self.out.extend_from_slice(&value.to_ne_bytes());
    }

    fn raw_text(&mut self, value: &[u8]) {
        self.out.extend_from_slice(&length(value.len()).to_ne_bytes());
        self.out.extend_from_slice(value);
    }
}

/// Appends UTF-8.
struct Text<'o>(&'o mut Vec<u8>);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// No text is longer: the queue refuses an entry that it has no room for.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a log entry is shorter than 4 GiB")
}

/// A finished entry.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) at: SystemTime,
    pub(super) severity: Severity,
    pub(super) kind: Kind,
    fields: &'a [u8],
}

impl<'a> Record<'a> {
    /// The first record of `bytes`, which it is removed from; `None` if there is none.
    pub(super) fn next(bytes: &mut &'a [u8]) -> Option<Self> {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let (mut record, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        let _ = take::<4>(&mut record)?;
        let at = UNIX_EPOCH + Duration::from_micros(u64::from_ne_bytes(take(&mut record)?));
        let [severity, kind] = take(&mut record)?;
        let severity = SEVERITIES.into_iter().find(|known| *known as u8 == severity)?;
        let kind = [Kind::Connection, Kind::Open, Kind::Message].into_iter().find(|known| *known as u8 == kind)?;
        Some(Self { at, severity, kind, fields: record })
    }

    /// In the order in which they were written.
    pub(super) fn fields(self) -> Fields<'a> {
        Fields(self.fields)
    }

    pub(super) fn find(self, key: Key) -> Option<Value<'a>> {
        self.fields().find_map(|(name, value)| (name == Name::Known(key)).then_some(value))
    }
}

/// The fields of a record.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (Name<'a>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &mut self.0;
        let name = match take(rest)? {
            [0] => Name::Other(str::from_utf8(take_text(rest)?).ok()?),
            [number] => Name::Known(*Key::ALL.get(usize::from(number) - 1)?),
        };
        let value = match take(rest)? {
            [TEXT] => Value::Text(take_text(rest)?),
            [LIST] => Value::List(Texts(take_text(rest)?)),
            [SOCKET_V4] => Value::Socket((take::<4>(rest)?, u16::from_ne_bytes(take(rest)?)).into()),
            [SOCKET_V6] => Value::Socket((take::<16>(rest)?, u16::from_ne_bytes(take(rest)?)).into()),
            [kind] => {
                let eight = u64::from_ne_bytes(take(rest)?);
                match kind {
                    NUMBER => Value::Number(eight),
                    SIGNED => Value::Signed(eight.cast_signed()),
                    FLOAT => Value::Float(f64::from_bits(eight)),
                    BOOL => Value::Bool(eight != 0),
                    DURATION => Value::Duration(Duration::from_micros(eight)),
                    ID => Value::Id(eight),
                    _ => return None,
                }
            }
        };
        Some((name, value))
    }
}

/// The texts of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Texts<'a>(&'a [u8]);

impl<'a> Iterator for Texts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        take_text(&mut self.0)
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_ne_bytes(take(bytes)?) as usize;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(text)
}

const SEVERITIES: [Severity; 5] = [Severity::Trace, Severity::Debug, Severity::Info, Severity::Warn, Severity::Error];
const TEXT: u8 = 0;
const NUMBER: u8 = 1;
const SIGNED: u8 = 2;
const FLOAT: u8 = 3;
const BOOL: u8 = 4;
const DURATION: u8 = 5;
const ID: u8 = 6;
const SOCKET_V4: u8 = 7;
const SOCKET_V6: u8 = 8;
const LIST: u8 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_in_the_same_order() {
        let (mut out, at) = (Vec::new(), UNIX_EPOCH + Duration::from_micros(1_772_368_496_789_012));
        for severity in SEVERITIES {
            let mut entry = Entry::new(&mut out, at, severity, Kind::Open);
            entry.text(Key::Sni, "a.test");
            entry.display(Name::Other("left"), format_args!("{}-{}", 1, 2));
            entry.number(Key::Attempts, 7);
            entry.signed(Name::Other("s"), -7);
            entry.float(Name::Other("f"), 0.5);
            entry.bool(Name::Other("b"), true);
            entry.duration(Key::DurationMs, Duration::from_micros(1500));
            entry.id(Key::Id, 42);
            entry.socket(Key::Client, "192.0.2.1:7".parse().unwrap());
            entry.socket(Key::Peer, "[2001:db8::1]:8".parse().unwrap());
            entry.list(Key::Alpn, [&b"h2"[..], b"", b"\xff"].into_iter());
            entry.finish();
        }
        let mut bytes = &out[..];
        for severity in SEVERITIES {
            let record = Record::next(&mut bytes).unwrap();
            assert_eq!((record.at, record.severity, record.kind), (at, severity, Kind::Open));
            let fields: Vec<String> = record.fields().map(|(name, value)| format!("{name:?} {value:?}")).collect();
            assert_eq!(
                fields.join("; "),
                "Known(Sni) Text([97, 46, 116, 101, 115, 116]); Other(\"left\") Text([49, 45, 50]); Known(Attempts) Number(7); \
                 Other(\"s\") Signed(-7); Other(\"f\") Float(0.5); Other(\"b\") Bool(true); Known(DurationMs) \
                 Duration(1.5ms); Known(Id) Id(42); Known(Client) Socket(192.0.2.1:7); Known(Peer) \
                 Socket([2001:db8::1]:8); Known(Alpn) List(Texts([2, 0, 0, 0, 104, 50, 0, 0, 0, 0, 1, 0, 0, 0, 255]))"
            );
            let Some(Value::List(texts)) = record.find(Key::Alpn) else { panic!("no list") };
            assert_eq!(texts.collect::<Vec<_>>(), [&b"h2"[..], b"", b"\xff"]);
        }
        assert!(bytes.is_empty() && Record::next(&mut bytes).is_none());
    }
}
