//! Formats records for people at a terminal.
//!
//! In:  a record and its visible fields.
//! Out: for a connection, one line of at most [`COLUMNS`] columns: time, client, name → route/backend, reason, error,
//!      bytes to the backend and to the client, duration. For a message: time, level, text, fields. What is too long is
//!      shortened with an ellipsis, but never a reason, nor a message about a problem.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::style::Colour;
use super::visible::Visible;
use crate::telemetry::escape::escaped;
use crate::telemetry::log::keys::Key;
use crate::telemetry::log::record::{Kind, Name, Record, Severity, Value};
use crate::telemetry::timestamp::TimeOfDay;
use crate::telemetry::{Fault, Reason};

/// Appends the line of `record`, with its newline.
pub(super) fn write<'a>(
    out: &mut String,
    record: Record<'a>,
    fields: impl Iterator<Item = (Name<'a>, Visible<'a>)>,
    colour: Colour,
) {
    let mut line = Line { out, colour };
    line.part(DIM, &TimeOfDay(record.at).to_string());
    match record.kind {
        Kind::Connection | Kind::Open => Connection::of(fields).write(&mut line, record.kind),
        Kind::Message => write_message(&mut line, record.severity, fields),
    }
    line.out.push('\n');
}

/// What a line shows of a connection, escaped.
#[derive(Default)]
struct Connection {
    client: String,
    name: String,
    saw: String,
    route: String,
    backend: String,
    reason: String,
    error: String,
    bytes: [u64; 2],
    lived: Duration,
}

impl Connection {
    fn of<'a>(fields: impl Iterator<Item = (Name<'a>, Visible<'a>)>) -> Self {
        let mut connection = Self::default();
        for (name, value) in fields {
            let Name::Known(key) = name else { continue };
            let place = match (key, &value) {
                (Key::BytesToBackend, Visible::Value(Value::Number(bytes))) => {
                    connection.bytes[0] = *bytes;
                    continue;
                }
                (Key::BytesToClient, Visible::Value(Value::Number(bytes))) => {
                    connection.bytes[1] = *bytes;
                    continue;
                }
                (Key::DurationMs, Visible::Value(Value::Duration(lived))) => {
                    connection.lived = *lived;
                    continue;
                }
                (Key::Client, Visible::Value(Value::Socket(client))) => {
                    // Of a listener that accepts both families.
                    connection.client = SocketAddr::new(client.ip().to_canonical(), client.port()).to_string();
                    continue;
                }
                (Key::Client, _) => &mut connection.client,
                (Key::Sni | Key::InnerSni | Key::Host, _) => &mut connection.name,
                (Key::Saw, _) => &mut connection.saw,
                (Key::Route, _) => &mut connection.route,
                (Key::Backend, _) => &mut connection.backend,
                (Key::Reason, _) => &mut connection.reason,
                (Key::Error | Key::NamelessError, _) => &mut connection.error,
                _ => continue,
            };
            *place = escaped(value);
        }
        connection
    }

    fn write(&self, line: &mut Line<'_>, kind: Kind) {
        let (reason, colour) = match kind {
            Kind::Open => ("open", CYAN),
            _ => (&*self.reason, of_outcome(&self.reason)),
        };
        let client = padded(shortened(&self.client, MOST_CLIENT_COLUMNS), CLIENT_COLUMNS);
        let bytes = format!("{:>6}↑ {:>6}↓", amount(self.bytes[0]), amount(self.bytes[1]));
        let lived = format!("{:>6}", length_of_time(self.lived));
        let taken = TIME_COLUMNS + GAPS * GAP.len() + client.width() + bytes.width() + lived.width();
        let reason = padded(reason.to_owned(), REASON_COLUMNS);
        let left = COLUMNS.saturating_sub(taken + reason.width());
        // An error takes what the destination leaves, and at least half.
        let for_error = if self.error.is_empty() { 0 } else { self.error.width() + GAP.len() };
        let beside_error = left.saturating_sub(for_error);
        let to = padded(self.destination(beside_error.max(left / 2)), beside_error.min(DESTINATION_COLUMNS));
        line.part("", &client);
        line.part(if self.name.is_empty() { DIM } else { "" }, &to);
        line.part(colour, &reason);
        if !self.error.is_empty() {
            line.part(colour, &shortened(&self.error, left.saturating_sub(to.width() + GAP.len())));
        }
        line.part(DIM, &bytes);
        line.part(DIM, &lived);
    }

    /// `name → route/backend`, as far as they are known.
    fn destination(&self, most: usize) -> String {
        let name = match (&*self.name, &*self.saw) {
            ("", "") => "-".to_owned(),
            ("", saw) => format!("({saw})"),
            (name, _) => name.to_owned(),
        };
        if self.route.is_empty() {
            return shortened(&name, most);
        }
        let slash = if self.backend.is_empty() { "" } else { "/" };
        let arrow = " → ";
        let room = most.saturating_sub(arrow.width() + slash.len());
        let [name, route, backend] = shared(room, [&name, &self.route, &self.backend]);
        shortened(&format!("{name}{arrow}{route}{slash}{backend}"), most)
    }
}

fn write_message<'a>(line: &mut Line<'_>, severity: Severity, fields: impl Iterator<Item = (Name<'a>, Visible<'a>)>) {
    let colour = match severity {
        Severity::Error => RED,
        Severity::Warn => YELLOW,
        Severity::Info => CYAN,
        Severity::Debug | Severity::Trace => DIM,
    };
    line.part(colour, &padded(severity.as_str().to_owned(), LEVEL_COLUMNS));
    let is_problem = severity >= Severity::Warn;
    let mut pairs = Vec::new();
    for (name, value) in fields {
        let name = match name {
            Name::Known(Key::Event) => continue,
            Name::Known(Key::Msg) => {
                line.part(if is_problem { colour } else { BOLD }, &escaped(value));
                continue;
            }
            Name::Known(key) => key.name(crate::settings::LogFields::Native),
            Name::Other(name) => name,
        };
        pairs.push((name, escaped(value)));
    }
    let text: usize = line.out.rsplit('\n').next().map_or(0, visible_width);
    let mut left = COLUMNS.saturating_sub(text);
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        let value = if is_problem { value.clone() } else { shortened(value, MOST_VALUE_COLUMNS) };
        let columns = GAP.len() + name.len() + 1 + value.width();
        if !is_problem && columns + "  …".width() > left {
            line.part(DIM, "…");
            return;
        }
        left = left.saturating_sub(columns);
        line.part(DIM, &format!("{name}="));
        line.out.push_str(&value);
    }
}

/// A line under construction: parts with a gap between them.
struct Line<'o> {
    out: &'o mut String,
    colour: Colour,
}

impl Line<'_> {
    fn part(&mut self, colour: &str, text: &str) {
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push_str(GAP);
        }
        if self.colour == Colour::Ansi && !colour.is_empty() {
            // Formatting a String cannot fail.
            let _ = write!(self.out, "{colour}{text}{RESET}");
        } else {
            self.out.push_str(text);
        }
    }
}

fn of_outcome(reason: &str) -> &'static str {
    let fault = Reason::ALL.iter().find(|known| known.as_str() == reason).map(|known| known.fault());
    match (reason, fault) {
        ("ok" | "redirected", _) => GREEN,
        (_, Some(Fault::None)) | (_, None) => DIM,
        (_, Some(Fault::Client | Fault::Policy)) => YELLOW,
        (_, Some(Fault::Backend | Fault::Proxy)) => RED,
    }
}

/// Columns of a text that holds no escape sequences but ours.
fn visible_width(text: &str) -> usize {
    let mut parts = text.split('\x1b');
    let first = parts.next().map_or(0, UnicodeWidthStr::width);
    first + parts.map(|part| part.split_once('m').map_or(0, |(_, shown)| shown.width())).sum::<usize>()
}

fn padded(mut text: String, columns: usize) -> String {
    text.extend(std::iter::repeat_n(' ', columns.saturating_sub(text.width())));
    text
}

/// At most `most` columns: the middle is left out, since both ends of a name, an address or an error tell more.
fn shortened(text: &str, most: usize) -> String {
    if text.width() <= most {
        return text.to_owned();
    }
    let Some(kept) = most.checked_sub(1) else { return String::new() };
    let head = of_width(text.chars(), kept - kept / 2);
    let tail: String = of_width(text.chars().rev(), kept / 2);
    format!("{head}…{}", tail.chars().rev().collect::<String>())
}

/// The first of `chars` that fit.
fn of_width(chars: impl Iterator<Item = char>, most: usize) -> String {
    let mut left = most;
    chars
        .take_while(|c| {
            c.width().unwrap_or(0) <= left && {
                left -= c.width().unwrap_or(0);
                true
            }
        })
        .collect()
}

/// Texts that together have at most `most` columns: the longest are shortened first.
fn shared<const N: usize>(most: usize, texts: [&str; N]) -> [String; N] {
    let mut widths = texts.map(UnicodeWidthStr::width);
    while widths.iter().sum::<usize>() > most {
        let Some(longest) = widths.iter_mut().max() else { break };
        *longest -= 1;
    }
    let mut widths = widths.into_iter();
    texts.map(|text| shortened(text, widths.next().unwrap_or(0)))
}

/// `517`, `1.9k`, `48.2M`: three digits at least, in powers of 1000.
fn amount(bytes: u64) -> String {
    let (mut value, mut units) = (bytes as f64, "kMGTPE".chars());
    let mut unit = None;
    while value >= 999.95 {
        value /= 1000.0;
        unit = units.next();
    }
    unit.map_or_else(|| bytes.to_string(), |unit| format!("{value:.1}{unit}"))
}

/// `412µs`, `2.1ms`, `1.53s`, `12m03s`, `3h04m`, `2d03h`.
fn length_of_time(time: Duration) -> String {
    let (micros, seconds) = (time.as_micros(), time.as_secs());
    match (micros, seconds) {
        (..1_000, _) => format!("{micros}µs"),
        (..100_000, _) => format!("{}.{}ms", micros / 1000, micros % 1000 / 100),
        (_, 0) => format!("{}ms", micros / 1000),
        (_, ..60) => format!("{}.{:02}s", seconds, time.subsec_millis() / 10),
        (_, ..3600) => format!("{}m{:02}s", seconds / 60, seconds % 60),
        (_, ..86_400) => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Of a whole line.
const COLUMNS: usize = 120;
/// `12:34:56.789Z`
const TIME_COLUMNS: usize = 13;
/// The longest IPv4 address with a port.
const CLIENT_COLUMNS: usize = 21;
const MOST_CLIENT_COLUMNS: usize = 25;
const DESTINATION_COLUMNS: usize = 36;
const REASON_COLUMNS: usize = 8;
const LEVEL_COLUMNS: usize = 5;
const MOST_VALUE_COLUMNS: usize = 48;
/// Between the parts of the line of a connection, without its error.
const GAPS: usize = 5;
const GAP: &str = "  ";
const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";

#[cfg(test)]
mod tests;
