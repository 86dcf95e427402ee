//! Serves the control thread's requests on each worker.
//!
//! In:  requests about the connections of all workers.
//! Out: rows ordered by id, or the number of connections ended.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::load::Load;
use super::{Down, Filter, Removal, Row, SLOTS};
use crate::ids::ConnectionId;
use crate::pool::BackendId;
use crate::telemetry::{Reason, WorkerReading};

/// The registries of all workers, as the control thread reaches them.
#[derive(Clone, Default)]
pub struct Registries(Arc<Mutex<Vec<Worker>>>);

struct Worker {
    queries: mpsc::Sender<WorkerQuery>,
    load: Arc<Load>,
}

/// The receiving end of one worker's requests.
pub struct Queries(mpsc::Receiver<WorkerQuery>);

/// A request to one worker.
pub(super) enum WorkerQuery {
    List { filter: Filter, after: ConnectionId, limit: usize, answer: oneshot::Sender<Page> },
    Rank { filter: Filter, order: Order, most: usize, answer: oneshot::Sender<Ranking> },
    Rows { ids: Arc<HashSet<ConnectionId>>, answer: oneshot::Sender<Vec<Row>> },
    End { filter: Filter, reason: Reason, answer: oneshot::Sender<usize> },
    Remove(Arc<Removal>),
    Lost { down: Down, answer: oneshot::Sender<usize> },
    Stalled { most: usize, answer: oneshot::Sender<Vec<Instant>> },
    EndStalled { since: Instant, answer: oneshot::Sender<usize> },
    LogOpen { interval: Duration, since: Instant, until: Instant },
}

/// The order of a list. Connections that are equal in it are in the order of their ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    #[default]
    Id,
    /// Oldest first.
    Age,
    /// Most bytes in both directions first.
    Bytes,
    Client,
    Name,
    Backend,
}

/// The place of a connection in an [`Order`].
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Those of one order have the same variant.
    Same,
    At(Instant),
    Bytes(Reverse<u64>),
    Client(SocketAddr),
    /// Those without come last.
    Text(bool, Box<str>),
}

/// The first connections of one worker in an order, and how many match.
#[derive(Default)]
pub(super) struct Ranking {
    first: Vec<(Rank, ConnectionId)>,
    matching: usize,
}

/// One page of the connections requested.
#[derive(Debug, Default)]
pub struct Page {
    pub rows: Vec<Row>,
    /// How many connections match in total, including other pages.
    pub matching: usize,
}

impl Registries {
    /// Registers the calling thread as worker number `worker`. Each worker calls this once and passes the result to
    /// `serve`.
    pub fn join(&self, worker: usize) -> Queries {
        let (sender, queries) = mpsc::channel(MOST_WAITING);
        let load = Arc::new(Load::of_this_thread(worker));
        SLOTS.with_borrow_mut(|slots| slots.show_in(Arc::clone(&load)));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Worker { queries: sender, load });
        Queries(queries)
    }

    /// How busy each worker is.
    pub(crate) fn loads(&self) -> Vec<WorkerReading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|worker| worker.load.read()).collect()
    }

    /// Returns the first `limit` matching connections with an id above `after`, ordered by id.
    pub async fn list(&self, filter: &Filter, after: ConnectionId, limit: usize) -> Page {
        let ask = |answer| WorkerQuery::List { filter: filter.clone(), after, limit, answer };
        let mut page = Page::default();
        for Page { rows, matching } in self.ask(ask).await {
            page.rows.extend(rows);
            page.matching += matching;
        }
        page.rows.sort_unstable_by_key(|row| row.id);
        page.rows.truncate(limit);
        page
    }

    /// Returns `limit` matching connections after the first `offset`, in `order`. Those that end meanwhile are missing.
    pub async fn list_in_order(&self, filter: &Filter, order: Order, offset: usize, limit: usize) -> Page {
        let most = offset.saturating_add(limit);
        let ask = |answer| WorkerQuery::Rank { filter: filter.clone(), order, most, answer };
        let mut ranking = Ranking::default();
        for Ranking { first, matching } in self.ask(ask).await {
            ranking.first.extend(first);
            ranking.matching += matching;
        }
        ranking.first.sort_unstable();
        let wanted: Vec<ConnectionId> = ranking.first.into_iter().skip(offset).take(limit).map(|(_, id)| id).collect();
        let ids: Arc<HashSet<ConnectionId>> = Arc::new(wanted.iter().copied().collect());
        let ask = |answer| WorkerQuery::Rows { ids: Arc::clone(&ids), answer };
        let mut rows: Vec<Row> = self.ask(ask).await.into_iter().flatten().collect();
        rows.sort_by_cached_key(|row| wanted.iter().position(|id| *id == row.id));
        Page { rows, matching: ranking.matching }
    }

    /// Ends all matching connections and returns the number ended.
    pub async fn end(&self, filter: &Filter, reason: Reason) -> usize {
        self.ask(|answer| WorkerQuery::End { filter: filter.clone(), reason, answer }).await.into_iter().sum()
    }

    /// Ends the connections `removal` matches, now or as soon as they are known to match.
    pub async fn remove(&self, removal: &Arc<Removal>) {
        for worker in self.workers() {
            // A worker that has stopped has no connections.
            let _ = worker.send(WorkerQuery::Remove(Arc::clone(removal))).await;
        }
    }

    /// Ends the connections to a backend whose health checks failed, and returns their number.
    pub async fn end_those_of(&self, backend: BackendId, pool: &Arc<str>) -> usize {
        let down = Down { pool: Arc::clone(pool), backend };
        self.ask(|answer| WorkerQuery::Lost { down: down.clone(), answer }).await.into_iter().sum()
    }

    /// Ends the connections, at most about `most`, that have waited for the client's hello for longest, each of them for
    /// `grace` or longer. Returns the number ended.
    pub async fn end_stalled(&self, grace: Duration, most: usize) -> usize {
        let Some(latest) = Instant::now().checked_sub(grace) else { return 0 };
        let mut accepted: Vec<Instant> =
            self.ask(|answer| WorkerQuery::Stalled { most, answer }).await.into_iter().flatten().collect();
        accepted.retain(|at| *at <= latest);
        accepted.sort_unstable();
        accepted.truncate(most);
        let Some(since) = accepted.last().copied() else { return 0 };
        self.ask(|answer| WorkerQuery::EndStalled { since, answer }).await.into_iter().sum()
    }

    /// Logs the connections that became a multiple of `interval` old after `since`, and not later than `until`.
    pub async fn log_open(&self, interval: Duration, since: Instant, until: Instant) {
        for worker in self.workers() {
            let _ = worker.send(WorkerQuery::LogOpen { interval, since, until }).await;
        }
    }

    async fn ask<A>(&self, query: impl Fn(oneshot::Sender<A>) -> WorkerQuery) -> Vec<A> {
        let mut pending = Vec::new();
        for worker in self.workers() {
            let (answer, answered) = oneshot::channel();
            if worker.send(query(answer)).await.is_ok() {
                pending.push(answered);
            }
        }
        let mut answers = Vec::with_capacity(pending.len());
        for answer in pending {
            answers.extend(answer.await.ok());
        }
        answers
    }

    fn workers(&self) -> Vec<mpsc::Sender<WorkerQuery>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|worker| worker.queries.clone()).collect()
    }
}

/// Carries out requests on the worker that owns the connections; returns when the last [`Registries`] is dropped.
pub(crate) async fn serve(mut queries: Queries) {
    while let Some(query) = queries.0.recv().await {
        match query {
            WorkerQuery::List { filter, after, limit, answer } => {
                let _ = answer.send(list(&filter, after, limit).await);
            }
            WorkerQuery::Rank { filter, order, most, answer } => {
                let _ = answer.send(rank(&filter, order, most).await);
            }
            WorkerQuery::Rows { ids, answer } => {
                let (now, mut rows) = (Instant::now(), Vec::with_capacity(ids.len()));
                walk(|entry| rows.extend(ids.contains(&entry.id).then(|| entry.row(now)))).await;
                let _ = answer.send(rows);
            }
            WorkerQuery::End { filter, reason, answer } => {
                let mut ended = 0;
                walk(|entry| {
                    if filter.matches(entry) && entry.ended_by.is_none() {
                        entry.end(reason);
                        ended += 1;
                    }
                })
                .await;
                let _ = answer.send(ended);
            }
            WorkerQuery::Remove(removal) => walk(|entry| entry.remove(&removal)).await,
            WorkerQuery::Lost { down, answer } => {
                let mut ended = 0;
                walk(|entry| ended += usize::from(entry.loses(&down))).await;
                let _ = answer.send(ended);
            }
            WorkerQuery::Stalled { most, answer } => {
                let _ = answer.send(stalled(most).await);
            }
            WorkerQuery::EndStalled { since, answer } => {
                let mut ended = 0;
                walk(|entry| {
                    if entry.is_stalled() && entry.at <= since {
                        entry.end(Reason::HelloTimeout);
                        ended += 1;
                    }
                })
                .await;
                let _ = answer.send(ended);
            }
            WorkerQuery::LogOpen { interval, since, until } => {
                walk(|entry| entry.log_if_due(interval, since, until)).await;
            }
        }
    }
}

/// When those were accepted that have waited for their hello for longest.
async fn stalled(most: usize) -> Vec<Instant> {
    let mut oldest = BinaryHeap::new();
    walk(|entry| {
        if entry.is_stalled() {
            oldest.push(entry.at);
            // Drops the latest.
            if oldest.len() > most {
                oldest.pop();
            }
        }
    })
    .await;
    oldest.into_vec()
}

async fn list(filter: &Filter, after: ConnectionId, limit: usize) -> Page {
    let (now, mut lowest, mut matching) = (Instant::now(), BinaryHeap::new(), 0);
    walk(|entry| {
        if filter.matches(entry) {
            matching += 1;
            if entry.id > after {
                lowest.push(entry.id);
                // Drops the largest.
                if lowest.len() > limit {
                    lowest.pop();
                }
            }
        }
    })
    .await;
    let mut rows = Vec::with_capacity(lowest.len());
    let last = lowest.peek().copied().unwrap_or_default();
    walk(|entry| {
        if entry.id > after && entry.id <= last && rows.len() < limit && filter.matches(entry) {
            rows.push(entry.row(now));
        }
    })
    .await;
    Page { rows, matching }
}

async fn rank(filter: &Filter, order: Order, most: usize) -> Ranking {
    let (mut first, mut matching) = (BinaryHeap::new(), 0);
    walk(|entry| {
        if filter.matches(entry) {
            matching += 1;
            first.push((rank_of(entry, order), entry.id));
            // Drops the last.
            if first.len() > most {
                first.pop();
            }
        }
    })
    .await;
    Ranking { first: first.into_vec(), matching }
}

fn rank_of(entry: &super::LiveConnection, order: Order) -> Rank {
    let text = |text: Option<&str>| Rank::Text(text.is_none(), text.unwrap_or_default().into());
    match order {
        Order::Id => Rank::Same,
        Order::Age => Rank::At(entry.at),
        Order::Bytes => Rank::Bytes(Reverse(entry.bytes.iter().sum())),
        Order::Client => Rank::Client(entry.client),
        Order::Name => text(entry.sni.as_deref()),
        Order::Backend => text(entry.backend.as_ref().map(|backend| &*backend.name)),
    }
}

/// Calls `see` for every connection of this worker, in batches; those that start or end meanwhile may be missed.
async fn walk(mut see: impl FnMut(&mut super::LiveConnection)) {
    let mut at = 0;
    loop {
        let slots = SLOTS.with_borrow_mut(|slots| {
            slots.some(at..at + MOST_IN_A_TURN).for_each(&mut see);
            slots.len()
        });
        at += MOST_IN_A_TURN;
        if at >= slots {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Slots visited before other tasks get a turn: a few microseconds.
const MOST_IN_A_TURN: usize = 256;
/// Requests queued per worker; further senders wait.
const MOST_WAITING: usize = 16;
