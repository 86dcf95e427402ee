//! Holds the backends of a pool in force at one moment, laid out for the pick; replaced as a whole.
//!
//! In:  the entries of the configuration, with the current addresses of those that are names.
//! Out: [`Members`]: backends with their settings, and the policy's order.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::backend::Backend;
use super::policy::{Order, View};
use super::standing::Grade;
use crate::settings::Balance;

/// The backends of a pool.
#[derive(Debug)]
pub(super) struct Members {
    list: Vec<Member>,
    /// The primaries, then the backups.
    groups: [Group; 2],
}

/// A backend and its settings.
#[derive(Clone, Debug)]
pub struct Member {
    pub backend: Arc<Backend>,
    /// In force. 0, which only an operator sets: no new connections.
    pub weight: u32,
    /// The weight that an operator had set when the members were laid out.
    pub live_weight: Option<u32>,
    pub backup: bool,
    /// Concurrent connections.
    pub max_connections: usize,
    /// Index of the configuration entry it comes from.
    pub entry: usize,
}

impl Member {
    pub(super) fn grade(&self, now: Instant) -> Grade {
        if self.weight == 0 { Grade::Closed } else { self.backend.standing.grade(now) }
    }
}

/// A group of members that share one order.
#[derive(Debug)]
pub(super) struct Group {
    first: usize,
    count: usize,
    pub order: Order,
}

impl Members {
    pub(super) fn new(mut list: Vec<Member>, policy: Balance) -> Self {
        list.sort_by_key(|member| member.backup);
        let primaries = list.partition_point(|member| !member.backup);
        let group = |first: usize, count: usize| {
            let of = &list[first..first + count];
            // Hashes what is the same on every instance of a fleet: the address, not the number appended to a name.
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

    /// The members of `group` that `may` accepts.
    pub(super) fn view<'a, F: Fn(&Member) -> bool>(
        &'a self,
        group: &Group,
        slow_start: Duration,
        now: Instant,
        may: F,
    ) -> GroupView<'a, F> {
        GroupView { members: &self.list[group.first..group.first + group.count], slow_start, now, may }
    }

    /// The best grade of any member.
    pub(super) fn best_grade(&self, now: Instant) -> Grade {
        self.list.iter().map(|member| member.grade(now)).min().unwrap_or(Grade::Closed)
    }

    /// Whether a backend other than `backend` can be picked, so that this one can be ejected.
    pub(super) fn can_spare(&self, backend: &Arc<Backend>, now: Instant) -> bool {
        let usable = |member: &Member| member.grade(now) == Grade::Usable;
        self.list.iter().any(|member| !Arc::ptr_eq(&member.backend, backend) && usable(member))
    }
}

/// The members of one group at one moment.
pub(super) struct GroupView<'a, F> {
    pub members: &'a [Member],
    slow_start: Duration,
    now: Instant,
    may: F,
}

impl<F: Fn(&Member) -> bool> View for GroupView<'_, F> {
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
