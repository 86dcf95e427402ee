//! Counts the clients of the admin addresses and decides which one makes room for the next.
//!
//! In:  each client when it is accepted, and while it is being answered.
//! Out: the eviction of the client that has been idle longest; if few are idle, of the one that has been reading its
//!      answer longest; if none reads, of the newest that waits: neither silent nor greedy clients can keep a probe out.
//!      Clients that follow the events are never evicted to make room, but only so many may.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

/// The clients of all admin addresses.
#[derive(Default)]
pub(super) struct Clients(Mutex<Vec<Arc<Client>>>);

#[derive(Debug)]
struct Client {
    state: Mutex<State>,
    evicted: Notify,
    /// Its stream of events has to end.
    ends: Notify,
}

#[derive(Clone, Copy, Debug)]
struct State {
    stage: Stage,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has sent no whole request.
    Idle,
    /// It waits for its answer.
    Waiting,
    /// Its answer is being written.
    Reading,
    /// It follows the events, since it took the last.
    Following,
}

impl Clients {
    /// Adds a client; if all places are taken, another one is evicted.
    pub(super) fn admit(self: &Arc<Self>) -> Place {
        let state = State { stage: Stage::Idle, since: Instant::now() };
        let client = Arc::new(Client { state: Mutex::new(state), evicted: Notify::new(), ends: Notify::new() });
        let mut clients = self.lock();
        if clients.len() >= MAX_CLIENTS
            && let Some((number, _)) = makes_room(&clients)
        {
            clients.swap_remove(number).evicted.notify_one();
        }
        clients.push(Arc::clone(&client));
        Place { client, clients: Arc::clone(self) }
    }

    /// Waits until the client that makes room for the next has had a moment to send its request.
    pub(super) async fn may_admit(&self) {
        let full = Some(self.lock()).filter(|clients| clients.len() >= MAX_CLIENTS);
        let next = full.and_then(|clients| makes_room(&clients));
        if let Some((_, at)) = next {
            sleep_until(at.since + MOMENT).await;
        }
    }

    /// Evicts the clients that have been reading their answers for at least `patience`.
    pub(super) fn evict_stalled(&self, patience: Duration) {
        let is_stalled = |at: State| at.stage == Stage::Reading && at.since.elapsed() >= patience;
        let mut clients = self.lock();
        clients.extract_if(.., |client| is_stalled(client.state())).for_each(|client| client.evicted.notify_one());
    }

    /// Evicts the clients that follow the events and have taken none for at least `patience`.
    pub(super) fn evict_stuck(&self, patience: Duration) {
        let is_stuck = |at: State| at.stage == Stage::Following && at.since.elapsed() >= patience;
        let mut clients = self.lock();
        clients.extract_if(.., |client| is_stuck(client.state())).for_each(|client| client.evicted.notify_one());
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Client>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of the client that makes room for the next: an idle one, unless too few are left.
fn makes_room(clients: &[Arc<Client>]) -> Option<(usize, State)> {
    let states: Vec<State> = clients.iter().map(|client| client.state()).collect();
    let all = |stage| states.iter().copied().enumerate().filter(move |(_, at)| at.stage == stage);
    let longest = |stage| all(stage).min_by_key(|(_, at)| at.since);
    if all(Stage::Idle).count() >= RESERVED {
        return longest(Stage::Idle);
    }
    longest(Stage::Reading).or_else(|| all(Stage::Waiting).max_by_key(|(_, at)| at.since))
}

impl Client {
    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, stage: Stage) {
        let state = State { stage, since: Instant::now() };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// The place of a connected client; dropping it gives the place back.
pub(super) struct Place {
    client: Arc<Client>,
    clients: Arc<Clients>,
}

impl Place {
    pub(super) async fn evicted(&self) {
        self.client.evicted.notified().await;
    }

    /// Waits until it has been connected for `lifetime`. One that follows the events may stay.
    pub(super) async fn outlived(&self, lifetime: Duration) {
        loop {
            sleep(lifetime).await;
            if self.client.state().stage != Stage::Following {
                return;
            }
        }
    }

    /// Ends its stream of events, if it follows one.
    pub(super) fn end_stream(&self) {
        self.client.ends.notify_one();
    }

    /// For the requests of this client.
    pub(super) fn asking(&self) -> Asking {
        Asking(Arc::clone(&self.client), Arc::clone(&self.clients))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.lock().retain(|client| !Arc::ptr_eq(client, &self.client));
    }
}

/// The client of a request, as an extension of the request.
#[derive(Clone)]
pub(super) struct Asking(Arc<Client>, Arc<Clients>);

impl Asking {
    /// The client is being answered until the guard is dropped.
    pub(super) fn answered(&self) -> Answered {
        self.0.enter(Stage::Waiting);
        Answered(Arc::clone(&self.0))
    }

    /// The client follows the events until the last clone of the guard is dropped; `None`: too many do.
    pub(super) fn streams(&self) -> Option<Streaming> {
        let clients = self.1.lock();
        let following = clients.iter().filter(|client| client.state().stage == Stage::Following).count();
        (following < MOST_STREAMS).then(|| {
            self.0.enter(Stage::Following);
            Streaming(Arc::new(Answered(Arc::clone(&self.0))))
        })
    }
}

/// A client that follows the events.
#[derive(Clone)]
pub(super) struct Streaming(Arc<Answered>);

impl Streaming {
    /// It takes an event.
    pub(super) fn reads(&self) {
        self.0.0.enter(Stage::Following);
    }

    /// Waits until the stream has to end.
    pub(super) async fn ended(&self) {
        self.0.0.ends.notified().await;
    }
}

#[must_use]
pub(super) struct Answered(Arc<Client>);

impl Answered {
    /// Its answer is complete and being written.
    pub(super) fn reads(&self) {
        self.0.enter(Stage::Reading);
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.enter(Stage::Idle);
    }
}

pub(super) const MAX_CLIENTS: usize = 64;
/// The clients that follow the events; the other places are for requests.
pub(super) const MOST_STREAMS: usize = 48;
/// Places that clients waiting for an answer do not take; probes are answered at once and need no more.
const RESERVED: usize = 8;
/// A request that is sent at once arrives within this time, however many connect together.
const MOMENT: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_follows_the_events_stays_as_long_as_it_takes_them() {
        let clients = Arc::new(Clients::default());
        let (place, other) = (clients.admit(), clients.admit());
        let following = place.asking().streams().expect("there is room");
        let patience = Duration::from_secs(15);
        let is_evicted = async || timeout(Duration::ZERO, place.evicted()).await.is_ok();
        for _ in 0..20 {
            advance(Duration::from_secs(10)).await;
            following.reads();
            clients.evict_stuck(patience);
            assert!(!is_evicted().await);
        }
        advance(patience).await;
        assert!(timeout(Duration::from_secs(1000), place.outlived(Duration::from_secs(120))).await.is_err());
        clients.evict_stuck(patience);
        assert!(is_evicted().await);
        drop(other);
    }

    #[test]
    fn so_many_may_follow_and_are_not_evicted_for_others() {
        let clients = Arc::new(Clients::default());
        let places: Vec<Place> = (0..MAX_CLIENTS).map(|_| clients.admit()).collect();
        let following: Vec<Streaming> = places.iter().filter_map(|place| place.asking().streams()).collect();
        assert_eq!(following.len(), MOST_STREAMS);
        let more: Vec<Place> = (0..MAX_CLIENTS).map(|_| clients.admit()).collect();
        let stages = |wanted| clients.lock().iter().filter(|client| client.state().stage == wanted).count();
        assert_eq!((stages(Stage::Following), stages(Stage::Idle)), (MOST_STREAMS, MAX_CLIENTS - MOST_STREAMS));
        drop((following, more));
        assert!(places[0].asking().streams().is_some(), "a place is free again");
    }
}
