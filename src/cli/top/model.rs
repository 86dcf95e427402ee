//! What `top` shows: the last answers, what is derived from several of them, what the operator has selected and asks for.
//!
//! In:  updates of the feed, actions of the keys; time as a parameter.
//! Out: values for the view.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::action::{Action, State};
use super::feed::{Update, Wanted};
use crate::cli::reported::{Backend, Connection, History, Pool, Status};

pub(super) struct Model {
    /// Where the process is asked.
    pub address: String,
    pub link: Link,
    pub status: Option<Box<Status>>,
    pub traffic: Traffic,
    /// New connections in steps of ten seconds, by pool and backend.
    pub history: HashMap<(String, String), Vec<u64>>,
    pub tab: Tab,
    /// The selected row of the pools and their backends.
    pub selected: usize,
    pub list: List,
    /// To be confirmed.
    pub question: Option<Action>,
    /// To be carried out.
    pub confirmed: Option<Action>,
    /// What the last change has led to, until the next key.
    pub said: Option<Result<String, String>>,
    pub is_over: bool,
}

/// Whether the process answers.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Link {
    Waiting,
    Up,
    Lost { since: Instant, why: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Connections,
}

/// The list of connections.
#[derive(Default)]
pub(super) struct List {
    pub rows: Vec<Connection>,
    pub matching: usize,
    /// Why there is none.
    pub failed: Option<String>,
    /// How many connections are before the first row.
    pub before: usize,
    /// Counted from the first of all that match.
    pub selected: usize,
    pub sort: Sort,
    pub search: String,
    /// Whether keys are text for the search.
    pub is_typing: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Age,
    Bytes,
    Client,
    Name,
    Backend,
}

impl Sort {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Bytes => "bytes",
            Self::Client => "client",
            Self::Name => "name",
            Self::Backend => "backend",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Age => Self::Bytes,
            Self::Bytes => Self::Client,
            Self::Client => Self::Name,
            Self::Name => Self::Backend,
            Self::Backend => Self::Age,
        }
    }
}

/// Rates of the last minutes, one value per status, oldest first.
#[derive(Default)]
pub(super) struct Traffic {
    /// New connections per second.
    pub connections: VecDeque<u64>,
    /// Bits per second.
    pub to_backends: VecDeque<u64>,
    pub to_clients: VecDeque<u64>,
    last: Option<Counted>,
}

/// What the process had counted at some time.
#[derive(Clone, PartialEq)]
struct Counted {
    started: Option<String>,
    at: f64,
    to_backends: u64,
    to_clients: u64,
    accepted: u64,
}

impl Model {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            link: Link::Waiting,
            status: None,
            traffic: Traffic::default(),
            history: HashMap::new(),
            tab: Tab::Overview,
            selected: 0,
            list: List::default(),
            question: None,
            confirmed: None,
            said: None,
            is_over: false,
        }
    }

    pub(super) fn take(&mut self, update: Update, now: Instant) {
        match update {
            Update::Status(status) => {
                self.traffic.add(&status);
                self.link = Link::Up;
                self.status = Some(status);
                self.selected = self.selected.min(self.pool_rows().saturating_sub(1));
            }
            Update::History(history) => self.history = by_backend(history),
            Update::Connections(page) => {
                self.list.rows = page.connections;
                self.list.matching = page.matching;
                self.list.before = page.offset;
                self.list.failed = None;
                self.list.selected = self.list.selected.min(page.matching.saturating_sub(1));
            }
            Update::NoConnections(why) => self.list.failed = Some(why),
            Update::Lost(why) => {
                let since = if let Link::Lost { since, .. } = &self.link { *since } else { now };
                self.link = Link::Lost { since, why };
            }
            Update::Changed(result) => self.said = Some(result),
            Update::End => self.is_over = true,
        }
    }

    /// The query of the connections that are shown.
    pub(super) fn wanted(&self) -> Wanted {
        let List { selected, sort, search, .. } = &self.list;
        // The selected one and some around it; another page only when it has moved on by some.
        let offset = (selected / AROUND).saturating_sub(1) * AROUND;
        (self.tab == Tab::Connections).then(|| {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("limit", PAGE).append_pair("sort", sort.as_str());
            query.append_pair("offset", &offset.to_string());
            if !search.is_empty() {
                query.append_pair("q", search);
            }
            query.finish()
        })
    }

    /// How many rows the pools take with their backends.
    pub(super) fn pool_rows(&self) -> usize {
        self.status.iter().flat_map(|status| &status.pools).map(|pool| 1 + pool.backends.len()).sum()
    }

    /// The backend of the selected row, with its pool.
    fn selected_backend(&self) -> Option<(&Pool, &Backend)> {
        let pools = self.status.iter().flat_map(|status| &status.pools);
        let mut rows = pools.flat_map(|pool| {
            std::iter::once((pool, None)).chain(pool.backends.iter().map(move |backend| (pool, Some(backend))))
        });
        rows.nth(self.selected).and_then(|(pool, backend)| Some((pool, backend?)))
    }

    /// Asks whether the selected backend is to be set to `state`.
    pub(super) fn ask_to_set(&mut self, state: State) {
        if self.tab != Tab::Overview {
            return;
        }
        let selected = self.selected_backend().map(|(pool, backend)| (pool.name.clone(), backend.name.clone()));
        match selected {
            Some((pool, backend)) => self.ask(Action::SetState { pool, backend, state }),
            None => self.said = Some(Err("Select a backend first, with the arrow keys.".to_owned())),
        }
    }

    /// Asks whether the selected connection is to be ended.
    pub(super) fn ask_to_end(&mut self) {
        if self.tab != Tab::Connections {
            return;
        }
        let selected = self.list.selected.checked_sub(self.list.before).and_then(|at| self.list.rows.get(at));
        match selected.map(|of| (of.id.clone(), of.client.clone(), of.sni.clone())) {
            Some((id, client, name)) => self.ask(Action::End { id, client, name }),
            None => self.said = Some(Err("There is no connection to end.".to_owned())),
        }
    }

    fn ask(&mut self, action: Action) {
        if self.status.as_ref().is_some_and(|status| status.control == "never") {
            let why = "Changes are turned off: `admin.allow_control` is `never`.".to_owned();
            self.said = Some(Err(why));
        } else {
            self.question = Some(action);
        }
    }

    pub(super) fn select_by(&mut self, rows: isize) {
        let (at, most) = match self.tab {
            Tab::Overview => {
                let most = self.pool_rows().saturating_sub(1);
                (&mut self.selected, most)
            }
            Tab::Connections => (&mut self.list.selected, self.list.matching.saturating_sub(1).min(MOST_OFFSET)),
        };
        *at = at.saturating_add_signed(rows).min(most);
    }

    pub(super) fn sort_next(&mut self) {
        self.list.sort = self.list.sort.next();
        self.list.selected = 0;
    }

    /// Adds to the search, if it is being typed.
    pub(super) fn type_in(&mut self, text: &str) {
        if self.list.is_typing {
            let room = MOST_SEARCH.saturating_sub(self.list.search.chars().count());
            self.list.search.extend(text.chars().filter(|c| !c.is_control()).take(room));
            self.list.selected = 0;
        }
    }

    pub(super) fn delete_last(&mut self) {
        self.list.search.pop();
        self.list.selected = 0;
    }
}

impl Traffic {
    fn add(&mut self, status: &Status) {
        let (Some(totals), Some(at)) = (&status.totals, status.seconds()) else { return };
        let now = Counted {
            started: status.started.clone(),
            at,
            to_backends: totals.bytes_to_backends,
            to_clients: totals.bytes_to_clients,
            accepted: totals.accepted,
        };
        // After a restart, counters begin again.
        if let Some(last) = self.last.replace(now.clone()).filter(|last| last.started == now.started) {
            let passed = now.at - last.at;
            if passed > 0.0 {
                push(&mut self.connections, per_second(last.accepted, now.accepted, passed));
                push(&mut self.to_backends, 8 * per_second(last.to_backends, now.to_backends, passed));
                push(&mut self.to_clients, 8 * per_second(last.to_clients, now.to_clients, passed));
            }
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "drawn as bars"
)]
fn per_second(before: u64, after: u64, passed: f64) -> u64 {
    (after.saturating_sub(before) as f64 / passed).round() as u64
}

fn push(values: &mut VecDeque<u64>, value: u64) {
    if values.len() >= MOST_VALUES {
        values.pop_front();
    }
    values.push_back(value);
}

fn by_backend(history: History) -> HashMap<(String, String), Vec<u64>> {
    let backends = history.series.into_iter().filter(|series| series.kind == "backend");
    backends.map(|series| ((series.pool.unwrap_or_default(), series.name), series.connections)).collect()
}

/// Fifteen minutes.
const MOST_VALUES: usize = 900;
/// Rows asked for at once: more than a screen has.
const PAGE: &str = "200";
/// Rows asked for before and after the selected one, at least.
const AROUND: usize = 50;
/// Of the API.
const MOST_OFFSET: usize = 100_000;
const MOST_SEARCH: usize = 200;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(at: &str, started: &str, bytes: u64) -> Update {
        let status = json!({ "at": at, "started": started, "totals": { "accepted": 10, "bytes_to_clients": bytes } });
        Update::Status(Box::new(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn rates_are_of_one_process() {
        let (mut model, now) = (Model::new(String::new()), Instant::now());
        model.take(status("2026-11-30T12:00:00.000Z", "a", 1000), now);
        assert!(model.traffic.to_clients.is_empty());
        model.take(status("2026-11-30T12:00:00.500Z", "a", 2000), now);
        model.take(status("2026-11-30T12:00:01.500Z", "b", 9000), now);
        assert_eq!(model.traffic.to_clients, [16_000]);
    }

    #[test]
    fn a_lost_process_is_lost_since_the_first_failure() {
        let (mut model, now) = (Model::new(String::new()), Instant::now());
        for after in [1, 2] {
            model.take(Update::Lost("refused".to_owned()), now + std::time::Duration::from_secs(after));
        }
        let since = now + std::time::Duration::from_secs(1);
        assert_eq!(model.link, Link::Lost { since, why: "refused".to_owned() });
    }

    #[test]
    fn only_connections_that_are_shown_are_asked_for() {
        let mut model = Model::new(String::new());
        assert_eq!(model.wanted(), None);
        model.tab = Tab::Connections;
        model.list.is_typing = true;
        model.type_in("a b\u{1b}&");
        assert_eq!(model.wanted().as_deref(), Some("limit=200&sort=age&offset=0&q=a+b%26"));
    }
}
