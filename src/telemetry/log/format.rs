//! Formats records as lines.
//!
//! In:  a record; how its output shows lines.
//! Out: one line of JSON or logfmt, or of text for people ([`pretty`]).
//! Source: docs/logs.md.

mod pretty;
mod pseudonyms;
mod style;
mod visible;

use std::fmt;
use std::sync::Arc;

use self::pseudonyms::Pseudonyms;
pub(super) use self::style::{Colour, Form, Medium, Style};
use self::visible::{Millis, Visible, visible};
use super::keys::Key;
use super::record::{Kind, Name, Record, Value};
use crate::settings::LogFields;
use crate::telemetry::Timestamp;
use crate::telemetry::escape::{Bytes, Pairs, Syntax};

/// Formats records.
#[derive(Clone, Default)]
pub(super) struct Formatter {
    pseudonyms: Arc<Pseudonyms>,
}

impl Formatter {
    /// Appends the line of `record`, with its newline.
    pub(super) fn write(&self, out: &mut String, record: Record<'_>, style: Style) {
        let fields = visible(record, style, &self.pseudonyms);
        match style.form {
            Form::Json(names) => write_pairs(out, Syntax::Json, names, record, fields),
            Form::Logfmt => write_pairs(out, Syntax::Logfmt, LogFields::Native, record, fields),
            Form::Pretty(colour) => pretty::write(out, record, fields, colour),
        }
    }
}

fn write_pairs<'a>(
    out: &mut String,
    syntax: Syntax,
    names: LogFields,
    record: Record<'_>,
    fields: impl Iterator<Item = (Name<'a>, Visible<'a>)> + Clone,
) {
    let mut pairs = Pairs::new(out, syntax);
    pairs.text(Key::Ts.name(names), Timestamp(record.at));
    pairs.text(Key::Level.name(names), record.severity.as_str());
    match names {
        LogFields::Native => {}
        // These three stand first (ecs-logging).
        LogFields::Ecs => write_summary(&mut pairs, names, record, fields.clone()),
        LogFields::Otel => {
            pairs.plain("severity_number", record.severity.number());
            write_summary(&mut pairs, names, record, fields.clone());
        }
    }
    if names == LogFields::Ecs {
        pairs.text("ecs.version", ECS_VERSION);
    }
    let mut backend = None;
    for (name, value) in fields {
        match (name, value) {
            (Name::Known(Key::Msg), _) if names != LogFields::Native => {}
            (Name::Known(key), value) if key.is_address() && names != LogFields::Native => {
                write_address(&mut pairs, key, names, value);
            }
            (Name::Known(Key::Address), Visible::Value(address)) if backend.is_some_and(|is| same(is, address)) => {}
            (Name::Known(key), value) => {
                if let (Key::Backend, Visible::Value(Value::Text(text))) = (key, &value) {
                    backend = Some(*text);
                }
                write_value(&mut pairs, key, names, value);
            }
            (Name::Other(name), value) if names == LogFields::Native => write_plain(&mut pairs, name, value),
            (Name::Other(name), value) => write_plain(&mut pairs, format_args!("snigate.{name}"), value),
        }
    }
    pairs.finish();
}

/// The text that other schemas want each line to have.
fn write_summary<'a>(
    pairs: &mut Pairs<'_>,
    names: LogFields,
    record: Record<'_>,
    mut fields: impl Iterator<Item = (Name<'a>, Visible<'a>)>,
) {
    let wanted = if record.kind == Kind::Connection { Key::Reason } else { Key::Msg };
    let text = fields.find_map(|(name, value)| match value {
        Visible::Value(Value::Text(text)) if name == Name::Known(wanted) => Some(Bytes(text)),
        _ => None,
    });
    let key = Key::Msg.name(names);
    match (record.kind, text) {
        (Kind::Connection, Some(reason)) => pairs.text(key, format_args!("connection ended: {reason}")),
        (Kind::Open, _) => pairs.text(key, "connection is open"),
        (_, text) => pairs.text(key, text.unwrap_or(Bytes(b""))),
    }
}

/// A socket address, as two fields.
fn write_address(pairs: &mut Pairs<'_>, key: Key, names: LogFields, value: Visible<'_>) {
    let name = key.name(names);
    let socket = match &value {
        Visible::Value(Value::Socket(address)) => Some(*address),
        Visible::Value(Value::Text(text)) => str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
        _ => None,
    };
    match socket {
        Some(address) => {
            // In ECS, `ip` is only for what is one.
            let ip = if names == LogFields::Ecs { "ip" } else { "address" };
            pairs.text(format_args!("{name}.{ip}"), address.ip().to_canonical());
            pairs.plain(format_args!("{name}.port"), address.port());
        }
        None => write_plain(pairs, format_args!("{name}.address"), value),
    }
}

fn write_value(pairs: &mut Pairs<'_>, key: Key, names: LogFields, value: Visible<'_>) {
    let name = key.name(names);
    match (key, names, &value) {
        // In nanoseconds.
        (Key::DurationMs, LogFields::Ecs, Visible::Value(Value::Duration(duration))) => {
            pairs.plain(name, duration.as_nanos());
        }
        _ => write_plain(pairs, name, value),
    }
}

fn write_plain(pairs: &mut Pairs<'_>, name: impl fmt::Display, value: Visible<'_>) {
    match value {
        Visible::Hidden(text) => pairs.text(name, text),
        Visible::Value(Value::Text(text)) => pairs.text(name, Bytes(text)),
        Visible::Value(Value::Number(number)) => pairs.plain(name, number),
        Visible::Value(Value::Signed(number)) => pairs.plain(name, number),
        Visible::Value(Value::Float(number)) => pairs.plain(name, number),
        Visible::Value(Value::Bool(is)) => pairs.plain(name, is),
        Visible::Value(Value::Duration(duration)) => pairs.plain(name, Millis(duration)),
        // A string in JSON too: parsers that use doubles would round an id above 2^53.
        Visible::Value(Value::Id(id)) => pairs.text(name, format_args!("{id:016x}")),
        Visible::Value(Value::Socket(address)) => pairs.text(name, address),
        Visible::Value(Value::List(texts)) => pairs.list(name, texts.map(Bytes)),
    }
}

/// Whether an address is what the backend is called.
fn same(backend: &[u8], address: Value<'_>) -> bool {
    match address {
        Value::Text(text) => backend == text,
        Value::Socket(address) => str::from_utf8(backend).is_ok_and(|text| text.parse() == Ok(address)),
        _ => false,
    }
}

const ECS_VERSION: &str = "8.17.0";

#[cfg(test)]
mod tests;
