//! Walks a pool for one connection: leases one backend after another, each at most once.
//!
//! In:  the pool, the request, the time.
//! Out: a [`Lease`]; no I/O, no lock, no allocation.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use fastrand::Rng;
use tokio::time::Instant;

use super::Pool;
use super::backend::{Address, Backend, BackendId, Lease};
use super::maglev::{key_of, key_of_client};
use super::members::{Group, Member, Members};
use super::policy::Turn;
use super::standing::{Confirms, Grade};
use crate::settings::{Balance, Family, WhenAllDown};

/// The connection to pick for.
#[derive(Clone, Copy, Debug)]
pub struct PickRequest<'a> {
    /// For `source_hash`.
    pub client: IpAddr,
    /// For `sni_hash`.
    pub server_name: Option<&'a str>,
    /// The backend gets an inner hello of Encrypted ClientHello.
    pub is_inner: bool,
}

/// Returns each backend of a pool once, in the order of its policy.
#[derive(Debug)]
pub struct Picks<'a> {
    pool: &'a Pool,
    needs: Needs,
    turn: Turn,
    /// The first `count` are the backends already returned.
    tried: [BackendId; MOST_ATTEMPTS],
    count: usize,
    /// A backend was skipped because it is at its connection limit.
    met_full: bool,
    at_another_port: bool,
}

impl<'a> Picks<'a> {
    pub(super) fn new(pool: &'a Pool, request: PickRequest<'_>) -> Self {
        let key = match (pool.settings.balance, request.server_name) {
            (Balance::SniHash, Some(name)) => key_of(&[name.as_bytes()]),
            (Balance::SourceHash | Balance::SniHash, _) => key_of_client(request.client),
            _ => 0,
        };
        let turn = Turn { at: None, key, rng: Rng::new() };
        let family = match request.client.to_canonical() {
            // The other family's cannot be connected to from the client's address.
            IpAddr::V4(_) if pool.settings.transparent => Family::V4,
            IpAddr::V6(_) if pool.settings.transparent => Family::V6,
            _ => Family::Any,
        };
        Self {
            pool,
            needs: Needs { family, confirms: request.is_inner },
            turn,
            tried: [BackendId::default(); MOST_ATTEMPTS],
            count: 0,
            met_full: false,
            at_another_port: false,
        }
    }

    /// Another port of the backends is asked. Unix sockets have none, and a backend that fails at its own port may serve
    /// the other one.
    pub fn at_another_port(self) -> Self {
        Self { at_another_port: true, ..self }
    }

    /// Leases the next backend.
    pub fn next(&mut self, now: Instant) -> Option<Lease> {
        let members = self.pool.members.load();
        GRADES.into_iter().find_map(|grade| self.next_of(grade, &members, now))
    }

    /// Counts `lease`, which was taken elsewhere, among those returned.
    pub fn has_taken(&mut self, lease: &Lease) {
        if let Some(place) = self.tried.get_mut(self.count) {
            *place = lease.backend().id;
            self.count += 1;
        }
    }

    /// Leases a backend of the same entry as `one`, with an address of the other family (RFC 8305 §4).
    pub fn other_family(&mut self, one: &Backend, now: Instant) -> Option<Lease> {
        let members = self.pool.members.load();
        let entry = members.list().iter().find(|member| member.backend.id == one.id)?.entry;
        let other = members.list().iter().find(|member| {
            let address = &member.backend.address;
            let inet = matches!(address, Address::Inet(_)) && address.is_ipv6() != one.address.is_ipv6();
            let may = |grade| may(member, grade, self.passed_over(), now);
            inet && member.entry == entry && (may(Grade::Usable) || may(Grade::Overtaken))
        })?;
        self.lease(other)
    }

    /// Whether [`Self::next`] would return another one.
    pub fn has_more(&self, now: Instant) -> bool {
        if self.count == MOST_ATTEMPTS {
            return false;
        }
        let members = self.pool.members.load();
        let left = |grade: Grade| members.list().iter().any(|member| may(member, grade, self.passed_over(), now));
        let all_fail = || self.best_grade(&members, now) == Grade::Failing;
        left(Grade::Usable)
            || left(Grade::Overtaken)
            || left(Grade::Ejected)
            || (self.tries_failing() && all_fail() && left(Grade::Failing))
    }

    /// Whether a backend was skipped only because of its connection limit.
    pub fn met_full(&self) -> bool {
        self.met_full
    }

    /// Whether the pool has backends, but none that can be connected to from the client's address.
    pub fn none_suits(&self) -> bool {
        let members = self.pool.members.load();
        let family = self.needs.family;
        !members.list().is_empty() && !members.list().iter().any(|member| is_of(family, &member.backend.address))
    }

    /// That of the backends that this client can be connected to.
    fn best_grade(&self, members: &Members, now: Instant) -> Grade {
        let suited = members.list().iter().filter(|member| self.needs.are_met_by(&member.backend));
        match self.needs {
            Needs { family: Family::Any, confirms: false } => members.best_grade(now),
            _ => suited.map(|member| member.grade(now)).min().unwrap_or(Grade::Closed),
        }
    }

    fn next_of(&mut self, grade: Grade, members: &Members, now: Instant) -> Option<Lease> {
        let best = || self.best_grade(members, now);
        if !is_tried(grade, self.met_full, self.tries_failing(), best) {
            return None;
        }
        members.groups().iter().find_map(|group| self.next_in(group, grade, members, now))
    }

    fn next_in(&mut self, group: &Group, grade: Grade, members: &Members, now: Instant) -> Option<Lease> {
        // Between the check and the lease another worker may take the last place; that backend is then full.
        loop {
            let met_full = Cell::new(false);
            // Not the method: the turn changes meanwhile.
            let passed_over =
                PassedOver { tried: &self.tried[..self.count], needs: self.needs, unix: self.at_another_port };
            let may = |member: &Member| {
                let untried = may(member, grade, passed_over, now);
                let full = untried && member.backend.active() >= member.max_connections;
                met_full.set(met_full.get() || full);
                untried && !full
            };
            let view = members.view(group, *self.pool.settings.slow_start, now, may);
            let next_turn = || self.pool.turn.fetch_add(1, Ordering::Relaxed);
            let picked = group.order.pick(&mut self.turn, &view, next_turn);
            self.met_full |= met_full.get();
            let member = &view.members[picked?];
            if self.count == MOST_ATTEMPTS {
                return None;
            }
            if let Some(lease) = self.lease(member) {
                return Some(lease);
            }
        }
    }

    fn passed_over(&self) -> PassedOver<'_> {
        PassedOver { tried: &self.tried[..self.count], needs: self.needs, unix: self.at_another_port }
    }

    fn tries_failing(&self) -> bool {
        self.at_another_port || self.pool.settings.when_all_down == WhenAllDown::Try
    }

    fn lease(&mut self, member: &Member) -> Option<Lease> {
        let lease = Lease::try_new(&member.backend, member.max_connections)?;
        *self.tried.get_mut(self.count)? = member.backend.id;
        self.count += 1;
        Some(lease)
    }
}

/// The backends that are not picked, whatever their standing.
#[derive(Clone, Copy)]
struct PassedOver<'p> {
    tried: &'p [BackendId],
    /// Those that do not meet them.
    needs: Needs,
    /// All unix sockets.
    unix: bool,
}

fn may(member: &Member, grade: Grade, passed_over: PassedOver<'_>, now: Instant) -> bool {
    member.grade(now) == grade
        && !passed_over.tried.contains(&member.backend.id)
        && passed_over.needs.are_met_by(&member.backend)
        && !(passed_over.unix && matches!(member.backend.address, Address::Unix(_)))
}

/// What a backend must be or do for a connection, whatever its standing.
#[derive(Clone, Copy, Debug)]
struct Needs {
    /// Only backends of this family can be connected to.
    family: Family,
    /// It must not be known that it ignores inner hellos.
    confirms: bool,
}

impl Needs {
    fn are_met_by(self, backend: &Backend) -> bool {
        is_of(self.family, &backend.address) && !(self.confirms && backend.standing.confirms() == Confirms::No)
    }
}

fn is_of(family: Family, address: &Address) -> bool {
    match (family, address) {
        (Family::Any, _) => true,
        (Family::V4, Address::Inet(address)) => address.ip().to_canonical().is_ipv4(),
        (Family::V6, Address::Inet(address)) => address.ip().to_canonical().is_ipv6(),
        (Family::V4 | Family::V6, Address::Unix(_)) => false,
    }
}

/// What a new connection would find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// A place on a backend.
    Some,
    /// Backends that could be used, all at their limit.
    Full,
    /// No backend that could be used.
    Nobody,
}

impl Room {
    pub(super) fn of(pool: &Pool, now: Instant) -> Self {
        let members = pool.members.load();
        let tries_failing = pool.settings.when_all_down == WhenAllDown::Try;
        let mut met_full = false;
        for grade in GRADES {
            if !is_tried(grade, met_full, tries_failing, || members.best_grade(now)) {
                continue;
            }
            for member in members.list().iter().filter(|member| member.grade(now) == grade) {
                if member.backend.active() < member.max_connections {
                    return Self::Some;
                }
                met_full = true;
            }
        }
        if met_full { Self::Full } else { Self::Nobody }
    }
}

/// Whether backends of `grade` are tried, after those that are better.
fn is_tried(grade: Grade, met_full: bool, tries_failing: bool, best: impl Fn() -> Grade) -> bool {
    match grade {
        // A full backend is healthy: being full is no reason to try unhealthy ones.
        Grade::Ejected | Grade::Failing if met_full => false,
        Grade::Failing if !tries_failing => false,
        Grade::Failing => best() >= Grade::Failing,
        _ => true,
    }
}

/// In the order in which they are tried.
const GRADES: [Grade; 4] = [Grade::Usable, Grade::Overtaken, Grade::Ejected, Grade::Failing];
/// Upper bound on attempts per connection, whatever is configured.
const MOST_ATTEMPTS: usize = 16;
