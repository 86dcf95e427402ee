//! Counts the clients of the admin addresses and decides which one makes room for the next.
//!
//! In:  each client when it is accepted, and while it is being answered.
//! Out: the eviction of the client that has been idle longest; if few are idle, of the one that has been reading its
//!      answer longest; if none reads, of the newest that waits: neither silent nor greedy clients can keep a probe out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The clients of all admin addresses.
#[derive(Default)]
pub(super) struct Clients(Mutex<Vec<Arc<Client>>>);

#[derive(Debug)]
struct Client {
    state: Mutex<State>,
    evicted: Notify,
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
}

impl Clients {
    /// Adds a client; if all places are taken, another one is evicted.
    pub(super) fn admit(self: &Arc<Self>) -> Place {
        let state = State { stage: Stage::Idle, since: Instant::now() };
        let client = Arc::new(Client { state: Mutex::new(state), evicted: Notify::new() });
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

    /// For the requests of this client.
    pub(super) fn asking(&self) -> Asking {
        Asking(Arc::clone(&self.client))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.lock().retain(|client| !Arc::ptr_eq(client, &self.client));
    }
}

/// The client of a request, as an extension of the request.
#[derive(Clone, Debug)]
pub(super) struct Asking(Arc<Client>);

impl Asking {
    /// The client is being answered until the guard is dropped.
    pub(super) fn answered(&self) -> Answered {
        self.0.enter(Stage::Waiting);
        Answered(Arc::clone(&self.0))
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
/// Places that clients waiting for an answer do not take; probes are answered at once and need no more.
const RESERVED: usize = 8;
/// A request that is sent at once arrives within this time, however many connect together.
const MOMENT: Duration = Duration::from_millis(5);
