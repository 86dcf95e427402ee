//! What an operator can change from `top`.
//!
//! In:  the backend or the connection that is selected.
//! Out: a question to confirm, the request to the admin API, and one sentence about its result.

use std::time::Duration;

use hyper::Method;

use crate::cli::printable::printable;
use crate::cli::remote::{Remote, segment};
use crate::cli::remote_failure::Failure;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    SetState { pool: String, backend: String, state: State },
    End { id: String, client: String, name: Option<String> },
}

/// What an operator sets for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    Drain,
    Down,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Down => "down",
        }
    }

    const fn effect(self) -> &'static str {
        match self {
            Self::Ready => "It gets connections at once.",
            Self::Drain => "It gets no new connections; open ones continue.",
            Self::Down => "It gets no new connections and no health checks.",
        }
    }
}

impl Action {
    pub(super) fn question(&self) -> String {
        match self {
            Self::SetState { pool, backend, state } => {
                format!("Set {pool}/{backend} to {}? {}", state.as_str(), state.effect())
            }
            Self::End { client, name, .. } => {
                let name = name.as_ref().map(|name| format!(" to {name}")).unwrap_or_default();
                format!("End the connection of {client}{name}? Both sides are reset.")
            }
        }
    }

    /// Sends the request and waits for the answer.
    ///
    /// # Errors
    /// Why nothing was changed, and what helps, on several lines.
    pub(super) fn carry_out(&self, remote: &Remote) -> Result<String, String> {
        match self {
            Self::SetState { pool, backend, state } => {
                let path = format!("/api/v1/pools/{}/backends/{}/state", segment(pool), segment(backend));
                remote.change(Method::PUT, &path, state.as_str(), LIMIT, &[]).map_err(|failure| why(&failure))?;
                Ok(format!("{pool}/{backend} is set to {}.", state.as_str()))
            }
            Self::End { id, client, .. } => {
                let path = format!("/api/v1/connections/{}", segment(id));
                remote.change(Method::DELETE, &path, "", LIMIT, &[]).map_err(|failure| why(&failure))?;
                Ok(format!("The connection of {client} was ended."))
            }
        }
    }
}

/// The message that the other commands print, without what would move the cursor.
fn why(failure: &Failure) -> String {
    failure.to_string().lines().map(printable).collect::<Vec<_>>().join("\n")
}

const LIMIT: Duration = Duration::from_secs(10);
