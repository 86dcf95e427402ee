//! The labels of alerts: a closed set, so that none can come from the wire.
//!
//! In:  an alert.
//! Out: its place among the labels, and its label.

use crate::alert::Alert;

/// The place of an alert among `PLACES`.
pub(super) fn place(alert: Alert) -> usize {
    Alert::ALL.iter().position(|known| *known == alert).unwrap_or(Alert::ALL.len())
}

/// Its name, or `other`.
pub(super) fn label(alert: Alert) -> &'static str {
    Alert::ALL.get(place(alert)).map_or("other", |alert| alert.name())
}

/// One for each alert that has a name, and one for all others.
pub(super) const PLACES: usize = Alert::ALL.len() + 1;

/// Those that a refusal without a route can send.
pub(super) const SENT: &[Alert] = &[
    Alert::UNEXPECTED_MESSAGE,
    Alert::RECORD_OVERFLOW,
    Alert::HANDSHAKE_FAILURE,
    Alert::ILLEGAL_PARAMETER,
    Alert::ACCESS_DENIED,
    Alert::DECODE_ERROR,
    Alert::PROTOCOL_VERSION,
    Alert::INTERNAL_ERROR,
    Alert::MISSING_EXTENSION,
    Alert::UNRECOGNIZED_NAME,
    Alert::NO_APPLICATION_PROTOCOL,
    UNNAMED,
];
const UNNAMED: Alert = Alert::new(255);
