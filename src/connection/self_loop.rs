//! Ends a connection that has come back through other proxies, and would come back for ever.
//!
//! In:  a connection that is about to be passed to a backend, and its first bytes.
//! Out: it may go on, or it is turned away.

use super::account::Account;
use crate::refuse::{Refusal, TurnedAway};
use crate::self_loop::in_flight;
use crate::telemetry::Reason;

/// Counts the connection as in flight. If many with the same `first_bytes` are, waits until it is known why.
///
/// # Errors
/// The connection is in a loop.
pub(super) async fn end(account: &mut Account, pool: &str, first_bytes: &[u8]) -> Result<(), TurnedAway> {
    if first_bytes.is_empty() {
        // Nothing to recognize it by.
        return Ok(());
    }
    let (in_flight, suspect) = in_flight::enter(first_bytes);
    account.in_flight(in_flight);
    let Some(suspect) = suspect else { return Ok(()) };
    // Boxed, since it is rare and large.
    let Err(found) = Box::pin(suspect.loops()).await else { return Ok(()) };
    if found.is_news {
        account.live(|live| {
            tracing::warn!(
                event = "self_loop",
                pool,
                sni = live.sni.as_deref(),
                peer = %live.peer,
                "connections to this pool come back here: one of its backends, or a proxy behind it, connects to one of \
                 our own listeners; change the address to that of the server itself"
            );
        });
    }
    account.loops();
    Err(TurnedAway { reason: Reason::SelfLoop, refusal: Refusal::Reset })
}
