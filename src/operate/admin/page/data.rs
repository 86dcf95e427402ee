//! What one rendering of the page shows.
//!
//! In:  the reports of the process; what the reader asked for.
//! Out: both together, and the graphs of what has a history.

use std::collections::BTreeMap;

use super::query::PageQuery;
use super::sparkline;
use crate::operate::status::{ConnectionsPage, History, RefusalsReport, RoutesPage, Series, SeriesKind, Status};

/// Everything that one page shows.
pub(super) struct Data {
    pub query: PageQuery,
    pub status: Status,
    pub routes: RoutesPage,
    pub history: History,
    pub refusals: RefusalsReport,
    pub connections: ConnectionsPage,
    /// The answer, or why there is none; `None` if nothing was asked.
    pub explained: Option<Result<String, String>>,
    pub may_change: bool,
}

/// The graphs of what has one.
pub(super) struct Graphs<'d> {
    pub step_s: u64,
    series: BTreeMap<(SeriesKind, &'d str, &'d str), &'d Series>,
}

impl<'d> Graphs<'d> {
    pub(super) fn of(history: &'d History) -> Self {
        let key = |series: &'d Series| (series.kind, series.pool.as_deref().unwrap_or_default(), series.name.as_str());
        Self { step_s: history.step_s, series: history.series.iter().map(|series| (key(series), series)).collect() }
    }

    /// `pool` is empty unless it is a backend.
    pub(super) fn svg(&self, kind: SeriesKind, pool: &str, name: &str) -> String {
        let found = self.series.get(&(kind, pool, name));
        let (connections, errors) = found.map_or((&[][..], &[][..]), |series| (&series.connections, &series.errors));
        sparkline::rates(connections, errors, self.step_s)
    }

    pub(super) fn of_listeners(&self, values: fn(&Series) -> &[u32]) -> Vec<u32> {
        let listeners = self.series.values().filter(|series| series.kind == SeriesKind::Listener);
        sparkline::sum(listeners.map(|series| values(series)))
    }
}
