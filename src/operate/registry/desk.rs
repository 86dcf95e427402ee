//! Serves the control thread's requests on each worker.
//!
//! In:  requests about the connections of all workers.
//! Out: rows ordered by id, or the number of connections ended.

use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Condemned, Filter, Row, SLOTS};
use crate::ids::ConnectionId;
use crate::telemetry::Reason;

/// The registries of all workers, as the control thread reaches them.
#[derive(Clone, Default)]
pub struct Rosters(Arc<Mutex<Vec<mpsc::Sender<Order>>>>);

/// The receiving end of one worker's requests.
pub struct Desk(mpsc::Receiver<Order>);

/// A request to one worker.
pub(super) enum Order {
    List { filter: Filter, after: ConnectionId, limit: usize, answer: oneshot::Sender<Listed> },
    End { filter: Filter, reason: Reason, answer: oneshot::Sender<usize> },
    Condemn(Arc<Condemned>),
}

/// One page of the connections requested.
#[derive(Debug, Default)]
pub struct Listed {
    pub rows: Vec<Row>,
    /// How many connections match in total, including other pages.
    pub matching: usize,
}

impl Rosters {
    /// Registers a worker. Each worker calls this once and passes the result to `serve`.
    pub fn join(&self) -> Desk {
        let (orders, desk) = mpsc::channel(MOST_WAITING);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(orders);
        Desk(desk)
    }

    /// Returns the first `limit` matching connections with an id above `after`, ordered by id.
    pub async fn list(&self, filter: &Filter, after: ConnectionId, limit: usize) -> Listed {
        let ask = |answer| Order::List { filter: filter.clone(), after, limit, answer };
        let mut listed = Listed::default();
        for Listed { rows, matching } in self.ask(ask).await {
            listed.rows.extend(rows);
            listed.matching += matching;
        }
        listed.rows.sort_unstable_by_key(|row| row.id);
        listed.rows.truncate(limit);
        listed
    }

    /// Ends all matching connections and returns the number ended.
    pub async fn end(&self, filter: &Filter, reason: Reason) -> usize {
        self.ask(|answer| Order::End { filter: filter.clone(), reason, answer }).await.into_iter().sum()
    }

    /// Ends the connections `condemned` matches, now or as soon as they are known to match.
    pub async fn condemn(&self, condemned: &Arc<Condemned>) {
        for desk in self.desks() {
            // A worker that has stopped has no connections.
            let _ = desk.send(Order::Condemn(Arc::clone(condemned))).await;
        }
    }

    async fn ask<A>(&self, order: impl Fn(oneshot::Sender<A>) -> Order) -> Vec<A> {
        let mut answers = Vec::new();
        for desk in self.desks() {
            let (answer, answered) = oneshot::channel();
            if desk.send(order(answer)).await.is_ok() {
                answers.push(answered);
            }
        }
        let mut told = Vec::with_capacity(answers.len());
        for answer in answers {
            told.extend(answer.await.ok());
        }
        told
    }

    fn desks(&self) -> Vec<mpsc::Sender<Order>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Carries out requests on the worker that owns the connections; returns when the last [`Rosters`] is dropped.
pub(crate) async fn serve(mut desk: Desk) {
    while let Some(order) = desk.0.recv().await {
        match order {
            Order::List { filter, after, limit, answer } => {
                let _ = answer.send(list(&filter, after, limit).await);
            }
            Order::End { filter, reason, answer } => {
                let mut ended = 0;
                walk(|entry| {
                    if filter.takes(entry) && entry.ended_by.is_none() {
                        entry.end(reason);
                        ended += 1;
                    }
                })
                .await;
                let _ = answer.send(ended);
            }
            Order::Condemn(condemned) => walk(|entry| entry.judge(&condemned)).await,
        }
    }
}

async fn list(filter: &Filter, after: ConnectionId, limit: usize) -> Listed {
    let (now, mut lowest, mut matching) = (Instant::now(), BinaryHeap::new(), 0);
    walk(|entry| {
        if filter.takes(entry) {
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
        if entry.id > after && entry.id <= last && rows.len() < limit && filter.takes(entry) {
            rows.push(entry.row(now));
        }
    })
    .await;
    Listed { rows, matching }
}

/// Calls `see` for every connection of this worker, in batches; those that start or end meanwhile may be missed.
async fn walk(mut see: impl FnMut(&mut super::Entry)) {
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
