//! Describes a listening socket that one process hands to the next.

use serde::{Deserialize, Serialize};

/// What is said of a socket that is handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    pub kind: Kind,
    /// Of the listener, or as the service manager says.
    pub name: String,
    /// The address in the configuration, which may have port 0; none for one of the service manager.
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
