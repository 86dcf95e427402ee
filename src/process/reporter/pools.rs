//! Reports the pools in force.
//!
//! In:  the snapshot; what is remembered of the pools.
//! Out: readings of all counters of pools and backends; their status.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Memory;
use crate::operate::diagnosis::Certificate;
use crate::operate::history::{Figures, Key, Tracker, quantiles};
use crate::operate::status::{
    At, BackendStatus, CertificateStatus, CheckStatus, PoolState, PoolStatus, QueueStatus, SeriesKind, Word,
};
use crate::pool::latencies::{BUCKETS, Counts, Wait};
use crate::pool::{Backend, Health, LastCheck, Member, Operator, Pool, Shown};
use crate::snapshot::Snapshot;
use crate::telemetry::{BackendState, readable};

/// The states of everything at one moment.
pub(super) struct States {
    pub backends: Vec<(Key, BackendState)>,
    pub pools: Vec<(Arc<str>, PoolState)>,
}

/// The states of all pools and backends.
pub(super) fn states(snapshot: &Snapshot, now: Instant) -> States {
    let mut states = States { backends: Vec::new(), pools: Vec::new() };
    for pool in &snapshot.pools {
        let members = pool.list();
        let of = |member: &Member| {
            let backend = &member.backend;
            (Key::backend(&pool.name, &backend.name), backend.standing.state(now))
        };
        states.backends.extend(members.iter().map(of));
        states.pools.push((Arc::clone(&pool.name), state(&members, now)));
    }
    states
}

/// Adds the readings of all pools and backends.
pub(super) fn read(snapshot: &Snapshot, readings: &mut Vec<(Key, Figures)>) {
    for pool in &snapshot.pools {
        let mut sum = Figures::default();
        for Member { backend, .. } in pool.list() {
            let figures = figures(&backend);
            sum.connections += figures.connections;
            sum.active += figures.active;
            sum.errors += figures.errors;
            readings.push((Key::backend(&pool.name, &backend.name), figures));
        }
        readings.push((Key::of(SeriesKind::Pool, &pool.name), sum));
    }
}

fn figures(backend: &Backend) -> Figures {
    let (connections, errors) = backend.metrics.attempts();
    Figures { connections, active: backend.active() as u64, errors }
}

/// Remembers the latencies, so that quantiles are of the last minutes.
pub(super) fn keep_latencies(snapshot: &Snapshot, tracker: &mut Tracker, now: Instant) {
    for pool in &snapshot.pools {
        for Member { backend, .. } in pool.list() {
            if let Some(counts) = latencies(&backend) {
                tracker.keep_latencies(&Key::backend(&pool.name, &backend.name), counts, now);
            }
        }
    }
}

fn latencies(backend: &Backend) -> Option<[Counts; 2]> {
    let counts = |wait| backend.latencies.counts(wait);
    Some([counts(Wait::Connect)?, counts(Wait::FirstByte)?])
}

fn state(members: &[Member], now: Instant) -> PoolState {
    let is_in = |member: &&Member| member.weight > 0 && member.backend.standing.operator() == Operator::Ready;
    let fails =
        |member: &&Member| matches!(member.backend.standing.state(now), BackendState::Failing | BackendState::Ejected);
    let is_unknown = |member: &Member| {
        let (attempts, failed) = member.backend.metrics.attempts();
        member.backend.standing.state(now) == BackendState::Unchecked && attempts == failed
    };
    let usable = members.iter().filter(is_in).count();
    match members.iter().filter(is_in).filter(fails).count() {
        _ if members.is_empty() => PoolState::Empty,
        _ if usable == 0 => PoolState::Drained,
        0 if members.iter().filter(is_in).all(is_unknown) => PoolState::Unchecked,
        0 => PoolState::Up,
        failing if failing < usable => PoolState::PartlyDown,
        _ => PoolState::Down,
    }
}

/// All pools with all their backends, and the certificates of these.
pub(super) fn all(snapshot: &Snapshot, memory: &Memory, now: Instant) -> (Vec<PoolStatus>, Vec<Certificate>) {
    let mut certificates = Vec::new();
    let pools = snapshot.pools.iter().map(|pool| status(pool, memory, now, &mut certificates)).collect();
    (pools, certificates)
}

fn status(pool: &Pool, memory: &Memory, now: Instant, certificates: &mut Vec<Certificate>) -> PoolStatus {
    let members = pool.list();
    let mut sums = [[0; BUCKETS]; 2];
    let (mut active, mut connections) = (0, 0);
    let mut backends = Vec::with_capacity(members.len());
    for member in &members {
        let backend = &member.backend;
        if let Some(counts) = latencies(backend) {
            memory.tracker.add_latencies(&Key::backend(&pool.name, &backend.name), counts, &mut sums);
        }
        let reported = self::backend(&pool.name, member, Some(memory), now);
        active += reported.active;
        connections += reported.connections;
        certificates.extend(certificate_of(pool, backend));
        backends.push(reported);
    }
    let state = state(&members, now);
    let known = memory.pools.get(&pool.name).filter(|known| known.state == state);
    let failing = backends.iter().find_map(|backend| Some(format!("{}: {}", backend.name, backend.why.as_ref()?)));
    let queue = pool.has_queue().then(|| QueueStatus {
        waiting: pool.waiting(),
        size: pool.settings.queue.size as usize,
        timeout_ms: u64::try_from(pool.settings.queue.timeout.as_millis()).unwrap_or(u64::MAX),
    });
    PoolStatus {
        name: pool.name.to_string(),
        state,
        since: known.map(|known| known.since.into()),
        why: failing.filter(|_| matches!(state, PoolState::Down | PoolState::PartlyDown)),
        policy: word(&pool.settings.balance),
        active,
        connections,
        per_second: memory.tracker.rates(&Key::of(SeriesKind::Pool, &pool.name)).0,
        connect_ms: quantiles(&sums[Wait::Connect as usize]),
        first_byte_ms: quantiles(&sums[Wait::FirstByte as usize]),
        queue,
        backends,
        backends_left_off: 0,
    }
}

/// One backend. Without `memory`, without what only time shows.
fn backend(pool: &Arc<str>, member: &Member, memory: Option<&Memory>, now: Instant) -> BackendStatus {
    let Member { backend, weight, live_weight, backup, max_connections, .. } = member;
    let (check, state) = (backend.last_check(), backend.standing.state(now));
    let key = Key::backend(pool, &backend.name);
    let mut sums = [[0; BUCKETS]; 2];
    let (mut since, mut per_second) = (None, 0.0);
    if let Some(memory) = memory {
        let known = memory.backends.get(&key);
        // Otherwise it has changed just now.
        since = known.filter(|known| known.state == state).map(|known| known.since.into());
        per_second = memory.tracker.rates(&key).0;
        if let Some(counts) = latencies(backend) {
            memory.tracker.add_latencies(&key, counts, &mut sums);
        }
    }
    let Figures { connections, active, errors: failed } = figures(backend);
    BackendStatus {
        name: backend.name.to_string(),
        address: backend.address.to_string(),
        state: state.as_str().into(),
        since,
        why: why(backend, state),
        operator: match backend.standing.operator() {
            Operator::Ready => "ready",
            Operator::Drain => "drain",
            Operator::Down => "down",
        }
        .into(),
        active,
        connections,
        per_second,
        failed,
        connect_ms: quantiles(&sums[Wait::Connect as usize]),
        first_byte_ms: quantiles(&sums[Wait::FirstByte as usize]),
        weight: *weight,
        weight_set: *live_weight,
        backup: *backup,
        max_connections: Some(*max_connections).filter(|most| *most < usize::MAX),
        check: check.as_ref().map(self::check),
        certificate: check.as_ref().and_then(|check| check.certificate.as_ref()).map(certificate),
    }
}

/// The same for the answer to a change.
pub(in crate::process) fn changed(pool: &Pool, member: &Member, now: Instant) -> BackendStatus {
    backend(&pool.name, member, None, now)
}

/// Why a backend is failing or ejected: what the last check or the last connection met.
fn why(backend: &Backend, state: BackendState) -> Option<String> {
    if !matches!(state, BackendState::Failing | BackendState::Ejected) {
        return None;
    }
    let of_check = || backend.last_check().and_then(|check| check.error);
    let of_connection = || backend.last_failure().map(|failure| failure.why);
    let why = match backend.standing.health() {
        Health::Down => of_check().or_else(of_connection),
        _ => of_connection().or_else(of_check),
    };
    // The number of an error of the system says nothing that its name does not.
    why.map(|why| readable(why.rfind(" (os error ").map_or(&*why, |end| &why[..end]), MOST_CHARACTERS))
}

fn check(LastCheck { at, result, error, .. }: &LastCheck) -> CheckStatus {
    let error = error.as_ref().map(|error| readable(error, MOST_CHARACTERS));
    CheckStatus { at: (*at).into(), result: result.as_str().into(), error }
}

fn certificate(Shown { names, not_after }: &Shown) -> CertificateStatus {
    let names = names.iter().map(|name| readable(name, MOST_CHARACTERS)).collect();
    CertificateStatus { names, expires: time(*not_after).into() }
}

fn certificate_of(pool: &Pool, backend: &Backend) -> Option<Certificate> {
    let Shown { names, not_after } = backend.last_check()?.certificate?;
    let (pool, backend) = (pool.name.to_string(), backend.name.to_string());
    Some(Certificate { pool, backend, name: names.into_iter().next(), expires: time(not_after) })
}

/// `seconds` since 1970.
fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// The event of a backend that has changed its state.
pub(super) fn change(
    snapshot: &Snapshot,
    Key { pool, name, .. }: &Key,
    was: BackendState,
    (now, at): (Instant, SystemTime),
) -> Value {
    let pool = pool.as_ref();
    let members = snapshot.pools.iter().find(|known| Some(&known.name) == pool).map(|pool| pool.list());
    let members = members.unwrap_or_default();
    let backend = members.into_iter().find(|member| member.backend.name == *name).map(|member| member.backend);
    let state = backend.as_ref().map(|backend| backend.standing.state(now));
    json!({
        "at": At::from(at),
        "pool": pool.map(|pool| &**pool),
        "backend": &**name,
        "address": backend.as_ref().map(|backend| backend.address.to_string()),
        "state": state.map(BackendState::as_str),
        "was": was.as_str(),
        "why": backend.as_ref().zip(state).and_then(|(backend, state)| why(backend, state)),
    })
}

/// Keeps `most` backends of all pools together: first those that are not up. If that leaves any off, keeps at most
/// [`MOST_POOLS`] pools: first those that have one left. Returns how many pools are left off, and their backends.
pub(super) fn leave_off(pools: &mut Vec<PoolStatus>, most: usize) -> (usize, usize) {
    let all: usize = pools.iter().map(|pool| pool.backends.len()).sum();
    if all <= most {
        return (0, 0);
    }
    let is_up = |backend: &BackendStatus| backend.state == "up";
    let not_up: usize = pools.iter().map(|pool| pool.backends.iter().filter(|backend| !is_up(backend)).count()).sum();
    let (mut others, mut up) = (most.min(not_up), most.saturating_sub(not_up));
    for pool in &mut *pools {
        let before = pool.backends.len();
        pool.backends.retain(|backend| {
            let left = if is_up(backend) { &mut up } else { &mut others };
            let stays = *left > 0;
            *left -= usize::from(stays);
            stays
        });
        pool.backends_left_off = before - pool.backends.len();
    }
    let surplus = pools.len().saturating_sub(MOST_POOLS);
    let (mut left_off, mut backends) = (0, 0);
    pools.retain(|pool| {
        let stays = left_off == surplus || !pool.backends.is_empty();
        (left_off, backends) =
            if stays { (left_off, backends) } else { (left_off + 1, backends + pool.backends_left_off) };
        stays
    });
    for pool in pools.drain(MOST_POOLS.min(pools.len())..) {
        left_off += 1;
        backends += pool.backends.len() + pool.backends_left_off;
    }
    (left_off, backends)
}

/// A value of the configuration that is written as one word.
fn word(value: &impl serde::Serialize) -> Word {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word.into(),
        _ => "".into(),
    }
}

const MOST_CHARACTERS: usize = 300;
/// A pool takes about 300 bytes in JSON without its backends.
const MOST_POOLS: usize = 300;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::telemetry::Metrics;

    #[tokio::test]
    async fn what_is_not_up_is_left_off_last() {
        let pools: String =
            (0..350).map(|n| format!("  p{n}: {{ backends: [\"127.0.0.1:{n}1\", \"127.0.0.1:{n}2\"] }}\n")).collect();
        let text =
            format!("listeners: [{{ name: l, bind: \"127.0.0.1:0\" }}]\nunmatched: {{ pool: p0 }}\npools:\n{pools}");
        let config = Config::parse(&text, Path::new("f.yaml")).unwrap_or_else(|problems| panic!("{problems}")).config;
        let snapshot = Snapshot::build(config, None, &Metrics::new());
        let now = Instant::now();
        for pool in &snapshot.pools {
            pool.list().iter().for_each(|member| member.backend.standing.checked(Health::Up, now));
        }
        snapshot.pools[340].list()[1].backend.standing.checked(Health::Down, now);
        let reported = |most| {
            let of = |pool: &Arc<Pool>| status(pool, &Memory::new(), now, &mut Vec::new());
            let mut pools: Vec<PoolStatus> = snapshot.pools.iter().map(of).collect();
            let left_off = leave_off(&mut pools, most);
            (pools, left_off)
        };
        assert_eq!((reported(700).0.len(), reported(700).1), (350, (0, 0)));
        let (pools, left_off) = reported(4);
        let with_some = pools.iter().filter(|pool| !pool.backends.is_empty());
        let names: Vec<_> = with_some.map(|pool| (&*pool.name, pool.backends.len(), pool.backends_left_off)).collect();
        assert_eq!(names, [("p0", 2, 0), ("p1", 1, 1), ("p340", 1, 1)]);
        assert_eq!((pools.len(), left_off), (300, (50, 100)));
        let (pools, left_off) = reported(0);
        assert_eq!((pools.len(), left_off), (300, (50, 100)));
        let all =
            |pools: &[PoolStatus]| pools.iter().map(|pool| pool.backends.len() + pool.backends_left_off).sum::<usize>();
        let (pools, left_off) = reported(699);
        assert_eq!((pools.len(), all(&pools) + left_off.1), (300, 700));
    }
}
