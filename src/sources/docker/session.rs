//! Follows the containers over one stream of events.
//!
//! In:  the API.
//! Out: all containers, each time that some may have changed; the error that ended the session.
//!
//! Events come first and the list after them, so that no change falls between. The events only say which container to
//! look at again: what is passed on is always what the API says now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::api::Api;
use super::container::{Container, Listed};
use super::error::ApiError;
use super::events::Events;

/// How often things happen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// After an event, for others that belong to it.
    pub gather: Duration,
    /// Between two looks at the containers.
    pub apart: Duration,
    /// After a look that an event has caused, for another one: podman sends some events before the change can be seen.
    pub settle: Duration,
    /// All of them are looked at again after this, in case an event was missed.
    pub resync: Duration,
}

/// Which containers must be looked at again.
#[derive(Debug)]
enum Stale {
    All,
    Some(BTreeSet<String>),
}

/// Why the containers are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Event,
    Time,
}

/// Calls `found` until the API can no longer be read.
pub(super) async fn follow(api: &Api, pace: Pace, mut found: impl FnMut(Seen)) -> ApiError {
    let events = match api.events().await {
        Ok(events) => events,
        Err(error) => return error,
    };
    let followed = Session { api, pace, events, known: BTreeMap::new() };
    match followed.run(&mut found).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub containers: Arc<[Container]>,
    /// Further containers, newer than these, that there is no room for.
    pub beyond: usize,
}

struct Session<'a> {
    api: &'a Api,
    pace: Pace,
    events: Events,
    known: BTreeMap<String, Container>,
}

impl Session<'_> {
    async fn run(mut self, found: &mut impl FnMut(Seen)) -> Result<std::convert::Infallible, ApiError> {
        let (mut stale, mut cause) = (Stale::All, Cause::Time);
        let mut resync = Instant::now();
        loop {
            let began = Instant::now();
            if matches!(stale, Stale::All) {
                resync = began + self.pace.resync;
            }
            found(self.look(&stale).await?);
            let unsettled = (cause == Cause::Event).then(|| (Instant::now() + self.pace.settle, stale));
            (stale, cause) = self.wait(began, resync, unsettled).await?;
        }
    }

    /// Lists all containers, and inspects those that are new or stale.
    async fn look(&mut self, stale: &Stale) -> Result<Seen, ApiError> {
        let mut listed = self.api.list().await?;
        let beyond = listed.len().saturating_sub(MOST_CONTAINERS);
        listed.truncate(MOST_CONTAINERS);
        let mut before = std::mem::take(&mut self.known);
        let mut containers = Vec::with_capacity(listed.len());
        let mut slow = 0;
        for one in listed {
            let is_stale = match stale {
                Stale::All => true,
                Stale::Some(stale) => stale.contains(&one.id),
            };
            let container = match before.remove(&one.id) {
                Some(container) if !is_stale => Some(container),
                last => self.inspect(&one, last, &mut slow).await?,
            };
            let Some(container) = container else { continue };
            self.known.insert(one.id, container.clone());
            containers.push(container);
        }
        Ok(Seen { containers: containers.into(), beyond })
    }

    /// An answer that cannot be used leaves out that container, and no other. One that may pass, such as an error within the
    /// engine, leaves it as it was found `last`. An engine that is too `slow` for several ends the session.
    async fn inspect(
        &self,
        one: &Listed,
        last: Option<Container>,
        slow: &mut usize,
    ) -> Result<Option<Container>, ApiError> {
        let error = match self.api.inspect(one).await {
            Err(error) if error.is_of_one_container() => error,
            answer => return answer,
        };
        *slow += usize::from(matches!(error, ApiError::TimedOut(_)));
        if *slow > MOST_SLOW {
            return Err(error);
        }
        let last = last.filter(|last| error.may_pass() && last.unreadable.is_none());
        Ok(Some(last.unwrap_or_else(|| Container::unreadable(one, &error))))
    }

    /// Waits until something may have changed, and a little longer for what belongs to it. What is `unsettled` is looked at
    /// again, at that time or with the next event.
    async fn wait(
        &mut self,
        began: Instant,
        resync: Instant,
        unsettled: Option<(Instant, Stale)>,
    ) -> Result<(Stale, Cause), ApiError> {
        let (settled, mut stale) = match unsettled {
            Some((at, stale)) => (Some(at), stale),
            None => (None, Stale::Some(BTreeSet::new())),
        };
        tokio::select! {
            event = self.events.next() => stale.add(event?.container),
            () = sleep_until(settled.unwrap_or(resync)), if settled.is_some() => return Ok((stale, Cause::Time)),
            () = sleep_until(resync) => return Ok((Stale::All, Cause::Time)),
        }
        let until = (Instant::now() + self.pace.gather).max(began + self.pace.apart);
        loop {
            tokio::select! {
                event = self.events.next() => stale.add(event?.container),
                () = sleep_until(until) => {}
            }
            if Instant::now() >= until {
                return Ok((stale, Cause::Event));
            }
        }
    }
}

impl Stale {
    /// An event that names no container may be about any.
    fn add(&mut self, container: String) {
        match self {
            Self::Some(some) if !container.is_empty() && some.len() < MOST_CONTAINERS => _ = some.insert(container),
            Self::Some(some) if some.contains(&container) => {}
            _ => *self = Self::All,
        }
    }
}

/// Newer ones are left out.
const MOST_CONTAINERS: usize = 1024;
/// Containers about which the engine does not answer in time, in one look.
const MOST_SLOW: usize = 8;

#[cfg(test)]
#[path = "session/tests.rs"]
mod tests;
