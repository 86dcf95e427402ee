//! Finds the route that matches a server name.
//!
//! In:  a [`Lookup`]: the name and the facts that conditions test.
//! Out: [`Found`]: the number of a route and the kind of pattern that matched; or `None`.
//! Source: docs/routing.md: exact, then the longest suffix (`*.` before `**.`), then `*`; among entries with
//!         conditions, the one with more of them first.
//!
//! One hash look-up per label, whatever the number of routes, and no allocation. `explain` observes the same walk.

mod name_map;

use std::cmp::Reverse;
use std::net::IpAddr;

use ipnet::IpNet;

use self::name_map::{NameMap, Slot};
use crate::client_hello::Alpn;
use crate::ids::{ListenerIndex, RouteIndex};
use crate::server_name::{Pattern, ServerName};
use crate::settings::EchCondition;

/// What is known about a connection when it is routed.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// The name that the client asked for.
    pub server_name: &'a ServerName,
    /// The protocols that it offers.
    pub alpn: &'a Alpn,
    /// The client's address; IPv4-mapped addresses as IPv4. `None`: unknown, so that no `source` condition holds.
    pub source: Option<IpAddr>,
    /// The listener that accepted the connection.
    pub listener: ListenerIndex,
    /// How the name was sent.
    pub form: NameForm,
}

/// How a client sent its server name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameForm {
    /// For everybody to read.
    #[default]
    Clear,
    /// In the inner hello of Encrypted ClientHello.
    Encrypted,
}

/// The route that matches a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// As passed to [`Builder::add`].
    pub route: RouteIndex,
    /// The kind of pattern that matched.
    pub by: By,
}

/// The kind of pattern that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// `a.example.com`
    Exact,
    /// `*.example.com`
    OneLabel,
    /// `**.example.com`
    ManyLabels,
    /// `*`
    Any,
}

/// Conditions besides the name; an empty list imposes none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    /// The client offers one of these.
    pub alpn: Vec<Box<[u8]>>,
    /// The client's address is in one of these.
    pub source: Vec<IpNet>,
    /// One of these accepted the connection.
    pub listeners: Vec<ListenerIndex>,
    /// How the name was sent.
    pub ech: EchCondition,
}

/// The condition of an entry that did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet {
    Alpn,
    Source,
    Listener,
    Ech,
}

/// A candidate the walk has visited, most specific first.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'t> {
    pub route: RouteIndex,
    pub by: By,
    /// How many bytes at the end of the name the pattern fixes: the whole name for an exact one, 0 for `*`.
    pub suffix_bytes: usize,
    pub conditions: &'t Conditions,
    /// `None`: this candidate matches the request.
    pub unmet: Option<Unmet>,
    number: Number<'t>,
}

/// A wildcard that does not match a name although the name ends in its suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// See [`Candidate::number`]; of several entries with one pattern, the first that is tried.
    pub number: u32,
    pub by: By,
    pub suffix_bytes: usize,
}

/// An immutable table from patterns to routes.
#[derive(Debug)]
pub struct RouteTable {
    exact: NameMap,
    one_label: NameMap,
    many_labels: NameMap,
    /// The choice for `*`, and the number of its entry.
    any: Option<(Choice, u32)>,
    /// Runs of entries for the patterns that have conditions; the last entry of each run is marked.
    runs: Vec<RunEntry>,
}

/// Collects entries; [`Builder::build`] makes the table.
#[derive(Debug, Default)]
pub struct Builder {
    /// Entries without conditions, nearly all of them in a large table: pattern, route, entry number.
    plain: Vec<(Pattern, RouteIndex, u32)>,
    conditional: Vec<(Pattern, RunEntry)>,
}

impl RouteTable {
    /// Finds the route for `request` in time that depends only on the number of its labels.
    pub fn find(&self, request: &Lookup<'_>) -> Option<Found> {
        self.walk(request, |_| {})
    }

    /// Finds the route and calls `see` with every candidate on the way. The single function behind the path and
    /// `explain`.
    pub fn walk<'t>(&'t self, request: &Lookup<'_>, mut see: impl FnMut(Candidate<'t>)) -> Option<Found> {
        let name = request.server_name.as_str().as_bytes();
        let mut try_map = |map: &'t NameMap, name: &[u8], by| {
            let slot = map.get(name)?;
            self.decide(Choice(slot.first), Number::In(map, slot), by, name.len(), request, &mut see)
        };
        if let Some(found) = try_map(&self.exact, name, By::Exact) {
            return Some(found);
        }
        let mut parents = parents(name);
        if let Some(parent) = parents.next() {
            let found = try_map(&self.one_label, parent, By::OneLabel);
            if let Some(found) = found.or_else(|| try_map(&self.many_labels, parent, By::ManyLabels)) {
                return Some(found);
            }
        }
        if !self.many_labels.is_empty()
            && let Some(found) = parents.find_map(|parent| try_map(&self.many_labels, parent, By::ManyLabels))
        {
            return Some(found);
        }
        let (choice, number) = self.any?;
        self.decide(choice, Number::Known(number), By::Any, 0, request, &mut see)
    }

    /// Calls `see` for every entry with its pattern's kind and name (empty for `*`), its route, its conditions, its
    /// number.
    pub fn each<'t>(&'t self, mut see: impl FnMut(By, &'t [u8], RouteIndex, &'t Conditions, u32)) {
        let mut choice = |by, name, choice: Choice, number: u32| match choice.read() {
            Decoded::Route(route) => see(by, name, route, &NO_CONDITIONS, number),
            Decoded::Run(first) => {
                for RunEntry { conditions, route, number, last } in &self.runs[first..] {
                    see(by, name, *route, conditions, *number);
                    if *last {
                        break;
                    }
                }
            }
        };
        let maps = [(By::Exact, &self.exact), (By::OneLabel, &self.one_label), (By::ManyLabels, &self.many_labels)];
        for (by, map) in maps {
            map.each(|name, slot| choice(by, name, Choice(slot.first), map.second(slot)));
        }
        if let Some((any, number)) = self.any {
            choice(By::Any, b"", any, number);
        }
    }

    /// Finds the wildcards whose suffix `name` ends in but that match a different number of labels: for hints.
    pub fn near_misses(&self, name: &ServerName) -> Vec<NearMiss> {
        let name = name.as_str().as_bytes();
        let mut near = Vec::new();
        for (labels_more, suffix) in std::iter::once(name).chain(parents(name)).enumerate() {
            let mut look = |map: &NameMap, by| {
                if let Some(slot) = map.get(suffix) {
                    let number = match Choice(slot.first).read() {
                        Decoded::Route(_) => map.second(slot),
                        Decoded::Run(first) => self.runs[first].number,
                    };
                    near.push(NearMiss { number, by, suffix_bytes: suffix.len() });
                }
            };
            if labels_more != 1 {
                look(&self.one_label, By::OneLabel);
            }
            if labels_more == 0 {
                look(&self.many_labels, By::ManyLabels);
            }
        }
        near
    }

    /// Tries the entries of a pattern, the one with the most conditions first.
    fn decide<'t>(
        &'t self,
        choice: Choice,
        number: Number<'t>,
        by: By,
        suffix_bytes: usize,
        request: &Lookup<'_>,
        see: &mut impl FnMut(Candidate<'t>),
    ) -> Option<Found> {
        match choice.read() {
            Decoded::Route(route) => {
                see(Candidate { route, by, suffix_bytes, conditions: &NO_CONDITIONS, unmet: None, number });
                Some(Found { route, by })
            }
            Decoded::Run(first) => {
                for &RunEntry { ref conditions, route, number, last } in &self.runs[first..] {
                    let unmet = conditions.unmet(request);
                    let number = Number::Known(number);
                    see(Candidate { route, by, suffix_bytes, conditions, unmet, number });
                    if unmet.is_none() {
                        return Some(Found { route, by });
                    }
                    if last {
                        break;
                    }
                }
                None
            }
        }
    }
}

impl Candidate<'_> {
    /// How many entries were added with [`Builder::add`] before this one.
    pub fn number(&self) -> u32 {
        match self.number {
            Number::Known(number) => number,
            Number::In(map, slot) => map.second(slot),
        }
    }
}

impl Builder {
    /// Makes one with capacity for `patterns` patterns.
    pub fn with_room_for(patterns: usize) -> Self {
        Self { plain: Vec::with_capacity(patterns), conditional: Vec::new() }
    }

    /// Adds one pattern of `route`.
    pub fn add(&mut self, pattern: Pattern, conditions: Conditions, route: RouteIndex) {
        let number = u32::try_from(self.plain.len() + self.conditional.len()).expect("less than 2³² entries");
        self.add_numbered(number, pattern, conditions, route);
    }

    /// As [`Self::add`], but with the number that the entry has among those of several tables.
    pub fn add_numbered(&mut self, number: u32, pattern: Pattern, conditions: Conditions, route: RouteIndex) {
        if conditions.count() == 0 {
            self.plain.push((pattern, route, number));
        } else {
            self.conditional.push((pattern, RunEntry { conditions, route, number, last: false }));
        }
    }

    /// Builds the table. Of two identical entries the first wins; the configuration rejects such duplicates earlier.
    pub fn build(mut self) -> RouteTable {
        let mut table = self.empty_table();
        for (pattern, route, number) in self.plain {
            if table.get(&pattern).is_none() {
                table.set(&pattern, Choice::route(route), number);
            }
        }
        // A stable sort, so that among equals the first added stays first.
        let key = |(pattern, entry): &(Pattern, RunEntry)| (pattern.clone(), Reverse(entry.conditions.rank()));
        self.conditional.sort_by_cached_key(key);
        let mut rest = self.conditional.into_iter().peekable();
        while let Some((pattern, entry)) = rest.next() {
            let run = Choice::run(table.runs.len());
            table.runs.push(entry);
            while let Some((_, entry)) = rest.next_if(|(next, _)| *next == pattern) {
                table.runs.push(entry);
            }
            if let Some((Decoded::Route(route), number)) = table.get(&pattern) {
                table.runs.push(RunEntry { conditions: Conditions::default(), route, number, last: false });
            }
            if let Some(entry) = table.runs.last_mut() {
                entry.last = true;
            }
            table.set(&pattern, run, 0);
        }
        table.runs.shrink_to_fit();
        table
    }

    /// An empty table with capacity for all patterns.
    fn empty_table(&self) -> RouteTable {
        let mut room = [(0, 0); 3];
        let patterns = self.plain.iter().map(|(pattern, ..)| pattern);
        for pattern in patterns.chain(self.conditional.iter().map(|(pattern, _)| pattern)) {
            let (kind, name) = match pattern {
                Pattern::Exact(name) => (0, name),
                Pattern::OneLabel(suffix) => (1, suffix),
                Pattern::ManyLabels(suffix) => (2, suffix),
                Pattern::Any => continue,
            };
            room[kind].0 += 1;
            room[kind].1 += name.as_str().len();
        }
        let [exact, one_label, many_labels] = room.map(|(count, name_bytes)| NameMap::with_room_for(count, name_bytes));
        RouteTable { exact, one_label, many_labels, any: None, runs: Vec::new() }
    }
}

impl RouteTable {
    fn get(&self, pattern: &Pattern) -> Option<(Decoded, u32)> {
        let (map, name) = match pattern {
            Pattern::Exact(name) => (&self.exact, name),
            Pattern::OneLabel(suffix) => (&self.one_label, suffix),
            Pattern::ManyLabels(suffix) => (&self.many_labels, suffix),
            Pattern::Any => return self.any.map(|(choice, number)| (choice.read(), number)),
        };
        let slot = map.get(name.as_str().as_bytes())?;
        Some((Choice(slot.first).read(), map.second(slot)))
    }

    fn set(&mut self, pattern: &Pattern, choice: Choice, number: u32) {
        let (map, name) = match pattern {
            Pattern::Exact(name) => (&mut self.exact, name),
            Pattern::OneLabel(suffix) => (&mut self.one_label, suffix),
            Pattern::ManyLabels(suffix) => (&mut self.many_labels, suffix),
            Pattern::Any => {
                self.any = Some((choice, number));
                return;
            }
        };
        map.set(name.as_str().as_bytes(), choice.0, number);
    }
}

impl Conditions {
    /// The number of kinds of condition set, 0 to 4.
    pub fn count(&self) -> usize {
        usize::from(!self.alpn.is_empty())
            + usize::from(!self.source.is_empty())
            + usize::from(!self.listeners.is_empty())
            + usize::from(self.ech.is_set())
    }

    /// Orders entries of one pattern: more kinds first; for equal counts, `source` before `alpn` before `listeners` before
    /// `ech`.
    fn rank(&self) -> (usize, bool, bool, bool) {
        (self.count(), !self.source.is_empty(), !self.alpn.is_empty(), !self.listeners.is_empty())
    }

    fn unmet(&self, request: &Lookup<'_>) -> Option<Unmet> {
        if !self.listeners.is_empty() && !self.listeners.contains(&request.listener) {
            return Some(Unmet::Listener);
        }
        let was_sent = match self.ech {
            EchCondition::Any => true,
            EchCondition::Only => request.form == NameForm::Encrypted,
            EchCondition::Never => request.form == NameForm::Clear,
        };
        if !was_sent {
            return Some(Unmet::Ech);
        }
        if !self.source.is_empty()
            && !request.source.is_some_and(|source| self.source.iter().any(|net| net.contains(&source)))
        {
            return Some(Unmet::Source);
        }
        if !self.alpn.is_empty() && !self.alpn.iter().any(|protocol| request.alpn.offers(protocol)) {
            return Some(Unmet::Alpn);
        }
        None
    }
}

impl By {
    /// The kind of condition, as `explain` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::OneLabel => "one_label",
            Self::ManyLabels => "many_labels",
            Self::Any => "any",
        }
    }
}

impl Unmet {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alpn => "alpn",
            Self::Source => "source",
            Self::Listener => "listeners",
            Self::Ech => "ech",
        }
    }
}

/// The number of an entry, or where to find it: it is stored away from the path, which does not use it.
#[derive(Clone, Copy, Debug)]
enum Number<'t> {
    Known(u32),
    In(&'t NameMap, &'t Slot),
}

/// The choice for a pattern, in four bytes.
#[derive(Clone, Copy, Debug)]
struct Choice(u32);

enum Decoded {
    /// A route without conditions, the usual case.
    Route(RouteIndex),
    /// The start of a run in [`RouteTable::runs`].
    Run(usize),
}

impl Choice {
    const RUN: u32 = 1 << 31;

    fn route(RouteIndex(route): RouteIndex) -> Self {
        assert!(route < Self::RUN, "less than 2³¹ routes");
        Self(route)
    }

    fn run(first: usize) -> Self {
        let first = u32::try_from(first).ok().filter(|&first| first < Self::RUN);
        Self(Self::RUN | first.expect("less than 2³¹ entries with conditions"))
    }

    fn read(self) -> Decoded {
        match self.0 & Self::RUN {
            0 => Decoded::Route(RouteIndex(self.0)),
            _ => Decoded::Run((self.0 & !Self::RUN) as usize),
        }
    }
}

#[derive(Debug)]
struct RunEntry {
    conditions: Conditions,
    route: RouteIndex,
    /// How many entries were added before it.
    number: u32,
    /// Whether it is the last entry of its pattern.
    last: bool,
}

/// `b.example.com`, `example.com` and `com` for `a.b.example.com`.
fn parents(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(dot, _)| &name[dot + 1..])
}

static NO_CONDITIONS: Conditions =
    Conditions { alpn: Vec::new(), source: Vec::new(), listeners: Vec::new(), ech: EchCondition::Any };
#[cfg(test)]
mod tests;
