//! What a reader of the page has asked for: searches, places in long lists, a name to explain.
//!
//! In:  the query of the URL. It is read leniently: what is unknown or invalid counts as not given, so that a link of
//!      another version still opens the page.
//! Out: a [`PageQuery`], and the links to other places in a list.

use form_urlencoded::Serializer;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PageQuery {
    /// Searches, as typed.
    pub routes: String,
    pub pools: String,
    pub connections: String,
    /// Rows left out in front.
    pub routes_from: usize,
    pub pools_from: usize,
    pub names_from: usize,
    pub refusals_from: usize,
    pub connections_from: usize,
    /// To explain.
    pub name: String,
    pub alpn: String,
    pub source: String,
}

impl PageQuery {
    pub(super) fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let text = || value.trim().chars().take(MAX_CHARS).collect();
            let number = || value.parse().unwrap_or(0).min(MAX_FROM);
            match &*key {
                "routes" => parsed.routes = text(),
                "pools" => parsed.pools = text(),
                "connections" => parsed.connections = text(),
                "name" => parsed.name = text(),
                "alpn" => parsed.alpn = text(),
                "source" => parsed.source = text(),
                "routes_from" => parsed.routes_from = number(),
                "pools_from" => parsed.pools_from = number(),
                "names_from" => parsed.names_from = number(),
                "refusals_from" => parsed.refusals_from = number(),
                "connections_from" => parsed.connections_from = number(),
                _ => {}
            }
        }
        parsed
    }

    /// Whether everybody who gives no query sees the same.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The link to this page with `key` set to `from`, which scrolls to `section`.
    pub(super) fn link(&self, key: &str, from: usize, section: &str) -> String {
        let mut query = Serializer::new(String::new());
        for (name, text) in [
            ("routes", &self.routes),
            ("pools", &self.pools),
            ("connections", &self.connections),
            ("name", &self.name),
            ("alpn", &self.alpn),
            ("source", &self.source),
        ] {
            if !text.is_empty() {
                query.append_pair(name, text);
            }
        }
        for (name, number) in [
            ("routes_from", self.routes_from),
            ("pools_from", self.pools_from),
            ("names_from", self.names_from),
            ("refusals_from", self.refusals_from),
            ("connections_from", self.connections_from),
        ] {
            let number = if name == key { from } else { number };
            if number > 0 {
                query.append_pair(name, &number.to_string());
            }
        }
        format!("?{}#{section}", query.finish())
    }
}

/// A part of a list, and the links to its neighbours.
#[derive(Clone, Debug)]
pub(super) struct Paged {
    pub what: &'static str,
    /// The parameter of the URL.
    pub key: &'static str,
    /// From 1.
    pub first: usize,
    pub last: usize,
    pub total: usize,
    pub previous: Option<String>,
    pub next: Option<String>,
}

impl Paged {
    /// The list `what` shows `shown` rows after the first `from`, of `total`.
    pub(super) fn new(
        query: &PageQuery,
        what: &'static str,
        key: &'static str,
        (from, shown, total): (usize, usize, usize),
        size: usize,
    ) -> Self {
        Self {
            what,
            key,
            first: from + usize::from(shown > 0),
            last: from + shown,
            total,
            previous: (from > 0).then(|| query.link(key, from.saturating_sub(size), what)),
            next: (from + shown < total && shown > 0).then(|| query.link(key, from + shown, what)),
        }
    }

    pub(super) fn is_paged(&self) -> bool {
        self.previous.is_some() || self.next.is_some()
    }
}

const MAX_CHARS: usize = 255;
const MAX_FROM: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_or_invalid_counts_as_not_given() {
        assert!(PageQuery::parse("since=7&x=1&routes_from=many&routes_from=-1").is_default());
        let query = PageQuery::parse("connections=%3Cb%3E%20&routes_from=50&name=a.test");
        assert_eq!((query.connections.as_str(), query.routes_from, query.name.as_str()), ("<b>", 50, "a.test"));
        assert_eq!(PageQuery::parse(&format!("name={}", "ä".repeat(9999))).name.chars().count(), 255);
    }

    #[test]
    fn a_link_keeps_what_else_was_asked_for() {
        let query = PageQuery::parse("routes=a%26b&routes_from=50&connections=x");
        assert_eq!(query.link("routes_from", 100, "routes"), "?routes=a%26b&connections=x&routes_from=100#routes");
        assert_eq!(query.link("routes_from", 0, "routes"), "?routes=a%26b&connections=x#routes");
        let paged = Paged::new(&query, "routes", "routes_from", (50, 50, 120), 50);
        assert_eq!((paged.first, paged.last), (51, 100));
        assert!(paged.previous.is_some_and(|link| !link.contains("routes_from")));
        assert!(paged.next.is_some_and(|link| link.contains("routes_from=100")));
        assert!(!Paged::new(&query, "routes", "routes_from", (0, 0, 0), 50).is_paged());
    }
}
