//! Fills lists of networks with what their entries hold, and checks who may come in.
//!
//! In:  a list as the routing file has it.
//! Out: the same with a set for its networks and one for each of its files.

use std::sync::Arc;

use super::Cursor;
use crate::config::lists::directory;
use crate::settings::{NetworkEntry, NetworkList};

/// Reads the lists of a listener or a route.
pub(super) fn access(allow: &mut Option<NetworkList>, deny: &mut NetworkList, cursor: &Cursor<'_>) {
    if let Some(allow) = allow {
        load(allow, cursor, "allow");
        if cursor.key("allow").is_some_and(|list| list.is_empty_list()) {
            cursor.error_at("allow", "an empty list would refuse every client; remove `allow` to let everybody in");
        }
    }
    load(deny, cursor, "deny");
}

/// Fills `list`, which `key` of `section` is. Files are relative to the file that names them.
pub(super) fn load(list: &mut NetworkList, section: &Cursor<'_>, key: &str) {
    let Some(cursor) = section.key(key) else { return };
    let file = cursor.at.place().file;
    let (mut networks, mut sets) = (Vec::new(), Vec::new());
    for (entry, cursor) in list.entries.iter_mut().zip(cursor.items()) {
        list.places.push(cursor.at.place().to_string().into());
        match entry {
            NetworkEntry::Network(network) => networks.push(*network),
            NetworkEntry::File(named) => {
                let (path, lists) = (directory(&file).join(&*named), &mut *cursor.reading.lists.borrow_mut());
                sets.extend(lists.set(&path, &cursor.at, &mut cursor.reading.problems.borrow_mut()));
                *named = lists.relative_to_main(path);
            }
        }
    }
    if !networks.is_empty() {
        list.sets.push(Arc::new(networks.into_iter().collect()));
    }
    list.sets.append(&mut sets);
}
