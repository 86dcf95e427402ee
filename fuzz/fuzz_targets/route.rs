//! The table finds what a reader of the rules finds by hand, and the walk that `explain` watches ends there too.
//!
//! The rules are read here once more, on the text of the patterns label by label; nothing is shared with the table.

#![no_main]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use snigate::internals::route::{Builder, By, Conditions, Lookup, NameForm};
use snigate::internals::settings::EchCondition;
use snigate::internals::{Alpn, ListenerIndex, RouteIndex, ServerName};

fuzz_target!(|input: Input| {
    let mut builder = Builder::default();
    for (number, entry) in (0..).map(RouteIndex).zip(&input.entries) {
        builder.add(entry.pattern.parse().expect("a pattern"), entry.conditions.clone(), number);
    }
    let table = builder.build();
    for asked in &input.asked {
        let name: ServerName = asked.name.parse().expect("a name");
        let alpn = Alpn::of(&asked.alpn);
        let request = Lookup {
            server_name: &name,
            alpn: &alpn,
            source: Some(asked.source),
            listener: asked.listener,
            form: asked.form,
        };
        let expected = by_hand(&input.entries, asked);
        let mut seen = Vec::new();
        let found = table.walk(&request, |candidate| seen.push(candidate));
        assert_eq!(found, table.find(&request));
        assert_eq!(
            near_misses(&input.entries, &asked.name),
            table.near_misses(&name).into_iter().map(|near| near.number).collect()
        );
        assert_eq!(found.map(|found| found.route.0), expected, "{asked:?}");

        let (last, before) = match found {
            Some(_) => seen.split_last().map_or((None, &seen[..]), |(last, before)| (Some(last), before)),
            None => (None, &seen[..]),
        };
        assert_eq!(
            last.map(|last| (last.route, last.by, last.unmet)),
            found.map(|found| (found.route, found.by, None))
        );
        assert!(before.iter().all(|candidate| candidate.unmet.is_some()), "a candidate that holds was passed over");
        for candidate in &seen {
            let suffix = &asked.name[asked.name.len() - candidate.suffix_bytes..];
            let pattern = match candidate.by {
                By::Exact => suffix.to_owned(),
                By::OneLabel => format!("*.{suffix}"),
                By::ManyLabels => format!("**.{suffix}"),
                By::Any => "*".to_owned(),
            };
            assert_eq!(input.entries[candidate.route.0 as usize].pattern, pattern);
            // Here every entry has a route of its own.
            assert_eq!(candidate.number(), candidate.route.0);
            assert_eq!(*candidate.conditions, input.entries[candidate.route.0 as usize].conditions);
        }
    }
});

#[derive(Debug)]
struct Input {
    entries: Vec<Entry>,
    asked: Vec<Asked>,
}

#[derive(Debug)]
struct Entry {
    pattern: String,
    conditions: Conditions,
}

impl Entry {
    /// Among entries of one pattern the one with more kinds of condition comes first; of as many, source before alpn
    /// before listeners before ech.
    fn rank(&self) -> (usize, [bool; 4]) {
        let Conditions { alpn, source, listeners, ech } = &self.conditions;
        let kinds = [!source.is_empty(), !alpn.is_empty(), !listeners.is_empty(), ech.is_set()];
        (kinds.iter().filter(|&&given| given).count(), kinds)
    }
}

#[derive(Debug)]
struct Asked {
    name: String,
    alpn: Vec<Vec<u8>>,
    source: IpAddr,
    listener: ListenerIndex,
    form: NameForm,
}

/// The number of the entry that takes what is asked, by the precedence that docs and `explain` promise.
fn by_hand(entries: &[Entry], asked: &Asked) -> Option<u32> {
    let name: Vec<&str> = asked.name.split('.').collect();
    let rank = |number: usize| {
        let Entry { pattern, conditions } = &entries[number];
        let labels: Vec<&str> = pattern.split('.').collect();
        let (stars, suffix) = match labels.split_first() {
            Some((&star, suffix)) if star == "*" || star == "**" => (star.len(), suffix),
            _ => (0, &labels[..]),
        };
        let more = name.len().checked_sub(suffix.len()).filter(|&more| name[more..] == *suffix)?;
        let specific = match (stars, suffix.len()) {
            (0, _) if more == 0 => usize::MAX,
            (1, 0) => 0,
            // One label more comes before one or more at the same suffix.
            (1, labels) if more == 1 => 2 * labels + 1,
            (2, labels) if more >= 1 => 2 * labels,
            _ => return None,
        };
        let Conditions { alpn, source, listeners, ech } = conditions;
        let holds = (alpn.is_empty()
            || alpn.iter().any(|wanted| asked.alpn.iter().any(|offered| **wanted == **offered)))
            && (source.is_empty() || source.iter().any(|net| net.contains(&asked.source)))
            && (listeners.is_empty() || listeners.contains(&asked.listener))
            && match ech {
                EchCondition::Any => true,
                EchCondition::Only => asked.form == NameForm::Encrypted,
                EchCondition::Never => asked.form == NameForm::Clear,
            };
        holds.then_some((specific, entries[number].rank(), Reverse(number)))
    };
    let best = (0..entries.len()).filter_map(rank).max()?;
    u32::try_from(best.2.0).ok()
}

/// The wildcards whose suffix is the whole name, and those for one label more whose suffix is two labels shorter.
fn near_misses(entries: &[Entry], name: &str) -> BTreeSet<u32> {
    let is_near = |pattern: &str| match pattern.split_once('.') {
        Some(("**", suffix)) => suffix == name,
        Some(("*", suffix)) => {
            let more = name.strip_suffix(suffix);
            more.is_some_and(|more| more.is_empty() || more.ends_with('.') && more.matches('.').count() > 1)
        }
        _ => false,
    };
    let mut first: BTreeMap<&str, (Reverse<(usize, [bool; 4])>, u32)> = BTreeMap::new();
    for (number, entry) in (0..).zip(entries).filter(|(_, entry)| is_near(&entry.pattern)) {
        let place = (Reverse(entry.rank()), number);
        first.entry(&entry.pattern).and_modify(|first| *first = place.min(*first)).or_insert(place);
    }
    first.into_values().map(|(_, number)| number).collect()
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self { asked: some(u, 8, asked)?, entries: some(u, 64, entry)? })
    }
}

fn entry(u: &mut Unstructured<'_>) -> arbitrary::Result<Entry> {
    let pattern = match u.int_in_range(0..=9)? {
        0 => "*".to_owned(),
        1..=3 => format!("*.{}", name(u)?),
        4..=6 => format!("**.{}", name(u)?),
        _ => name(u)?,
    };
    let conditions = if u.ratio(1, 3)? {
        Conditions {
            alpn: some(u, 2, protocol)?.into_iter().map(Vec::into_boxed_slice).collect(),
            source: some(u, 2, |u| {
                Ok(u.choose(&["10.0.0.0/8", "10.0.0.0/31", "::/0", "2001:db8::/32"])?.parse().expect("a net"))
            })?,
            listeners: some(u, 2, |u| Ok(ListenerIndex(u.int_in_range(0..=2)?)))?,
            ech: *u.choose(&[EchCondition::Any, EchCondition::Only, EchCondition::Never])?,
        }
    } else {
        Conditions::default()
    };
    Ok(Entry { pattern, conditions })
}

fn asked(u: &mut Unstructured<'_>) -> arbitrary::Result<Asked> {
    let source = u.choose(&["10.0.0.1", "10.0.0.2", "192.0.2.1", "2001:db8::1", "fe80::1"])?;
    Ok(Asked {
        name: name(u)?,
        alpn: some(u, 3, protocol)?,
        source: source.parse().expect("an address"),
        listener: ListenerIndex(u.int_in_range(0..=2)?),
        form: *u.choose(&[NameForm::Clear, NameForm::Encrypted])?,
    })
}

/// Few labels, so that names meet patterns; some alike at one end, some long.
fn name(u: &mut Unstructured<'_>) -> arbitrary::Result<String> {
    const LABELS: [&str; 6] = ["a", "b", "ab", "a-b", "_", "xn--aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"];
    let mut name = u.choose(&LABELS)?.to_string();
    for _ in 0..u.int_in_range(0..=4)? {
        let longer = format!("{name}.{}", u.choose(&LABELS)?);
        if longer.len() <= 253 {
            name = longer;
        }
    }
    Ok(name)
}

fn protocol(u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    Ok(u.choose(&[&b"h2"[..], b"h", b"http/1.1", b"\xff"])?.to_vec())
}

fn some<'a, T>(
    u: &mut Unstructured<'a>,
    most: usize,
    mut one: impl FnMut(&mut Unstructured<'a>) -> arbitrary::Result<T>,
) -> arbitrary::Result<Vec<T>> {
    (0..u.int_in_range(0..=most)?).map(|_| one(u)).collect()
}
