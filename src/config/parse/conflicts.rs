//! Finds routes that contradict each other, and routes that are unreachable.
//!
//! In:  the parsed routes.
//! Out: an error for two entries of one pattern that can both match and have the same kinds of conditions; a warning
//!      for an entry that is always shadowed by another.
//! Source: docs/routing.md, "How a name finds its route". Costs a sort of the entries, not a comparison of all
//!         pairs.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::{HashTable, hash_table};
use ipnet::IpNet;

use crate::config::problem::{Place, Problem, Problems, Severity};
use crate::config::{Conditions, Route};
use crate::server_name::Pattern;
use crate::settings::EchCondition;

/// Reports conflicts between `routes`. `indices` gives the index of each in its file.
pub(super) fn find(routes: &[Route], indices: &[usize], listeners: usize, problems: &mut Problems) {
    for group in shared_patterns(routes) {
        let mut seen = Seen { routes, indices, reported: HashSet::new() };
        let mut by_kinds: BTreeMap<Kinds, Vec<Entry<'_>>> = BTreeMap::new();
        for entry in &group {
            by_kinds.entry(Kinds::of(entry.conditions)).or_default().push(*entry);
        }
        for (kinds, entries) in &by_kinds {
            overlaps(entries, |earlier, later| seen.conflict(earlier, later, *kinds, problems));
        }
        seen.unreachable(&group, listeners, problems);
    }
}

/// One pattern of one route.
#[derive(Clone, Copy)]
struct Entry<'r> {
    route: usize,
    /// Its index in the route's list.
    pattern: usize,
    place: &'r Place,
    conditions: &'r Conditions,
}

/// Collects the patterns that occur more than once, each with all of its entries in order.
fn shared_patterns(routes: &[Route]) -> Vec<Vec<Entry<'_>>> {
    let entries = routes.iter().enumerate().flat_map(|(number, route)| {
        route.patterns.iter().enumerate().map(move |(index, (pattern, place))| {
            (pattern, Entry { route: number, pattern: index, place, conditions: &route.conditions })
        })
    });
    // Most of a million patterns occur once, so the first occurrence takes no more than its number.
    let count = routes.iter().map(|route| route.patterns.len()).sum();
    let mut first: HashTable<(u32, u32)> = HashTable::with_capacity(count);
    let hasher = RandomState::default();
    let pattern_of = |&(route, index): &(u32, u32)| &routes[route as usize].patterns[index as usize].0;
    let mut groups: Vec<Vec<Entry<'_>>> = Vec::new();
    let mut group_of: HashMap<(u32, u32), usize> = HashMap::new();
    for (pattern, entry) in entries {
        let is_same = |known: &(u32, u32)| pattern_of(known) == pattern;
        match first.entry(hasher.hash_one(pattern), is_same, |known| hasher.hash_one(pattern_of(known))) {
            hash_table::Entry::Vacant(vacant) => {
                let numbered = |number| u32::try_from(number).expect("fewer patterns than bytes in all files");
                vacant.insert((numbered(entry.route), numbered(entry.pattern)));
            }
            hash_table::Entry::Occupied(occupied) => {
                let &(route, index) = occupied.get();
                let group = *group_of.entry((route, index)).or_insert_with(|| {
                    let (route, pattern) = (route as usize, index as usize);
                    let Route { patterns, conditions, .. } = &routes[route];
                    groups.push(vec![Entry { route, pattern, place: &patterns[pattern].1, conditions }]);
                    groups.len() - 1
                });
                groups[group].push(entry);
            }
        }
    }
    groups
}

/// Which kinds of conditions an entry has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kinds {
    alpn: bool,
    source: bool,
    listeners: bool,
    ech: bool,
}

impl Kinds {
    fn of(conditions: &Conditions) -> Self {
        Self {
            alpn: !conditions.alpn.is_empty(),
            source: !conditions.source.is_empty(),
            listeners: !conditions.listeners.is_empty(),
            ech: conditions.ech.is_set(),
        }
    }

    fn count(self) -> usize {
        [self.alpn, self.source, self.listeners, self.ech].into_iter().filter(|kind| *kind).count()
    }
}

/// Calls `tell` with pairs of entries that can both match, the earlier one first; at least once for each entry that
/// overlaps an earlier one.
///
/// Lists of protocols always overlap, since one client may offer a protocol of each: browsers offer both of HTTP's.
/// Among the entries of one listener, two overlap if and only if their networks do, and of two networks that overlap
/// one contains the other.
fn overlaps<'r>(entries: &[Entry<'r>], mut tell: impl FnMut(Entry<'r>, Entry<'r>)) {
    if entries.len() < 2 {
        return;
    }
    // No client meets both `ech: only` and `ech: never`.
    let mut buckets: BTreeMap<(Option<usize>, EchCondition), Vec<Entry<'r>>> = BTreeMap::new();
    for entry in entries {
        for listener in one_at_least(entry.conditions.listeners.iter().copied()) {
            buckets.entry((listener, entry.conditions.ech)).or_default().push(*entry);
        }
    }
    for bucket in buckets.values().filter(|bucket| bucket.len() > 1) {
        if bucket[0].conditions.source.is_empty() {
            bucket[1..].iter().for_each(|later| tell(bucket[0], *later));
        } else {
            overlapping_networks(bucket, &mut tell);
        }
    }
}

/// Yields each of `some`, or a single `None` if it is empty.
fn one_at_least<T>(some: impl Iterator<Item = T>) -> impl Iterator<Item = Option<T>> {
    let mut some = some.peekable();
    let none = some.peek().is_none().then_some(None);
    some.map(Some).chain(none)
}

fn overlapping_networks<'r>(bucket: &[Entry<'r>], tell: &mut impl FnMut(Entry<'r>, Entry<'r>)) {
    let networks = bucket.iter().flat_map(|entry| entry.conditions.source.iter().map(|network| (*network, *entry)));
    let mut networks: Vec<(IpNet, Entry<'r>)> = networks.collect();
    // A network sorts immediately before those that it contains.
    networks.sort_by_key(|(network, entry)| (network.network(), network.prefix_len(), entry.number()));
    // The networks that contain the current one, widest first. Each is listed once, for the first entry that has it:
    // overlaps of the other entries that have it are already reported against that one.
    let mut around: Vec<(IpNet, Entry<'r>)> = Vec::new();
    for (network, entry) in networks {
        while around.last().is_some_and(|(outer, _)| !outer.contains(&network)) {
            around.pop();
        }
        for (_, other) in &around {
            match other.number().cmp(&entry.number()) {
                Ordering::Less => tell(*other, entry),
                // One entry may list a network and another inside it.
                Ordering::Equal => {}
                Ordering::Greater => tell(entry, *other),
            }
        }
        if around.last().is_none_or(|(outer, _)| *outer != network) {
            around.push((network, entry));
        }
    }
}

impl Entry<'_> {
    /// Its position in the order of the files.
    fn number(&self) -> (usize, usize) {
        (self.route, self.pattern)
    }
}

/// What has been reported about the entries of one pattern.
struct Seen<'r> {
    routes: &'r [Route],
    indices: &'r [usize],
    reported: HashSet<((usize, usize), (usize, usize))>,
}

impl<'r> Seen<'r> {
    fn conflict(&mut self, earlier: Entry<'r>, later: Entry<'r>, kinds: Kinds, problems: &mut Problems) {
        if !self.reported.insert((earlier.number(), later.number())) {
            return;
        }
        // The names of a file are sorted by pool; people read them from the top.
        let is_above = later.place.file == earlier.place.file && later.place.line < earlier.place.line;
        let (earlier, later) = if is_above { (later, earlier) } else { (earlier, later) };
        let (pattern, place) = (self.pattern(later), earlier.place);
        let message = if earlier.route == later.route {
            format!("`{pattern}` is already in this route, at {place}; remove one of them")
        } else {
            let name = &self.routes[earlier.route].name;
            let why = match (kinds.count(), share_protocol(earlier.conditions, later.conditions)) {
                (0, _) => "",
                (_, true) => ", under conditions that can both be true",
                (_, false) => {
                    ", and a client may offer a protocol of each; leave `alpn` off the one that takes all others"
                }
            };
            format!("route `{name}` already matches `{pattern}`, at {place}{why}")
        };
        self.tell(later, Severity::Error, message, problems);
    }

    /// Reports entries that never match because an earlier one matches whenever they would.
    fn unreachable(&mut self, group: &[Entry<'r>], listeners: usize, problems: &mut Problems) {
        if group.len() > MAX_COMPARED {
            return;
        }
        for entry in group {
            let count = Kinds::of(entry.conditions).count();
            let covers = |other: &&Entry<'r>| {
                Kinds::of(other.conditions).count() > count && covers(other.conditions, entry.conditions, listeners)
            };
            let Some(other) = group.iter().find(covers) else { continue };
            let (name, place) = (&self.routes[other.route].name, other.place);
            let message =
                format!("this route is never reached: route `{name}`, at {place}, comes first and always matches");
            self.tell(*entry, Severity::Warning, message, problems);
        }
    }

    fn pattern(&self, entry: Entry<'_>) -> &'r Pattern {
        &self.routes[entry.route].patterns[entry.pattern].0
    }

    fn tell(&self, entry: Entry<'_>, severity: Severity, message: String, problems: &mut Problems) {
        let Route { patterns, listed, .. } = &self.routes[entry.route];
        let is_inline = listed.as_ref().is_none_or(|listed| entry.pattern < listed.inline);
        // A file of names has no keys.
        let path = match () {
            () if !is_inline => String::new(),
            () if patterns.len() > 1 => format!("routes[{}].sni[{}]", self.indices[entry.route], entry.pattern),
            () => format!("routes[{}].sni", self.indices[entry.route]),
        };
        problems.push(Problem { severity, place: entry.place.clone(), path, message });
    }
}

fn share_protocol(a: &Conditions, b: &Conditions) -> bool {
    a.alpn.is_empty() || a.alpn.iter().any(|protocol| b.alpn.contains(protocol))
}

/// Whether `outer` holds for every client for which `inner` holds.
fn covers(outer: &Conditions, inner: &Conditions, listeners: usize) -> bool {
    let alpn = outer.alpn.is_empty()
        || !inner.alpn.is_empty() && inner.alpn.iter().all(|protocol| outer.alpn.contains(protocol));
    let inside = |network: &IpNet| outer.source.iter().any(|outer| outer.contains(network));
    let everywhere = [IpNet::V4(Default::default()), IpNet::V6(Default::default())];
    let source = outer.source.is_empty()
        || if inner.source.is_empty() { everywhere.iter().all(inside) } else { inner.source.iter().all(inside) };
    let held = |listener: &usize| outer.listeners.contains(listener);
    let through = outer.listeners.is_empty()
        || if inner.listeners.is_empty() { (0..listeners).all(|l| held(&l)) } else { inner.listeners.iter().all(held) };
    let ech = !outer.ech.is_set() || outer.ech == inner.ech;
    alpn && source && through && ech
}

/// All pairs are compared; a pattern with more conditional routes than this was generated.
const MAX_COMPARED: usize = 64;
