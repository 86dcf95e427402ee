use serde_json::{Value, json};

use super::*;
use crate::operate::status::{History, RefusalsReport, RoutesPage, Status};

const NOW: &str = "2026-11-30T12:04:31.204Z";

fn latency() -> Value {
    json!({ "p50": 0.41, "p99": 12.7, "count": 5120 })
}

fn backend(name: &str, state: &str) -> Value {
    json!({
        "name": name, "address": name, "state": state, "since": "2026-11-30T06:12:07.000Z", "why": null,
        "operator": "ready", "active": 120, "connections": 601_655, "per_second": 12.4, "failed": 17,
        "connect_ms": latency(), "first_byte_ms": latency(), "weight": 1, "weight_set": null, "backup": false,
        "max_connections": null, "check": { "at": NOW, "result": "ok", "error": null },
        "certificate": { "names": ["shop.example.com", "*.shop.example.com"], "expires": "2027-02-01T00:00:00.000Z" }
    })
}

fn pool(name: &str, state: &str, backends: &[Value]) -> Value {
    json!({
        "name": name, "state": state, "since": "2026-11-30T06:12:07.000Z", "why": null, "policy": "round_robin",
        "active": 240, "connections": 1_203_312, "per_second": 24.8, "connect_ms": latency(), "first_byte_ms": latency(),
        "queue": null, "backends": backends, "backends_left_off": 0
    })
}

fn route(name: &str) -> Value {
    json!({
        "name": name, "patterns": [format!("{name}.example.com"), format!("*.{name}.example.com")], "more_patterns": 0,
        "pools": [name], "connections": 1_203_312, "per_second": 24.8, "active": 240, "errors": 12,
        "is_counted_alone": true
    })
}

fn status(pools: &[Value], problems: &[Value]) -> Value {
    let usage = json!({ "used": 1702, "limit": 524_288 });
    json!({
        "version": "0.1.0", "revision": "abcdef0", "pid": 4711, "started": "2026-11-30T06:12:00.000Z", "at": NOW,
        "uptime_s": 21_151, "ready": true, "stage": "ready", "control": "auto",
        "config": { "hash": "ed8bb96e27c6f1f2", "file": "/etc/snigate/config.yaml" },
        "problems": problems, "problems_left_off": 0,
        "resources": {
            "connections": usage, "descriptors": usage, "hello_memory": usage,
            "memory": { "used": 28_311_552, "limit": 134_217_728 }, "resident_bytes": 28_311_552,
            "cpu_seconds": 311.42, "workers": 4, "log_lines_dropped": 0, "task_panics": 0
        },
        "totals": {
            "accepted": 1_284_411, "active": 812, "per_second": 61.0, "refused": 1290, "failed": 17,
            "errors_per_second": 0.2
        },
        "listeners": [{
            "name": "https", "bind": ["[::]:443"], "protocol": "tls", "accepted": 1_284_411, "active": 812,
            "per_second": 61.0, "limit": null, "accept_paused_since": null,
            "addresses": ["[::]:443"], "refused": { "no_route": 1200, "bad_hello": 88 },
            "failed": { "connect_refused": 17 }, "bytes_to_backends": 88_120_033, "bytes_to_clients": 88_120_033_412_u64
        }],
        "routes": { "total": 8, "never_matched": 1, "busiest": [] },
        "pools": pools, "names": [],
        "last_reload": {
            "result": "applied", "trigger": "file", "at": "2026-11-30T12:01:55.120Z", "took_ms": 2, "error": null,
            "problems": [], "problems_left_off": 0
        }
    })
}

fn series(kind: &str, name: &str, pool: Option<&str>) -> Value {
    let values: Vec<u32> = (0..90).map(|at| 100 + at * 37 % 90).collect();
    json!({ "kind": kind, "name": name, "pool": pool, "connections": values, "active": values, "errors": vec![0; 90] })
}

fn connection(name: &str) -> Value {
    json!({
        "id": "000000000000002a", "client": "198.51.100.7:50312", "peer": "198.51.100.7:50312", "listener": "https",
        "sni": name, "route": "shop", "pool": "shop", "backend": "10.0.0.11:443", "state": "relaying",
        "age_ms": 81_573, "bytes_to_backend": 1890, "bytes_to_client": 48_211
    })
}

fn refusal(name: &str) -> Value {
    json!({
        "at": "2026-11-30T12:04:29.771Z", "reason": "no_route", "listener": "https", "client": "198.51.100.7:50312",
        "name": name, "route": null
    })
}

/// A process with four pools of two backends and eight routes, all busy.
fn sample() -> Data {
    let names = ["shop", "web", "git", "mail"];
    let addresses = |at: usize| [format!("10.0.{at}.11:443"), format!("10.0.{at}.12:443")];
    let pools =
        names.iter().enumerate().map(|(at, name)| pool(name, "up", &addresses(at).map(|of| backend(&of, "up"))));
    let routes: Vec<String> = (0..8).map(|at| format!("{}{at}", names[at % 4])).collect();
    let mut graphs = vec![series("listener", "https", None)];
    graphs.extend(routes.iter().map(|name| series("route", name, None)));
    for (at, name) in names.iter().enumerate() {
        graphs.push(series("pool", name, None));
        graphs.extend(addresses(at).iter().map(|address| series("backend", address, Some(name))));
    }
    Data {
        query: PageQuery::default(),
        status: parsed(status(&pools.collect::<Vec<_>>(), &[])),
        routes: parsed::<RoutesPage>(json!({
            "routes": routes.iter().map(|name| route(name)).collect::<Vec<_>>(), "total": 8, "matching": 8, "offset": 0
        })),
        history: parsed::<History>(json!({ "step_s": 10, "ends": NOW, "series": graphs })),
        refusals: parsed::<RefusalsReport>(json!({
            "refusals": (0..200).map(|at| refusal(&format!("typo{at}.example.com"))).collect::<Vec<_>>(),
            "not_recorded": 3,
            "unknown_names": (0..64)
                .map(|at| json!({ "name": format!("typo{at}.example.com"), "count": 1021, "at_most_too_many": 3 }))
                .collect::<Vec<_>>()
        })),
        connections: parsed::<ConnectionsPage>(json!({
            "connections": (0..CONNECTIONS).map(|_| connection("shop.example.com")).collect::<Vec<_>>(),
            "matching": 10_000, "next": null, "offset": 0
        })),
        explained: None,
        may_change: true,
    }
}

fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn section(data: &Data, wanted: &str) -> String {
    let sections = sections::render(data).unwrap();
    sections.into_iter().find(|(name, _)| *name == wanted).map(|(_, html)| html).unwrap()
}

fn whole(data: &Data) -> String {
    let sections = sections::render(data).unwrap();
    let main = shell::main(1, sections.iter().map(|(_, html)| html.as_str()));
    shell::page(&data.status, MayChange::WithToken, &main).unwrap()
}

#[test]
fn the_first_answer_is_small() {
    let page = whole(&sample());
    // As a browser gets it, and as curl does.
    let sent = compress::gzip(page.as_bytes());
    assert!(sent.len() <= 22_000 && page.len() <= 63_000, "{} of {} bytes", sent.len(), page.len());
}

/// As many as a page lists of a thousand of each, all with graphs, and DNS names.
#[test]
fn the_first_answer_is_small_with_a_thousand_routes_and_pools() {
    let mut data = sample();
    let names: Vec<String> = (0..1000).map(|at| format!("service-{at}")).collect();
    let address = |at: usize| format!("10.0.{}.{}:443", at / 250, at % 250);
    let pools: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(at, name)| pool(name, "up", &[backend(&address(at), "up"), backend(&address(at + 1000), "up")]))
        .collect();
    let mut many = status(&pools, &[]);
    many["names"] = (0..100)
        .map(|at| {
            json!({ "name": format!("service-{at}.internal:443"), "pools": [names[at]], "addresses": [address(at), address(at + 1)],
                    "answered": NOW, "age_s": 1, "ttl_s": 30.0, "error": null })
        })
        .collect();
    data.status = parsed(many);
    let listed: Vec<_> = names.iter().take(sections::ROUTES).map(|name| route(name)).collect();
    data.routes = parsed(json!({ "routes": listed, "total": 1000, "matching": 1000, "offset": 0 }));
    let mut graphs = vec![series("listener", "https", None)];
    for (at, name) in names.iter().enumerate() {
        graphs.extend([series("route", name, None), series("pool", name, None)]);
        graphs
            .extend([series("backend", &address(at), Some(name)), series("backend", &address(at + 1000), Some(name))]);
    }
    data.history = parsed(json!({ "step_s": 10, "ends": NOW, "series": graphs }));
    let sizes: Vec<_> = sections::render(&data).unwrap().iter().map(|(name, html)| (*name, html.len())).collect();
    let page = whole(&data);
    let sent = compress::gzip(page.as_bytes());
    assert!(sent.len() <= 30_000 && page.len() <= 105_000, "{} of {} bytes: {sizes:?}", sent.len(), page.len());
}

#[test]
fn what_is_wrong_comes_first_with_what_helps() {
    let mut data = sample();
    assert!(section(&data, "wrong").contains("All is well"));
    assert!(section(&data, "wrong").contains("8 of 8 backends can be used"));
    let problem = json!({
        "kind": "pool_down", "severity": "critical", "since": null, "message": "pool shop: both fail: did you stop `shop`?",
        "cure": "Start them: `systemctl start <shop>`.", "pool": "shop", "backend": null, "route": null, "listener": null,
        "place": null
    });
    let pools = [
        pool("web", "up", &[backend("10.0.0.21:443", "up")]),
        pool("shop", "down", &[backend("10.0.0.11:443", "failing")]),
    ];
    data.status = parsed(status(&pools, &[problem]));
    let wrong = section(&data, "wrong");
    assert!(wrong.contains("Pool shop: both fail: did you stop <code>shop</code>?</p>"), "{wrong}");
    assert!(wrong.contains("<code>systemctl start &lt;shop&gt;</code>"), "{wrong}");
    assert!(wrong.contains("href=\"#pools\"") && !wrong.contains("All is well"), "{wrong}");
    let shown = section(&data, "pools");
    let at = |text: &str| shown.find(text).unwrap_or_else(|| panic!("no {text} in {shown}"));
    assert!(at("10.0.0.11:443") < at("10.0.0.21:443"), "a pool that is down comes first");
    assert_eq!(sections::title(&data.status), "(1 problem) snigate");
}

/// A value that leaves its element or attribute, or that a terminal or a reader would see as something else.
const HOSTILE: &str = "x'\"><script>alert(1)</script>\u{1b}[2J\u{202e}";

#[test]
fn hostile_text_is_text_wherever_it_stands() {
    let mut data = sample();
    let mut lies = status(&[pool(HOSTILE, "down", &[backend(HOSTILE, "failing")])], &[]);
    lies["pools"][0]["backends"][0]["why"] = json!(HOSTILE);
    lies["pools"][0]["backends"][0]["certificate"]["names"] = json!([HOSTILE]);
    lies["listeners"][0]["name"] = json!(HOSTILE);
    lies["config"]["file"] = json!(HOSTILE);
    lies["names"] = json!([{
        "name": HOSTILE, "pools": [HOSTILE], "addresses": [HOSTILE], "answered": NOW, "age_s": 1, "ttl_s": 30.0, "error": HOSTILE
    }]);
    lies["problems"] = json!([{
        "kind": "pool_down", "severity": "critical", "since": null, "message": HOSTILE, "cure": HOSTILE, "pool": HOSTILE,
        "backend": HOSTILE, "route": null, "listener": null, "place": null
    }]);
    lies["last_reload"]["problems"] = json!([{
        "severity": "error", "file": HOSTILE, "line": 6, "column": 11, "path": HOSTILE, "message": HOSTILE, "text": HOSTILE
    }]);
    lies["docker"] = json!({
        "socket": HOSTILE, "connected": false, "since": null, "error": HOSTILE, "looked_at": null, "containers_left_off": 0,
        "containers": [{
            "name": HOSTILE, "id": HOSTILE, "state": "left_out", "names": [HOSTILE], "pool": HOSTILE, "address": HOSTILE,
            "why": HOSTILE, "problems": [{ "label": HOSTILE, "message": HOSTILE }]
        }]
    });
    lies["kubernetes"] = json!({
        "connected": false, "since": null, "error": HOSTILE, "leader": false, "gateways": { HOSTILE: 1 },
        "kinds": [{ "kind": HOSTILE, "objects": 1, "synced": false, "error": HOSTILE }], "objects_left_off": 0,
        "objects": [{
            "kind": HOSTILE, "name": HOSTILE, "generation": 1, "accepted": false,
            "problems": [{ "of": HOSTILE, "condition": HOSTILE, "reason": HOSTILE, "message": HOSTILE }]
        }]
    });
    data.status = parsed::<Status>(lies);
    data.routes = parsed(json!({ "routes": [route(HOSTILE)], "total": 1, "matching": 1, "offset": 0 }));
    data.refusals = parsed(json!({
        "refusals": [refusal(HOSTILE)], "not_recorded": 0,
        "unknown_names": [{ "name": HOSTILE, "count": 1, "at_most_too_many": 0 }]
    }));
    data.connections =
        parsed(json!({ "connections": [connection(HOSTILE)], "matching": 1, "next": null, "offset": 0 }));
    data.query = PageQuery::parse(&format!("name={HOSTILE}&connections={HOSTILE}&routes={HOSTILE}&pools=x'"));
    data.explained = Some(Ok(HOSTILE.to_owned()));
    for (name, html) in sections::render(&data).unwrap() {
        assert!(!html.contains("<script") && !html.contains("x'") && !html.contains("x\""), "{name}: {html}");
        assert!(!html.contains(['\u{1b}', '\u{202e}']), "{name}");
        let expects = !matches!(name, "figures");
        assert_eq!(html.contains("&lt;script&gt;"), expects, "{name}: {html}");
    }
}

#[test]
fn long_lists_are_cut_into_pages() {
    let mut data = sample();
    let pools: Vec<_> =
        (0..1000).map(|at| pool(&format!("pool{at}"), "up", &[backend("10.0.0.1:443", "up")])).collect();
    data.status = parsed(status(&pools, &[]));
    let shown = section(&data, "pools");
    assert!(shown.contains("1–12 of 1000"), "{shown}");
    assert!(shown.contains("href=\"?pools_from=12#pools\""), "{shown}");
    data.query = PageQuery::parse("pools_from=990&refusals_from=196&connections=shop&connections_from=9992");
    data.connections.offset = 9992;
    assert!(section(&data, "pools").contains("991–1000 of 1000"));
    assert!(section(&data, "refusals").contains("197–200 of 200"));
    let connections = section(&data, "connections");
    assert!(
        connections.contains("9993–10000 of 10000") && connections.contains("10,000 match “shop”"),
        "{connections}"
    );
    let many: Vec<_> = (0..9000).map(|at| backend(&format!("10.0.0.1:{at}"), "up")).collect();
    data.status = parsed(status(&[pool("huge", "up", &many)], &[]));
    data.query = PageQuery::default();
    let shown = section(&data, "pools");
    assert!(shown.contains("8,950 more backends") && shown.len() < 100_000, "{} bytes", shown.len());
    data.query = PageQuery::parse("pools=POOL7");
    assert!(section(&data, "pools").contains("No pool or backend has “POOL7”"));
}

#[test]
fn a_certificate_that_expires_soon_or_has_expired_says_so() {
    let mut data = sample();
    for (expires, said, tone) in [
        ("2026-12-09T13:00:00.000Z", "expires on 2026-12-09, in 9 days", " class=warn"),
        ("2026-12-01T23:00:00.000Z", "expires on 2026-12-01, in 1 day<", " class=bad"),
        ("2026-11-29T12:00:00.000Z", "expired on 2026-11-29, 1 day ago", " class=bad"),
        ("2027-02-01T13:00:00.000Z", "until 2027-02-01, 63 days", ""),
    ] {
        let mut of = backend("10.0.0.11:443", "up");
        of["certificate"]["expires"] = json!(expires);
        data.status = parsed(status(&[pool("shop", "up", &[of])], &[]));
        let shown = section(&data, "pools");
        assert!(shown.contains(&format!("<small{tone}>{said}")), "{shown}");
    }
}

#[test]
fn a_route_without_figures_of_its_own_is_not_called_unused() {
    let mut data = sample();
    data.routes.routes[0].connections = 0;
    assert!(section(&data, "routes").contains("never matched</span>"));
    data.routes.routes[0].is_counted_alone = false;
    let shown = section(&data, "routes");
    assert!(shown.contains("counted with others") && !shown.contains("never matched</span>"), "{shown}");
}

#[test]
fn empty_lists_say_what_would_stand_there() {
    let mut data = sample();
    let mut fresh = status(&[], &[]);
    fresh["listeners"] = json!([]);
    fresh["last_reload"] = json!(null);
    data.status = parsed(fresh);
    data.routes = parsed(json!({ "routes": [], "total": 0, "matching": 0, "offset": 0 }));
    data.refusals = RefusalsReport::default();
    data.connections = parsed(json!({ "connections": [], "matching": 0, "next": null, "offset": 0 }));
    for (name, said) in [
        ("listeners", "Nothing listens yet"),
        ("routes", "every client is refused"),
        ("pools", "There are no pools"),
        ("refusals", "Nobody was refused"),
        ("unknown", "Every name has matched"),
        ("reload", "has not been reloaded"),
        ("connections", "Nobody is connected"),
    ] {
        assert!(section(&data, name).contains(said), "{name}");
    }
}
