//! Compares two snapshots: which clients are routed differently, and which pools differ.
//!
//! In:  the old snapshot and the new.
//! Out: a [`Report`]. Every name and pattern of either file is looked up in both, by `Snapshot::choose` itself; a
//!      pattern by a name that only it and less specific ones match.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};

use foldhash::fast::RandomState;
use serde::{Serialize, Serializer};

use super::Side;
use super::cases::{Addresses, Cases, Listeners, When};
use super::lists::ListChange;
use crate::client_hello::Alpn;
use crate::config::{self, Config, Place};
use crate::route::NameForm;
use crate::server_name::{Pattern, ServerName, Sni};
use crate::settings::{Off, Or, Pool, Refuse, Span};
use crate::snapshot::{Chosen, Destination, Route, RouteQuery, Share, Split};

/// All differences. The JSON is a stable interface.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    /// Whether `patterns`, `fallbacks`, `pools` or `lists` has any entry.
    pub changes: bool,
    /// In the order of the new file; those only in the old file come last.
    pub patterns: Vec<PatternChange<'a>>,
    pub fallbacks: Vec<FallbackChange<'a>>,
    pub pools: Vec<PoolChange<'a>>,
    /// `allow` and `deny` of listeners and routes that both files have.
    pub lists: Vec<ListChange>,
    /// Other top-level keys whose values differ; they do not change routing.
    pub other_settings: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Added,
    Removed,
    Changed,
}

#[derive(Debug, Serialize)]
pub(super) struct PatternChange<'a> {
    pub pattern: String,
    pub kind: Kind,
    /// In the new file, or in the old one if removed.
    #[serde(serialize_with = "place_as_text")]
    pub place: &'a Place,
    /// The clients that are routed differently. If there are none, one example, whose `from` and `to` are the same.
    pub effects: Vec<Effect<'a>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Effect<'a> {
    pub when: When,
    pub from: Target<'a>,
    pub to: Target<'a>,
}

/// Where a connection goes, and what decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub(super) struct Target<'a> {
    /// One of this, `split` and `refuse` is set.
    pub pool: Option<&'a str>,
    pub split: Option<Shares<'a>>,
    pub refuse: Option<&'static str>,
    #[serde(rename = "idle_timeout_s", serialize_with = "in_seconds")]
    pub idle_timeout: Option<Span>,
    /// Not set: `timeouts.max_age` applies.
    #[serde(rename = "max_age_s", serialize_with = "age_in_seconds")]
    pub max_age: Option<Or<Off, Span>>,
    pub max_connections: Option<usize>,
    /// The route or the fallback, as in the log.
    pub route: &'a str,
    #[serde(rename = "match")]
    pub matched: &'static str,
}

/// The shares of a split, as written. Two are equal if clients notice no difference.
#[derive(Clone, Copy)]
pub(super) struct Shares<'a>(&'a Split);

impl<'a> Shares<'a> {
    /// The pools and their weights, as written.
    pub(super) fn written(self) -> impl Iterator<Item = (&'a str, u32)> {
        self.0.shares().iter().map(|share| (&*share.pool.name, share.weight))
    }

    /// The pools that get connections, in order of their names, with the parts that they get.
    fn parts(self) -> Vec<(&'a str, u64)> {
        let part = |share: &'a Share| (&*share.pool.name, self.0.part(share).to_bits());
        let mut parts: Vec<_> = self.0.shares().iter().filter(|share| share.weight > 0).map(part).collect();
        parts.sort_unstable();
        parts
    }
}

impl PartialEq for Shares<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Shares<'_> {}

impl Hash for Shares<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl fmt::Debug for Shares<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.written()).finish()
    }
}

impl Serialize for Shares<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            pool: &'a str,
            weight: u32,
        }
        serializer.collect_seq(self.written().map(|(pool, weight)| Written { pool, weight }))
    }
}

#[derive(Debug, Serialize)]
pub(super) struct FallbackChange<'a> {
    pub fallback: &'static str,
    pub from: Target<'a>,
    pub to: Target<'a>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct PoolChange<'a> {
    pub pool: &'a str,
    pub kind: Kind,
    pub backends: Vec<BackendChange>,
    /// The other keys whose values differ.
    pub settings: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct BackendChange {
    pub address: String,
    pub kind: Kind,
    /// `None` if the backend is not in that file; likewise for the new weight.
    pub old_weight: Option<u32>,
    pub new_weight: Option<u32>,
}

/// Compares `old` with `new`.
pub(super) fn compare<'a>(old: &'a Side, new: &'a Side) -> Report<'a> {
    let patterns = patterns(old, new);
    let fallbacks = fallbacks(old, new);
    let pools = pools(&old.config, &new.config);
    let lists = super::lists::changes(old, new);
    let changes = !(patterns.is_empty() && fallbacks.is_empty() && pools.is_empty() && lists.is_empty());
    Report {
        changes,
        patterns,
        fallbacks,
        pools,
        lists,
        other_settings: differing(&old.config.settings, &new.config.settings, &[]),
    }
}

impl<'a> Target<'a> {
    /// See [`Shares::parts`]; a pool alone gets all.
    fn parts(&self) -> Vec<(&'a str, u64)> {
        let all = self.pool.map(|pool| (pool, 1_f64.to_bits()));
        self.split.map(Shares::parts).unwrap_or_default().into_iter().chain(all).collect()
    }

    /// Whether clients notice no difference; route names may differ.
    pub(super) fn is_same_for_clients(&self, other: &Self) -> bool {
        let same_pools = match (self.split, other.split) {
            (None, None) => self.pool == other.pool,
            _ => self.parts() == other.parts(),
        };
        let noticed = |target: &Self| (target.refuse, target.idle_timeout, target.max_age, target.max_connections);
        same_pools && noticed(self) == noticed(other)
    }
}

impl Effect<'_> {
    pub(super) fn changes(&self) -> bool {
        !self.from.is_same_for_clients(&self.to)
    }
}

fn patterns<'a>(old: &'a Side, new: &'a Side) -> Vec<PatternChange<'a>> {
    let (before, after) = (entries(&old.config), entries(&new.config));
    let stranger = stranger(before.keys().chain(after.keys()).copied());
    let order = new.config.routes.iter().chain(&old.config.routes).flat_map(|route| &route.patterns);
    let mut done: HashSet<&Pattern, RandomState> = HashSet::default();
    let mut changes = Vec::new();
    for (pattern, place) in order.filter(|(pattern, _)| done.insert(pattern)) {
        let kind = match (before.get(pattern), after.get(pattern)) {
            (None, _) => Kind::Added,
            (_, None) => Kind::Removed,
            (Some(_), Some(_)) => Kind::Changed,
        };
        let alike = || match (before.get(pattern), after.get(pattern)) {
            (Some(before), Some(after)) => written_alike(&old.config, before, &new.config, after),
            _ => false,
        };
        // A name that would be too long is sent by no client.
        let Some(name) = only_for(pattern, &stranger) else { continue };
        let effects = effects(old, new, &Sni::Name(name));
        if kind != Kind::Changed || effects.iter().any(Effect::changes) || !alike() {
            changes.push(PatternChange { pattern: pattern.to_string(), kind, place, effects });
        }
    }
    changes
}

type Entries<'a> = HashMap<&'a Pattern, Vec<&'a config::Route>, RandomState>;

fn entries(config: &Config) -> Entries<'_> {
    let mut entries = Entries::default();
    for route in &config.routes {
        for (pattern, _) in &route.patterns {
            entries.entry(pattern).or_default().push(route);
        }
    }
    entries
}

/// Whether both files have the same entries for a pattern, in any order.
fn written_alike(old: &Config, before: &[&config::Route], new: &Config, after: &[&config::Route]) -> bool {
    // Most patterns occur once, without conditions.
    if let ([before], [after]) = (before, after)
        && [before, after].iter().all(|route| route.conditions == config::Conditions::default())
    {
        return destination(old, before) == destination(new, after) && overrides(before) == overrides(after);
    }
    written(old, before) == written(new, after)
}

/// The pools with their weights, 1 for one alone; and how connections are refused.
fn destination<'a>(config: &'a Config, route: &config::Route) -> (Vec<(&'a str, u32)>, Option<Refuse>) {
    let name = |pool: usize| &*config.pools[pool].name;
    match &route.to {
        config::Destination::Pool(pool) => (vec![(name(*pool), 1)], None),
        config::Destination::Split(shares) => {
            let mut shares: Vec<_> = shares.iter().map(|share| (name(share.pool), share.weight)).collect();
            shares.sort_unstable();
            (shares, None)
        }
        config::Destination::Refuse(how) => (Vec::new(), Some(*how)),
    }
}

/// The keys that a route sets for its connections.
fn overrides(route: &config::Route) -> (Option<Span>, Option<Or<Off, Span>>, Option<usize>) {
    (route.idle_timeout, route.max_age, *route.max_connections)
}

/// The entries in a canonical order.
fn written(config: &Config, routes: &[&config::Route]) -> Vec<String> {
    let entry = |route: &&config::Route| {
        let config::Conditions { alpn, source, listeners, ech } = &route.conditions;
        let (mut alpn, mut source) = (alpn.clone(), source.clone());
        alpn.sort_unstable();
        source.sort_unstable();
        let mut listeners: Vec<&str> = listeners.iter().map(|number| &*config.listeners[*number].name).collect();
        listeners.sort_unstable();
        format!("{:?}", (destination(config, route), alpn, source, listeners, ech, overrides(route)))
    };
    let mut written: Vec<String> = routes.iter().map(entry).collect();
    written.sort_unstable();
    written
}

/// A short label that no pattern begins with.
fn stranger<'a>(patterns: impl Iterator<Item = &'a Pattern>) -> String {
    let first = |pattern: &'a Pattern| pattern.base()?.as_str().split('.').next();
    let known: HashSet<&str> = patterns.filter_map(first).filter(|label| label.starts_with('x')).collect();
    let numbered = (1..).map(|number| format!("x{number}"));
    let free = std::iter::once("x".to_owned()).chain(numbered).find(|label| !known.contains(&**label));
    free.expect("there are more numbers than labels")
}

/// A name that `pattern` matches, possibly less specific patterns too, but no other.
fn only_for(pattern: &Pattern, stranger: &str) -> Option<ServerName> {
    match pattern {
        Pattern::Exact(name) => Some(name.clone()),
        Pattern::OneLabel(suffix) => format!("{stranger}.{suffix}").parse().ok(),
        // Two more labels, since a `*.` pattern with the same suffix matches names with one.
        Pattern::ManyLabels(suffix) => format!("{stranger}.{stranger}.{suffix}").parse().ok(),
        Pattern::Any => stranger.parse().ok(),
    }
}

/// The clients with this `sni` that are routed differently; if there are none, one example.
fn effects<'a>(old: &'a Side, new: &'a Side, sni: &Sni) -> Vec<Effect<'a>> {
    let cases = Cases::of(old, new, sni);
    let mut outcomes = Vec::new();
    for (protocols, offered) in cases.alpn.iter().enumerate() {
        for (network, addresses) in cases.source.iter().enumerate() {
            for (listener, listeners) in cases.listener.iter().enumerate() {
                for (way, form) in cases.forms.iter().enumerate() {
                    let (from, to) = targets(old, new, sni, &offered.alpn, *addresses, *listeners, *form);
                    outcomes.push(Outcome {
                        at: [Some(protocols), Some(network), Some(listener), Some(way)],
                        from,
                        to,
                    });
                }
            }
        }
    }
    let sizes = [cases.alpn.len(), cases.source.len(), cases.listener.len(), cases.forms.len()];
    for (axis, size) in sizes.into_iter().enumerate() {
        outcomes = without_idle_axis(outcomes, axis, size);
    }
    let effect = |Outcome { at: [protocols, network, listener, way], from, to }| {
        let name = |protocol: &&[u8]| String::from_utf8_lossy(protocol).into_owned();
        let network = network.map(|network: usize| cases.source[network].network);
        let when = When {
            alpn: protocols.map(|protocols| cases.alpn[protocols].offered.iter().map(name).collect()),
            source: network.map(|network| network.map_or("other".to_owned(), |network| network.to_string())),
            listener: listener.map(|listener| cases.listener[listener].name.unwrap_or("other").to_owned()),
            name: way.map(|way| match cases.forms[way] {
                NameForm::Clear => "clear",
                NameForm::Encrypted => "encrypted",
            }),
        };
        Effect { when, from, to }
    };
    let mut effects: Vec<Effect<'a>> = outcomes.into_iter().map(effect).collect();
    if effects.iter().any(Effect::changes) {
        effects.retain(Effect::changes);
    } else {
        let all_alike = effects.iter().all(|effect| effect.to.is_same_for_clients(&effects[0].to));
        effects.truncate(1);
        effects.iter_mut().filter(|_| all_alike).for_each(|effect| effect.when = When::default());
    }
    effects
}

/// The result for a combination of protocols, addresses, listeners and ways to send the name, by index. `None`: any.
struct Outcome<'a> {
    at: [Option<usize>; 4],
    from: Target<'a>,
    to: Target<'a>,
}

/// Merges outcomes that are the same for all `size` values on `axis`.
#[expect(clippy::mutable_key_type, reason = "hashes names and weights, which do not change")]
fn without_idle_axis<'a>(outcomes: Vec<Outcome<'a>>, axis: usize, size: usize) -> Vec<Outcome<'a>> {
    let elsewhere = |outcome: &Outcome<'_>| {
        let mut at = outcome.at;
        at[axis] = None;
        at
    };
    if size == 1 {
        return outcomes.into_iter().map(|outcome| Outcome { at: elsewhere(&outcome), ..outcome }).collect();
    }
    let mut alike: HashMap<_, usize> = HashMap::new();
    for outcome in &outcomes {
        *alike.entry((elsewhere(outcome), outcome.from, outcome.to)).or_default() += 1;
    }
    let merged = |outcome: Outcome<'a>| match alike[&(elsewhere(&outcome), outcome.from, outcome.to)] == size {
        true if outcome.at[axis] == Some(0) => Some(Outcome { at: elsewhere(&outcome), ..outcome }),
        true => None,
        false => Some(outcome),
    };
    outcomes.into_iter().filter_map(merged).collect()
}

fn targets<'a>(
    old: &'a Side,
    new: &'a Side,
    sni: &Sni,
    alpn: &Alpn,
    addresses: Addresses,
    listeners: Listeners<'_>,
    form: NameForm,
) -> (Target<'a>, Target<'a>) {
    let target = |side: &'a Side, listener| {
        let source = Some(addresses.example);
        target(side.snapshot.choose(RouteQuery { sni: Some(sni), alpn, source, listener, form }))
    };
    (target(old, listeners.old), target(new, listeners.new))
}

fn target(Chosen { route, matched }: Chosen<'_>) -> Target<'_> {
    Target { matched: matched.as_str(), ..target_of(route) }
}

/// For a fallback, the match has its name.
fn target_of(route: &Route) -> Target<'_> {
    let (pool, split, refuse) = match &route.to {
        Destination::Pool(pool) => (Some(&*pool.name), None, None),
        Destination::Split(split) => (None, Some(Shares(split)), None),
        Destination::Refuse(how) => (None, None, Some(how.as_str())),
    };
    Target {
        pool,
        split,
        refuse,
        idle_timeout: route.idle_timeout(),
        max_age: route.max_age(),
        max_connections: *route.max_connections(),
        route: &route.name,
        matched: "",
    }
}

fn fallbacks<'a>(old: &'a Side, new: &'a Side) -> Vec<FallbackChange<'a>> {
    let pairs = [
        ("no_sni", &old.snapshot.no_sni, &new.snapshot.no_sni),
        ("unmatched", &old.snapshot.unmatched, &new.snapshot.unmatched),
        ("not_tls", &old.snapshot.not_tls, &new.snapshot.not_tls),
    ];
    let change = |(fallback, old, new): (&'static str, &'a Route, &'a Route)| {
        let target = |route| Target { matched: fallback, ..target_of(route) };
        let (from, to) = (target(old), target(new));
        (!from.is_same_for_clients(&to)).then_some(FallbackChange { fallback, from, to })
    };
    pairs.into_iter().filter_map(change).collect()
}

fn pools<'a>(old: &'a Config, new: &'a Config) -> Vec<PoolChange<'a>> {
    let before: HashMap<&str, &Pool> = old.pools.iter().map(|pool| (&*pool.name, pool)).collect();
    let after: HashMap<&str, &Pool> = new.pools.iter().map(|pool| (&*pool.name, pool)).collect();
    let change = |pool: &'a Pool| {
        let (old, new) = (before.get(&*pool.name), after.get(&*pool.name));
        let (kind, settings) = match (old, new) {
            (None, _) => (Kind::Added, Vec::new()),
            (_, None) => (Kind::Removed, Vec::new()),
            (Some(old), Some(new)) => (Kind::Changed, differing(old, new, &["backends"])),
        };
        let backends = backends(old.copied(), new.copied());
        (kind != Kind::Changed || !backends.is_empty() || !settings.is_empty()).then_some(PoolChange {
            pool: &pool.name,
            kind,
            backends,
            settings,
        })
    };
    let removed = old.pools.iter().filter(|pool| !after.contains_key(&*pool.name));
    new.pools.iter().chain(removed).filter_map(change).collect()
}

fn backends(old: Option<&Pool>, new: Option<&Pool>) -> Vec<BackendChange> {
    // An address may occur twice in a pool; the weights add up.
    let weights = |pool: Option<&Pool>| {
        let mut weights: BTreeMap<String, u32> = BTreeMap::new();
        for backend in pool.into_iter().flat_map(|pool| &pool.backends) {
            let weight = weights.entry(backend.address.to_string()).or_default();
            *weight = weight.saturating_add(backend.weight);
        }
        weights
    };
    let (before, after) = (weights(old), weights(new));
    let addresses = before.keys().chain(after.keys().filter(|address| !before.contains_key(*address)));
    let change = |address: &String| {
        let (old_weight, new_weight) = (before.get(address).copied(), after.get(address).copied());
        let kind = match (old_weight, new_weight) {
            (None, _) => Kind::Added,
            (_, None) => Kind::Removed,
            (old, new) if old == new => return None,
            _ => Kind::Changed,
        };
        Some(BackendChange { address: address.clone(), kind, old_weight, new_weight })
    };
    addresses.filter_map(change).collect()
}

/// The keys whose values differ, except those `left_out`. A key that is not written differs from every value.
fn differing(old: &impl Serialize, new: &impl Serialize, left_out: &[&str]) -> Vec<String> {
    let (old, new) = (keys(old), keys(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differs = |name: &&&String| old.get(**name) != new.get(**name) && !left_out.contains(&name.as_str());
    names.iter().filter(differs).map(|name| (*name).clone()).collect()
}

fn keys(settings: &impl Serialize) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(settings) {
        Ok(serde_json::Value::Object(keys)) => keys,
        _ => serde_json::Map::new(),
    }
}

fn place_as_text<S: Serializer>(place: &&Place, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(place)
}

fn in_seconds<S: Serializer>(duration: &Option<Span>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

/// `off` is written as the file does.
fn age_in_seconds<S: Serializer>(max_age: &Option<Or<Off, Span>>, serializer: S) -> Result<S::Ok, S::Error> {
    match max_age.map(|max_age| *max_age) {
        Some(None) => "off".serialize(serializer),
        set => in_seconds(&set.flatten(), serializer),
    }
}

#[cfg(test)]
mod tests;
