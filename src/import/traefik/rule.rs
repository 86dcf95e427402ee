//! Reads the rules of Traefik's TCP routers.
//!
//! In:  HostSNI(`a`) || HostSNI(`b`) && ClientIP(`10.0.0.0/8`)
//! Out: [`Matches`], one for each alternative.
//! Source: Traefik's documentation, "TCP Routers: Rule".

use ipnet::IpNet;

use super::super::names::{Names, exact, regex};
use super::super::values;
use crate::server_name::Pattern;

/// The clients of an alternative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Matches {
    pub names: Names,
    /// Clients without a server name belong to it: HostSNI(`*`).
    pub everybody: bool,
    pub source: Vec<IpNet>,
}

/// Reads a rule. Each alternative is read alone, so that one that cannot be taken over leaves the others.
pub(super) fn rule(text: &str) -> Vec<Result<Matches, String>> {
    split(text, "||").into_iter().map(alternative).collect()
}

fn alternative(text: &str) -> Result<Matches, String> {
    let mut names: Option<(Names, bool)> = None;
    let mut source = Vec::new();
    for term in split(text, "&&") {
        let term = bare(term);
        let (name, arguments) = term
            .strip_suffix(')')
            .and_then(|call| call.split_once('('))
            .ok_or_else(|| format!("the matcher `{term}` is not supported"))?;
        let arguments = arguments.split(',').map(|argument| argument.trim().trim_matches(['`', '"', '\'']));
        let arguments: Vec<&str> = arguments.filter(|argument| !argument.is_empty()).collect();
        match name.trim() {
            "HostSNI" | "HostSNIRegexp" if names.is_some() => {
                return Err("a client sends only one name, so two names never match together".to_owned());
            }
            "HostSNI" => names = Some(hosts(&arguments)?),
            "HostSNIRegexp" => names = Some((expressions(&arguments)?, false)),
            "ClientIP" if !source.is_empty() => {
                return Err(
                    "two `ClientIP` that must both match are not supported; write the networks in both".to_owned()
                );
            }
            "ClientIP" => {
                let network = |text: &&str| values::network(text).ok_or_else(|| format!("`{text}` is not a network"));
                source = arguments.iter().map(network).collect::<Result<_, _>>()?;
            }
            "ALPN" => return Err("write a route with the condition `alpn`".to_owned()),
            other if other.starts_with('!') => return Err("a negated matcher cannot be written as a route".to_owned()),
            other => return Err(format!("the matcher `{other}` is not supported")),
        }
    }
    let (names, everybody) = match names {
        Some(names) => names,
        None if source.is_empty() => return Err("it has no `HostSNI`".to_owned()),
        None => (any(), true),
    };
    Ok(Matches { names, everybody, source })
}

fn any() -> Names {
    Names { patterns: vec![Pattern::Any], besides: None }
}

fn hosts(arguments: &[&str]) -> Result<(Names, bool), String> {
    if arguments == ["*"] {
        return Ok((any(), true));
    }
    let mut patterns = Vec::new();
    for argument in arguments {
        patterns.extend(exact(argument)?.patterns);
    }
    if patterns.is_empty() {
        Err("it has no host name".to_owned())
    } else {
        Ok((Names { patterns, besides: None }, false))
    }
}

fn expressions(arguments: &[&str]) -> Result<Names, String> {
    let mut all = Names { patterns: Vec::new(), besides: None };
    for argument in arguments {
        let Names { patterns, besides } = regex(&template(argument))?;
        all.patterns.extend(patterns);
        all.besides = all.besides.or(besides);
    }
    Ok(all)
}

/// Version 2 writes `{name:.+}.example.com`, which matches a whole name.
fn template(text: &str) -> String {
    let rest = text.strip_prefix('{').and_then(|text| text.split_once('}'));
    match rest.and_then(|(group, rest)| Some((group.split_once(':')?.1, rest))) {
        Some((expression, rest)) => format!("^{expression}{}$", rest.replace('.', "\\.")),
        None => text.to_owned(),
    }
}

/// Splits at an operator that stands outside of quotes and parentheses.
fn split<'t>(text: &'t str, operator: &str) -> Vec<&'t str> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0_usize, None);
    for (at, c) in text.char_indices() {
        match (c, quote) {
            (c, Some(open)) => quote = (c != open).then_some(open),
            ('`' | '"' | '\'', None) => quote = Some(c),
            ('(', None) => depth += 1,
            (')', None) => depth = depth.saturating_sub(1),
            _ if depth == 0 && at >= start && text[at..].starts_with(operator) => {
                parts.push(&text[start..at]);
                start = at + operator.len();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Without spaces and without parentheses around the whole.
fn bare(text: &str) -> &str {
    let mut text = text.trim();
    while let Some(inner) = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')) {
        if !inner.contains('(') {
            break;
        }
        text = inner.trim();
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Vec<Result<String, ()>> {
        let shown = |matches: Matches| {
            let names: Vec<_> = matches.names.patterns.iter().map(ToString::to_string).collect();
            format!("{} {:?}", names.join(" "), matches.source)
        };
        rule(text).into_iter().map(|matches| matches.map(shown).map_err(drop)).collect()
    }

    #[test]
    fn alternatives_are_read_one_by_one() {
        let found = read("HostSNI(`a.test`) || (HostSNI(`b.test`, `c.test`)) && ClientIP(`10.0.0.0/8`) || ALPN(`h2`)");
        assert_eq!(found, [Ok("a.test []".to_owned()), Ok("b.test c.test [10.0.0.0/8]".to_owned()), Err(())]);
        assert_eq!(read("HostSNIRegexp(`^.+\\.a\\.test$`)"), [Ok("**.a.test []".to_owned())]);
        assert_eq!(read("HostSNIRegexp(`{sub:[^.]+}.a.test`)"), [Ok("*.a.test []".to_owned())]);
        let deep = format!("{}HostSNI(`a.test`){}", "(".repeat(600_000), ")".repeat(600_000));
        assert_eq!(read(&deep), [Ok("a.test []".to_owned())]);
        for text in [
            "",
            "HostSNI(``)",
            "!HostSNI(`a.test`)",
            "HostSNI(`a.test`) && HostSNI(`b.test`)",
            "HostSNI(`a.test`) && ClientIP(`10.0.0.1`) && ClientIP(`0.0.0.0/0`)",
            "Path(`/`)",
            "x",
        ] {
            assert_eq!(read(text), [Err(())], "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_rule_panics(text in "[HostSNI()`|&!. *{}:\u{e9}]{0,40}") {
            let _ = rule(&text);
        }
    }
}
