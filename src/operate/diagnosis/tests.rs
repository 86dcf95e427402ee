use super::*;
use crate::operate::status::{Quantiles, QueueStatus, ReloadProblem, Usage};

/// 2026-11-30T12:04:00Z
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_796_040_240)
}

fn at(ago: Duration) -> At {
    (now() - ago).into()
}

fn backend(name: &str, state: &'static str, why: Option<&str>) -> BackendStatus {
    BackendStatus {
        name: name.into(),
        address: name.into(),
        state: state.into(),
        since: None,
        why: why.map(str::to_owned),
        operator: if matches!(state, "drain" | "down") { state.into() } else { "ready".into() },
        active: 0,
        connections: 0,
        per_second: 0.0,
        failed: 0,
        connect_ms: Quantiles::default(),
        first_byte_ms: Quantiles::default(),
        weight: 1,
        weight_set: None,
        backup: false,
        max_connections: None,
        check: None,
        certificate: None,
    }
}

fn pool(state: PoolState, backends: Vec<BackendStatus>) -> PoolStatus {
    let why = backends.iter().find_map(|backend| Some(format!("{}: {}", backend.name, backend.why.as_ref()?)));
    PoolStatus {
        name: "shop".into(),
        state,
        since: Some(at(Duration::from_secs(60))),
        why,
        policy: "round_robin".into(),
        active: 0,
        connections: 0,
        per_second: 0.0,
        connect_ms: Quantiles::default(),
        first_byte_ms: Quantiles::default(),
        queue: None,
        backends,
        backends_left_off: 0,
    }
}

fn of(pools: &[PoolStatus]) -> Vec<Problem> {
    diagnose(&facts(pools, &Resources::default()))
}

fn facts<'a>(pools: &'a [PoolStatus], resources: &'a Resources) -> Facts<'a> {
    Facts {
        now: now(),
        listeners: &[],
        pools,
        certificates: &[],
        resources,
        names: &[],
        docker: None,
        kubernetes: None,
        last_reload: None,
        accepted: 1000,
        no_route: None,
        client_limits: None,
        queue_full: None,
        log_lines_dropped: None,
        task_panics: None,
    }
}

#[test]
fn a_pool_that_is_down_is_one_sentence_with_the_cure() {
    let refused = Some("Connection refused (os error 111)");
    let two = ["10.0.0.11:443", "10.0.0.12:443"].map(|name| backend(name, "failing", refused));
    let found = of(&[pool(PoolState::Down, two.to_vec())]);
    let [problem] = &found[..] else { panic!("{found:?}") };
    assert_eq!(
        problem.message,
        "pool shop: both backends have been failing since 12:03 UTC: 10.0.0.11:443: Connection refused (os error 111)"
    );
    assert_eq!((problem.kind, problem.severity), (ProblemKind::PoolDown, Severity::Critical));
    assert!(problem.cure.starts_with("Start the service"), "{}", problem.cure);
    assert_eq!((problem.pool.as_deref(), problem.backend.as_deref()), (Some("shop"), None));
}

#[test]
fn a_pool_counts_what_operators_have_left_in() {
    let mut backends = vec![backend("a:1", "ejected", Some("timed out")), backend("b:1", "up", None)];
    backends.push(backend("c:1", "drain", None));
    let found = of(&[pool(PoolState::PartlyDown, backends)]);
    assert_eq!(found[0].message, "pool shop: 1 of 2 backends has been failing since 12:03 UTC: a:1: timed out");
    assert_eq!((found[0].severity, found[0].backend.as_deref()), (Severity::Warning, Some("a:1")));
    let found = of(&[pool(PoolState::Drained, vec![backend("a:1", "drain", None)])]);
    assert_eq!(found[0].message, "pool shop: operators have taken out all backends since 12:03 UTC");
    assert!(of(&[pool(PoolState::Up, vec![backend("a:1", "up", None)])]).is_empty());
}

#[test]
fn a_pool_that_accepts_and_never_answers_is_named() {
    let of_count = |connections| of(&[PoolStatus { connections, ..pool(PoolState::Unchecked, Vec::new()) }]);
    assert!(of_count(2).is_empty());
    let found = of_count(3);
    assert_eq!(found[0].message, "pool shop: its backends accept connections, but none of 3 has had an answer");
    assert_eq!((found[0].kind, found[0].pool.as_deref()), (ProblemKind::PoolUnanswered, Some("shop")));
}

const DAY: Duration = Duration::from_secs(86_400);

fn certificate(days: u32, name: &str) -> Certificate {
    Certificate {
        pool: "web".into(),
        backend: "10.0.0.21:443".into(),
        name: Some(name.into()),
        expires: now() + DAY * days + Duration::from_secs(60),
    }
}

fn rejected_reload() -> LastReload {
    let problem = ReloadProblem {
        severity: "error".into(),
        file: "config.yaml".into(),
        line: 6,
        column: 11,
        path: "routes[0].pool".into(),
        message: "there is no pool `shp`".into(),
        text: None,
    };
    LastReload {
        result: "rejected".into(),
        trigger: "file".into(),
        at: at(2 * DAY),
        took_ms: 1,
        error: Some("the file has problems".into()),
        problems: vec![problem],
        problems_left_off: 2,
    }
}

fn episode(count: u64) -> Option<Episode> {
    Some(Episode { count, since: now() - Duration::from_secs(180) })
}

fn messages(facts: &Facts<'_>) -> Vec<String> {
    diagnose(facts).into_iter().map(|problem| problem.message).collect()
}

#[test]
fn the_most_serious_comes_first() {
    let certificates = [
        certificate(9, "nine.test"),
        certificate(2, "two.test"),
        certificate(15, "fifteen.test"),
        Certificate { expires: now() - DAY, ..certificate(0, "gone.test") },
    ];
    let resources = Resources {
        descriptors: Usage { used: 95, limit: Some(100) },
        memory: Usage { used: 121_000_000, limit: Some(134_000_000) },
        ..Resources::default()
    };
    let mut full = pool(PoolState::Up, vec![backend("a:1", "up", None)]);
    full.queue = Some(QueueStatus { waiting: 5, size: 5, timeout_ms: 1 });
    let found = messages(&Facts {
        certificates: &certificates,
        last_reload: Some(&rejected_reload()),
        no_route: episode(120),
        log_lines_dropped: episode(1),
        client_limits: episode(1),
        ..facts(&[full], &resources)
    });
    assert_eq!(
        found,
        [
            "pool shop: its queue is full with 5 clients; more are refused",
            "pool web: the certificate of 10.0.0.21:443 (gone.test) expired on 2026-11-29",
            "pool web: the certificate of 10.0.0.21:443 (two.test) expires in 2 days, on 2026-12-02",
            "95 of 100 file descriptors are open",
            "121 of 134 MB of memory are in use",
            "the reload at 2026-11-28 12:04 UTC was rejected: config.yaml:6:11: there is no pool `shp` (and 2 more)",
            "pool web: the certificate of 10.0.0.21:443 (nine.test) expires in 9 days, on 2026-12-09",
            "no route matches the name of 120 connections since 12:01 UTC",
            "1 log lines have been lost since 12:01 UTC",
            "limits per client have refused 1 connections since 12:01 UTC",
        ]
    );
}

#[test]
fn a_listener_that_accepts_nothing_or_soon_will_is_named() {
    let listener = ListenerStatus {
        name: "https".into(),
        bind: Vec::new(),
        addresses: Vec::new(),
        protocol: "tls".into(),
        accepted: 9,
        active: 9,
        per_second: 0.0,
        limit: Some(10),
        accept_paused_since: Some(at(Duration::from_secs(60))),
        refused: Default::default(),
        failed: Default::default(),
        bytes_to_backends: 0,
        bytes_to_clients: 0,
    };
    assert_eq!(
        messages(&Facts { listeners: &[listener], ..facts(&[], &Resources::default()) }),
        [
            "listener https has accepted nothing since 12:03 UTC: a limit is reached",
            "listener https: 9 of 10 connections are open",
        ]
    );
}

#[test]
fn few_unknown_names_are_typing_errors_or_scans() {
    let none = Resources::default();
    let few = Facts { no_route: episode(19), accepted: 20, ..facts(&[], &none) };
    assert!(messages(&few).is_empty());
    let less_than_a_tenth = Facts { no_route: episode(99), ..facts(&[], &none) };
    assert!(messages(&less_than_a_tenth).is_empty());
}

#[test]
fn a_pool_that_nobody_has_tried_is_not_a_problem() {
    assert!(of(&[pool(PoolState::Unchecked, vec![backend("a:1", "unchecked", None)])]).is_empty());
}
