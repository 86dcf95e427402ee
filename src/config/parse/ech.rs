//! Warns about what Encrypted ClientHello would not do as it is written.
//!
//! In:  a configuration without errors.
//! Out: a warning for a public name that has no route, and for a route that no hello reaches.

use super::Cursor;
use crate::config::problem::Problems;
use crate::config::{Config, Destination};
use crate::server_name::{Pattern, ServerName};
use crate::settings::{EchCondition, OpenEch};

pub(super) fn warn(config: &Config, top: &Cursor<'_>, problems: &mut Problems) {
    let opened = config.ech_keys.is_some() && config.listeners.iter().any(|listener| listener.ech == OpenEch::Auto);
    if !opened {
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
        problems.push(crate::config::Problem {
            severity: crate::config::Severity::Warning,
            place: place.clone(),
            path: "routes".to_owned(),
            message,
        });
    }
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
    let reached = |route: &crate::config::Route| {
        route.conditions.ech != EchCondition::Only
            && !matches!(route.to, Destination::Refuse(_))
            && route.patterns.iter().any(|(pattern, _)| matches(pattern))
    };
    config.routes.iter().any(reached) || !matches!(config.unmatched, Destination::Refuse(_))
}
