//! Turns rules of which the first wins into rules of which the most specific wins.
//!
//! In:  [`Rule`]s in their order.
//! Out: rules that lead every name to the same place as before, in whatever order they are tried.
//!
//! Two patterns either exclude each other, or one contains the other. So a rule inside of an earlier, wider one is never
//! reached and can go; of what remains, the most specific rule for a name is also the first.

use std::collections::HashMap;

use super::finding::Findings;
use super::model::Rule;
use super::names::{contains_networks, overlap, wider};
use crate::server_name::Pattern;

/// Drops rules that are never reached, and adds what conditions on the client's address need.
pub(super) fn most_specific_wins(rules: Vec<Rule>, findings: &mut Findings) -> Vec<Rule> {
    let mut table = Table::default();
    for rule in rules {
        table.add(rule, findings);
    }
    table.kept
}

#[derive(Default)]
struct Table {
    kept: Vec<Rule>,
    /// Where the rules of a pattern stand in `kept`.
    of: HashMap<Pattern, Vec<usize>>,
}

impl Table {
    fn add(&mut self, rule: Rule, findings: &mut Findings) {
        let earlier = self.earlier(&rule.pattern);
        if let Some(&first) = earlier.iter().find(|&&at| contains_networks(&self.kept[at].source, &rule.source)) {
            report_unreached(&rule, &self.kept[first], findings);
            return;
        }
        for at in earlier {
            let before = &self.kept[at];
            if !rule.source.is_empty() && overlap(&before.source, &rule.source) {
                let why = format!(
                    "the rule at {} already takes some of its clients; write separate `source` networks for the two",
                    before.origin
                );
                findings.left_out(&rule.origin, &rule.pattern.to_string(), why);
                return;
            }
            // The earlier rule is wider, and holds only for some clients: they must still find it first.
            if before.pattern != rule.pattern && rule.source.is_empty() {
                let copy = Rule { pattern: rule.pattern.clone(), ..before.clone() };
                self.keep(copy);
            }
        }
        self.keep(rule);
    }

    /// The rules for the same or a wider pattern, in their order.
    fn earlier(&self, pattern: &Pattern) -> Vec<usize> {
        let mut found: Vec<usize> =
            wider(pattern).iter().filter_map(|wide| self.of.get(wide)).flatten().copied().collect();
        found.sort_unstable();
        found
    }

    fn keep(&mut self, rule: Rule) {
        self.of.entry(rule.pattern.clone()).or_default().push(self.kept.len());
        self.kept.push(rule);
    }
}

/// A rule that changes nothing is not worth a line.
fn report_unreached(rule: &Rule, first: &Rule, findings: &mut Findings) {
    if rule.to != first.to && !rule.is_rest {
        let (name, wide, at) = (&rule.pattern, &first.pattern, &first.origin);
        let message =
            format!("the rule for `{name}` is never reached and was dropped: `{wide}` ({at}) comes before it");
        findings.note(&rule.origin, message);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::model::{Origin, Target};
    use super::super::names::contains;
    use super::*;

    fn rule(pattern: &str, to: usize) -> Rule {
        let origin = Origin { file: Arc::from("f"), line: to };
        Rule { pattern: pattern.parse().expect(pattern), source: Vec::new(), to: pool(to), origin, is_rest: false }
    }

    fn pool(to: usize) -> Target {
        Target::Pool(to.to_string().into())
    }

    #[test]
    fn conditions_on_the_client_still_come_first() {
        let mut inner = rule("*", 1);
        inner.source = vec!["10.0.0.0/8".parse().unwrap()];
        let kept = most_specific_wins(vec![inner.clone(), rule("a.test", 2)], &mut Findings::default());
        let copied = Rule { pattern: "a.test".parse().unwrap(), ..inner.clone() };
        assert_eq!(kept, [inner, copied, rule("a.test", 2)]);
    }

    proptest! {
        #[test]
        fn each_name_goes_where_the_first_rule_leads(
            patterns in prop::collection::vec("(\\*\\.|\\*\\*\\.)?([ab]\\.){0,3}test|\\*", 0..12),
            name in "([abc]\\.){0,4}test",
        ) {
            let rules: Vec<Rule> = patterns.iter().zip(1..).map(|(text, to)| rule(text, to)).collect();
            let name: Pattern = name.parse().unwrap();
            let first = rules.iter().find(|rule| contains(&rule.pattern, &name)).map(|rule| rule.to.clone());
            let kept = most_specific_wins(rules, &mut Findings::default());
            let fits = || kept.iter().filter(|rule| contains(&rule.pattern, &name));
            let best = fits().find(|rule| fits().all(|other| contains(&other.pattern, &rule.pattern)));
            prop_assert_eq!(first, best.map(|rule| rule.to.clone()));
        }
    }
}
