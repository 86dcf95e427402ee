use std::cmp::Reverse;
use std::path::Path;

use tokio::time::timeout;

use super::*;
use crate::config::Config;
use crate::snapshot::Snapshot;
use crate::telemetry::Metrics;

/// A snapshot with these routes, each as `name: fate`, all to pool `p` with these ports.
fn snapshot(before: Option<&Snapshot>, routes: &[(&str, &str)], ports: &[u16]) -> Snapshot {
    let routes: String = routes
        .iter()
        .map(|(name, fate)| format!("  - {{ name: {name}, sni: {name}.test, pool: p, on_removed: {fate} }}\n"))
        .collect();
    let backends: Vec<_> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    let text = format!(
        "listeners: [{{ name: l, bind: \"127.0.0.1:0\" }}]\nroutes:\n{routes}pools: {{ p: {{ backends: [{}] }} }}\n\
         log: {{ connections: off }}\n",
        backends.join(", ")
    );
    let config = Config::parse(&text, Path::new("f.yaml")).unwrap_or_else(|problems| panic!("{problems}")).config;
    Snapshot::build(config, before, &Metrics::new())
}

/// A connection served by `snapshot` that has reached its backend.
fn relaying(id: u64, snapshot: &Snapshot, route: &str, port: u16) -> Ticket {
    let ticket = enter(
        ConnectionId(id),
        ([10, 0, 0, 1], 7).into(),
        Instant::now(),
        Arc::clone(&snapshot.terms),
        ListenerIndex(0),
    );
    ticket.update(|entry| {
        entry.state = State::Relaying;
        entry.route = Some(route.into());
        entry.pool = Some("p".into());
    });
    let members = snapshot.pools[0].list().into_iter().map(|member| member.backend);
    let backend = members.into_iter().find(|backend| backend.is_called(&format!("127.0.0.1:{port}")));
    ticket.relays_to(backend.expect("in the pool"));
    ticket
}

fn ended_by(ticket: &Ticket) -> Option<Reason> {
    ticket.update(|entry| entry.ended_by).unwrap()
}

/// Serves this thread's requests for the duration of the test.
fn registries() -> Registries {
    let registries = Registries::default();
    tokio::spawn(serve(registries.join(0)));
    registries
}

#[tokio::test]
async fn a_list_is_a_page_in_the_order_of_ids() {
    let (registries, snapshot) = (registries(), snapshot(None, &[("a", "keep")], &[1]));
    // More than one batch, and in no particular order.
    let mut tickets: Vec<Ticket> = (1..=1000).rev().map(|id| relaying(id, &snapshot, "a", 1)).collect();
    tickets[0].carried(Way::ToClient, 5);
    let client = Filter { client: Some("10.0.0.0/8".parse().unwrap()), ..Filter::default() };
    let page = registries.list(&client, ConnectionId(10), 3).await;
    assert_eq!(page.rows.iter().map(|row| row.id.0).collect::<Vec<_>>(), [11, 12, 13]);
    assert_eq!(page.matching, 1000);
    let last = registries.list(&client, ConnectionId(999), 3).await;
    assert_eq!((last.rows.len(), last.rows[0].id.0, last.rows[0].bytes_to_client), (1, 1000, 5));
    assert_eq!((&*last.rows[0].listener, last.rows[0].backend.as_deref()), ("l", Some("127.0.0.1:1")));
    let by_backend = Filter { backend: Some("127.0.0.1:1".into()), ..Filter::default() };
    assert_eq!(registries.list(&by_backend, ConnectionId(0), 3).await.matching, 1000);
    for nobody in [
        Filter { backend: Some("127.0.0.1:11".into()), ..Filter::default() },
        Filter { route: Some("b".into()), ..Filter::default() },
        Filter { id: Some(ConnectionId(1001)), ..Filter::default() },
        Filter { client: Some("10.0.0.2/32".parse().unwrap()), ..Filter::default() },
    ] {
        assert_eq!(registries.list(&nobody, ConnectionId(0), 3).await.matching, 0, "{nobody:?}");
    }
    tickets.clear();
    assert_eq!(registries.list(&Filter::default(), ConnectionId(0), 3).await.matching, 0);
}

#[tokio::test]
async fn a_list_in_another_order_is_paged_and_searched() {
    let (registries, snapshot) = (registries(), snapshot(None, &[("a", "keep"), ("Big", "keep")], &[1, 2]));
    let tickets: Vec<Ticket> = (1..=600)
        .map(|id| {
            let ticket = relaying(id, &snapshot, if id % 100 == 0 { "Big" } else { "a" }, 1);
            ticket.update(|entry| {
                entry.sni = (id != 7).then(|| format!("n{:03}.test", 600 - id).into());
                entry.client = ([10, 0, 0, (id % 3) as u8], id as u16).into();
            });
            ticket.carried(Way::ToBackend, id * 37 % 601);
            ticket
        })
        .collect();
    let all = Filter::default();
    let ids = |page: &Page| page.rows.iter().map(|row| row.id.0).collect::<Vec<_>>();
    let page = registries.list_in_order(&all, Order::Bytes, 0, 3).await;
    let mut most: Vec<u64> = (1..=600).collect();
    most.sort_by_key(|id| Reverse(id * 37 % 601));
    assert_eq!((ids(&page), page.matching), (most[..3].to_vec(), 600));
    let page = registries.list_in_order(&all, Order::Bytes, 300, 100).await;
    assert_eq!(ids(&page), most[300..400]);
    let by_name = registries.list_in_order(&all, Order::Name, 0, 600).await;
    assert_eq!((by_name.rows[0].id.0, by_name.rows[599].id.0), (600, 7), "those without a name come last");
    let by_client = registries.list_in_order(&all, Order::Client, 598, 100).await;
    assert_eq!(ids(&by_client), [596, 599]);
    let by_age = registries.list_in_order(&all, Order::Age, 0, 2).await;
    assert_eq!(ids(&by_age), [1, 2]);
    assert!(registries.list_in_order(&all, Order::Id, 600, 10).await.rows.is_empty());
    let part = |part: &str| Filter { part: Some(part.into()), ..Filter::default() };
    for (filter, matching) in [
        (part("big"), 6),
        (part("n59"), 9),
        (part("10.0.0.1:"), 200),
        (part("127.0.0.1:1"), 600),
        (part("nothing"), 0),
        (Filter { name: Some("n001.test".into()), ..Filter::default() }, 1),
        (Filter { name: Some("n00".into()), ..Filter::default() }, 0),
    ] {
        assert_eq!(registries.list_in_order(&filter, Order::Id, 0, 1).await.matching, matching, "{filter:?}");
    }
    drop(tickets);
}

#[test]
fn the_room_of_a_crowd_is_given_back() {
    let snapshot = snapshot(None, &[("a", "keep")], &[1]);
    let mut crowd: Vec<Ticket> = (0..10_000).map(|id| relaying(id, &snapshot, "a", 1)).collect();
    crowd.truncate(10);
    let slots = SLOTS.with_borrow(|slots| slots.len());
    assert!(slots < 3_000, "{slots} slots for ten");
    let late = relaying(10_000, &snapshot, "a", 1);
    assert_eq!(late.number(), 10, "the lowest that is free");
    assert!(crowd.iter().all(|ticket| ticket.update(|entry| entry.id) == Some(ConnectionId(ticket.number().into()))));
}

#[tokio::test]
async fn who_is_ended_is_cut_off_where_it_stands() {
    let (registries, snapshot) = (registries(), snapshot(None, &[("a", "keep")], &[1]));
    let (ticket, other) = (relaying(1, &snapshot, "a", 1), relaying(2, &snapshot, "a", 1));
    let task = tokio::spawn(std::future::pending::<()>());
    runs_as(ticket.number(), task.abort_handle());
    let one = Filter { id: Some(ConnectionId(1)), ..Filter::default() };
    assert_eq!(registries.end(&one, Reason::Killed).await, 1);
    assert!(timeout(Duration::from_secs(20), task).await.unwrap().unwrap_err().is_cancelled());
    assert_eq!(registries.end(&one, Reason::Killed).await, 0, "it has its end");
    assert_eq!((ended_by(&ticket), ended_by(&other)), (Some(Reason::Killed), None));
}

#[tokio::test]
async fn the_route_says_what_becomes_of_its_connections() {
    let registries = registries();
    let before =
        snapshot(None, &[("kept", "keep"), ("drained", "drain"), ("closed", "close"), ("stays", "close")], &[1]);
    let after = snapshot(Some(&before), &[("stays", "close")], &[1]);
    let [kept, drained, closed, stays] =
        ["kept", "drained", "closed", "stays"].map(|route| relaying(1, &before, route, 1));
    // Served by the snapshot that has the name again.
    let newer = relaying(2, &after, "closed", 1);
    let Removals { now, later } = Removals::of(&before, &after).unwrap();
    registries.remove(&now).await;
    registries.list(&Filter::default(), ConnectionId(0), 1).await;
    assert_eq!(
        [&kept, &drained, &closed, &stays, &newer].map(ended_by),
        [None, None, Some(Reason::RouteRemoved), None, None]
    );
    registries.remove(&Arc::new(later)).await;
    registries.list(&Filter::default(), ConnectionId(0), 1).await;
    assert_eq!([&kept, &drained, &stays].map(ended_by), [None, Some(Reason::RouteRemoved), None]);
}

#[tokio::test]
async fn a_backend_that_goes_takes_the_connections_of_strict_routes_along() {
    let registries = registries();
    let before = snapshot(None, &[("kept", "close"), ("closed", "keep")], &[1, 2]);
    // The new file decides if it has the route.
    let after = snapshot(Some(&before), &[("kept", "keep"), ("closed", "close")], &[2]);
    let tickets = [("kept", 1), ("closed", 1), ("closed", 2)].map(|(route, port)| relaying(1, &before, route, port));
    let removals = Removals::of(&before, &after).unwrap();
    assert!(removals.later.is_empty() && !removals.now.is_empty());
    registries.remove(&removals.now).await;
    registries.list(&Filter::default(), ConnectionId(0), 1).await;
    assert_eq!(tickets.each_ref().map(ended_by), [None, Some(Reason::RouteRemoved), None]);
}

/// A connection that is routed only after the reload is matched once its backend is known.
#[tokio::test]
async fn who_is_not_yet_routed_when_the_route_goes_is_not_forgotten() {
    let registries = registries();
    let before = snapshot(None, &[("closed", "close"), ("stays", "close")], &[1]);
    let after = snapshot(Some(&before), &[("stays", "close")], &[1]);
    let enter = |id| {
        enter(ConnectionId(id), ([10, 0, 0, 1], 7).into(), Instant::now(), Arc::clone(&before.terms), ListenerIndex(0))
    };
    let tickets = [enter(1), enter(2)];
    registries.remove(&Removals::of(&before, &after).unwrap().now).await;
    registries.list(&Filter::default(), ConnectionId(0), 1).await;
    for (ticket, route) in tickets.iter().zip(["closed", "stays"]) {
        ticket.update(|entry| (entry.route, entry.pool) = (Some(route.into()), Some("p".into())));
        ticket.relays_to(before.pools[0].list().remove(0).backend);
    }
    assert_eq!(tickets.each_ref().map(ended_by), [Some(Reason::RouteRemoved), None]);
}

#[test]
fn what_is_given_back_in_time_is_spared() {
    let before = snapshot(None, &[("a", "drain"), ("b", "drain")], &[1, 2]);
    let after = snapshot(Some(&before), &[("b", "drain")], &[2]);
    let again = snapshot(Some(&after), &[("a", "keep"), ("b", "drain")], &[1, 2]);
    let mut later = Removals::of(&before, &after).unwrap().later;
    assert!(!later.is_empty());
    later.restore(&again);
    assert!(later.is_empty());
    assert!(Removals::of(&after, &again).is_none(), "nothing is gone");
}

#[test]
fn who_keeps_all_pays_nothing() {
    let before = snapshot(None, &[("a", "keep")], &[1]);
    assert!(Removals::of(&before, &snapshot(Some(&before), &[("b", "keep")], &[2])).is_none());
}
