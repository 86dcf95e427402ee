//! Finds the route that takes a server name.
//!
//! In:  a [`Request`]: the name and what the conditions look at.
//! Out: [`Found`]: the number of a route, and by which kind of pattern; or `None`.
//! Source: DESIGN §3: exact, then the longest suffix (`*.` before `**.`), then `*`; with conditions, the entry that has
//! more of them first.
//!
//! One hash look-up a label, whatever the number of routes, and no allocation. `explain` watches the same walk.

use std::net::IpAddr;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use ipnet::IpNet;

use crate::client_hello::Alpn;
use crate::server_name::{Pattern, ServerName};

/// What is known of a connection when it is routed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub server_name: &'a ServerName,
    pub alpn: &'a Alpn,
    /// The client's address, IPv4 as IPv4.
    pub source: IpAddr,
    /// The number of the listener.
    pub listener: usize,
}

/// The route that takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// As it was given to [`Builder::add`].
    pub route: u32,
    pub by: By,
}

/// The kind of pattern that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Exact,
    OneLabel,
    ManyLabels,
    Any,
}

/// What must hold besides the name; an empty list is no condition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions {
    pub alpn: Vec<Box<[u8]>>,
    pub source: Vec<IpNet>,
    pub listeners: Vec<usize>,
}

/// Which condition of an entry did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet {
    Alpn,
    Source,
    Listener,
}

/// A candidate that the walk came past, most specific first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub route: u32,
    pub by: By,
    /// How many bytes at the end of the name the pattern fixes; all of it for an exact one, none for `*`.
    pub suffix_bytes: usize,
    /// `None`: this one takes the request.
    pub unmet: Option<Unmet>,
}

/// Patterns to routes, immutable.
#[derive(Debug)]
pub struct RouteTable {
    /// All names and suffixes, end to end.
    names: Box<[u8]>,
    exact: HashTable<Slot>,
    one_label: HashTable<Slot>,
    many_labels: HashTable<Slot>,
    any: Choice,
    /// Runs of entries for the patterns that have conditions, each closed by its last entry.
    entries: Vec<Entry>,
    hasher: FixedState,
}

/// Collects entries; [`Builder::build`] makes the table.
#[derive(Debug, Default)]
pub struct Builder {
    entries: Vec<(Pattern, Conditions, u32)>,
}

impl RouteTable {
    /// Finds the route for `request` in time that depends on its labels alone.
    pub fn find(&self, request: &Request<'_>) -> Option<Found> {
        self.walk(request, |_| {})
    }

    /// Finds the route, showing `see` every candidate on the way. The one function behind the path and `explain`.
    pub fn walk(&self, request: &Request<'_>, mut see: impl FnMut(Candidate)) -> Option<Found> {
        let name = request.server_name.as_str().as_bytes();
        let mut try_choice = |choice, by, suffix_bytes| {
            self.decide(choice, request, |route, unmet| see(Candidate { route, by, suffix_bytes, unmet }))
                .map(|route| Found { route, by })
        };
        if let Some(found) = try_choice(self.look_up(&self.exact, name), By::Exact, name.len()) {
            return Some(found);
        }
        if !(self.one_label.is_empty() && self.many_labels.is_empty()) {
            let mut first_label = true;
            for dot in name.iter().enumerate().filter_map(|(at, &byte)| (byte == b'.').then_some(at)) {
                let suffix = &name[dot + 1..];
                if first_label
                    && let Some(found) = try_choice(self.look_up(&self.one_label, suffix), By::OneLabel, suffix.len())
                {
                    return Some(found);
                }
                first_label = false;
                if let Some(found) = try_choice(self.look_up(&self.many_labels, suffix), By::ManyLabels, suffix.len()) {
                    return Some(found);
                }
            }
        }
        try_choice(self.any, By::Any, 0)
    }

    fn look_up(&self, table: &HashTable<Slot>, name: &[u8]) -> Choice {
        if table.is_empty() {
            return Choice::NONE;
        }
        let found = table.find(hash(&self.hasher, name), |slot| slot.name(&self.names) == name);
        found.map_or(Choice::NONE, |slot| slot.choice)
    }

    /// Tries the entries behind a pattern, the one with the most conditions first.
    fn decide(&self, choice: Choice, request: &Request<'_>, mut see: impl FnMut(u32, Option<Unmet>)) -> Option<u32> {
        match choice.read() {
            Chosen::None => None,
            Chosen::Route(route) => {
                see(route, None);
                Some(route)
            }
            Chosen::Entries(first) => {
                for entry in &self.entries[first..] {
                    let unmet = entry.conditions.unmet(request);
                    see(entry.route, unmet);
                    if unmet.is_none() {
                        return Some(entry.route);
                    }
                    if entry.last {
                        break;
                    }
                }
                None
            }
        }
    }
}

impl Builder {
    /// Adds one pattern of `route`, a number below 2³¹ that [`Found`] gives back.
    pub fn add(&mut self, pattern: Pattern, conditions: Conditions, route: u32) {
        self.entries.push((pattern, conditions, route));
    }

    /// Makes the table. Of two entries that are alike the first counts; the configuration has refused such before.
    pub fn build(mut self) -> RouteTable {
        // Stable, so that what was written first stays first among equals.
        self.entries.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| b.1.rank().cmp(&a.1.rank())));
        let name_bytes = self.entries.iter().filter_map(|(pattern, ..)| pattern.base()).map(|base| base.as_str().len());
        let mut names = Vec::with_capacity(name_bytes.sum());
        let hasher = FixedState::default();
        let mut slots = [Vec::new(), Vec::new(), Vec::new()];
        let mut any = Choice::NONE;
        let mut entries = Vec::new();

        let mut rest = self.entries.into_iter().peekable();
        while let Some((pattern, conditions, route)) = rest.next() {
            let mut run = vec![Entry { conditions, route, last: false }];
            while let Some((_, conditions, route)) = rest.next_if(|(next, ..)| *next == pattern) {
                run.push(Entry { conditions, route, last: false });
            }
            let choice = Choice::of(run, &mut entries);
            let place = match &pattern {
                Pattern::Exact(_) => 0,
                Pattern::OneLabel(_) => 1,
                Pattern::ManyLabels(_) => 2,
                Pattern::Any => {
                    any = choice;
                    continue;
                }
            };
            let base = pattern.base().map_or("", ServerName::as_str).as_bytes();
            let at = u32::try_from(names.len()).expect("names of less than 4 GiB");
            names.extend_from_slice(base);
            slots[place].push(Slot { at, bytes: u8::try_from(base.len()).expect("at most 253"), choice });
        }
        entries.shrink_to_fit();
        let names = names.into_boxed_slice();
        let [exact, one_label, many_labels] = slots.map(|slots| table(slots, &names, &hasher));
        RouteTable { names, exact, one_label, many_labels, any, entries, hasher }
    }
}

impl Conditions {
    /// How many kinds of condition there are, 0 to 3.
    pub fn count(&self) -> usize {
        usize::from(!self.alpn.is_empty())
            + usize::from(!self.source.is_empty())
            + usize::from(!self.listeners.is_empty())
    }

    /// Orders entries of one pattern: more kinds first; of as many, `source` before `alpn` before `listeners`.
    fn rank(&self) -> (usize, bool, bool) {
        (self.count(), !self.source.is_empty(), !self.alpn.is_empty())
    }

    fn unmet(&self, request: &Request<'_>) -> Option<Unmet> {
        if !self.listeners.is_empty() && !self.listeners.contains(&request.listener) {
            return Some(Unmet::Listener);
        }
        if !self.source.is_empty() && !self.source.iter().any(|net| net.contains(&request.source)) {
            return Some(Unmet::Source);
        }
        if !self.alpn.is_empty() && !self.alpn.iter().any(|protocol| request.alpn.offers(protocol)) {
            return Some(Unmet::Alpn);
        }
        None
    }
}

impl By {
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
        }
    }
}

/// One pattern: 12 bytes, and its name in the arena.
#[derive(Debug)]
struct Slot {
    at: u32,
    choice: Choice,
    bytes: u8,
}

impl Slot {
    fn name<'a>(&self, names: &'a [u8]) -> &'a [u8] {
        let at = self.at as usize;
        &names[at..at + usize::from(self.bytes)]
    }
}

/// What stands behind a pattern: nothing, one route without conditions (most of all), or a run of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Choice(u32);

enum Chosen {
    None,
    Route(u32),
    Entries(usize),
}

impl Choice {
    const NONE: Self = Self(u32::MAX);
    const ENTRIES: u32 = 1 << 31;

    fn of(mut run: Vec<Entry>, entries: &mut Vec<Entry>) -> Self {
        if let [Entry { conditions, route, .. }] = &run[..]
            && conditions.count() == 0
        {
            assert!(*route < Self::ENTRIES, "less than 2³¹ routes");
            return Self(*route);
        }
        if let Some(entry) = run.last_mut() {
            entry.last = true;
        }
        let first = u32::try_from(entries.len()).expect("less than 2³¹ entries");
        entries.append(&mut run);
        Self(Self::ENTRIES | first)
    }

    fn read(self) -> Chosen {
        match self {
            Self::NONE => Chosen::None,
            Self(bits) if bits & Self::ENTRIES == 0 => Chosen::Route(bits),
            Self(bits) => Chosen::Entries((bits & !Self::ENTRIES) as usize),
        }
    }
}

#[derive(Debug)]
struct Entry {
    conditions: Conditions,
    route: u32,
    /// The last one for its pattern.
    last: bool,
}

fn table(slots: Vec<Slot>, names: &[u8], hasher: &FixedState) -> HashTable<Slot> {
    let mut table = HashTable::with_capacity(slots.len());
    let key = |slot: &Slot| hash(hasher, slot.name(names));
    for slot in slots {
        table.insert_unique(key(&slot), slot, key);
    }
    table
}

/// The keys are the operator's own, so a client cannot make them collide; a fixed seed keeps builds alike.
fn hash(hasher: &FixedState, name: &[u8]) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut state = hasher.build_hasher();
    state.write(name);
    state.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request<'a>(name: &'a ServerName, alpn: &'a Alpn) -> Request<'a> {
        Request { server_name: name, alpn, source: [127, 0, 0, 1].into(), listener: 0 }
    }

    fn table_of(patterns: &[&str]) -> RouteTable {
        let mut builder = Builder::default();
        for (route, pattern) in patterns.iter().enumerate() {
            builder.add(pattern.parse().expect("a pattern"), Conditions::default(), u32::try_from(route).expect("few"));
        }
        builder.build()
    }

    fn found(table: &RouteTable, name: &str) -> Option<u32> {
        table.find(&request(&name.parse().expect("a name"), &Alpn::default())).map(|found| found.route)
    }

    #[test]
    fn the_most_specific_pattern_takes_a_name() {
        let table = table_of(&["a.example.com", "*.example.com", "**.example.com", "**.com", "*"]);
        assert_eq!(found(&table, "a.example.com"), Some(0));
        assert_eq!(found(&table, "b.example.com"), Some(1));
        assert_eq!(found(&table, "c.b.example.com"), Some(2));
        assert_eq!(found(&table, "example.com"), Some(3));
        assert_eq!(found(&table, "example.org"), Some(4));
        assert_eq!(found(&table, "com"), Some(4));
    }

    #[test]
    fn no_wildcard_takes_the_apex() {
        let table = table_of(&["*.example.com", "**.example.com"]);
        assert_eq!(found(&table, "example.com"), None);
        assert_eq!(found(&table, "badexample.com"), None);
    }

    #[test]
    fn a_longer_suffix_wins_over_a_shorter_one() {
        let table = table_of(&["**.example.com", "**.b.example.com", "*.example.com"]);
        assert_eq!(found(&table, "x.b.example.com"), Some(1));
        assert_eq!(found(&table, "b.example.com"), Some(2));
    }

    #[test]
    fn more_conditions_come_first_and_failing_ones_fall_through() {
        let mut builder = Builder::default();
        let pattern = |text: &str| text.parse::<Pattern>().expect("a pattern");
        let h2 = Conditions { alpn: vec![(*b"h2").into()], ..Conditions::default() };
        let inside = Conditions {
            source: vec!["10.0.0.0/8".parse().expect("a net")],
            alpn: vec![(*b"h2").into()],
            ..h2.clone()
        };
        builder.add(pattern("a.test"), h2.clone(), 1);
        builder.add(pattern("a.test"), inside, 2);
        builder.add(pattern("*.test"), h2, 3);
        builder.add(pattern("**.test"), Conditions::default(), 4);
        let table = builder.build();
        let name: ServerName = "a.test".parse().expect("a name");
        let (plain, h2) = (Alpn::default(), Alpn::of(&["h2"]));
        assert_eq!(table.find(&request(&name, &h2)).map(|f| f.route), Some(1));
        assert_eq!(
            table.find(&Request { source: [10, 1, 1, 1].into(), ..request(&name, &h2) }).map(|f| f.route),
            Some(2)
        );
        let mut seen = Vec::new();
        let end = table.walk(&request(&name, &plain), |candidate| seen.push((candidate.route, candidate.unmet)));
        assert_eq!(end, Some(Found { route: 4, by: By::ManyLabels }));
        assert_eq!(seen, [(2, Some(Unmet::Source)), (1, Some(Unmet::Alpn)), (3, Some(Unmet::Alpn)), (4, None)]);
    }

    /// DESIGN §3 read out loud: every pattern against the name, the best one wins.
    fn naive(entries: &[(Pattern, Conditions)], request: &Request<'_>) -> Option<u32> {
        let name = request.server_name.as_str();
        let rank = |pattern: &Pattern| {
            let labels_more = |base: &ServerName| {
                let front = name.strip_suffix(base.as_str())?.strip_suffix('.')?;
                Some(front.split('.').count())
            };
            match pattern {
                Pattern::Exact(base) => (base.as_str() == name).then_some((3, 0, 0)),
                Pattern::OneLabel(base) => (labels_more(base)? == 1).then_some((2, base.as_str().len(), 1)),
                Pattern::ManyLabels(base) => labels_more(base).map(|_| (2, base.as_str().len(), 0)),
                Pattern::Any => Some((1, 0, 0)),
            }
        };
        let holds = |conditions: &Conditions| {
            (conditions.alpn.is_empty()
                || conditions.alpn.iter().any(|p| request.alpn.protocols().any(|o| o == &p[..])))
                && (conditions.source.is_empty() || conditions.source.iter().any(|net| net.contains(&request.source)))
                && (conditions.listeners.is_empty() || conditions.listeners.contains(&request.listener))
        };
        let takes = |(number, (pattern, conditions)): (usize, &(Pattern, Conditions))| {
            let rank = rank(pattern).filter(|_| holds(conditions))?;
            Some(((rank, conditions.rank(), usize::MAX - number), u32::try_from(number).expect("few")))
        };
        entries.iter().enumerate().filter_map(takes).max().map(|(_, route)| route)
    }

    fn conditions() -> impl Strategy<Value = Conditions> {
        let alpn = prop_oneof![3 => Just(vec![]), 1 => Just(vec![Box::from(*b"h2")])];
        let source = prop_oneof![3 => Just(vec![]), 1 => Just(vec!["10.0.0.0/8".parse().expect("a net")])];
        let listeners = prop_oneof![3 => Just(vec![]), 1 => Just(vec![1])];
        (alpn, source, listeners).prop_map(|(alpn, source, listeners)| Conditions { alpn, source, listeners })
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_a_naive_matcher(
            entries in proptest::collection::vec(("(\\*\\*?\\.)?[ab](\\.[ab]){0,3}|\\*", conditions()), 0..24),
            name in "[ab](\\.[ab]){0,4}",
            h2: bool, inside: bool, listener in 0_usize..2,
        ) {
            let entries: Vec<(Pattern, Conditions)> =
                entries.into_iter().map(|(pattern, conditions)| (pattern.parse().expect("a pattern"), conditions)).collect();
            let mut builder = Builder::default();
            for (number, (pattern, conditions)) in entries.iter().enumerate() {
                builder.add(pattern.clone(), conditions.clone(), u32::try_from(number).expect("few"));
            }
            let name = name.parse().expect("a name");
            let alpn = if h2 { Alpn::of(&["h2"]) } else { Alpn::default() };
            let source = if inside { [10, 0, 0, 1] } else { [192, 0, 2, 1] }.into();
            let request = Request { server_name: &name, alpn: &alpn, source, listener };
            let table = builder.build();
            let (mut last, expected) = (None, naive(&entries, &request));
            let explained = table.walk(&request, |candidate| last = Some(candidate));
            prop_assert_eq!(table.find(&request).map(|found| found.route), expected);
            prop_assert_eq!(explained.map(|found| found.route), expected);
            prop_assert_eq!(last.filter(|last| last.unmet.is_none()).map(|last| last.route), expected);
        }
    }
}
