//! Turns what other programs write for names into patterns.
//!
//! In:  an exact name, a suffix, a domain, a regular expression.
//! Out: [`Names`]: patterns, and in words what the text matches besides.

mod regex;

use ipnet::IpNet;

pub(super) use self::regex::regex;
use crate::server_name::{Pattern, ServerName};

/// What a text matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    pub patterns: Vec<Pattern>,
    /// Other names that it matches, and that no pattern can match.
    pub besides: Option<String>,
}

impl Names {
    fn only(patterns: Vec<Pattern>) -> Self {
        Self { patterns, besides: None }
    }
}

/// One name, whatever its case.
pub(super) fn exact(text: &str) -> Result<Names, String> {
    server_name(text).map(|name| Names::only(vec![Pattern::Exact(name)]))
}

/// Names that end with `text`: `.example.com`, or without the dot also that name itself.
pub(super) fn ending(text: &str) -> Result<Names, String> {
    match text.strip_prefix('.') {
        Some(suffix) => server_name(suffix).map(|suffix| Names::only(vec![Pattern::ManyLabels(suffix)])),
        None => Ok(Names { besides: Some(format!("names such as `x{text}`")), ..apex_and_below(text)? }),
    }
}

/// Names in which `text` stands between dots: the name itself, those below it, and others.
pub(super) fn domain(text: &str) -> Result<Names, String> {
    let text = text.trim_matches('.');
    Ok(Names { besides: Some(format!("names such as `{text}.example`")), ..apex_and_below(text)? })
}

/// `.example.com` of nginx: the name and all names below it.
pub(super) fn apex_and_below(text: &str) -> Result<Names, String> {
    let name = server_name(text)?;
    Ok(Names::only(vec![Pattern::Exact(name.clone()), Pattern::ManyLabels(name)]))
}

/// All names below `text`.
pub(super) fn below(text: &str) -> Result<Names, String> {
    server_name(text).map(|suffix| Names::only(vec![Pattern::ManyLabels(suffix)]))
}

fn server_name(text: &str) -> Result<ServerName, String> {
    match text.parse::<Pattern>() {
        Ok(Pattern::Exact(name)) => Ok(name),
        Ok(_) => Err("a star is an ordinary character here, and no server name contains one".to_owned()),
        Err(error) => Err(format!("no client sends such a name: {error}")),
    }
}

/// Whether every name of `inner` is one of `outer`.
pub(super) fn contains(outer: &Pattern, inner: &Pattern) -> bool {
    match (outer, inner) {
        (Pattern::Any, _) => true,
        (Pattern::Exact(a), Pattern::Exact(b)) => a == b,
        (Pattern::OneLabel(suffix), Pattern::Exact(name)) => parent(name.as_str()) == Some(suffix.as_str()),
        (Pattern::OneLabel(a), Pattern::OneLabel(b)) => a == b,
        (Pattern::ManyLabels(suffix), Pattern::Exact(name)) => is_below(name, suffix),
        (Pattern::ManyLabels(a), Pattern::OneLabel(b) | Pattern::ManyLabels(b)) => a == b || is_below(b, a),
        _ => false,
    }
}

/// The names of both. Two patterns either exclude each other, or one contains the other.
pub(super) fn common<'p>(a: &'p Pattern, b: &'p Pattern) -> Option<&'p Pattern> {
    match () {
        () if contains(a, b) => Some(b),
        () if contains(b, a) => Some(a),
        () => None,
    }
}

/// The pattern and all that contain it.
pub(super) fn wider(pattern: &Pattern) -> Vec<Pattern> {
    let mut all = vec![pattern.clone()];
    let Some(base) = pattern.base() else { return all };
    let parsed = |text: &str| text.parse::<ServerName>().expect("a part of a valid name is valid");
    let mut above = match pattern {
        Pattern::Exact(_) => {
            all.extend(parent(base.as_str()).map(|suffix| Pattern::OneLabel(parsed(suffix))));
            parent(base.as_str())
        }
        Pattern::OneLabel(_) => Some(base.as_str()),
        _ => parent(base.as_str()),
    };
    while let Some(suffix) = above {
        all.push(Pattern::ManyLabels(parsed(suffix)));
        above = parent(suffix);
    }
    all.push(Pattern::Any);
    all
}

fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, suffix)| suffix)
}

fn is_below(name: &ServerName, suffix: &ServerName) -> bool {
    name.as_str().strip_suffix(suffix.as_str()).is_some_and(|front| front.ends_with('.'))
}

/// Whether every client of `inner` is one of `outer`; an empty list means every client.
pub(super) fn contains_networks(outer: &[IpNet], inner: &[IpNet]) -> bool {
    outer.is_empty() || (!inner.is_empty() && inner.iter().all(|net| outer.iter().any(|wide| wide.contains(net))))
}

/// Whether a client can be in both lists.
pub(super) fn overlap(a: &[IpNet], b: &[IpNet]) -> bool {
    a.iter().any(|one| b.iter().any(|other| one.contains(other) || other.contains(one)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().expect(text)
    }

    #[test]
    fn a_suffix_with_a_dot_is_one_or_more_labels() {
        assert_eq!(ending(".Example.com").unwrap().patterns, [pattern("**.example.com")]);
        let names = ending("example.com").unwrap();
        assert_eq!(names.patterns, [pattern("example.com"), pattern("**.example.com")]);
        assert!(names.besides.unwrap().contains("xexample.com"));
        assert!(exact("*.example.com").is_err() && exact("a b").is_err() && exact("10.0.0.1").is_err());
    }

    #[test]
    fn every_wider_pattern_is_found() {
        let all = ["a.b.test", "*.b.test", "**.b.test", "**.test", "*"].map(pattern);
        assert_eq!(wider(&all[0]), all);
        let texts = ["a.b.test", "b.test", "*.b.test", "**.b.test", "**.a.b.test", "*.test", "**.test", "*"];
        for (outer, inner) in texts.iter().flat_map(|a| texts.map(|b| (pattern(a), pattern(b)))) {
            assert_eq!(contains(&outer, &inner), wider(&inner).contains(&outer), "{outer} {inner}");
        }
    }
}
