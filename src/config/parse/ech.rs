//! Warns about what Encrypted ClientHello would not do as it is written.
//!
//! In:  a configuration without errors.
//! Out: a warning for a public name that has no route, for a name that is to be sent encrypted only but leads to the same
//!      pool in the clear, and for a route that no hello reaches.

use std::collections::HashMap;

use super::Cursor;
use crate::config::problem::Problems;
use crate::config::{Config, Destination, Place, Problem, Route, Severity};
use crate::server_name::{Pattern, ServerName};
use crate::settings::{EchCondition, OpenEch};

pub(super) fn warn(config: &Config, top: &Cursor<'_>, problems: &mut Problems) {
    let opened = config.ech_keys.is_some() && config.listeners.iter().any(|listener| listener.ech == OpenEch::Auto);
    if opened {
        warn_of_clear_ways(config, problems);
    } else {
        warn_of_unreachable(config, problems);
    }
    let Some(section) = top.key("ech") else { return };
    let mut warned: Vec<&str> = Vec::new();
    for key in config.ech_keys.iter().flat_map(|keys| keys.iter()) {
        let name = &*key.config.public_name;
        if !warned.contains(&name) && !has_route(config, name) {
            warned.push(name);
            let message = format_args!(
                "no route takes the public name `{name}` of `{}`: clients with an old key cannot connect; add a route to a \
                 server with a certificate for it",
                key.file
            );
            problems.warning(&section.at("keys"), message);
        }
    }
}

/// Routes for encrypted names, in a file that opens none.
fn warn_of_unreachable(config: &Config, problems: &mut Problems) {
    let only = config.routes.iter().filter(|route| route.conditions.ech == EchCondition::Only);
    for (pattern, place) in only.filter_map(|route| route.patterns.first()) {
        let message = format!("`{pattern}` with `ech: only` is never reached: no listener opens Encrypted ClientHello");
        problems.push(warning(place, message));
    }
}

/// Names with `ech: only` that another route, or `unmatched`, takes in the clear to the same pool: a client that sends such a name
/// learns that it is served. A route with `ech: never` is meant for them.
fn warn_of_clear_ways(config: &Config, problems: &mut Problems) {
    if config.routes.iter().all(|route| route.conditions.ech != EchCondition::Only) {
        return;
    }
    let mut clear: HashMap<String, Vec<&Route>> = HashMap::new();
    for route in config.routes.iter().filter(|route| route.conditions.ech != EchCondition::Only) {
        for (pattern, _) in &route.patterns {
            clear.entry(pattern.to_string()).or_default().push(route);
        }
    }
    for route in config.routes.iter().filter(|route| route.conditions.ech == EchCondition::Only) {
        let pools: Vec<usize> = route.to.pools().collect();
        for (pattern, place) in &route.patterns {
            if let Some((pool, by)) = clear_way(config, &clear, pattern, &pools) {
                let pool = &config.pools[pool].name;
                let message = format!(
                    "`{pattern}` has `ech: only`, but in the clear it leads to the same pool `{pool}`, by {by}; send that to \
                     another pool, or refuse the name there (`ech: never`, `refuse`)"
                );
                problems.push(warning(place, message));
            }
        }
    }
}

/// The first of `pools` that names of `pattern` reach in the clear, and by what.
fn clear_way(
    config: &Config,
    clear: &HashMap<String, Vec<&Route>>,
    pattern: &Pattern,
    pools: &[usize],
) -> Option<(usize, String)> {
    for covering in covering(pattern) {
        let mut takes_all = false;
        for route in clear.get(&covering).into_iter().flatten() {
            let same = route.to.pools().find(|pool| pools.contains(pool));
            if let Some(pool) = same.filter(|_| route.conditions.ech == EchCondition::Any) {
                return Some((pool, format!("the route `{}`", route.name)));
            }
            let conditions = &route.conditions;
            takes_all |= conditions.alpn.is_empty() && conditions.source.is_empty() && conditions.listeners.is_empty();
        }
        if takes_all {
            return None;
        }
    }
    let pool = config.unmatched.pools().find(|pool| pools.contains(pool))?;
    Some((pool, "`unmatched`".to_owned()))
}

/// The patterns that match the names of `pattern`, the most specific first: itself, and those that are tried after it.
fn covering(pattern: &Pattern) -> Vec<String> {
    let mut all = vec![pattern.to_string()];
    let (mut below, mut suffix) = match pattern {
        Pattern::Exact(name) => (true, name.as_str().split_once('.').map(|(_, suffix)| suffix)),
        Pattern::OneLabel(suffix) => (false, Some(suffix.as_str())),
        Pattern::ManyLabels(suffix) => (false, suffix.as_str().split_once('.').map(|(_, suffix)| suffix)),
        Pattern::Any => return all,
    };
    while let Some(parent) = suffix {
        if std::mem::take(&mut below) {
            all.push(format!("*.{parent}"));
        }
        all.push(format!("**.{parent}"));
        suffix = parent.split_once('.').map(|(_, suffix)| suffix);
    }
    all.push("*".to_owned());
    all
}

fn warning(place: &Place, message: String) -> Problem {
    Problem { severity: Severity::Warning, place: place.clone(), path: "routes".to_owned(), message }
}

/// Whether a name that is sent in the clear goes to a pool, at least for some clients.
fn has_route(config: &Config, name: &str) -> bool {
    let Ok(name) = name.parse::<ServerName>() else { return false };
    let matches = |pattern: &Pattern| match pattern {
        Pattern::Exact(exact) => *exact == name,
        Pattern::OneLabel(suffix) => name.as_str().split_once('.').is_some_and(|(_, rest)| rest == suffix.as_str()),
        Pattern::ManyLabels(suffix) => {
            name.as_str().strip_suffix(suffix.as_str()).is_some_and(|front| front.ends_with('.'))
        }
        Pattern::Any => true,
    };
    let reached = |route: &Route| {
        route.conditions.ech != EchCondition::Only
            && !matches!(route.to, Destination::Refuse(_))
            && route.patterns.iter().any(|(pattern, _)| matches(pattern))
    };
    config.routes.iter().any(reached) || !matches!(config.unmatched, Destination::Refuse(_))
}
