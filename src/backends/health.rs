//! Runs active health checks: one task per backend, off the connection path.
//!
//! In:  the snapshot in force, whose pools define what to check and how.
//! Out: a verdict for each backend; counts and certificates in metrics and status.
//!
//! The checks of a pool are spread over its interval, so that a thousand backends are not checked all at once.

mod answer;
mod probe;
mod streak;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval, sleep_until, timeout_at};

pub(crate) use self::answer::PlainCheck;
use self::probe::{Passed, Probe};
use self::streak::Streak;
use crate::backends::handshake::NameSent;
use crate::client_hello::Alpn;
use crate::ech::Confirmation;
use crate::ids::ListenerIndex;
use crate::operate::registry::Registries;
use crate::pool::{Backend, BackendId, Confirms, Health, LastCheck, Operator, Pool};
use crate::route::NameForm;
use crate::server_name::Sni;
use crate::settings::{CheckKind, HealthCheck, OnDown};
use crate::snapshot::{Route, RouteQuery, Snapshot};
use crate::supervise::supervise;
use crate::telemetry::{CheckResult, Metrics, Task};

/// Keeps one task for each backend with a health check; runs until dropped.
pub(crate) async fn run(snapshot: Arc<ArcSwap<Snapshot>>, metrics: Arc<Metrics>, registries: Registries) {
    supervise(Task::Health, &metrics, || keep(&snapshot, Arc::clone(&metrics), registries.clone())).await;
}

async fn keep(snapshot: &ArcSwap<Snapshot>, metrics: Arc<Metrics>, registries: Registries) {
    let mut checks = Checks { metrics, registries, tasks: HashMap::new(), followed: None };
    let mut every = interval(LOOK);
    loop {
        every.tick().await;
        checks.follow(&snapshot.load_full());
    }
}

/// The running tasks, by backend.
struct Checks {
    metrics: Arc<Metrics>,
    registries: Registries,
    tasks: HashMap<BackendId, BackendCheck>,
    /// The snapshot they were started for, and the sum of its pools' versions. If neither changed, there is nothing to
    /// do.
    followed: Option<(Arc<Snapshot>, u64)>,
}

struct BackendCheck {
    backend: Arc<Backend>,
    check: HealthCheck,
    name: NameSent,
    pool: Arc<Pool>,
    /// Still present at the last update.
    wanted: bool,
    /// Another task has taken over from its verdict.
    replaced: bool,
    task: AbortHandle,
}

impl Checks {
    /// Starts and stops tasks to match `snapshot`.
    fn follow(&mut self, snapshot: &Arc<Snapshot>) {
        let version = snapshot.pools.iter().map(|pool| pool.version()).sum();
        if self.followed.as_ref().is_some_and(|(before, at)| Arc::ptr_eq(before, snapshot) && *at == version) {
            return;
        }
        self.tasks.values_mut().for_each(|task| task.wanted = false);
        for (pool, config) in snapshot.pools.iter().zip(&snapshot.config.pools) {
            if let Some(check) = &config.health_check {
                self.check_all(pool, check, name_sent(snapshot, pool, check));
            }
        }
        self.tasks.retain(|_, task| task.wanted);
        self.followed = Some((Arc::clone(snapshot), version));
    }

    fn check_all(&mut self, pool: &Arc<Pool>, check: &HealthCheck, name: NameSent) {
        let members = pool.list();
        let count = u32::try_from(members.len()).unwrap_or(u32::MAX).max(1);
        let mut probe = None;
        for (number, member) in (0_u32..).zip(members) {
            let key = member.backend.id;
            if let Some(task) = self.tasks.get_mut(&key)
                && task.check == *check
                && task.name == name
                && task.pool.settings == pool.settings
            {
                task.wanted = true;
                continue;
            }
            let probe = Arc::clone(probe.get_or_insert_with(|| Arc::new(Probe::new(Arc::clone(pool), check, name))));
            let first = spread(number, count, *check.interval);
            let watching = {
                let (backend, pool, check) = (Arc::clone(&member.backend), Arc::clone(pool), check.clone());
                let (metrics, registries) = (Arc::clone(&self.metrics), self.registries.clone());
                async move {
                    let watch = || watch(&backend, &pool, &probe, &check, &registries, first);
                    supervise(Task::Health, &metrics, watch).await;
                }
            };
            let task = tokio::spawn(watching).abort_handle();
            let (pool, check) = (Arc::clone(pool), check.clone());
            let task = BackendCheck { backend: member.backend, check, name, pool, wanted: true, replaced: false, task };
            if let Some(mut before) = self.tasks.insert(key, task) {
                before.replaced = true;
            }
        }
    }
}

impl Drop for BackendCheck {
    /// A backend that is no longer checked returns to `Unchecked`.
    fn drop(&mut self) {
        self.task.abort();
        if !self.replaced {
            self.backend.standing.set_confirms(Confirms::Unknown);
            self.backend.standing.checked(Health::Unchecked, Instant::now());
        }
    }
}

/// Whether connections for the name that the check sends are routed to the pool.
fn name_sent(snapshot: &Snapshot, pool: &Arc<Pool>, check: &HealthCheck) -> NameSent {
    let Some(name) = check.sni.as_ref().filter(|_| check.kind == CheckKind::Tls) else {
        return NameSent::NoneOrForeign;
    };
    let leads_here = |route: &Route| route.to.pools().any(|to| Arc::ptr_eq(to, pool));
    // Of no listener and no source, so that the conditions of routes hide none of them.
    let sni = Sni::Name(name.0.clone());
    let nobody = RouteQuery {
        sni: Some(&sni),
        alpn: &Alpn::default(),
        source: None,
        listener: ListenerIndex(usize::MAX),
        form: NameForm::Clear,
    };
    let mut served = false;
    let chosen = snapshot.choose_watched(nobody, |candidate| served |= leads_here(snapshot.route(candidate.route)));
    served |= leads_here(chosen.route);
    if served { NameSent::Served } else { NameSent::NoneOrForeign }
}

/// The delay before the first check of backend `number` of `count`: spread evenly over one interval.
fn spread(number: u32, count: u32, interval: Duration) -> Duration {
    interval.mul_f64(f64::from(number) / f64::from(count))
}

/// Checks one backend until the task is dropped.
async fn watch(
    backend: &Backend,
    pool: &Pool,
    probe: &Probe,
    check: &HealthCheck,
    registries: &Registries,
    first: Duration,
) {
    let mut streak = Streak::new(check.rise, check.fall, backend.standing.health());
    if !check.ech {
        // An earlier check may have asked.
        backend.standing.set_confirms(Confirms::Unknown);
    }
    let mut passes_in_doubt = 0;
    let mut next = Instant::now() + first;
    loop {
        sleep_until(next).await;
        // Counted from the scheduled time, so that checks stay spread out; ±10 % jitter keeps instances from
        // synchronising.
        let jitter = 0.9 + 0.2 * fastrand::f64();
        next = (next + check.interval.mul_f64(jitter)).max(Instant::now());
        if backend.standing.operator() == Operator::Down {
            continue;
        }
        let passed = check_once(backend, pool, probe, *check.timeout).await;
        let now = Instant::now();
        backend.standing.check_met(!passed);
        if passed {
            backend.standing.connected();
        }
        if let Some(health) = streak.after(passed) {
            backend.standing.checked(health, now);
            pool.call_waiting(now);
            log(pool, backend, health);
            if health == Health::Down && pool.settings.on_down == OnDown::Close {
                let ended = registries.end_those_of(backend.id, &pool.name).await;
                log_ended(pool, backend, ended);
            }
        }
        passes_in_doubt = if passed && backend.standing.is_doubted(now) { passes_in_doubt + 1 } else { 0 };
        if passes_in_doubt >= check.rise {
            backend.standing.readmit(now);
            pool.call_waiting(now);
        }
    }
}

async fn check_once(backend: &Backend, pool: &Pool, probe: &Probe, timeout: Duration) -> bool {
    let started = Instant::now();
    let deadline = started + timeout;
    let outcome = timeout_at(deadline, probe.once(&backend.address, deadline)).await;
    pool.metrics.checked(started.elapsed());
    let (result, certificate, error) = match outcome {
        Ok(Ok(Passed { certificate, rejected, confirmation })) => {
            let unconfirmed = confirmation.is_some_and(|confirmation| note_confirmation(backend, pool, confirmation));
            // A refusal of the inner hello is seen as an alert as well, which says less.
            match unconfirmed.then(|| UNCONFIRMED.to_owned()).or(rejected) {
                None => (CheckResult::Ok, certificate, None),
                rejected => (CheckResult::Incompatible, certificate, rejected),
            }
        }
        Ok(Err(failed)) => (failed.result(), failed.certificate(), Some(failed.to_string())),
        Err(_) => (CheckResult::TimedOut, None, Some(format!("not finished within {} ms", timeout.as_millis()))),
    };
    backend.metrics.checked(result);
    if let Some(certificate) = &certificate {
        backend.metrics.certificate_expires(certificate.not_after);
    }
    backend.note_check(LastCheck { at: std::time::SystemTime::now(), result, error, certificate });
    matches!(result, CheckResult::Ok | CheckResult::Incompatible)
}

/// Notes whether the backend accepts inner hellos, and returns whether it is known not to. An answer that shows neither
/// changes nothing.
fn note_confirmation(backend: &Backend, pool: &Pool, confirmation: Confirmation) -> bool {
    let confirms = match confirmation {
        Confirmation::Confirmed => Confirms::Yes,
        Confirmation::Unconfirmed => Confirms::No,
        Confirmation::Unknown => return backend.standing.confirms() == Confirms::No,
    };
    let before = backend.standing.set_confirms(confirms);
    let (pool_name, name, address) = (&*pool.name, &*backend.name, &backend.address);
    match (confirms, before) {
        (Confirms::No, Confirms::Unknown | Confirms::Yes) => {
            tracing::warn!(
                event = "backend_ech_unconfirmed",
                pool = pool_name,
                backend = name,
                %address,
                "backend does not accept inner hellos (Encrypted ClientHello) and gets none"
            )
        }
        (Confirms::Yes, Confirms::No) => {
            pool.call_waiting(Instant::now());
            tracing::info!(
                event = "backend_ech_confirmed",
                pool = pool_name,
                backend = name,
                %address,
                "backend accepts inner hellos (Encrypted ClientHello)"
            )
        }
        _ => {}
    }
    confirms == Confirms::No
}

fn log(pool: &Pool, backend: &Backend, health: Health) {
    let (pool, name, address) = (&*pool.name, &*backend.name, &backend.address);
    let error = backend.last_check().and_then(|check| check.error).unwrap_or_default();
    match health {
        Health::Down => {
            tracing::warn!(
                event = "backend_down",
                pool,
                backend = name,
                %address,
                error,
                "backend fails its health checks"
            )
        }
        Health::Up | Health::Unchecked => {
            tracing::info!(event = "backend_up", pool, backend = name, %address, "backend passes its health checks")
        }
    }
}

fn log_ended(pool: &Pool, backend: &Backend, ended: usize) {
    let (pool, name, address) = (&*pool.name, &*backend.name, &backend.address);
    tracing::info!(
        event = "backend_connections_ended",
        pool,
        backend = name,
        %address,
        ended,
        "connections to a backend that is down were reset (on_down: close)"
    );
}

/// Shown as the error of a check that passed, for clients whose name was sent in the clear.
const UNCONFIRMED: &str = "does not accept inner hellos of Encrypted ClientHello";
/// How often to look for a new snapshot or new addresses of a name.
const LOOK: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_backends_are_spread_over_the_interval() {
        let interval = Duration::from_secs(5);
        let first: Vec<Duration> = (0..1000).map(|number| spread(number, 1000, interval)).collect();
        for tenth in 0..10 {
            let (from, to) = (interval * tenth / 10, interval * (tenth + 1) / 10);
            assert_eq!(first.iter().filter(|at| (from..to).contains(*at)).count(), 100, "{tenth}");
        }
    }
}
