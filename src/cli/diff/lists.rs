//! Compares `allow` and `deny` of the listeners and routes that both files have.
//!
//! In:  two configurations.
//! Out: [`ListChange`]: how many networks were added and removed, however they are spread over files.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Serialize;

use super::Side;
use crate::networks::Networks;
use crate::settings::{Access, Listener, NetworkList};

/// A list that differs.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct ListChange {
    /// `listener NAME` or `route NAME`.
    pub of: String,
    /// `allow` or `deny`.
    pub list: &'static str,
    /// How many networks the list has in each file. `None`: it has no such list, so that `allow` lets everybody in.
    pub old_networks: Option<usize>,
    pub new_networks: Option<usize>,
    pub added: usize,
    pub removed: usize,
    /// The entries that only one of the files has, as written: networks, and files with an `@`.
    pub added_entries: Vec<String>,
    pub removed_entries: Vec<String>,
}

pub(super) fn changes(old: &Side, new: &Side) -> Vec<ListChange> {
    let listeners = |side: &Side| -> HashMap<String, Option<Box<Access>>> {
        let access = |listener: &Listener| Access::new(listener.allow.clone(), listener.deny.clone());
        side.config.listeners.iter().map(|listener| (format!("listener {}", listener.name), access(listener))).collect()
    };
    // Of a million routes, most often none has a list.
    let are_routes_free = [old, new].iter().all(|side| side.config.routes.iter().all(|route| route.access.is_none()));
    let routes = |side: &Side| -> HashMap<String, Option<Box<Access>>> {
        if are_routes_free {
            return HashMap::new();
        }
        side.config.routes.iter().map(|route| (format!("route {}", route.name), route.access.clone())).collect()
    };
    let mut before = listeners(old);
    let mut after: Vec<_> = listeners(new).into_iter().chain(routes(new)).collect();
    before.extend(routes(old));
    after.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut changes = Vec::new();
    for (of, after) in after {
        let Some(before) = before.remove(&of) else { continue };
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        changes.extend(change(&of, "allow", before.allow.as_ref(), after.allow.as_ref()));
        let deny = |access: &Access| (!access.deny.is_empty()).then(|| access.deny.clone());
        changes.extend(change(&of, "deny", deny(&before).as_ref(), deny(&after).as_ref()));
    }
    changes
}

fn change(of: &str, list: &'static str, old: Option<&NetworkList>, new: Option<&NetworkList>) -> Option<ListChange> {
    let all = |list: Option<&NetworkList>| -> Networks {
        list.into_iter().flat_map(|list| &list.sets).flat_map(|set| set.iter()).collect()
    };
    if old.map(|list| &list.sets) == new.map(|list| &list.sets) {
        return None;
    }
    let (before, after) = (all(old), all(new));
    let change = ListChange {
        of: of.to_owned(),
        list,
        old_networks: old.map(|_| before.len()),
        new_networks: new.map(|_| after.len()),
        added: after.missing_in(&before),
        removed: before.missing_in(&after),
        added_entries: only_in(new, old),
        removed_entries: only_in(old, new),
    };
    (change.added + change.removed > 0 || old.is_some() != new.is_some()).then_some(change)
}

/// The entries of `one` that `other` does not have, in their order.
fn only_in(one: Option<&NetworkList>, other: Option<&NetworkList>) -> Vec<String> {
    let entries = |list: Option<&NetworkList>| -> Vec<String> {
        list.into_iter().flat_map(|list| &list.entries).map(ToString::to_string).collect()
    };
    let known: HashSet<String> = entries(other).into_iter().collect();
    entries(one).into_iter().filter(|entry| !known.contains(entry)).collect()
}

impl fmt::Display for ListChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks = |count: usize| format!("{count} network{}", if count == 1 { "" } else { "s" });
        write!(f, "{} of {}: ", self.list, self.of)?;
        let none = if self.list == "allow" { "everybody" } else { "nobody" };
        match (self.old_networks, self.new_networks) {
            (Some(_), Some(_)) => write!(f, "{} added, {} removed", networks(self.added), self.removed),
            (None, new) => write!(f, "{none} -> {}", networks(new.unwrap_or_default())),
            (Some(old), None) => write!(f, "{} -> {none}", networks(old)),
        }?;
        let signed = |sign: char, entries: &[String]| -> Vec<String> {
            entries.iter().map(|entry| format!("{sign}{}", entry.escape_debug())).collect()
        };
        let entries = [signed('+', &self.added_entries), signed('-', &self.removed_entries)].concat();
        let (shown, more) = entries.split_at(entries.len().min(MOST_SHOWN));
        match (shown, more) {
            ([], _) => Ok(()),
            (shown, []) => write!(f, " ({})", shown.join(", ")),
            (shown, more) => write!(f, " ({} and {} more entries)", shown.join(", "), more.len()),
        }
    }
}

/// Of the entries of one list.
const MOST_SHOWN: usize = 10;
