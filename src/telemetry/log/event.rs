//! Records operator messages (tracing events).
//!
//! In:  an event of `tracing`.
//! Out: a record with its level, its `event`, its `msg` and its other fields. `event` is a stable name that tests and
//!      alerts match on; docs/logs.md lists them. The wording of `msg` may change at any time.

use std::fmt::{self, Debug};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::keys::Key;
use super::record::{Entry, Kind, Name, Severity};

/// Passes each message to `push`, as a record.
pub(super) struct Messages<P>(pub(super) P);

impl<S: Subscriber, P: Fn(&[u8]) + 'static> Layer<S> for Messages<P> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut record = Vec::with_capacity(512);
        write(&mut record, event, SystemTime::now());
        self.0(&record);
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
const MESSAGE: &str = "message";
