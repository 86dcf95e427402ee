use std::collections::HashMap;
use std::net::SocketAddr;
use std::task::{Context, Waker};
use std::time::Duration;

use super::standing::Grade;
use super::*;
use crate::settings::{BackendAddress, Balance, Ejection, Or, OrOff, Span, WhenAllDown, Word};

fn settings() -> settings::Pool {
    let ejection = Ejection { failures: 3, base: Span::from_secs(10), max: Span::from_secs(60) };
    settings::Pool { name: "p".into(), ejection: OrOff(Some(ejection)), ..settings::Pool::default() }
}

fn address(port: u16) -> Address {
    Address::Inet(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn entry(port: u16) -> settings::Backend {
    name(&format!("127.0.0.1:{port}"))
}

fn name(address: &str) -> settings::Backend {
    let address = BackendAddress::read(address).expect("an address");
    settings::Backend { address, weight: 1, backup: false, max_connections: Or::default() }
}

fn found(port: u16) -> ResolvedAddress {
    ResolvedAddress { address: address(port), weight: 1, backup: false }
}

fn pool(settings: settings::Pool, backends: Vec<settings::Backend>) -> Pool {
    Pool::new(settings::Pool { backends, ..settings }, &Metrics::new(), None)
}

const REQUEST: PickRequest<'static> =
    PickRequest { client: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), server_name: None, is_inner: false };

fn port(backend: &Backend) -> u16 {
    match backend.address {
        Address::Inet(address) => address.port(),
        Address::Unix(_) => 0,
    }
}

/// The ports one connection is given, in order.
fn walk(pool: &Pool, now: Instant) -> Vec<u16> {
    let mut picks = pool.picks(REQUEST);
    std::iter::from_fn(|| picks.next(now)).map(|lease| port(lease.backend())).collect()
}

fn backend(pool: &Pool, wanted: u16) -> Arc<Backend> {
    pool.list().into_iter().map(|member| member.backend).find(|backend| port(backend) == wanted).expect("in the pool")
}

#[test]
fn every_backend_is_given_once_a_connection() {
    let pool = pool(settings(), vec![settings::Backend { weight: 5, ..entry(1) }, entry(2), entry(3)]);
    for _ in 0..20 {
        let mut ports = walk(&pool, Instant::now());
        ports.sort_unstable();
        assert_eq!(ports, [1, 2, 3]);
    }
}

#[test]
fn turns_follow_the_weights() {
    let pool = pool(settings(), vec![entry(1), settings::Backend { weight: 3, ..entry(2) }]);
    let mut hits: HashMap<u16, u32> = HashMap::new();
    for _ in 0..8 {
        *hits.entry(walk(&pool, Instant::now())[0]).or_default() += 1;
    }
    assert_eq!(hits, HashMap::from([(1, 2), (2, 6)]));
}

#[test]
fn a_pool_without_backends_gives_none() {
    assert!(walk(&pool(settings(), vec![]), Instant::now()).is_empty());
}

#[test]
fn backups_come_after_all_others() {
    let pool = pool(settings(), vec![settings::Backend { backup: true, ..entry(1) }, entry(2), entry(3)]);
    let now = Instant::now();
    (0..4).for_each(|_| assert_eq!(walk(&pool, now)[2], 1));
    backend(&pool, 2).standing.checked(Health::Down, now);
    assert_eq!(walk(&pool, now), [3, 1], "one whose checks fail is not tried while others are well");
    backend(&pool, 3).standing.checked(Health::Down, now);
    assert_eq!(walk(&pool, now), [1]);
}

#[test]
fn what_happens_when_all_are_down_is_configured() {
    for (when_all_down, wanted) in [(WhenAllDown::Try, vec![1, 2]), (WhenAllDown::Refuse, vec![])] {
        let pool = pool(settings::Pool { when_all_down, ..settings() }, vec![entry(1), entry(2)]);
        let now = Instant::now();
        [1, 2].iter().for_each(|&port| backend(&pool, port).standing.checked(Health::Down, now));
        let mut ports = walk(&pool, now);
        ports.sort_unstable();
        assert_eq!(ports, wanted);
    }
}

#[test]
fn the_last_one_is_never_ejected() {
    let pool = pool(settings(), vec![entry(1), entry(2)]);
    let now = Instant::now();
    let (one, two) = (backend(&pool, 1), backend(&pool, 2));
    (0..5).for_each(|_| pool.failed(&one, Blame::Backend, &"refused", now));
    (0..5).for_each(|_| pool.failed(&two, Blame::Backend, &"refused", now));
    assert_eq!((one.standing.grade(now), two.standing.grade(now)), (Grade::Ejected, Grade::Usable));
    assert_eq!(walk(&pool, now), [2, 1], "the ejected one is still better than none");
    assert_eq!(walk(&pool, now + Duration::from_secs(10)).len(), 2);
}

#[test]
fn a_hello_that_every_backend_refuses_counts_against_none() {
    let pool = pool(settings(), vec![entry(1), entry(2)]);
    let now = Instant::now();
    let (one, two) = (backend(&pool, 1), backend(&pool, 2));
    let refused_by_both = |all_asked: bool, client: u8| {
        let mut refusals = Refusals::default();
        refusals.all_asked = all_asked;
        refusals.add(&one, Some("closed".into()));
        refusals.add(&two, Some("closed".into()));
        refusals.end(&pool, IpAddr::from([192, 0, 2, client]), now);
    };
    (0..9).for_each(|client| refused_by_both(true, client));
    assert_eq!((one.standing.grade(now), two.standing.grade(now)), (Grade::Usable, Grade::Usable));
    (0..3).for_each(|client| refused_by_both(false, client));
    assert_eq!((one.standing.grade(now), two.standing.grade(now)), (Grade::Ejected, Grade::Usable));
}

const POLICIES: [Balance; 7] = [
    Balance::RoundRobin,
    Balance::LeastConnections,
    Balance::PowerOfTwo,
    Balance::Random,
    Balance::SourceHash,
    Balance::SniHash,
    Balance::First,
];

#[test]
fn a_backend_with_a_weight_of_zero_gets_nothing_whatever_the_policy() {
    let now = Instant::now();
    for balance in POLICIES {
        let pool = pool(settings::Pool { balance, ..settings() }, vec![entry(1), entry(2), entry(3)]);
        assert!(pool.set_weight("127.0.0.1:2", Some(0), now) && !pool.set_weight("127.0.0.1:9", Some(0), now));
        for _ in 0..50 {
            let mut ports = walk(&pool, now);
            ports.sort_unstable();
            assert_eq!(ports, [1, 3], "{balance:?}: not even after a failure");
        }
        let (one, three) = (backend(&pool, 1), backend(&pool, 3));
        [1, 3].iter().for_each(|port| _ = pool.set_weight(&format!("127.0.0.1:{port}"), Some(0), now));
        assert!(walk(&pool, now).is_empty() && !pool.picks(REQUEST).has_more(now), "{balance:?}");
        pool.set_weight("127.0.0.1:1", None, now);
        assert_eq!(walk(&pool, now), [1], "{balance:?}");
        // One that cannot be picked is no reason to eject another.
        (0..5).for_each(|_| pool.failed(&one, Blame::Backend, &"refused", now));
        assert_eq!((one.standing.grade(now), three.standing.grade(now)), (Grade::Usable, Grade::Usable));
    }
}

/// Otherwise the first in line would learn of it only when the next look at all queues comes.
#[test]
fn a_weight_above_zero_calls_the_first_that_waits() {
    let now = Instant::now();
    let full = settings::Backend { max_connections: 1.into(), ..entry(1) };
    let queue = settings::Queue { size: 1, ..settings::Queue::default() };
    let pool = pool(settings::Pool { queue, ..settings() }, vec![full, entry(2)]);
    pool.set_weight("127.0.0.1:2", Some(0), now);
    let _lease = pool.picks(REQUEST).next(now).expect("the place on the first");
    let client = pool.queue.join(1).expect("room");
    let is_called = || std::pin::pin!(client.called()).poll(&mut Context::from_waker(Waker::noop())).is_ready();
    pool.call_waiting(now);
    assert!(!is_called(), "there is no place");
    pool.set_weight("127.0.0.1:2", Some(1), now);
    assert!(is_called());
}

#[test]
fn a_weight_that_an_operator_sets_stays_until_it_is_removed() {
    let now = Instant::now();
    let metrics = Metrics::new();
    let file =
        |weight| settings::Pool { backends: vec![settings::Backend { weight, ..entry(1) }, entry(2)], ..settings() };
    let hits = |pool: &Pool| (0..8).filter(|_| walk(pool, now)[0] == 1).count();
    let weight = |pool: &Pool| pool.list().iter().map(|member| (member.weight, member.live_weight)).collect::<Vec<_>>();
    let before = Pool::new(file(1), &metrics, None);
    assert_eq!(hits(&before), 4);
    before.set_weight("127.0.0.1:1", Some(3), now);
    assert_eq!((hits(&before), weight(&before)), (6, vec![(3, Some(3)), (1, None)]));
    let after = Pool::new(file(7), &metrics, Some(&before));
    assert_eq!((hits(&after), weight(&after)), (6, vec![(3, Some(3)), (1, None)]));
    // Set while the next snapshot was being built.
    before.set_weight("127.0.0.1:2", Some(0), now);
    assert_eq!(hits(&after), 6);
    after.catch_up(&before);
    assert_eq!((hits(&after), weight(&after)), (8, vec![(3, Some(3)), (0, Some(0))]));
    after.set_weight("127.0.0.1:2", None, now);
    after.set_weight("127.0.0.1:1", None, now);
    assert_eq!((hits(&after), weight(&after)), (7, vec![(7, None), (1, None)]));
}

#[test]
fn an_operator_s_word_holds_even_when_nobody_else_is_left() {
    let pool = pool(settings(), vec![entry(1)]);
    let now = Instant::now();
    for operator in [Operator::Drain, Operator::Down] {
        backend(&pool, 1).standing.set_operator(operator, now);
        assert!(walk(&pool, now).is_empty());
    }
}

#[test]
fn a_full_backend_is_passed_over_and_reported_from_none() {
    let pool = pool(settings(), vec![settings::Backend { max_connections: 2.into(), ..entry(1) }]);
    let now = Instant::now();
    let mut picks: Vec<_> = (0..3).map(|_| pool.picks(REQUEST)).collect();
    let leases: Vec<_> = picks.iter_mut().map(|picks| picks.next(now)).collect();
    assert_eq!(leases.iter().flatten().count(), 2);
    assert!(picks[2].met_full() && !picks[0].met_full());
    assert_eq!(backend(&pool, 1).active(), 2);
    drop(leases);
    assert_eq!(backend(&pool, 1).active(), 0);
    assert_eq!(walk(&pool, now), [1]);
}

#[test]
fn whether_there_is_another_is_known_before_it_is_picked() {
    let pool = pool(settings(), vec![entry(1), entry(2)]);
    let now = Instant::now();
    let mut picks = pool.picks(REQUEST);
    let one = picks.next(now);
    assert!(one.is_some() && picks.has_more(now));
    let two = picks.next(now);
    assert!(two.is_some() && !picks.has_more(now));
    assert!(picks.next(now).is_none());
}

#[test]
fn a_hash_keeps_a_client_on_its_backend() {
    let settings = settings::Pool { balance: Balance::SourceHash, ..settings() };
    let pool = pool(settings, (1..=5).map(entry).collect());
    let now = Instant::now();
    let pick = |last: u8| {
        let request = PickRequest { client: [192, 0, 2, last].into(), server_name: None, is_inner: false };
        pool.picks(request).next(now).map(|lease| port(lease.backend())).expect("one is usable")
    };
    let before: Vec<u16> = (0..=255).map(pick).collect();
    assert_eq!(before, (0..=255).map(pick).collect::<Vec<_>>());
    backend(&pool, 3).standing.checked(Health::Down, now);
    for (last, was) in (0..=255).zip(&before) {
        let is = pick(last);
        assert!(if *was == 3 { is != 3 } else { is == *was }, "{last}: {was} became {is}");
    }
    assert!((1..=5).all(|port| before.contains(&port)));
}

#[test]
fn answers_become_backends_and_keep_their_identity() {
    let metrics = Metrics::new();
    let pool =
        Pool::new(settings::Pool { backends: vec![name("shop.test:443"), entry(9)], ..settings() }, &metrics, None);
    let now = Instant::now();
    assert_eq!(walk(&pool, now), [9], "a name without an answer stands for nothing");
    assert!(pool.answer("shop.test:443", vec![found(1), found(2)]));
    assert!(!pool.answer("shop.test:443", vec![found(1), found(2)]), "nothing has changed");
    let (one, two) = (backend(&pool, 1), backend(&pool, 2));
    assert_eq!((&*one.name, &*two.name), ("shop.test:443#1", "shop.test:443#2"));
    assert!(one.looked_up && !backend(&pool, 9).looked_up);

    assert!(pool.answer("shop.test:443", vec![found(2), found(3)]));
    assert!(Arc::ptr_eq(&two, &backend(&pool, 2)));
    assert_eq!(&*backend(&pool, 3).name, "shop.test:443#1", "a number that is free is taken again");
    let text = metrics.render();
    assert!(text.contains("backend=\"shop.test:443#1\"") && !text.contains("#3\""), "{text}");

    assert!(pool.answer("shop.test:443", vec![]));
    assert!(!metrics.render().contains("shop.test:443#"));
}

#[test]
fn a_reload_keeps_backends_answers_and_what_is_thought_of_them() {
    let metrics = Metrics::new();
    let now = Instant::now();
    let make = |entries, before: Option<&Pool>| {
        Pool::new(settings::Pool { backends: entries, ..settings() }, &metrics, before)
    };
    let before = make(vec![name("a.test:1"), entry(1)], None);
    before.answer("a.test:1", vec![found(7)]);
    backend(&before, 1).standing.set_operator(Operator::Drain, now);
    backend(&before, 7).standing.checked(Health::Down, now);
    let after = make(vec![entry(2), entry(1), name("a.test:1")], Some(&before));
    for port in [1, 7] {
        assert!(Arc::ptr_eq(&backend(&before, port), &backend(&after, port)), "{port}");
    }
    assert_eq!(after.list().len(), 3);
    assert_eq!(walk(&after, now), [2]);
}

#[test]
fn an_answer_that_comes_while_a_reload_is_built_is_not_lost() {
    let metrics = Metrics::new();
    let with = || settings::Pool { backends: vec![entry(9), name("a:443")], ..settings() };
    let make = |before| Pool::new(with(), &metrics, before);
    let before = make(None);
    before.answer("a:443", vec![found(1), found(2)]);
    let after = make(Some(&before));
    before.answer("a:443", vec![found(2), found(3)]);
    let version = after.version();
    after.catch_up(&before);
    assert_ne!(after.version(), version);
    for port in [2, 3, 9] {
        assert!(Arc::ptr_eq(&backend(&before, port), &backend(&after, port)), "{port}");
    }
    assert_eq!(after.list().len(), 3);
    let version = after.version();
    after.catch_up(&before);
    assert_eq!(after.version(), version, "nothing is newer");
}

#[test]
fn the_other_family_of_a_name_is_found_once() {
    let pool = pool(settings(), vec![name("a.test:1"), entry(9)]);
    let six = Address::Inet("[::1]:1".parse().expect("an address"));
    pool.answer("a.test:1", vec![found(1), ResolvedAddress { address: six.clone(), weight: 1, backup: false }]);
    let now = Instant::now();
    let mut picks = pool.picks(REQUEST);
    let one = loop {
        let lease = picks.next(now).expect("one of three is of the name");
        if lease.backend().looked_up {
            break lease;
        }
    };
    let other = picks.other_family(one.backend(), now).expect("the name has both");
    assert_ne!(one.backend().address.is_ipv6(), other.backend().address.is_ipv6());
    assert!(picks.other_family(one.backend(), now).is_none());
    assert!(picks.next(now).is_none_or(|lease| port(lease.backend()) == 9));
}

#[test]
fn a_transparent_pool_gives_only_backends_of_the_clients_family() {
    let backends = || vec![entry(1), name("[::1]:2"), entry(3)];
    let transparent = settings::Pool { transparent: true, balance: Balance::First, ..settings() };
    let (now, mixed) = (Instant::now(), pool(transparent.clone(), backends()));
    let ports = |client: &str| {
        let request = PickRequest { client: client.parse().expect("an address"), server_name: None, is_inner: false };
        let mut picks = mixed.picks(request);
        let ports: Vec<u16> = std::iter::from_fn(|| picks.next(now)).map(|lease| port(lease.backend())).collect();
        assert!(!picks.none_suits() && !picks.has_more(now));
        ports
    };
    assert_eq!(
        (ports("192.0.2.1"), ports("::ffff:192.0.2.1"), ports("2001:db8::1")),
        (vec![1, 3], vec![1, 3], vec![2])
    );
    // That the others are up does not help.
    backend(&mixed, 2).standing.checked(Health::Down, now);
    assert_eq!(ports("2001:db8::1"), [2]);
    assert_eq!(walk(&pool(settings::Pool { balance: Balance::First, ..settings() }, backends()), now), [1, 2, 3]);
    assert!(pool(transparent, vec![name("[::1]:2")]).picks(REQUEST).none_suits());
}
