//! One connection's search for a backend: begins attempts and listens to the answers.
//!
//! In:  the backends that the pool picks in turn, and what each does with the hello.
//! Out: the first that answers, or that is left to the relay; else why the last one failed.
//! Source: docs/design.md.

use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::answer::{Answer, Asked, Event, Unanswered};
use super::error::NotFromClient;
use super::reach::{FailedAttempt, reach};
use super::{Ask, Attempts, ConnectError, Connected, Said, note_failure};
use crate::pool::latencies::Wait;
use crate::pool::{Backend, Lease, Picks, Pool};
use crate::telemetry::{ConnectResult, FirstRecord};

/// One connection's search for a backend.
pub(super) struct Search<'a> {
    pool: &'a Pool,
    ask: &'a Ask<'a>,
    began: Instant,
    pub picks: Picks<'a>,
    /// A place that the client has waited for.
    first: Option<Lease>,
    /// Whether the pool and its budget may have another backend to try.
    goes_on: bool,
    unanswered: Unanswered,
    /// Why the last attempt failed.
    failed: ConnectError,
}

type Found = ControlFlow<Result<Connected, ConnectError>>;

impl<'a> Search<'a> {
    pub(super) fn new(pool: &'a Pool, first: Option<Lease>, ask: &'a Ask<'a>) -> Self {
        let mut picks = pool.picks(ask.request);
        first.iter().for_each(|lease| picks.has_taken(lease));
        Self {
            pool,
            ask,
            began: Instant::now(),
            picks: if ask.port.is_some() { picks.at_another_port() } else { picks },
            first,
            goes_on: true,
            unanswered: Unanswered::of(ask),
            failed: ConnectError::NoBackend,
        }
    }

    pub(super) async fn run(&mut self, attempts: &mut Attempts) -> Result<Connected, ConnectError> {
        loop {
            let now = Instant::now();
            let lease = match self.first.take() {
                None if self.may_begin(attempts, now) => self.picks.next(now),
                first => first,
            };
            let found = match lease {
                Some(lease) => self.ask_one(lease, attempts).await,
                None => self.listen(attempts).await,
            };
            if let ControlFlow::Break(found) = found {
                return found;
            }
        }
    }

    fn total(&self) -> Instant {
        self.began + *self.pool.settings.connect.total
    }

    fn may_begin(&self, attempts: &Attempts, now: Instant) -> bool {
        let count = attempts.count();
        let in_time = count == 0 || now < self.total();
        self.unanswered.newest.is_none() && self.goes_on && in_time && count < self.pool.settings.connect.attempts
    }

    /// Connects to one backend and sends it the hello, while those that are slow may still answer.
    async fn ask_one(&mut self, lease: Lease, attempts: &mut Attempts) -> Found {
        let reached = if self.unanswered.slow.is_empty() {
            let total = self.total();
            Ok(reach(self.pool, lease, &mut self.picks, self.ask, total, attempts).await)
        } else {
            // Boxed, since it is rare and large.
            Box::pin(self.reach_while_others_may_answer(lease, attempts)).await
        };
        match reached {
            Err(event) => {
                let is_overtaken = matches!(event, Event::Answered(..));
                let result = if is_overtaken { ConnectResult::Overtaken } else { ConnectResult::Ok };
                attempts.last.iter().for_each(|opening| opening.metrics.connect(result));
                self.after(event, attempts)
            }
            // What the backend did not accept at once is left to the relay, which writes and reads at the same time.
            Ok(Ok(asked)) if self.ask.said == Said::More || !asked.rest.is_empty() => self.found(asked, None, attempts),
            Ok(Ok(asked)) => {
                self.unanswered.newest = Some(asked);
                ControlFlow::Continue(())
            }
            Ok(Err(FailedAttempt { backend, error })) => {
                self.note_failure(&backend, error, attempts);
                ControlFlow::Continue(())
            }
        }
    }

    /// As [`reach`], until one of those asked before answers.
    async fn reach_while_others_may_answer(
        &mut self,
        lease: Lease,
        attempts: &mut Attempts,
    ) -> Result<Result<Asked, FailedAttempt>, Event> {
        let (total, client) = (self.total(), self.ask.client);
        let Self { pool, ask, picks, unanswered, .. } = self;
        let mut failed = Vec::new();
        let reached = {
            let heard = async {
                loop {
                    match unanswered.event(client, ask.said).await {
                        Event::Failed(asked, error, answer) => failed.push((asked, error, answer)),
                        event => return event,
                    }
                }
            };
            tokio::select! {
                biased;
                event = heard => Err(event),
                reached = reach(pool, lease, picks, ask, total, attempts) => Ok(reached),
            }
        };
        failed.into_iter().for_each(|(asked, error, answer)| self.note_unanswered(asked, error, answer, attempts));
        reached
    }

    /// Waits for an answer, or until another backend can be tried. If only one backend is left, the relay waits for it.
    async fn listen(&mut self, attempts: &mut Attempts) -> Found {
        let now = Instant::now();
        let newest = self.unanswered.newest.as_ref();
        let more = newest.is_some_and(|newest| self.has_more(newest, attempts, now));
        let spare_answer = attempts.has_not_tls();
        match self.unanswered.all().count() {
            0 if attempts.count() == 0 && self.picks.met_full() => return ControlFlow::Break(Err(ConnectError::Full)),
            0 if attempts.count() == 0 && self.picks.none_suits() => {
                let client = self.ask.request.client.to_canonical();
                return ControlFlow::Break(Err(ConnectError::Io(NotFromClient { client }.into())));
            }
            0 => return ControlFlow::Break(Err(std::mem::replace(&mut self.failed, ConnectError::NoBackend))),
            1 if !more && !spare_answer => return self.take(0, attempts),
            _ => {}
        }
        let total = self.total();
        let slow =
            self.pool.settings.connect.first_byte.zip(newest).map(|(first_byte, newest)| newest.took + *first_byte);
        let deadline = match slow {
            Some(slow) if more || spare_answer => slow.min(total),
            _ if more || spare_answer => total,
            _ => total.max(self.began + self.ask.idle),
        };
        match timeout_at(deadline, self.unanswered.event(self.ask.client, self.ask.said)).await {
            Ok(event) => self.after(event, attempts),
            Err(_) if more => {
                if deadline < total {
                    self.is_slow()
                } else {
                    self.goes_on = false
                }
                ControlFlow::Continue(())
            }
            Err(_) => {
                self.unanswered.slow.extend(self.unanswered.newest.take());
                ControlFlow::Break(Err(ConnectError::Silent { said: self.ask.said, after: self.began.elapsed() }))
            }
        }
    }

    /// Whether another backend can be tried if `newest` does not answer.
    fn has_more(&self, newest: &Asked, attempts: &Attempts, now: Instant) -> bool {
        self.goes_on
            && attempts.count() < self.pool.settings.connect.attempts
            && now < self.total()
            && self.picks.has_more(now)
            && self.pool.may_fail_over(newest.lease.backend(), now)
    }

    /// The newest keeps its connection while another one is tried.
    fn is_slow(&mut self) {
        if let Some(newest) = self.unanswered.newest.take() {
            self.goes_on &= self.pool.fails_over(newest.lease.backend(), Instant::now());
            self.unanswered.slow.push(newest);
        }
    }

    fn after(&mut self, event: Event, attempts: &mut Attempts) -> Found {
        match event {
            Event::Answered(asked, answer) => self.found(asked, Some(answer), attempts),
            Event::More => self.take(0, attempts),
            Event::ClientGone(error) => ControlFlow::Break(Err(ConnectError::ClientGone(error))),
            Event::Failed(asked, error, answer) => {
                self.note_unanswered(asked, error, answer, attempts);
                ControlFlow::Continue(())
            }
        }
    }

    /// Leaves the wait for the answer to the relay.
    fn take(&mut self, number: usize, attempts: &mut Attempts) -> Found {
        match self.unanswered.take(number) {
            Some(asked) => self.found(asked, None, attempts),
            None => ControlFlow::Continue(()),
        }
    }

    /// The search is over. Those asked before this one were too slow.
    fn found(&mut self, asked: Asked, answer: Option<Answer>, attempts: &mut Attempts) -> Found {
        for other in self.unanswered.slow.drain(..).chain(self.unanswered.newest.take()) {
            if other.took < asked.took {
                was_silent(self.pool, self.ask.said, &other, attempts);
            } else {
                other.lease.backend().metrics.connect(ConnectResult::Overtaken);
            }
        }
        asked.lease.backend().latencies.record(Wait::Connect, asked.after);
        attempts.last = Some(Arc::clone(asked.lease.backend()));
        ControlFlow::Break(Ok(connected(asked, answer)))
    }

    /// Nobody answered, or the client is gone.
    pub(super) fn give_up(&mut self, attempts: &mut Attempts) {
        let any_slow = !self.unanswered.slow.is_empty();
        self.unanswered.slow.drain(..).for_each(|asked| was_silent(self.pool, self.ask.said, &asked, attempts));
        if let Some(newest) = self.unanswered.newest.take() {
            newest.lease.backend().metrics.connect(ConnectResult::Ok);
            if any_slow {
                attempts.refused(newest.lease.backend(), None);
            }
        }
    }

    fn note_unanswered(&mut self, asked: Asked, error: ConnectError, answer: Option<Answer>, attempts: &mut Attempts) {
        let backend = Arc::clone(asked.lease.backend());
        if self.ask.said != Said::Nothing {
            backend.metrics.first_record(answer.as_ref().map_or(FirstRecord::None, |answer| answer.kind));
            answer.as_ref().and_then(|answer| answer.alert).into_iter().for_each(|alert| backend.metrics.alert(alert));
        }
        if answer.is_some() {
            attempts.further().not_tls.get_or_insert_with(|| Box::new(connected(asked, answer)));
        }
        self.note_failure(&backend, error, attempts);
    }

    fn note_failure(&mut self, backend: &Arc<Backend>, error: ConnectError, attempts: &mut Attempts) {
        if note_failure(self.pool, backend, &error, self.ask.port, attempts) {
            self.goes_on &= self.pool.fails_over(backend, Instant::now());
        }
        self.failed = error;
    }
}

fn connected(asked: Asked, answer: Option<Answer>) -> Connected {
    let Asked { stream, lease, rest, taken_bytes, after, took } = asked;
    Connected { stream, lease, rest, taken_bytes, after, took, answer }
}

fn was_silent(pool: &Pool, said: Said, asked: &Asked, attempts: &mut Attempts) {
    if said != Said::Nothing {
        asked.lease.backend().metrics.first_record(FirstRecord::None);
    }
    let error = ConnectError::Silent { said, after: asked.took.elapsed() };
    note_failure(pool, asked.lease.backend(), &error, None, attempts);
}
