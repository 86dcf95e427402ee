//! Opens the hello that a client has sealed, and puts it in place of the one that everybody can read.
//!
//! In:  a client whose hello was read, the keys of its listener.
//! Out: the bytes that the backend must read first; or how the client is turned away.
//! Source: RFC 9849 §7.1.

use std::time::{SystemTime, UNIX_EPOCH};

use super::account::Account;
use crate::ech::{self, Opened};
use crate::refuse::TurnedAway;
use crate::snapshot::{Ech, Snapshot};

/// Opens the hello at the beginning of `prefix`. Does nothing for one without the extension, or on a listener that opens
/// none.
pub(super) fn open(account: &mut Account, snapshot: &Snapshot, prefix: &mut Vec<u8>) -> Result<(), TurnedAway> {
    let Some(hello) = account.hello().filter(|hello| hello.offers.ech) else { return Ok(()) };
    let Some(keys) = &snapshot.listener(account.live(|live| live.listener)).ech else { return Ok(()) };
    let opened = match ech::open(prefix, hello, &keys.keys, snapshot.terms.max_hello_bytes) {
        Ok(Opened::Absent) => return Ok(()),
        Ok(Opened::NotForUs) => Ok(None),
        Ok(Opened::Inner(inner)) => {
            count(keys, &inner.key);
            Ok(Some(inner))
        }
        Err(illegal) => Err(illegal),
    };
    if let Some(inner) = account.opened(opened)? {
        *prefix = inner;
    }
    Ok(())
}

fn count(keys: &Ech, opened_by: &ech::Key) {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    for (key, metrics) in keys.keys.iter().zip(&*keys.metrics) {
        if std::ptr::eq(&**key, opened_by) {
            metrics.opened(at);
        }
    }
}
