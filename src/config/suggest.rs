//! Suggests the word that was probably intended.
//!
//! In:  an unknown word, and the known ones.
//! Out: [`DidYouMean`], which formats as the end of a message, or as nothing.

use std::fmt;

/// The closest known word, if one is close enough.
pub(super) struct DidYouMean<'a>(Option<Meant<'a>>);

#[derive(Clone, Copy)]
enum Meant<'a> {
    Word(&'a str),
    /// It belongs elsewhere, or is written differently.
    Elsewhere(&'static str),
}

impl<'a> DidYouMean<'a> {
    pub(super) fn new(word: &str, known: impl Iterator<Item = &'a str> + Clone) -> Self {
        if word.len() > MAX_WORD_BYTES {
            return Self(None);
        }
        let beside = |key: &str| known.clone().any(|known| known == key);
        if let Some((_, _, cure)) = ELSEWHERE.iter().find(|(theirs, key, _)| *theirs == word && beside(key)) {
            return Self(Some(Meant::Elsewhere(cure)));
        }
        let foreign = FOREIGN_WORDS.iter().find(|(theirs, _)| theirs.eq_ignore_ascii_case(word)).map(|(_, ours)| *ours);
        if let Some(ours) = foreign.and_then(|ours| known.clone().find(|known| *known == ours)) {
            return Self(Some(Meant::Word(ours)));
        }
        // A third of the letters may differ: `backend` for `backends`, but not `pool` for `tcp`.
        let allowed = (word.chars().count() / 3).max(1);
        let distance = |known: &&'a str| strsim::damerau_levenshtein(&word.to_lowercase(), known);
        let nearest = known.take(MAX_KNOWN).map(|known| (distance(&known), known)).min();
        Self(nearest.filter(|(distance, _)| *distance <= allowed).map(|(_, known)| Meant::Word(known)))
    }
}

impl DidYouMean<'_> {
    /// What to write instead, if the word belongs elsewhere or is written differently.
    pub(super) fn cure(&self) -> Option<&'static str> {
        match self.0 {
            Some(Meant::Elsewhere(cure)) => Some(cure),
            _ => None,
        }
    }
}

impl fmt::Display for DidYouMean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Meant::Elsewhere(cure)) => write!(f, "; {cure}"),
            Some(Meant::Word(word)) => write!(f, "; did you mean `{word}`?"),
            None => Ok(()),
        }
    }
}

/// The terms that other programs use for our keys.
const FOREIGN_WORDS: &[(&str, &str)] = &[
    ("frontends", "listeners"),
    ("listen", "listeners"),
    ("rules", "routes"),
    ("routers", "routes"),
    ("clusters", "pools"),
    ("upstreams", "pools"),
    ("services", "pools"),
    ("servers", "backends"),
    ("endpoints", "backends"),
    ("targets", "backends"),
    ("hosts", "sni"),
    ("host", "sni"),
    ("domains", "sni"),
    ("server_name", "sni"),
    ("service", "pool"),
    ("upstream", "pool"),
    ("cluster", "pool"),
    ("listen_address", "bind"),
    ("addr", "address"),
    ("max_conns", "max_connections"),
    ("maxconn", "max_connections"),
    ("default", "unmatched"),
    ("algorithm", "balance"),
    ("lb_policy", "balance"),
    ("proxy_protocol", "send_proxy_protocol"),
    ("send_proxy", "send_proxy_protocol"),
    ("leastconn", "least_connections"),
    ("least_conn", "least_connections"),
    ("roundrobin", "round_robin"),
    ("source", "source_hash"),
    ("ip_hash", "source_hash"),
    ("warning", "warn"),
];

/// A word, a key that is valid at that place, and what to write instead.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("host", "address", "write `address: HOST:PORT`"),
    ("port", "address", "write `address: HOST:PORT`"),
    ("ip", "address", "write `address: HOST:PORT`"),
    ("connect", "half_closed", "each pool has its own, `pools.NAME.connect.timeout`"),
];

/// Computing the distance takes time proportional to the product of the lengths.
const MAX_WORD_BYTES: usize = 300;
/// Searching a hundred thousand pools for a suggestion is not worth the time.
const MAX_KNOWN: usize = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn suggest(word: &str, known: &[&str]) -> String {
        DidYouMean::new(word, known.iter().copied()).to_string()
    }

    #[test]
    fn a_near_miss_is_found_and_a_far_one_is_not() {
        assert_eq!(suggest("backend", &["backends", "balance"]), "; did you mean `backends`?");
        assert_eq!(suggest("Pool", &["pool"]), "; did you mean `pool`?");
        assert_eq!(suggest("xyz", &["backends", "balance"]), "");
    }

    #[test]
    fn another_programs_word_leads_to_ours_where_it_fits() {
        assert_eq!(suggest("hosts", &["sni", "pool"]), "; did you mean `sni`?");
        assert_eq!(suggest("hosts", &["backends"]), "");
        assert_eq!(suggest("leastconn", &["round_robin", "least_connections"]), "; did you mean `least_connections`?");
        assert_eq!(suggest("source", &["round_robin", "source_hash"]), "; did you mean `source_hash`?");
        assert_eq!(suggest("port", &["address", "weight"]), "; write `address: HOST:PORT`");
        assert!(suggest("connect", &["hello", "half_closed"]).contains("`pools.NAME.connect.timeout`"));
    }
}
