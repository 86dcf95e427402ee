//! Decides which names each pool's backends are asked for.
//!
//! In:  a [`Config`], and the restrictions from the command line.
//! Out: [`PoolPlan`]s, one per pool.
//!
//! For a wildcard a name is made up, since the real names below it are unknown.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::destinations::Destinations;
use crate::config::Config;
use crate::server_name::{Pattern, ServerName};

/// A pool, and the names to ask its backends for.
#[derive(Clone, Debug)]
pub(super) struct PoolPlan {
    /// Its index into [`Settings::pools`](crate::config::Settings::pools).
    pub pool: usize,
    /// None if the pool never gets TLS.
    pub asked: Arc<[Question]>,
    /// How many names were skipped because there were too many.
    pub left_out: usize,
}

/// A name to ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    /// `None`: a hello without a server name.
    pub name: Option<Arc<str>>,
    pub why: Why,
}

/// Why a name is asked for, which determines what to expect of the certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Why {
    /// A route names it.
    Routed,
    /// It stands for the names that this wildcard matches.
    MadeUpFor(Pattern),
    /// It stands for any name, for `*` or `unmatched`: no certificate can cover all of them.
    AnyName,
    /// Clients without a server name are routed there.
    NoName,
    /// No route leads to the pool.
    Unrouted,
}

/// The restrictions from the command line.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    pub pools: Vec<String>,
    pub names: Vec<ServerName>,
    /// Per backend.
    pub most_names: usize,
}

/// A pool or name on the command line that is not in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotConfigured {
    Pool { name: String, known: Vec<Arc<str>> },
    Name(ServerName),
}

/// Builds the plans, in the order of the pools.
///
/// # Errors
/// [`NotConfigured`].
pub(super) fn plans(
    config: &Config,
    all: &Destinations<'_>,
    selection: &Selection,
) -> Result<Vec<PoolPlan>, NotConfigured> {
    for name in &selection.pools {
        if !config.pools.iter().any(|pool| *pool.name == **name) {
            let known = config.pools.iter().map(|pool| Arc::clone(&pool.name)).collect();
            return Err(NotConfigured::Pool { name: name.clone(), known });
        }
    }
    let mut asked =
        if selection.names.is_empty() { routed(config, all) } else { named(config, all, &selection.names)? };
    let never_tls = config.never_tls();
    let plans = asked.iter_mut().enumerate().filter(|(pool, asked)| {
        let wanted =
            selection.pools.is_empty() || selection.pools.iter().any(|name| **name == *config.pools[*pool].name);
        wanted && (selection.names.is_empty() || !asked.is_empty())
    });
    Ok(plans.map(|(pool, asked)| plan(pool, std::mem::take(asked), never_tls[pool], selection.most_names)).collect())
}

fn plan(pool: usize, mut asked: Vec<Question>, never_tls: bool, most: usize) -> PoolPlan {
    // A handshake shows nothing of a server of another protocol.
    if asked.is_empty() && !never_tls {
        asked.push(Question { name: None, why: Why::Unrouted });
    }
    let left_out = asked.len().saturating_sub(most);
    asked.truncate(most);
    PoolPlan { pool, asked: asked.into(), left_out }
}

/// For each pool everything that is routed to it: wildcards and fallbacks first, since each stands for many names.
fn routed(config: &Config, all: &Destinations<'_>) -> Vec<Vec<Question>> {
    let mut asked: Vec<Vec<Question>> = vec![Vec::new(); config.pools.len()];
    let mut seen = HashSet::new();
    for (destination, question) in [
        (&config.no_sni, Question { name: None, why: Why::NoName }),
        (&config.unmatched, Question { name: Some(UNKNOWN.into()), why: Why::AnyName }),
    ] {
        for pool in destination.pools() {
            seen.insert((pool, question.clone()));
            asked[pool].push(question.clone());
        }
    }
    let (mut wildcards, mut exact) = (Vec::new(), Vec::new());
    for route in &config.routes {
        for (pattern, _) in &route.patterns {
            let question = question(pattern, all);
            for pool in route.to.pools() {
                if seen.insert((pool, question.clone())) {
                    let of_its_kind = if question.why == Why::Routed { &mut exact } else { &mut wildcards };
                    of_its_kind.push((pool, question.clone()));
                }
            }
        }
    }
    for (pool, question) in wildcards.into_iter().chain(exact) {
        asked[pool].push(question);
    }
    asked
}

fn question(pattern: &Pattern, all: &Destinations<'_>) -> Question {
    let name = match pattern {
        Pattern::Exact(name) => return Question { name: Some(name.as_str().into()), why: Why::Routed },
        Pattern::Any => return Question { name: Some(UNKNOWN.into()), why: Why::AnyName },
        // Names with one more label match another pattern.
        Pattern::ManyLabels(suffix) if all.has_one_label(suffix.as_str()) => {
            format!("{LABEL}.{LABEL}.{suffix}")
        }
        Pattern::OneLabel(suffix) | Pattern::ManyLabels(suffix) => format!("{LABEL}.{suffix}"),
    };
    Question { name: Some(name.into()), why: Why::MadeUpFor(pattern.clone()) }
}

/// For each pool those of `names` that can be routed to it.
fn named(config: &Config, all: &Destinations<'_>, names: &[ServerName]) -> Result<Vec<Vec<Question>>, NotConfigured> {
    let mut asked: Vec<Vec<Question>> = vec![Vec::new(); config.pools.len()];
    for name in names {
        let pools = all.of(name.as_str());
        if pools.is_empty() {
            return Err(NotConfigured::Name(name.clone()));
        }
        for pool in pools {
            asked[pool].push(Question { name: Some(name.as_str().into()), why: Why::Routed });
        }
    }
    Ok(asked)
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, &self.why) {
            (Some(name), Why::MadeUpFor(pattern)) => write!(f, "{name} (made up for {pattern})"),
            (Some(name), Why::AnyName) => write!(f, "{name} (made up for any name)"),
            (Some(name), _) => f.write_str(name),
            (None, _) => f.write_str("no name"),
        }
    }
}

impl fmt::Display for NotConfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool { name, known } => {
                write!(f, "there is no pool `{}`; there is `{}`", name.escape_debug(), known.join("`, `"))
            }
            Self::Name(name) => {
                write!(f, "`{name}` is not routed to a pool; run `snigate explain {name}` for the reason")
            }
        }
    }
}

impl std::error::Error for NotConfigured {}

/// The label used in made-up names.
const LABEL: &str = "snigate-doctor";
/// A name that no backend serves (RFC 6761 §6.4).
pub(super) const UNKNOWN: &str = "snigate-doctor.invalid";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const CONFIG: &str = r#"
listeners: [{ name: https, bind: "127.0.0.1:0", silent: { pool: mail } }]
routes:
  - { sni: [a.test, "*.test", b.test, "**.deep.test"], pool: web }
  - { sni: a.test, alpn: [h2], pool: web }
  - { sni: [b.test, "*.deep.test"], source: [10.0.0.0/8], pool: other }
  - { sni: "*", pool: rest }
pools:
  web: { backends: ["127.0.0.1:1"] }
  other: { backends: ["127.0.0.1:1"] }
  rest: { backends: ["127.0.0.1:1"] }
  spare: { backends: ["127.0.0.1:1"] }
  mail: { backends: ["127.0.0.1:25"] }
  ssh: { backends: ["127.0.0.1:22"] }
not_tls: { pool: ssh }
no_sni: { pool: other }
unmatched: { pool: rest }
"#;

    fn reported(selection: &Selection) -> Result<Vec<(usize, Vec<String>, usize)>, NotConfigured> {
        let config = Config::parse(CONFIG, Path::new("c.yaml")).expect("a config").config;
        let plans = plans(&config, &Destinations::new(&config), selection)?;
        let tell = |plan: &PoolPlan| (plan.pool, plan.asked.iter().map(ToString::to_string).collect(), plan.left_out);
        Ok(plans.iter().map(tell).collect())
    }

    fn everything() -> Selection {
        Selection { pools: Vec::new(), names: Vec::new(), most_names: 100 }
    }

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_name_is_asked_once_and_a_wildcard_by_a_name_made_up_for_it() {
        let web = strings(&[
            "snigate-doctor.test (made up for *.test)",
            "snigate-doctor.snigate-doctor.deep.test (made up for **.deep.test)",
            "a.test",
            "b.test",
        ]);
        let other = strings(&["no name", "snigate-doctor.deep.test (made up for *.deep.test)", "b.test"]);
        let rest = strings(&["snigate-doctor.invalid (made up for any name)"]);
        let expected = vec![
            (0, web, 0),
            (1, other, 0),
            (2, rest, 0),
            (3, strings(&["no name"]), 0),
            (4, vec![], 0),
            (5, vec![], 0),
        ];
        assert_eq!(reported(&everything()), Ok(expected));
    }

    #[test]
    fn pools_and_names_narrow_it_and_too_many_names_are_cut() {
        let pools = vec!["mail".to_owned()];
        let mail = reported(&Selection { pools, ..everything() }).unwrap();
        assert_eq!(mail, [(4, vec![], 0)]);
        let pools = vec!["web".to_owned()];
        let cut = reported(&Selection { pools, most_names: 3, ..everything() }).unwrap();
        assert_eq!((cut.len(), cut[0].1.len(), cut[0].2), (1, 3, 1));
        let name = |name: &str| vec![name.parse().unwrap()];
        let b = reported(&Selection { names: name("b.test"), ..everything() }).unwrap();
        assert_eq!(b, [(0, strings(&["b.test"]), 0), (1, strings(&["b.test"]), 0)]);
        let c = reported(&Selection { names: name("c.test"), ..everything() }).unwrap();
        assert_eq!(c, [(0, strings(&["c.test"]), 0)]);
        let no_pool = reported(&Selection { pools: vec!["wab".to_owned()], ..everything() }).unwrap_err();
        assert_eq!(
            no_pool.to_string(),
            "there is no pool `wab`; there is `web`, `other`, `rest`, `spare`, `mail`, `ssh`"
        );
    }
}
