//! Compares the hostnames of listeners with those of routes.
//!
//! In:  hostnames as the Gateway API writes them: a wildcard takes one or more labels, never the apex.
//! Out: patterns; where two of them meet; the listener of a port that a name belongs to.

use std::collections::HashMap;

use crate::server_name::{Pattern, ServerName};

/// Reads `a.example.com` or `*.example.com`.
///
/// # Errors
/// How to write it.
pub(super) fn read(hostname: &str) -> Result<Pattern, String> {
    let wildcard = hostname.strip_prefix("*.");
    match wildcard.unwrap_or(hostname).parse::<ServerName>() {
        // `Pattern` refuses addresses, which no client may send as a name.
        Ok(name) if name.as_str().parse::<Pattern>().is_ok() => {
            Ok(if wildcard.is_some() { Pattern::ManyLabels(name) } else { Pattern::Exact(name) })
        }
        Ok(_) => Err(format!("`{hostname}` is an address, which no client sends as a server name; write a DNS name")),
        Err(error) => Err(format!("`{}` is not a hostname: {error}", hostname.escape_debug())),
    }
}

/// As read, without the second star of `**.`.
pub(super) fn written(pattern: &Pattern) -> String {
    match pattern {
        Pattern::Exact(name) => name.to_string(),
        Pattern::OneLabel(suffix) | Pattern::ManyLabels(suffix) => format!("*.{suffix}"),
        Pattern::Any => "*".to_owned(),
    }
}

/// The names that both a listener and a route have; `None`: there are none.
pub(super) fn meet(listener: Option<&Pattern>, route: &Pattern) -> Option<Pattern> {
    match listener {
        None => Some(route.clone()),
        Some(listener) if listener.covers(route) => Some(route.clone()),
        Some(listener) if route.covers(listener) => Some(listener.clone()),
        Some(_) => None,
    }
}

/// The listeners of a port, by hostname.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    exact: HashMap<String, usize>,
    below: HashMap<String, usize>,
    any: Option<usize>,
}

impl Owners {
    pub(super) fn insert(&mut self, hostname: Option<&Pattern>, listener: usize) {
        match hostname {
            None | Some(Pattern::Any) => self.any = Some(listener),
            Some(Pattern::Exact(name)) => _ = self.exact.insert(name.to_string(), listener),
            Some(Pattern::OneLabel(suffix) | Pattern::ManyLabels(suffix)) => {
                self.below.insert(suffix.to_string(), listener);
            }
        }
    }

    /// The listener with the most specific hostname that takes every name of `pattern`.
    pub(super) fn of(&self, pattern: &Pattern) -> Option<usize> {
        let parents = |name: &str| -> Option<usize> {
            let mut rest = name;
            while let Some((_, parent)) = rest.split_once('.') {
                if let Some(listener) = self.below.get(parent) {
                    return Some(*listener);
                }
                rest = parent;
            }
            None
        };
        let found = match pattern {
            Pattern::Exact(name) => self.exact.get(name.as_str()).copied().or_else(|| parents(name.as_str())),
            Pattern::OneLabel(suffix) | Pattern::ManyLabels(suffix) => {
                self.below.get(suffix.as_str()).copied().or_else(|| parents(suffix.as_str()))
            }
            Pattern::Any => None,
        };
        found.or(self.any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(listener: &str, route: &str) -> Option<String> {
        let listener = (!listener.is_empty()).then(|| read(listener).unwrap());
        meet(listener.as_ref(), &read(route).unwrap()).map(|pattern| pattern.to_string())
    }

    #[test]
    fn hostnames_meet_in_the_more_specific_one() {
        for (listener, route, expected) in [
            ("", "a.test", Some("a.test")),
            ("", "*.a.test", Some("**.a.test")),
            ("a.test", "a.test", Some("a.test")),
            ("*.test", "x.y.test", Some("x.y.test")),
            ("*.test", "*.a.test", Some("**.a.test")),
            ("*.a.test", "*.test", Some("**.a.test")),
            ("x.a.test", "*.test", Some("x.a.test")),
            // Never the apex.
            ("*.a.test", "a.test", None),
            ("a.test", "*.a.test", None),
            ("a.test", "b.test", None),
            ("*.a.test", "x.ba.test", None),
        ] {
            assert_eq!(met(listener, route).as_deref(), expected, "{listener} {route}");
        }
    }

    #[test]
    fn a_name_belongs_to_the_most_specific_listener() {
        let mut owners = Owners::default();
        for (listener, hostname) in ["", "*.test", "*.a.test", "x.a.test"].iter().enumerate() {
            owners.insert(read(hostname).ok().filter(|_| !hostname.is_empty()).as_ref(), listener);
        }
        let of = |hostname: &str| owners.of(&read(hostname).unwrap());
        assert_eq!(
            ["x.a.test", "y.a.test", "z.y.a.test", "a.test", "*.a.test", "*.b.test", "test", "other.example"].map(of),
            [3, 2, 2, 1, 2, 1, 0, 0].map(Some)
        );
    }

    #[test]
    fn addresses_and_bad_names_are_refused() {
        for bad in ["192.0.2.1", "", "*", "a..test", "*.*.test", "-a.test"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
