//! Keeps the latest clients that were turned away, and counts the names that no route matches.
//!
//! In:  clients that were turned away, from [`Metrics::take_refused`](crate::telemetry::Metrics::take_refused).
//! Out: [`RefusalsReport`], bounded, with all text made readable.

use std::collections::VecDeque;

use super::status::{RefusalsReport, RefusedClient, UnknownName};
use super::top_names::TopNames;
use crate::telemetry::{Reason, Refused, readable};

#[derive(Default)]
pub(crate) struct RecentRefusals {
    /// Oldest first.
    latest: VecDeque<Refused>,
    unknown: TopNames,
}

impl RecentRefusals {
    pub(crate) fn add(&mut self, mut refused: Refused) {
        // A name on the wire has at most 255 bytes; names are validated, but not all are host names.
        refused.name = refused.name.map(|name| readable(&name, MOST_CHARACTERS).into());
        if let (Reason::NoRoute, Some(name)) = (refused.reason, &refused.name) {
            self.unknown.add(name.clone());
        }
        if self.latest.len() >= MOST_REFUSALS {
            self.latest.pop_front();
        }
        self.latest.push_back(refused);
    }

    /// `not_recorded`: how many could not be added.
    pub(crate) fn report(&self, not_recorded: u64) -> RefusalsReport {
        let refused = |refused: &Refused| RefusedClient {
            at: refused.at.into(),
            reason: refused.reason.as_str().into(),
            listener: refused.listener.to_string(),
            client: refused.client.to_string(),
            name: refused.name.as_deref().map(str::to_owned),
            route: refused.route.as_deref().map(str::to_owned),
        };
        let unknown = self.unknown.list().into_iter().map(|of| UnknownName {
            name: of.name.into(),
            count: of.count,
            at_most_too_many: of.at_most_too_many,
        });
        RefusalsReport {
            refusals: self.latest.iter().rev().map(refused).collect(),
            not_recorded,
            unknown_names: unknown.collect(),
        }
    }
}

const MOST_REFUSALS: usize = 200;
const MOST_CHARACTERS: usize = 255;

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn refused(reason: Reason, name: &str) -> Refused {
        let client = ([192, 0, 2, 1], 7).into();
        Refused { at: SystemTime::now(), reason, listener: "l".into(), client, name: Some(name.into()), route: None }
    }

    #[test]
    fn the_latest_come_first_and_names_control_nothing() {
        let mut recent = RecentRefusals::default();
        (0..300).for_each(|number| recent.add(refused(Reason::NoRoute, &format!("n{number}"))));
        recent.add(refused(Reason::Denied, "\u{1b}[2J<b>\u{202e}"));
        let report = recent.report(3);
        assert_eq!((report.refusals.len(), report.not_recorded), (200, 3));
        assert_eq!(report.refusals[0].name.as_deref(), Some("\\u{1b}[2J<b>\\u{202e}"));
        assert_eq!(report.refusals[1].name.as_deref(), Some("n299"));
        assert!(report.unknown_names.iter().all(|unknown| unknown.name.starts_with('n')), "only those without a route");
    }
}
