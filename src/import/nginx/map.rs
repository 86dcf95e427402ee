//! Reads `map` blocks and `server_name` lists of nginx: names, in the order in which nginx tries them.
//!
//! In:  `*.example.com`, `.example.com`, `~^regex$`, `default`.
//! Out: [`NameMap`].
//! Source: nginx's documentation of ngx_stream_map_module and ngx_stream_core_module (server_name).

use super::super::finding::Findings;
use super::super::model::Origin;
use super::super::names::{Names, apex_and_below, below, exact, regex};
use super::specificity;
use super::syntax::Directive;
use crate::server_name::Pattern;

/// A map from server names to texts.
#[derive(Clone, Debug, Default)]
pub(super) struct NameMap {
    /// The first that matches wins.
    pub entries: Vec<(Pattern, String, Origin)>,
    /// For other names.
    pub otherwise: Option<(String, Origin)>,
    /// For clients without a server name, if not the same.
    pub unnamed: Option<(String, Origin)>,
}

/// Entries in the order of their kinds: nginx tries names, then wildcards, the longest first, then expressions.
#[derive(Default)]
pub(super) struct Entries {
    exact: Vec<(Pattern, String, Origin)>,
    wildcards: Vec<(Pattern, String, Origin)>,
    expressions: Vec<(Pattern, String, Origin)>,
}

/// Whether `*.` and `.` at the front have a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wildcards {
    Allowed,
    No,
}

impl NameMap {
    /// Reads the inside of a `map` block.
    pub(super) fn read(block: &[Directive], findings: &mut Findings) -> Self {
        let has_hostnames = block.iter().any(|line| line.words == ["hostnames"]);
        let wildcards = if has_hostnames { Wildcards::Allowed } else { Wildcards::No };
        let (mut map, mut entries) = (Self::default(), Entries::default());
        for line in block {
            let value = (line.word(1).to_owned(), line.origin.clone());
            match line.word(0) {
                "hostnames" | "volatile" if line.words.len() == 1 => {}
                _ if line.words.len() != 2 => {
                    findings.left_out(&line.origin, &line.text(), "an entry must be a name and a value")
                }
                "default" => map.otherwise = Some(value),
                "" => map.unnamed = Some(value),
                key => entries.add(key, wildcards, value.0, &line.origin, findings),
            }
        }
        map.entries = entries.in_order();
        map
    }
}

impl Entries {
    pub(super) fn add(
        &mut self,
        key: &str,
        wildcards: Wildcards,
        value: String,
        origin: &Origin,
        findings: &mut Findings,
    ) {
        let (list, names) = match key.strip_prefix('\\').unwrap_or(key) {
            key if key.starts_with('~') => {
                (&mut self.expressions, regex(key.trim_start_matches('~').trim_start_matches('*')))
            }
            key if wildcards == Wildcards::No => (&mut self.exact, exact(key)),
            key if key.starts_with("*.") => (&mut self.wildcards, below(&key[2..])),
            key if key.starts_with('.') => (&mut self.wildcards, apex_and_below(&key[1..])),
            key if key.ends_with(".*") => (&mut self.wildcards, Err(ENDING_STAR.to_owned())),
            key => (&mut self.exact, exact(key)),
        };
        if key.starts_with('~') && !key.starts_with("~*") && names.is_ok() {
            findings.note(origin, "without `~*`, nginx is case-sensitive; snigate never is");
        }
        match names {
            Ok(Names { patterns, besides }) => {
                if let Some(others) = besides {
                    findings.left_out_in_part(origin, key, others);
                }
                list.extend(patterns.into_iter().map(|pattern| (pattern, value.clone(), origin.clone())));
            }
            Err(why) => findings.left_out(origin, key, why),
        }
    }

    pub(super) fn in_order(mut self) -> Vec<(Pattern, String, Origin)> {
        // The apex of `.example.com` is a name like any other.
        self.wildcards.sort_by_key(|(pattern, ..)| std::cmp::Reverse(specificity(pattern)));
        [self.exact, self.wildcards, self.expressions].concat()
    }
}

const ENDING_STAR: &str = "a star at the end of a name is not supported; list the names";
