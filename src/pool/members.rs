//! Holds the backends of a pool that are in force at one time, laid out for the pick; replaced whole.
//!
//! In:  the entries of the configuration, with the addresses that those which are names have now.
//! Out: [`Members`]: backends with what is asked of them, and the order of their policy.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::backend::Backend;
use super::policy::{Order, Policy, View};
use super::standing::Grade;

/// The backends of a pool.
#[derive(Debug)]
pub(super) struct Members {
    list: Vec<Member>,
    /// Those that are asked first, then the backups.
    groups: [Group; 2],
}

/// A backend and what is asked of it.
#[derive(Clone, Debug)]
pub struct Member {
    pub backend: Arc<Backend>,
    pub weight: u32,
    pub backup: bool,
    /// At a time.
    pub max_connections: usize,
    /// Which entry of the configuration it comes from.
    pub entry: usize,
}

/// A run of members that one order is for.
#[derive(Debug)]
pub(super) struct Group {
    first: usize,
    count: usize,
    pub order: Order,
}

impl Members {
    pub(super) fn new(mut list: Vec<Member>, policy: Policy) -> Self {
        list.sort_by_key(|member| member.backup);
        let primaries = list.partition_point(|member| !member.backup);
        let group = |first: usize, count: usize| {
            let of = &list[first..first + count];
            // The hash is of what is the same on every instance of a fleet: the address, not a number behind a name.
            let names: Vec<String> = of.iter().map(|member| member.backend.address.to_string()).collect();
            let weighted: Vec<(&str, u32)> =
                names.iter().zip(of).map(|(name, member)| (&**name, member.weight)).collect();
            Group { first, count, order: Order::new(policy, &weighted) }
        };
        let groups = [group(0, primaries), group(primaries, list.len() - primaries)];
        Self { list, groups }
    }

    pub(super) fn list(&self) -> &[Member] {
        &self.list
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The members of `group`, as far as `may` takes them.
    pub(super) fn view<'a, F: Fn(&Member) -> bool>(
        &'a self,
        group: &Group,
        slow_start: Duration,
        now: Instant,
        may: F,
    ) -> Seen<'a, F> {
        Seen { members: &self.list[group.first..group.first + group.count], slow_start, now, may }
    }

    /// The best grade that any of them has.
    pub(super) fn best_grade(&self, now: Instant) -> Grade {
        self.list.iter().map(|member| member.backend.standing.grade(now)).min().unwrap_or(Grade::Closed)
    }

    /// Whether somebody else than `backend` can be picked, so that it can be spared.
    pub(super) fn can_spare(&self, backend: &Arc<Backend>, now: Instant) -> bool {
        let usable = |member: &Member| member.backend.standing.grade(now) == Grade::Usable;
        self.list.iter().any(|member| !Arc::ptr_eq(&member.backend, backend) && usable(member))
    }
}

/// Members of one group, at one time.
pub(super) struct Seen<'a, F> {
    pub members: &'a [Member],
    slow_start: Duration,
    now: Instant,
    may: F,
}

impl<F: Fn(&Member) -> bool> View for Seen<'_, F> {
    fn count(&self) -> usize {
        self.members.len()
    }

    fn may(&self, number: usize) -> bool {
        (self.may)(&self.members[number])
    }

    fn share(&self, number: usize) -> f32 {
        self.members[number].backend.standing.share(self.slow_start, self.now)
    }

    fn load(&self, number: usize) -> f32 {
        let member = &self.members[number];
        (member.backend.active() + 1) as f32 / (member.weight as f32 * self.share(number))
    }
}
