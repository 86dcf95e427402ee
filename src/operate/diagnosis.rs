//! Says what is wrong, most serious first, each in one sentence and with the cure.
//!
//! In:  [`Facts`] about the process at one moment; pure.
//! Out: [`Problem`]s for the status.

use std::time::{Duration, SystemTime};

use super::history::Episode;
use super::status::{
    At, BackendStatus, ContainerStatus, DnsName, DockerStatus, KubernetesKindStatus, KubernetesObjectStatus,
    KubernetesProblem, KubernetesStatus, LastReload, ListenerStatus, PoolState, PoolStatus, Problem, ProblemKind,
    Resources, Severity,
};
use crate::telemetry::readable;

/// What the diagnosis looks at.
pub(crate) struct Facts<'a> {
    pub now: SystemTime,
    pub listeners: &'a [ListenerStatus],
    /// With all their backends.
    pub pools: &'a [PoolStatus],
    pub certificates: &'a [Certificate],
    pub resources: &'a Resources,
    pub names: &'a [DnsName],
    pub docker: Option<&'a DockerStatus>,
    pub kubernetes: Option<&'a KubernetesStatus>,
    pub last_reload: Option<&'a LastReload>,
    /// In the last five minutes, as the following.
    pub accepted: u64,
    pub no_route: Option<Episode>,
    pub client_limits: Option<Episode>,
    pub queue_full: Option<Episode>,
    pub log_lines_dropped: Option<Episode>,
    pub task_panics: Option<Episode>,
}

/// The certificate that a backend showed to the last check.
pub(crate) struct Certificate {
    pub pool: String,
    pub backend: String,
    pub name: Option<String>,
    pub expires: SystemTime,
}

/// All problems, most serious first; of the same severity and kind, oldest first.
pub(crate) fn diagnose(facts: &Facts<'_>) -> Vec<Problem> {
    let mut problems: Vec<Problem> = facts.pools.iter().filter_map(|pool| of_pool(facts, pool)).collect();
    problems.extend(facts.pools.iter().filter_map(full_queue));
    problems.extend(facts.certificates.iter().filter_map(|certificate| of_certificate(facts.now, certificate)));
    problems.extend(facts.listeners.iter().filter_map(|listener| of_listener(facts.now, listener)));
    problems.extend(facts.listeners.iter().filter_map(near_limit));
    problems.extend(facts.last_reload.and_then(|reload| of_reload(facts.now, reload)));
    problems.extend(facts.names.iter().filter_map(|name| of_name(facts.now, name)));
    problems.extend(facts.docker.and_then(|docker| of_docker(facts.now, docker)));
    problems.extend(facts.docker.iter().flat_map(|docker| &docker.containers).filter_map(of_container));
    problems.extend(facts.kubernetes.and_then(|kubernetes| of_kubernetes(facts.now, kubernetes)));
    problems.extend(facts.kubernetes.iter().flat_map(|kubernetes| &kubernetes.objects).filter_map(of_object));
    problems.extend(of_resources(facts.resources));
    problems.extend(of_episodes(facts));
    problems.sort_by(|a, b| {
        (a.severity, a.kind)
            .cmp(&(b.severity, b.kind))
            .then_with(|| a.since.cmp(&b.since))
            .then_with(|| a.pool.cmp(&b.pool))
    });
    problems
}

fn problem(kind: ProblemKind, severity: Severity, message: String, cure: &str) -> Problem {
    let (since, cure) = (None, cure.to_owned());
    Problem {
        kind,
        severity,
        since,
        message,
        cure,
        pool: None,
        backend: None,
        route: None,
        listener: None,
        place: None,
    }
}

fn of_pool(facts: &Facts<'_>, pool: &PoolStatus) -> Option<Problem> {
    let failing: Vec<&BackendStatus> =
        pool.backends.iter().filter(|backend| matches!(&*backend.state, "failing" | "ejected")).collect();
    let (kind, severity) = match pool.state {
        PoolState::Up => return None,
        PoolState::Unchecked => return unanswered(pool),
        PoolState::PartlyDown => (ProblemKind::PoolPartlyDown, Severity::Warning),
        PoolState::Drained => (ProblemKind::PoolDown, Severity::Warning),
        PoolState::Down | PoolState::Empty => (ProblemKind::PoolDown, Severity::Critical),
    };
    let name = &pool.name;
    let since = since(facts.now, pool.since.as_ref());
    let why = pool.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    let usable = pool.backends.iter().filter(|backend| &*backend.operator == "ready").count();
    let (message, cure) = match pool.state {
        PoolState::Empty if is_of_containers(facts, name) => (
            format!("pool {name} has had no container that runs and is healthy{since}"),
            "Start a container of it; or remove the stopped ones, and the route goes with them.",
        ),
        PoolState::Empty => (
            format!("pool {name} has had no backend{since}"),
            "Correct the DNS names of its backends, or the nameserver.",
        ),
        PoolState::Drained => (
            format!("pool {name}: operators have taken out all backends{since}"),
            "Set one of them to `ready`, or its weight above 0.",
        ),
        _ => {
            let which = match (failing.len(), usable) {
                (1, 1) => "its backend has".to_owned(),
                (2, 2) => "both backends have".to_owned(),
                (some, all) if some == all => format!("all {all} backends have"),
                (1, all) => format!("1 of {all} backends has"),
                (some, all) => format!("{some} of {all} backends have"),
            };
            (format!("pool {name}: {which} been failing{since}{why}"), cure(&failing))
        }
    };
    let backend = match failing[..] {
        [one] => Some(one.name.clone()),
        _ => None,
    };
    Some(Problem {
        since: pool.since.clone(),
        pool: Some(name.clone()),
        backend,
        ..problem(kind, severity, message, cure)
    })
}

/// Its backends accept connections, so no connect fails, and one client alone does not prove that they are to blame.
fn unanswered(pool: &PoolStatus) -> Option<Problem> {
    let (name, count) = (&pool.name, pool.connections);
    if count < FEW {
        return None;
    }
    let message = format!("pool {name}: its backends accept connections, but none of {count} has had an answer");
    let cure =
        "Look at the log of the backends; `snigate doctor` tries them from here. Often they expect a PROXY header.";
    let of = problem(ProblemKind::PoolUnanswered, Severity::Warning, message, cure);
    Some(Problem { pool: Some(name.clone()), ..of })
}

/// What helps against the error of the first backend.
fn cure(failing: &[&BackendStatus]) -> &'static str {
    let why = failing.iter().find_map(|backend| backend.why.as_deref()).unwrap_or_default().to_ascii_lowercase();
    if why.contains("refused") {
        "Start the service, or correct the port: nothing accepts connections at that address."
    } else if why.contains("timed out")
        || why.contains("timeout")
        || why.contains("unreachable")
        || why.contains("no route to host")
    {
        "Check the host, the network and the firewalls between: there is no answer from that address."
    } else if why.contains("certificate") {
        "Renew or correct the certificate of the backend."
    } else if why.contains("not tls") || why.contains("tls") {
        "Check that the service at that address and port speaks TLS: `snigate doctor` shows what it answers."
    } else {
        "Look at the log of the backend; `snigate doctor` tries it from here."
    }
}

fn full_queue(pool: &PoolStatus) -> Option<Problem> {
    let queue = pool.queue.as_ref().filter(|queue| queue.size > 0 && queue.waiting >= queue.size)?;
    let message = format!("pool {}: its queue is full with {} clients; more are refused", pool.name, queue.waiting);
    let cure = "Add backends, or raise `max_connections` of the backends or `queue.size` of the pool.";
    Some(Problem {
        pool: Some(pool.name.clone()),
        ..problem(ProblemKind::QueueFull, Severity::Critical, message, cure)
    })
}

fn of_certificate(now: SystemTime, certificate: &Certificate) -> Option<Problem> {
    let Certificate { pool, backend, name, expires } = certificate;
    let names = name.as_ref().map(|name| format!(" ({})", readable(name, 100))).unwrap_or_default();
    let date = &At::from(*expires).0[..10];
    let (kind, severity, verb) = match expires.duration_since(now) {
        Err(_) => (ProblemKind::CertificateExpired, Severity::Critical, format!("expired on {date}")),
        Ok(left) if left <= SOON => (ProblemKind::CertificateExpires, Severity::Critical, expires_in(left, date)),
        Ok(left) if left <= NOT_YET => (ProblemKind::CertificateExpires, Severity::Warning, expires_in(left, date)),
        Ok(_) => return None,
    };
    let message = format!("pool {pool}: the certificate of {backend}{names} {verb}");
    let (pool, backend) = (Some(pool.clone()), Some(backend.clone()));
    Some(Problem { pool, backend, ..problem(kind, severity, message, "Renew the certificate on the backend.") })
}

fn expires_in(left: Duration, date: &str) -> String {
    match left.as_secs() / 86_400 {
        0 => format!("expires in less than a day, on {date}"),
        1 => format!("expires in a day, on {date}"),
        days => format!("expires in {days} days, on {date}"),
    }
}

fn of_listener(now: SystemTime, listener: &ListenerStatus) -> Option<Problem> {
    let at = listener.accept_paused_since.as_ref()?;
    let message =
        format!("listener {} has accepted nothing{}: a limit is reached", listener.name, since(now, Some(at)));
    let cure = "Raise `limits.max_connections`, that of the listener, or the limit of open files.";
    let of = problem(ProblemKind::AcceptPaused, Severity::Critical, message, cure);
    Some(Problem { since: Some(at.clone()), listener: Some(listener.name.clone()), ..of })
}

fn near_limit(listener: &ListenerStatus) -> Option<Problem> {
    let limit = near(listener.active, listener.limit)?;
    let message = format!("listener {}: {} of {limit} connections are open", listener.name, listener.active);
    let cure = "Raise `max_connections` of the listener, or end connections that nobody needs.";
    let of = problem(ProblemKind::ConnectionsNearLimit, Severity::Warning, message, cure);
    Some(Problem { listener: Some(listener.name.clone()), ..of })
}

/// The limit, if nine tenths of it are used.
fn near(used: u64, limit: Option<u64>) -> Option<u64> {
    limit.filter(|limit| *limit > 0 && used >= *limit - *limit / 10)
}

fn of_reload(now: SystemTime, reload: &LastReload) -> Option<Problem> {
    if reload.result != "rejected" {
        return None;
    }
    let errors: Vec<_> = reload.problems.iter().filter(|problem| problem.severity == "error").collect();
    let place = errors.first().map(|first| format!("{}:{}:{}", first.file, first.line, first.column));
    let why = match (&place, errors.first()) {
        (Some(place), Some(first)) => format!("{place}: {}", first.message),
        _ => reload.error.clone().unwrap_or_else(|| "see the log".to_owned()),
    };
    let more = match errors.len().saturating_sub(1) + reload.problems_left_off {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let message = format!("the reload at {} was rejected: {why}{more}", clock(now, &reload.at));
    let cure = "Correct the file and save it; until then the previous configuration stays in force.";
    let of = problem(ProblemKind::ReloadRejected, Severity::Warning, message, cure);
    Some(Problem { since: Some(reload.at.clone()), place, ..of })
}

fn of_name(now: SystemTime, name: &DnsName) -> Option<Problem> {
    let error = name.error.as_ref()?;
    let kept = match &name.answered {
        Some(at) => format!("; its addresses of {} are still used", clock(now, at)),
        None => String::new(),
    };
    let message = format!("the DNS name {} cannot be looked up: {error}{kept}", name.name);
    let cure = "Correct the name in the configuration or the DNS, or check the nameserver.";
    let pool = name.pools.first().cloned();
    Some(Problem { pool, ..problem(ProblemKind::DnsFailing, Severity::Warning, message, cure) })
}

fn is_of_containers(facts: &Facts<'_>, pool: &str) -> bool {
    let mut containers = facts.docker.iter().flat_map(|docker| &docker.containers);
    containers.any(|container| container.pool.as_deref() == Some(pool))
}

fn of_docker(now: SystemTime, docker: &DockerStatus) -> Option<Problem> {
    let error = docker.error.as_ref()?;
    let since = since(now, docker.since.as_ref());
    let kept = match &docker.looked_at {
        Some(at) => format!("; the routes of containers are as they were at {}", clock(now, at)),
        None => "; no container has a route".to_owned(),
    };
    let message = format!("the Docker API at {} has not answered{since}: {error}{kept}", docker.socket);
    let cure = "Start the engine, and let snigate use its socket: `snigate doctor` tries it from here.";
    let of = problem(ProblemKind::DockerFailing, Severity::Warning, message, cure);
    Some(Problem { since: docker.since.clone(), ..of })
}

/// One problem for a container, however many of its names others have.
fn of_container(container: &ContainerStatus) -> Option<Problem> {
    let first = container.problems.first()?;
    let what = if container.state == "left_out" { "is left out" } else { "gets only some of its names" };
    let more = match container.problems.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let message = format!("container {} {what}: {}: {}{more}", container.name, first.label, first.message);
    let cure = match first.label.starts_with("snigate.") {
        true => "Correct the label and create the container again; labels cannot change while it exists.",
        false => "Correct what the engine says of it, or create it again; it is looked at again every minute.",
    };
    Some(Problem {
        pool: container.pool.clone(),
        ..problem(ProblemKind::ContainerLabels, Severity::Warning, message, cure)
    })
}

fn of_kubernetes(now: SystemTime, kubernetes: &KubernetesStatus) -> Option<Problem> {
    let of_kind = |kind: &KubernetesKindStatus| Some(format!("{}: {}", kind.kind, kind.error.as_ref()?));
    let error = kubernetes.error.clone().or_else(|| kubernetes.kinds.iter().find_map(of_kind))?;
    let since = since(now, kubernetes.since.as_ref());
    let is_known = kubernetes.kinds.iter().all(|kind| kind.synced);
    let kept = if is_known { "what was in force stays" } else { "nothing is served from there" };
    let message = format!("the objects of the Kubernetes cluster cannot be followed{since}: {error}; {kept}");
    let cure = "Check that the API server can be reached and allows it: RBAC, and Gateway API 1.5 or newer installed.";
    let of = problem(ProblemKind::KubernetesFailing, Severity::Warning, message, cure);
    Some(Problem { since: kubernetes.since.clone(), ..of })
}

/// One problem for an object, however many conditions are not as they should be.
fn of_object(object: &KubernetesObjectStatus) -> Option<Problem> {
    let first = object.problems.first()?;
    let more = match object.problems.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let of = first.of.as_ref().map(|of| format!(" at {of}")).unwrap_or_default();
    let KubernetesProblem { condition, reason, message, .. } = first;
    let message = format!("{} {}{of}: {condition}={reason}: {message}{more}", object.kind, object.name);
    let cure = "Correct the object, or what it names: docs/kubernetes.md has a line for each condition.";
    let severity = if object.accepted { Severity::Notice } else { Severity::Warning };
    let route = (object.kind != "Gateway").then(|| object.name.clone());
    Some(Problem { route, ..problem(ProblemKind::KubernetesNotAccepted, severity, message, cure) })
}

fn of_resources(resources: &Resources) -> Vec<Problem> {
    let mut problems = Vec::new();
    let descriptors = resources.descriptors;
    if let Some(limit) = near(descriptors.used, descriptors.limit) {
        let message = format!("{} of {limit} file descriptors are open", descriptors.used);
        let cure =
            "Raise the limit: `LimitNOFILE=` in a systemd unit, `--ulimit nofile=` in Docker, `ulimit -n` in a shell.";
        problems.push(problem(ProblemKind::DescriptorsScarce, Severity::Warning, message, cure));
    }
    let memory = resources.memory;
    if let Some(limit) = near(memory.used, memory.limit) {
        let message = format!("{} of {} MB of memory are in use", memory.used / 1_000_000, limit / 1_000_000);
        let cure =
            "Raise the limit: `MemoryMax=` in a systemd unit, `--memory` in Docker; or lower `limits.max_connections`.";
        problems.push(problem(ProblemKind::MemoryScarce, Severity::Warning, message, cure));
    }
    let connections = resources.connections;
    if let Some(limit) = near(connections.used, connections.limit) {
        let message = format!("{} of {limit} connections are open", connections.used);
        let cure = "Raise `limits.max_connections`, or end connections that nobody needs.";
        problems.push(problem(ProblemKind::ConnectionsNearLimit, Severity::Warning, message, cure));
    }
    problems
}

fn of_episodes(facts: &Facts<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |episode: Option<Episode>, kind, severity, message: &dyn Fn(u64, &str) -> String, cure: &str| {
        let Some(Episode { count, since: began }) = episode else { return };
        let at = At::from(began);
        let message = message(count, &since(facts.now, Some(&at)));
        problems.push(Problem { since: Some(at), ..problem(kind, severity, message, cure) });
    };
    let many = |episode: &Episode| episode.count >= MANY && episode.count.saturating_mul(10) >= facts.accepted;
    add(
        facts.no_route.filter(many),
        ProblemKind::NoRoute,
        Severity::Warning,
        &|count, since| format!("no route matches the name of {count} connections{since}"),
        "Add a route for the names, which are listed under the refusals, unless somebody is probing.",
    );
    add(
        facts.queue_full,
        ProblemKind::QueueFull,
        Severity::Warning,
        &|count, since| format!("{count} clients found a full queue{since}"),
        "Add backends, or raise `max_connections` of the backends or `queue.size` of the pool.",
    );
    add(
        facts.client_limits,
        ProblemKind::ClientLimits,
        Severity::Notice,
        &|count, since| format!("limits per client have refused {count} connections{since}"),
        "Look at the refusals: raise `per_client` or exempt the network if these are real users.",
    );
    add(
        facts.log_lines_dropped,
        ProblemKind::LogLinesDropped,
        Severity::Warning,
        &|count, since| format!("{count} log lines have been lost{since}"),
        "Read the output faster, free the disk, or log less: `log.connections: failed`.",
    );
    add(
        facts.task_panics,
        ProblemKind::TaskPanicked,
        Severity::Warning,
        &|count, since| format!("a background task has panicked {count} times{since}"),
        "This is a bug in snigate: please report it with the `panicked` line of the log.",
    );
    problems
}

/// ` since 12:03 UTC`
fn since(now: SystemTime, at: Option<&At>) -> String {
    at.map(|at| format!(" since {}", clock(now, at))).unwrap_or_default()
}

/// `12:03 UTC`, with the date if it is not today.
fn clock(now: SystemTime, at: &At) -> String {
    let (today, at) = (At::from(now).0, &at.0);
    match (at.get(..10), at.get(11..16)) {
        (Some(date), Some(time)) if today.starts_with(date) => format!("{time} UTC"),
        (Some(date), Some(time)) => format!("{date} {time} UTC"),
        _ => at.clone(),
    }
}

const DAY: Duration = Duration::from_secs(86_400);
const SOON: Duration = DAY.saturating_mul(3);
const NOT_YET: Duration = DAY.saturating_mul(14);
/// Names that few clients ask for are scans and typing errors. More than this in five minutes, and more than a tenth of
/// all, are worth a look.
const MANY: u64 = 20;
/// Fewer connections without an answer may be those of one client that gave up.
const FEW: u64 = 3;

#[cfg(test)]
#[path = "diagnosis/tests.rs"]
mod tests;
