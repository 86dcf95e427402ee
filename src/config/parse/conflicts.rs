//! Finds routes that contradict each other, and routes that can never be reached.
//!
//! In:  the parsed routes.
//! Out: an error for two entries of one pattern that could both hold with the same kinds of conditions; a warning for
//!      an entry that another always takes before it.
//! Source: DESIGN §3. The time is that of sorting the entries, not of comparing each with each.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use ipnet::IpNet;

use crate::config::problem::{Place, Problem, Problems, Severity};
use crate::config::{Conditions, Route};
use crate::server_name::Pattern;

/// Tells conflicts between `routes`. `indices` says where each stands in its file.
pub fn find(routes: &[Route], indices: &[usize], listeners: usize, problems: &mut Problems) {
    for group in shared_patterns(routes) {
        let mut seen = Seen { routes, indices, told: HashSet::new() };
        let mut by_kinds: HashMap<Kinds, Vec<Entry<'_>>> = HashMap::new();
        for entry in &group {
            by_kinds.entry(Kinds::of(entry.conditions)).or_default().push(*entry);
        }
        for (kinds, entries) in &by_kinds {
            overlaps(entries, Alpn::Counts, |earlier, later| seen.conflict(earlier, later, *kinds, problems));
        }
        for (_, entries) in by_kinds.iter().filter(|(kinds, _)| kinds.alpn) {
            overlaps(entries, Alpn::IsIgnored, |earlier, later| seen.both_offered(earlier, later, problems));
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

/// Collects the patterns that stand in the routes more than once, each with all of its entries in their order.
fn shared_patterns(routes: &[Route]) -> Vec<Vec<Entry<'_>>> {
    let entries = routes.iter().enumerate().flat_map(|(number, route)| {
        route.patterns.iter().enumerate().map(move |(index, (pattern, place))| {
            (pattern, Entry { route: number, pattern: index, place, conditions: &route.conditions })
        })
    });
    // Most patterns stand alone, so that nothing is allocated for the first of each.
    let mut first: HashMap<&Pattern, (Entry<'_>, Option<usize>), RandomState> = HashMap::default();
    let mut groups: Vec<Vec<Entry<'_>>> = Vec::new();
    for (pattern, entry) in entries {
        match first.entry(pattern) {
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert((entry, None));
            }
            std::collections::hash_map::Entry::Occupied(mut occupied) => match occupied.get().1 {
                Some(group) => groups[group].push(entry),
                None => {
                    let first = occupied.get().0;
                    occupied.get_mut().1 = Some(groups.len());
                    groups.push(vec![first, entry]);
                }
            },
        }
    }
    groups
}

/// Which kinds of conditions an entry has.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kinds {
    alpn: bool,
    source: bool,
    listeners: bool,
}

impl Kinds {
    fn of(conditions: &Conditions) -> Self {
        Self {
            alpn: !conditions.alpn.is_empty(),
            source: !conditions.source.is_empty(),
            listeners: !conditions.listeners.is_empty(),
        }
    }

    fn count(self) -> usize {
        [self.alpn, self.source, self.listeners].into_iter().filter(|kind| *kind).count()
    }
}

/// Whether entries with different protocols are apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alpn {
    Counts,
    IsIgnored,
}

/// Calls `tell` for entries of which two could both hold; for each entry with one earlier at least.
///
/// Each entry is taken apart into one atom for each protocol and listener; in the bucket of an atom two entries
/// overlap just if their networks do, and of two networks that overlap one holds the other.
fn overlaps<'r>(entries: &[Entry<'r>], alpn: Alpn, mut tell: impl FnMut(Entry<'r>, Entry<'r>)) {
    if entries.len() < 2 {
        return;
    }
    let mut buckets: HashMap<(Option<&[u8]>, Option<usize>), Vec<Entry<'r>>> = HashMap::new();
    for entry in entries {
        let Conditions { alpn: protocols, listeners, .. } = entry.conditions;
        let protocols = if alpn == Alpn::Counts { protocols.as_slice() } else { &[] };
        for protocol in one_at_least(protocols.iter().map(|protocol| &**protocol)) {
            for listener in one_at_least(listeners.iter().copied()) {
                buckets.entry((protocol, listener)).or_default().push(*entry);
            }
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

/// Gives each of `some`, or one `None` if there is none.
fn one_at_least<T>(some: impl Iterator<Item = T>) -> impl Iterator<Item = Option<T>> {
    let mut some = some.peekable();
    let none = some.peek().is_none().then_some(None);
    some.map(Some).chain(none)
}

fn overlapping_networks<'r>(bucket: &[Entry<'r>], tell: &mut impl FnMut(Entry<'r>, Entry<'r>)) {
    let networks = bucket.iter().flat_map(|entry| entry.conditions.source.iter().map(|network| (*network, *entry)));
    let mut networks: Vec<(IpNet, Entry<'r>)> = networks.collect();
    // A network comes right before those that it holds.
    networks.sort_by_key(|(network, entry)| (network.network(), network.prefix_len(), entry.route));
    let mut around: Vec<(IpNet, Entry<'r>)> = Vec::new();
    for (network, entry) in networks {
        while around.last().is_some_and(|(outer, _)| !outer.contains(&network)) {
            around.pop();
        }
        // One entry may list a network and one inside it.
        if let Some((_, other)) = around.iter().rev().find(|(_, other)| !other.is(entry)) {
            if other.route <= entry.route { tell(*other, entry) } else { tell(entry, *other) }
        }
        if around.last().is_none_or(|(outer, other)| *outer != network || !other.is(entry)) {
            around.push((network, entry));
        }
    }
}

impl Entry<'_> {
    fn is(&self, other: Entry<'_>) -> bool {
        self.route == other.route && self.pattern == other.pattern
    }
}

/// What has been told about the entries of one pattern.
struct Seen<'r> {
    routes: &'r [Route],
    indices: &'r [usize],
    told: HashSet<(usize, usize)>,
}

impl<'r> Seen<'r> {
    fn conflict(&mut self, earlier: Entry<'r>, later: Entry<'r>, kinds: Kinds, problems: &mut Problems) {
        if !self.told.insert((earlier.route, later.route)) {
            return;
        }
        let (pattern, place) = (self.pattern(later), earlier.place);
        let message = if earlier.route == later.route {
            format!("`{pattern}` is in this route already, at {place}")
        } else {
            let name = &self.routes[earlier.route].name;
            let why = if kinds.count() == 0 { "" } else { ", under conditions that can hold at the same time" };
            format!("route `{name}` takes `{pattern}` already, at {place}{why}")
        };
        self.tell(later, Severity::Error, message, problems);
    }

    fn both_offered(&mut self, earlier: Entry<'r>, later: Entry<'r>, problems: &mut Problems) {
        if !self.told.insert((earlier.route, later.route)) {
            return;
        }
        let (name, place) = (&self.routes[earlier.route].name, earlier.place);
        let message = format!(
            "a client may offer a protocol of this route and one of route `{name}`, at {place}; \
             the route that is written first then takes it"
        );
        self.tell(later, Severity::Warning, message, problems);
    }

    /// Tells of entries that another, looked at before them, takes whenever they would hold.
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
            let message = format!("this is never reached: route `{name}`, at {place}, comes first and always holds");
            self.tell(*entry, Severity::Warning, message, problems);
        }
    }

    fn pattern(&self, entry: Entry<'_>) -> &'r Pattern {
        &self.routes[entry.route].patterns[entry.pattern].0
    }

    fn tell(&self, entry: Entry<'_>, severity: Severity, message: String, problems: &mut Problems) {
        let mut path = format!("routes[{}].sni", self.indices[entry.route]);
        if self.routes[entry.route].patterns.len() > 1 {
            path.push_str(&format!("[{}]", entry.pattern));
        }
        problems.push(Problem { severity, place: entry.place.clone(), path, message });
    }
}

/// Whether `outer` holds for every client for which `inner` does.
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
    alpn && source && through
}

/// Each is compared with each; a pattern with so many conditional routes was made by a program.
const MAX_COMPARED: usize = 64;
