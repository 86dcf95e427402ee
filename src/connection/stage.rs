//! A span of `tracing` for each stage of a connection, at level debug.
//!
//! In:  the state that a connection enters.
//! Out: the span of that stage, with the id of the connection; it closes when the stage ends, and the log writes a line
//!      with how long that took. At other levels there is none: finding that out is one load.

use tracing::level_filters::LevelFilter;
use tracing::{Span, debug_span};

use crate::ids::ConnectionId;
use crate::telemetry::State;

/// Whether stages have spans.
pub(super) fn is_wanted() -> bool {
    LevelFilter::current() >= LevelFilter::DEBUG
}

/// The span of the stage that a connection is in.
#[derive(Default)]
pub(crate) struct Stage(Option<Span>);

impl Stage {
    pub(super) fn enter(&mut self, state: State, id: ConnectionId) {
        // Before the next one is open, so that their lines are in order.
        self.end();
        self.0 = Some(match state {
            State::Hello => debug_span!("hello", %id),
            State::Connecting => debug_span!("connecting", %id),
            State::Queued => debug_span!("queued", %id),
            State::Relaying => debug_span!("relaying", %id),
            State::Refusing => debug_span!("refusing", %id),
        });
    }

    /// The stage ends, and with it its span.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }
}
