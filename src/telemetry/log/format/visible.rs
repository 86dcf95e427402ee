//! Decides what an output may show of a record: names and addresses of clients may be hashed, or left out.
//!
//! In:  a record, and what its output shows.
//! Out: its fields, as far as they may be seen.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use super::pseudonyms::{Pseudonyms, Role};
use super::style::Style;
use crate::settings::Shown;
use crate::telemetry::escape::Bytes;
use crate::telemetry::log::keys::Key;
use crate::telemetry::log::record::{Name, Record, Value};

/// A value, as far as it may be shown.
#[derive(Clone)]
pub(super) enum Visible<'a> {
    Value(Value<'a>),
    /// In place of a name or an address.
    Hidden(String),
}

/// The fields of `record` that may be shown.
pub(super) fn visible<'a>(
    record: Record<'a>,
    style: Style,
    pseudonyms: &Pseudonyms,
) -> impl Iterator<Item = (Name<'a>, Visible<'a>)> + Clone {
    let was_encrypted = record.find(Key::InnerSni).is_some();
    // An error has the name that the connection was routed by.
    let names_are_clear = (if was_encrypted { style.inner_names } else { style.names }) == Shown::Clear;
    let has_nameless_error = !names_are_clear && record.find(Key::NamelessError).is_some();
    record.fields().filter_map(move |(name, value)| {
        let hidden = match name {
            Name::Known(Key::Sni | Key::OuterSni | Key::Host) => hide(pseudonyms, style.names, Role::Name, value),
            Name::Known(Key::InnerSni) => hide(pseudonyms, style.inner_names, Role::Name, value),
            Name::Known(Key::Client | Key::Peer) => hide(pseudonyms, style.clients, Role::Client, value),
            Name::Known(Key::NamelessError) if names_are_clear => None,
            Name::Known(Key::Error) if has_nameless_error => None,
            _ => Some(Visible::Value(value)),
        };
        Some((name, hidden?))
    })
}

fn hide<'a>(pseudonyms: &Pseudonyms, shown: Shown, role: Role, value: Value<'a>) -> Option<Visible<'a>> {
    match (shown, value) {
        (Shown::Off, _) => None,
        (Shown::Clear, _) => Some(Visible::Value(value)),
        (Shown::Hashed, Value::Socket(address)) => {
            Some(hash(pseudonyms, role, address.ip().to_canonical().to_string()))
        }
        (Shown::Hashed, Value::Text(text)) => {
            let text = String::from_utf8_lossy(text);
            // Without the port, which would tell the connections of a client apart.
            let ip = text.parse::<SocketAddr>().ok().map(|address| address.ip()).or_else(|| text.parse().ok());
            let ip = ip.filter(|_| role == Role::Client).map(|ip: IpAddr| ip.to_canonical().to_string());
            Some(hash(pseudonyms, role, ip.unwrap_or_else(|| text.into_owned())))
        }
        (Shown::Hashed, _) => None,
    }
}

fn hash<'a>(pseudonyms: &Pseudonyms, role: Role, text: String) -> Visible<'a> {
    // The time of writing, not that of the entry: two outputs may lag behind by different times.
    Visible::Hidden(pseudonyms.of(role, text, SystemTime::now()).to_string())
}

impl fmt::Display for Visible<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hidden(text) => f.write_str(text),
            Self::Value(Value::Text(text)) => Bytes(text).fmt(f),
            Self::Value(Value::Number(number)) => number.fmt(f),
            Self::Value(Value::Signed(number)) => number.fmt(f),
            Self::Value(Value::Float(number)) => number.fmt(f),
            Self::Value(Value::Bool(is)) => is.fmt(f),
            Self::Value(Value::Duration(duration)) => Millis(*duration).fmt(f),
            Self::Value(Value::Id(id)) => write!(f, "{id:016x}"),
            Self::Value(Value::Socket(address)) => address.fmt(f),
            Self::Value(Value::List(texts)) => {
                for (at, text) in texts.enumerate() {
                    write!(f, "{}{}", if at > 0 { "," } else { "" }, Bytes(text))?;
                }
                Ok(())
            }
        }
    }
}

/// Milliseconds with microsecond precision.
pub(super) struct Millis(pub(super) Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{:03}", micros / 1000, micros % 1000)
    }
}
