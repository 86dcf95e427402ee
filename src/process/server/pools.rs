//! Reports the pools in force, and changes the administrative state of their backends.
//!
//! In:  the snapshot; calls of the admin API.
//! Out: JSON; a changed backend state.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::operate::admin::WantedState;
use crate::pool::{LastCheck, Member, Operator, Pool, Shown};
use crate::snapshot::Snapshot;
use crate::telemetry::Timestamp;

/// Every pool with its backends, for the status.
pub(super) fn reported(snapshot: &Snapshot) -> Value {
    let now = Instant::now();
    let pool = |pool: &std::sync::Arc<crate::pool::Pool>| {
        let backends: Vec<Value> = pool.list().iter().map(|member| backend(member, now)).collect();
        let settings = pool.settings.queue;
        let queue = pool.has_queue().then(|| {
            let timeout_ms = u64::try_from(settings.timeout.as_millis()).unwrap_or(u64::MAX);
            json!({ "waiting": pool.waiting(), "size": settings.size, "timeout_ms": timeout_ms })
        });
        json!({ "name": &*pool.name, "backends": backends, "queue": queue })
    };
    snapshot.pools.iter().map(pool).collect()
}

fn backend(member: &Member, now: Instant) -> Value {
    let Member { backend, weight, live_weight, backup, max_connections, .. } = member;
    let check = backend.last_check();
    json!({
        "name": &*backend.name,
        "address": backend.address.to_string(),
        "state": backend.standing.state(now).as_str(),
        "active": backend.active(),
        "weight": weight,
        "weight_set": live_weight,
        "backup": backup,
        "max_connections": (*max_connections < usize::MAX).then_some(max_connections),
        "check": check.as_ref().map(self::check),
        "certificate": check.as_ref().and_then(|check| check.certificate.as_ref()).map(certificate),
    })
}

fn check(LastCheck { at, result, error, .. }: &LastCheck) -> Value {
    json!({ "at": Timestamp(*at).to_string(), "result": result.as_str(), "error": error })
}

fn certificate(Shown { names, not_after }: &Shown) -> Value {
    let since_1970 = Duration::from_secs(u64::try_from(*not_after).unwrap_or(0));
    json!({ "names": names, "expires": Timestamp(SystemTime::UNIX_EPOCH + since_1970).to_string() })
}

/// Sets the weight of the backends called `name`, as [`set_state`] does; `None`: that of the configuration. Returns them.
///
/// # Errors
/// The pool or backend does not exist.
pub(super) fn set_weight(snapshot: &Snapshot, pool: &str, name: &str, weight: Option<u32>) -> Result<Value, String> {
    let (pool, _) = called(snapshot, pool, name)?;
    let now = Instant::now();
    pool.set_weight(name, weight, now);
    let members: Vec<Member> = pool.list().into_iter().filter(|member| member.backend.is_called(name)).collect();
    for member in &members {
        let (backend, address, weight) = (&*member.backend.name, &member.backend.address, member.weight);
        let set = member.live_weight.is_some();
        tracing::info!(
            event = "backend_weight_set",
            pool = &*pool.name,
            backend,
            %address,
            weight,
            set,
            "operator set the weight of a backend"
        );
    }
    Ok(json!({ "backends": members.iter().map(|member| backend(member, now)).collect::<Vec<_>>() }))
}

/// The pool, and its backends called `name`, at least one.
fn called<'s>(snapshot: &'s Snapshot, pool: &str, name: &str) -> Result<(&'s Pool, Vec<Member>), String> {
    let Some(pool) = snapshot.pools.iter().find(|known| &*known.name == pool) else {
        return Err(format!("there is no pool `{pool}`"));
    };
    let members: Vec<Member> = pool.list().into_iter().filter(|member| member.backend.is_called(name)).collect();
    if members.is_empty() {
        return Err(format!("pool `{}` has no backend `{name}`", pool.name));
    }
    Ok((pool, members))
}

/// Sets the state of the backends called `name`: one by its name or address, or all addresses of an entry with a DNS
/// name. Returns their new state.
///
/// # Errors
/// The pool or backend does not exist.
pub(super) fn set_state(snapshot: &Snapshot, pool: &str, name: &str, wanted: WantedState) -> Result<Value, String> {
    let (pool, members) = called(snapshot, pool, name)?;
    let operator = match wanted {
        WantedState::Ready => Operator::Ready,
        WantedState::Drain => Operator::Drain,
        WantedState::Down => Operator::Down,
    };
    let now = Instant::now();
    for member in &members {
        member.backend.standing.set_operator(operator, now);
        pool.call_waiting(now);
        let (backend, address) = (&*member.backend.name, &member.backend.address);
        tracing::info!(
            event = "backend_state_set",
            pool = &*pool.name,
            backend,
            %address,
            state = wanted.as_str(),
            "operator set the state of a backend"
        );
    }
    Ok(json!({ "backends": members.iter().map(|member| backend(member, now)).collect::<Vec<_>>() }))
}
