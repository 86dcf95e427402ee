//! Describes a listening socket that one process hands over to the next.

use serde::{Deserialize, Serialize};

/// The description of a socket that is handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    pub kind: Kind,
    /// The name of the listener, or the one the service manager gave.
    pub name: String,
    /// The address in the configuration, which may have port 0; `None` for a socket from the service manager.
    pub wanted: Option<String>,
    /// The service manager keeps it open.
    pub lent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Listener,
    Admin,
    /// The service manager does not say.
    Unknown,
}
