//! Checks what listeners do with clients that do not begin with a ClientHello.
//!
//! In:  the listeners of the main file, the names of all pools.
//! Out: problems.

use super::settings::{HOUR, MILLISECOND, within};
use super::{Cursor, Names};
use crate::settings::{Listener, Span};

/// Checks where silent clients go, and that this happens before they count as probes.
pub(super) fn silent(listeners: &[Listener], top: &Cursor<'_>, pools: &Names, hello: Span) {
    let Some(list) = top.key("listeners") else { return };
    for cursor in list.items() {
        let name = cursor.key("name").and_then(|name| name.text());
        let listener = listeners.iter().find(|listener| name.is_some_and(|name| *listener.name == *name));
        let (Some(section), Some(silent)) = (cursor.key("silent"), listener.and_then(|read| read.silent.as_ref()))
        else {
            continue;
        };
        within(&section, "after", silent.after, MILLISECOND..=HOUR);
        if silent.after >= hello {
            let message =
                format_args!("must be shorter than `timeouts.hello`, after which a silent client is closed: {hello}");
            section.error_at("after", message);
        }
        if let Err(dangling) = pools.find(&silent.pool, "pool") {
            section.error_at("pool", dangling);
        }
    }
}
