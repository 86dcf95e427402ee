//! Sorts rendered metrics and leaves out what was removed from the configuration.
//!
//! In:  the recorder's text; the names that are gone.
//! Out: the text with families and series sorted. Series of removed routes, pools and backends are left out, but their
//!      closed connections stay in the sum, so that accepted = active + closed holds across reloads.

use std::collections::BTreeMap;

use super::names::{Gone, REMOVED};
use super::table::CLOSED;

pub(super) fn arrange(text: &str, gone: &Gone) -> String {
    let mut families: Vec<Family<'_>> = text.split("\n\n").filter_map(Family::parse).collect();
    families.sort_by_key(|family| family.name);

    let mut out = String::with_capacity(text.len());
    for mut family in families {
        let mut removed = BTreeMap::new();
        family.series.retain(|line| {
            let kept = is_in_force(line, gone);
            if !kept && family.name == CLOSED.name {
                add_removed(&mut removed, line);
            }
            kept
        });
        if family.series.is_empty() && removed.is_empty() {
            continue;
        }
        // Histogram buckets must stay in the order of their bounds.
        if family.kind != "histogram" {
            family.series.sort_unstable();
        }
        for line in family.head.iter().chain(&family.series) {
            out.push_str(line);
            out.push('\n');
        }
        for ((listener, reason), count) in removed {
            let labels = format!("listener=\"{listener}\",route=\"{REMOVED}\",reason=\"{reason}\"");
            out.push_str(&format!("{}{{{labels}}} {count}\n", CLOSED.name));
        }
    }
    out
}

/// One metric: its `#` lines and its series.
struct Family<'a> {
    name: &'a str,
    kind: &'a str,
    head: Vec<&'a str>,
    series: Vec<&'a str>,
}

impl<'a> Family<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (head, series): (Vec<_>, Vec<_>) =
            text.lines().filter(|line| !line.is_empty()).partition(|line| line.starts_with('#'));
        let (name, kind) = head.iter().find_map(|line| line.strip_prefix("# TYPE "))?.split_once(' ')?;
        Some(Self { name, kind, head, series })
    }
}

fn is_in_force(line: &str, gone: &Gone) -> bool {
    if gone.is_empty() {
        return true;
    }
    let pool = label(line, "pool");
    if let (Some(pool), Some(backend)) = (pool, label(line, "backend")) {
        return !gone.has_backend(pool, backend);
    }
    !pool.is_some_and(|pool| gone.has_pool(pool)) && !label(line, "route").is_some_and(|route| gone.has_route(route))
}

fn add_removed<'a>(removed: &mut BTreeMap<(&'a str, &'a str), u64>, line: &'a str) {
    let count = line.rsplit_once(' ').and_then(|(_, count)| count.parse::<u64>().ok());
    if let (Some(listener), Some(reason), Some(count @ 1..)) = (label(line, "listener"), label(line, "reason"), count) {
        *removed.entry((listener, reason)).or_default() += count;
    }
}

/// The value of one label in a rendered line. `label_value` keeps quotes and backslashes out of values.
fn label<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = line.split_once('{')?.1;
    loop {
        let (key, after) = rest.split_once("=\"")?;
        let (value, after) = after.split_once('"')?;
        if key == name {
            return Some(value);
        }
        rest = after.strip_prefix(',')?;
    }
}
