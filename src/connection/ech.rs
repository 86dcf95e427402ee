//! Opens the hello that a client has sealed, and puts it in place of the one that everybody can read.
//!
//! In:  a client whose hello was read, the keys of its listener.
//! Out: the bytes that the backend must read first, and the hello that everybody can read; or how the client is turned
//!      away.
//! Source: RFC 9849 §7.1.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::account::Account;
use crate::client_hello::ClientHello;
use crate::ech::{self, Opened};
use crate::refuse::TurnedAway;
use crate::snapshot::{Ech, Snapshot};

/// The hello around an inner one, to be served if no backend of the inner name accepts inner hellos.
pub(super) struct Outer {
    hello: ClientHello,
    /// The hello, and what the client has sent behind it.
    prefix: Vec<u8>,
}

impl Outer {
    /// Puts it in place of the inner hello, and returns the bytes that the backend must read first.
    pub(super) fn falls_back(self, account: &mut Account) -> Vec<u8> {
        account.falls_back(self.hello);
        self.prefix
    }
}

/// Opens the hello at the beginning of `prefix`, which becomes the inner one. Does nothing for one without the extension,
/// or on a listener that opens none.
pub(super) fn open(
    account: &mut Account,
    snapshot: &Snapshot,
    prefix: &mut Vec<u8>,
) -> Result<Option<Box<Outer>>, TurnedAway> {
    let Some(hello) = account.hello().filter(|hello| hello.offers.ech) else { return Ok(None) };
    let Some(keys) = &snapshot.listener(account.live(|live| live.listener)).ech else { return Ok(None) };
    let began = Instant::now();
    let opened = match ech::open(prefix, hello, &keys.keys, snapshot.terms.max_hello_bytes) {
        Ok(Opened::Absent) => return Ok(None),
        Ok(Opened::NotForUs) => Ok(None),
        Ok(Opened::Inner(inner)) => {
            account.took_to_open(began.elapsed());
            count(keys, &inner.key);
            Ok(Some(inner))
        }
        Err(illegal) => Err(illegal),
    };
    let Some((hello, inner)) = account.opened(opened)? else { return Ok(None) };
    let prefix = std::mem::replace(prefix, inner);
    Ok(Some(Box::new(Outer { hello, prefix })))
}

fn count(keys: &Ech, opened_by: &ech::Key) {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    for (key, metrics) in keys.keys.iter().zip(&*keys.metrics) {
        if std::ptr::eq(&**key, opened_by) {
            metrics.opened(at);
        }
    }
}
