//! Formats operator messages (tracing events) like connection lines.
//!
//! In:  an event.
//! Out: `{"ts":…,"level":"INFO","event":…,"msg":…,fields…}`, or the same as a line of text. `event` is a stable name
//!      that tests and alerts match on; docs/logs.md lists them. The wording of `msg` may change at any time.

use std::fmt::{self, Debug};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::escape::Fields;
use super::timestamp::Timestamp;
use crate::settings::LogFormat;

pub(super) struct OperatorMessage {
    pub(super) format: LogFormat,
    pub(super) colour: Colour,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Ansi,
    None,
}

impl<S, N> FormatEvent<S, N> for OperatorMessage
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::with_capacity(256);
        self.write(&mut line, event, SystemTime::now());
        writer.write_str(&line)
    }
}

impl OperatorMessage {
    fn write(&self, line: &mut String, event: &Event<'_>, now: SystemTime) {
        let level = *event.metadata().level();
        let mut message = Message::default();
        event.record(&mut message);
        if self.colour == Colour::Ansi {
            line.push_str(ansi(level));
        }
        let mut fields = Fields::new(line, self.format);
        fields.text("ts", Timestamp(now));
        fields.text("level", level.as_str());
        if !message.event.is_empty() {
            fields.text("event", &message.event);
        }
        fields.text("msg", &message.text);
        event.record(&mut Rest(&mut fields));
        fields.finish();
        if self.colour == Colour::Ansi {
            line.insert_str(line.len() - 1, "\x1b[0m");
        }
    }
}

/// Extracts the event name and the message, which may be at any position. A library's message has no event name.
#[derive(Default)]
struct Message {
    event: String,
    text: String,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == MESSAGE {
            self.text = format!("{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            EVENT => value.clone_into(&mut self.event),
            MESSAGE => value.clone_into(&mut self.text),
            _ => {}
        }
    }
}

/// Writes the other fields, in order.
struct Rest<'f, 'o>(&'f mut Fields<'o>);

impl Visit for Rest<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != MESSAGE {
            self.0.text(field.name(), format_args!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != MESSAGE && field.name() != EVENT {
            self.0.text(field.name(), value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.0.text(field.name(), Chain(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.plain(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.plain(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.plain(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON cannot represent infinity or NaN.
        if value.is_finite() { self.0.plain(field.name(), value) } else { self.0.text(field.name(), value) }
    }
}

/// An error with its chain of causes, since `Display` shows only the first.
struct Chain<'e>(&'e (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        std::iter::successors(self.0.source(), |cause| cause.source()).try_for_each(|cause| write!(f, ": {cause}"))
    }
}

const fn ansi(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "",
        Level::DEBUG | Level::TRACE => "\x1b[2m",
    }
}

const EVENT: &str = "event";
const MESSAGE: &str = "message";
