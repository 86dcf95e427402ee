//! Learns who the client is and what it says first: a trusted proxy's PROXY header, then the hello.
//!
//! In:  a fresh stream.
//! Out: the bytes the backend must read first, and the PROXY header; or how the client is turned away.

use tokio::time::Instant;

use super::account::Account;
use super::admission::Known;
use crate::client_hello::NotHello;
use crate::peek::{self, First, Peek, PeekError, Peeked};
use crate::proxy_header::Header;
use crate::refuse::{self, Body, Refusal, TurnedAway};
use crate::snapshot::{Introduction, Snapshot};
use crate::socket::ResetUnlessReleased;
use crate::starttls::WithClient;
use crate::telemetry::{HelloResult, Reason};

/// Reads the PROXY header and the hello. Returns the bytes the backend must read first, and the PROXY header.
pub(super) async fn hello(
    client: &mut ResetUnlessReleased,
    account: &mut Account,
    snapshot: &Snapshot,
) -> Result<(Vec<u8>, Option<Header>), TurnedAway> {
    let at = account.live(|live| live.at);
    let mut peek = Peek::new(snapshot.terms.hello_memory_bytes, at + snapshot.terms.hello_timeout);
    let header = introduction(client, account, snapshot, &mut peek).await?;
    if is_silent(client, account, snapshot, header.as_ref(), &mut peek).await? {
        account.greeted(First::Silence, at.elapsed(), &[]);
        return Ok((Vec::new(), header));
    }
    let exchange = WithClient::new(account.live(|live| snapshot.listener(live.listener).starttls));
    if let Some(exchange) = exchange {
        // Boxed, since it is rare.
        let begun = Box::pin(peek.begin_tls(client.stream(), exchange)).await;
        begun.map_err(|error| not_greeted(account, error))?;
    }
    let peeked = peek.client_hello(client.stream(), snapshot.terms.max_hello_bytes).await;
    let after = at.elapsed();
    match peeked {
        // It was promised TLS, or began with it.
        Ok(Peeked { first: First::NotTls, .. }) if exchange.is_some() => {
            Err(not_greeted(account, PeekError::Hello(NotHello::NotTls)))
        }
        Ok(Peeked { first, prefix }) => {
            account.greeted(first, after, &prefix);
            Ok((prefix, header))
        }
        Err(error) => Err(not_greeted(account, error)),
    }
}

/// Reads the PROXY header, if the listener requires one of this peer, and decides whether the client that it announces may come in.
/// From here on the client's address is known; nothing of its hello has been looked at.
pub(super) async fn introduction(
    client: &mut ResetUnlessReleased,
    account: &mut Account,
    snapshot: &Snapshot,
    peek: &mut Peek,
) -> Result<Option<Header>, TurnedAway> {
    let (peer, at, listener) = account.live(|live| (live.peer, live.at, live.listener));
    match snapshot.listener(listener).introduction(peer.ip().to_canonical()) {
        // It was let in when it was accepted.
        Introduction::Plain => return Ok(None),
        Introduction::Header => {}
        Introduction::Distrusted => {
            // One that sends nothing is a probe, as it would be anywhere else.
            let deadline = at + snapshot.terms.hello_timeout;
            peek::anything(client.stream(), deadline).await.map_err(|error| not_greeted(account, error))?;
            account.distrusted();
            return Err(TurnedAway { reason: Reason::ProxyUntrusted, refusal: Refusal::Close });
        }
    }
    match peek.proxy_header(client.stream(), snapshot.relayed_values).await {
        Ok((header, received)) => {
            account.introduced(&header, received);
            account.enters_by_listener(snapshot, Known::by(Some(&header)))?;
            Ok(Some(header))
        }
        Err(error) => Err(not_greeted(account, error)),
    }
}

/// Whether the client waits for the server to speak, on a listener with a pool for that.
async fn is_silent(
    client: &mut ResetUnlessReleased,
    account: &mut Account,
    snapshot: &Snapshot,
    header: Option<&Header>,
    peek: &mut Peek,
) -> Result<bool, TurnedAway> {
    let (at, listener) = account.live(|live| (live.at, live.listener));
    let Some(silent) = &snapshot.listener(listener).silent else { return Ok(false) };
    let since = if header.is_some() { Instant::now() } else { at };
    let is_silent = peek.is_silent(client.stream(), since + silent.after).await;
    is_silent.map_err(|error| not_greeted(account, error))
}

fn not_greeted(account: &mut Account, error: PeekError) -> TurnedAway {
    let (result, turned_away) = no_hello(&error);
    account.not_greeted(result, error);
    turned_away
}

/// For a connection without a hello: the result to count, and how to turn the client away.
pub(super) fn no_hello(error: &PeekError) -> (Option<HelloResult>, TurnedAway) {
    let (result, reason, refusal) = match error {
        PeekError::ProxyHeader(_) => {
            return (None, TurnedAway { reason: Reason::ProxyHeader, refusal: Refusal::Close });
        }
        PeekError::Request(error) => return (None, refuse::for_bad_request(error, Body::Allowed)),
        PeekError::TimedOut { got: 0 } | PeekError::Gone { got: 0 } | PeekError::Io { got: 0, .. } => {
            (HelloResult::Probe, Reason::Probe, Refusal::Leave)
        }
        PeekError::Starttls { refused, first_bytes } => {
            let result = if refused.is_malformed() { HelloResult::BadHello } else { HelloResult::NotTls };
            return (Some(result), refuse::for_starttls(*refused, first_bytes));
        }
        PeekError::Memory { .. } => (HelloResult::Memory, Reason::Memory, Refusal::Reset),
        PeekError::TimedOut { .. } => (HelloResult::TimedOut, Reason::HelloTimeout, Refusal::Leave),
        PeekError::Gone { .. } | PeekError::Io { .. } => (HelloResult::ClientGone, Reason::ClientGone, Refusal::Leave),
        PeekError::Hello(error) => {
            let result = match error {
                NotHello::NotTls => HelloResult::NotTls,
                NotHello::Malformed(_) => HelloResult::BadHello,
                NotHello::Name { .. } | NotHello::TwoNames => HelloResult::InvalidSni,
                NotHello::TooLong { .. } | NotHello::TooManyRecords => HelloResult::TooLarge,
            };
            return (Some(result), refuse::for_not_hello(error));
        }
    };
    (Some(result), TurnedAway { reason, refusal })
}
