//! Records operator messages (tracing events), and how long the stages of connections took (tracing spans).
//!
//! In:  an event of `tracing`; a span, when it closes.
//! Out: a record with its level, its `event`, its `msg` and its other fields. `event` is a stable name that tests and
//!      alerts match on; docs/logs.md lists them. The wording of `msg` may change at any time.

use std::fmt::{self, Debug};
use std::time::{Instant, SystemTime};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::keys::Key;
use super::record::{Entry, Kind, Name, Severity};

/// Passes each message to `push`, as a record.
pub(super) struct Messages<P>(pub(super) P);

impl<S: Subscriber + for<'s> LookupSpan<'s>, P: Fn(&[u8]) + 'static> Layer<S> for Messages<P> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut record = Vec::with_capacity(512);
        write(&mut record, event, SystemTime::now());
        self.0(&record);
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut opened = Opened { at: Instant::now(), fields: Vec::new() };
        attributes.record(&mut opened);
        span.extensions_mut().insert(opened);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(Opened { at, fields }) = span.extensions_mut().remove::<Opened>() else { return };
        let mut record = Vec::with_capacity(128);
        let mut entry = Entry::new(&mut record, SystemTime::now(), Severity::Debug, Kind::Message);
        entry.text(Key::Event, STAGE);
        entry.text(Key::Msg, "a stage of a connection ended");
        entry.text(Name::Other(STAGE), span.name());
        entry.duration(Key::DurationMs, at.elapsed());
        for (name, value) in &fields {
            entry.text(self::name(name), value);
        }
        entry.finish();
        self.0(&record);
    }
}

/// A span that is open.
struct Opened {
    at: Instant,
    fields: Vec<(Field, String)>,
}

impl Visit for Opened {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.push((field.clone(), format!("{value:?}")));
    }
}

fn write(out: &mut Vec<u8>, event: &Event<'_>, now: SystemTime) {
    let mut entry = Entry::new(out, now, severity(*event.metadata().level()), Kind::Message);
    // These come first, wherever they stand. A library's message has no event name.
    event.record(&mut Of(EVENT, Key::Event, &mut entry));
    event.record(&mut Of(MESSAGE, Key::Msg, &mut entry));
    event.record(&mut Rest(&mut entry));
    entry.finish();
}

/// Records one of the two fields that each message has.
struct Of<'e, 'o>(&'static str, Key, &'e mut Entry<'o>);

impl Visit for Of<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == self.0 {
            self.2.display(self.1, format_args!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == self.0 {
            self.2.text(self.1, value);
        }
    }
}

/// Records the other fields, in order.
struct Rest<'e, 'o>(&'e mut Entry<'o>);

fn name(field: &Field) -> Name<'static> {
    Key::of_message(field.name()).map_or(Name::Other(field.name()), Name::Known)
}

impl Visit for Rest<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != MESSAGE {
            self.0.display(name(field), format_args!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != MESSAGE && field.name() != EVENT {
            self.0.text(name(field), value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.0.display(name(field), Chain(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.number(name(field), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.signed(name(field), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.bool(name(field), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON cannot represent infinity or NaN.
        if value.is_finite() { self.0.float(name(field), value) } else { self.0.display(name(field), value) }
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

const fn severity(level: Level) -> Severity {
    match level {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warn,
        Level::INFO => Severity::Info,
        Level::DEBUG => Severity::Debug,
        Level::TRACE => Severity::Trace,
    }
}

const EVENT: &str = "event";
const STAGE: &str = "stage";
const MESSAGE: &str = "message";
