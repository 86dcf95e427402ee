//! Finds the pools that a name can be routed to, for any client.
//!
//! In:  a [`Config`].
//! Out: [`Destinations`]: pools by name, for all possible conditions; and the names below a wildcard.
//! Source: docs/routing.md (precedence).

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::config::Config;
use crate::server_name::Pattern;
use crate::settings::{EchCondition, OpenEch};

/// Where names are routed. Pools are indices into [`Settings::pools`](crate::config::Settings::pools).
pub(super) struct Destinations<'a> {
    exact: Map<&'a str, Level>,
    one_label: Map<&'a str, Level>,
    many_labels: Map<&'a str, Level>,
    any: Level,
    unmatched: Vec<usize>,
    /// The exact names that are one label longer.
    below: Map<&'a str, Vec<&'a str>>,
}

type Map<K, V> = HashMap<K, V, RandomState>;

/// How the names that were encrypted (`ech`) reach a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum InnerNames {
    /// By a route or a fallback that takes names of either form.
    Some,
    /// By a route that takes no others.
    Only,
}

/// For each pool, how inner names reach it; `None`: they do not.
pub(super) fn inner_names(config: &Config) -> Vec<Option<InnerNames>> {
    let mut pools = vec![None; config.pools.len()];
    let opened = config.ech_keys.is_some() && config.listeners.iter().any(|listener| listener.ech == OpenEch::Auto);
    if !opened {
        return pools;
    }
    for pool in config.unmatched.pools().chain(config.no_sni.pools()) {
        pools[pool] = Some(InnerNames::Some);
    }
    for route in &config.routes {
        let names = match route.conditions.ech {
            EchCondition::Never => continue,
            EchCondition::Any => InnerNames::Some,
            EchCondition::Only => InnerNames::Only,
        };
        for pool in route.to.pools() {
            pools[pool] = pools[pool].max(Some(names));
        }
    }
    pools
}

/// The entries of one pattern.
#[derive(Default)]
struct Level {
    pools: Vec<usize>,
    /// One of them matches every client, so less specific patterns are never reached.
    takes_all: bool,
}

impl<'a> Destinations<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        let mut all = Self {
            exact: Map::default(),
            one_label: Map::default(),
            many_labels: Map::default(),
            any: Level::default(),
            unmatched: config.unmatched.pools().collect(),
            below: Map::default(),
        };
        for route in &config.routes {
            let conditions = &route.conditions;
            let takes_all = conditions.alpn.is_empty()
                && conditions.source.is_empty()
                && conditions.listeners.is_empty()
                && !conditions.ech.is_set();
            for (pattern, _) in &route.patterns {
                let level = match pattern {
                    Pattern::Exact(name) => {
                        if let (false, Some((_, parent))) =
                            (all.exact.contains_key(name.as_str()), name.as_str().split_once('.'))
                        {
                            all.below.entry(parent).or_default().push(name.as_str());
                        }
                        all.exact.entry(name.as_str()).or_default()
                    }
                    Pattern::OneLabel(suffix) => all.one_label.entry(suffix.as_str()).or_default(),
                    Pattern::ManyLabels(suffix) => all.many_labels.entry(suffix.as_str()).or_default(),
                    Pattern::Any => &mut all.any,
                };
                level.takes_all |= takes_all;
                for pool in route.to.pools() {
                    if !level.pools.contains(&pool) {
                        level.pools.push(pool);
                    }
                }
            }
        }
        all
    }

    /// The pools that a client with `name` (in lower case) may reach, each once.
    pub(super) fn of(&self, name: &str) -> Vec<usize> {
        let mut pools: Vec<usize> = Vec::new();
        let mut add = |pool: usize| {
            if !pools.contains(&pool) {
                pools.push(pool);
            }
        };
        for level in self.levels(name) {
            level.pools.iter().copied().for_each(&mut add);
            if level.takes_all {
                return pools;
            }
        }
        self.unmatched.iter().copied().for_each(&mut add);
        pools
    }

    /// The exact names of routes that a certificate for `*.parent` covers.
    pub(super) fn below(&self, parent: &str) -> &[&'a str] {
        self.below.get(parent).map_or(&[], Vec::as_slice)
    }

    /// Whether a pattern `*.suffix` is routed.
    pub(super) fn has_one_label(&self, suffix: &str) -> bool {
        self.one_label.contains_key(suffix)
    }

    /// The entries checked for `name`, most specific first.
    fn levels<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s Level> {
        let suffixes = name.match_indices('.').map(|(at, _)| &name[at + 1..]).enumerate();
        let wildcards = suffixes.flat_map(|(nth, suffix)| {
            let one = if nth == 0 { self.one_label.get(suffix) } else { None };
            one.into_iter().chain(self.many_labels.get(suffix))
        });
        self.exact.get(name).into_iter().chain(wildcards).chain([&self.any])
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn inner_names_reach_every_pool_whose_routes_take_them() {
        let directory = tempfile::tempdir().expect("a directory");
        let key = crate::ech::generate(1, 0, "public.test").expect("a key");
        std::fs::write(directory.path().join("k.pem"), &*key.pem).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(directory.path().join("k.pem"), mode).expect("set");
        let pools = |listener: &str, more: &str| {
            let text = format!(
                "listeners: [{{ name: l, bind: \"127.0.0.1:0\"{listener} }}]\n{more}\
                 routes:\n  - {{ sni: a.test, pool: p0 }}\n  - {{ sni: b.test, ech: only, pool: p1 }}\n  \
                 - {{ sni: c.test, ech: never, pool: p2 }}\n  - {{ sni: d.test, ech: only, pool: p0 }}\n\
                 unmatched: {{ pool: p3 }}\n\
                 pools: {{ p0: {{ backends: [\"127.0.0.1:1\"] }}, p1: {{ backends: [\"127.0.0.1:1\"] }}, \
                 p2: {{ backends: [\"127.0.0.1:1\"] }}, p3: {{ backends: [\"127.0.0.1:1\"] }} }}\n"
            );
            inner_names(&Config::parse(&text, &directory.path().join("c.yaml")).expect("a config").config)
        };
        let (some, only) = (Some(InnerNames::Some), Some(InnerNames::Only));
        assert_eq!(pools("", "ech: { keys: k.pem }\n"), [only, only, None, some]);
        assert_eq!(pools(", ech: off", "ech: { keys: k.pem }\n"), [None; 4]);
        assert_eq!(pools("", ""), [None; 4]);
    }

    #[test]
    fn a_name_leads_where_its_most_specific_pattern_says_and_on_where_that_has_conditions() {
        let text = r#"
listeners: [{ name: https, bind: "127.0.0.1:0" }]
routes:
  - { sni: a.test, alpn: [h2], pool: p0 }
  - { sni: "*.test", pool: p1 }
  - { sni: b.test, pool: p2 }
  - { sni: gone.test, refuse: alert }
  - { sni: "**.deep.test", pool: p2 }
  - { sni: "*.deep.test", source: [10.0.0.0/8], pool: p0 }
  - { sni: split.test, split: [{ pool: p2, weight: 1 }, { pool: p0, weight: 0 }] }
pools: { p0: { backends: ["127.0.0.1:1"] }, p1: { backends: ["127.0.0.1:1"] }, p2: { backends: ["127.0.0.1:1"] } }
unmatched: { pool: p0 }
"#;
        let config = Config::parse(text, Path::new("c.yaml")).expect("a config").config;
        let all = Destinations::new(&config);
        assert_eq!(all.of("a.test"), [0, 1]);
        assert_eq!(all.of("b.test"), [2]);
        assert_eq!(all.of("c.test"), [1]);
        assert!(all.of("gone.test").is_empty());
        assert_eq!(all.of("x.deep.test"), [0, 2]);
        assert_eq!(all.of("y.x.deep.test"), [2]);
        assert_eq!(all.of("deep.test"), [1]);
        assert_eq!(all.of("elsewhere"), [0]);
        assert_eq!(all.of("split.test"), [2, 0]);
        assert_eq!(all.below("test"), ["a.test", "b.test", "gone.test", "split.test"]);
        assert!(all.has_one_label("deep.test") && !all.has_one_label("a.test"));
    }
}
