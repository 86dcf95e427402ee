//! Changes the administrative state of backends.
//!
//! In:  the snapshot; calls of the admin API.
//! Out: JSON; a changed backend state.

use tokio::time::Instant;

use crate::operate::admin::WantedState;
use crate::operate::status::ChangedBackends;
use crate::pool::{Member, Operator, Pool};
use crate::process::reporter::changed;
use crate::snapshot::Snapshot;

/// Sets the weight of the backends called `name`, as [`set_state`] does; `None`: that of the configuration. Returns them.
///
/// # Errors
/// The pool or backend does not exist.
pub(super) fn set_weight(
    snapshot: &Snapshot,
    pool: &str,
    name: &str,
    weight: Option<u32>,
) -> Result<ChangedBackends, String> {
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
    Ok(ChangedBackends { backends: members.iter().map(|member| changed(pool, member, now)).collect() })
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
pub(super) fn set_state(
    snapshot: &Snapshot,
    pool: &str,
    name: &str,
    wanted: WantedState,
) -> Result<ChangedBackends, String> {
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
    Ok(ChangedBackends { backends: members.iter().map(|member| changed(pool, member, now)).collect() })
}
