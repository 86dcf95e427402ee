//! What the admin address reports of a real process: what is wrong and when it is over, who was turned away, routes and
//! connections page by page; all as its OpenAPI document says.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello};
use crate::harness::{Lb, Reload, Running, poll};
use crate::wire::{ask, send};

fn get(running: &Running, path: &str) -> Value {
    let (status, body) = running.admin_get(path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Waits until the report at `path` is as `wanted`, which returns what it looked for.
#[track_caller]
fn wait<T>(running: &Running, path: &str, wanted: impl Fn(&Value) -> Option<T>) -> T {
    let mut last = Value::Null;
    let found = poll(|| {
        last = get(running, path);
        wanted(&last).ok_or(())
    });
    found.unwrap_or_else(|()| panic!("never as wanted: {last:#}"))
}

fn problem(status: &Value, kind: &str) -> Option<Value> {
    status["problems"].as_array().unwrap().iter().find(|problem| problem["kind"] == kind).cloned()
}

/// A loopback address that only this test uses, so that its port stays free while nothing listens there.
fn own_address(last: u8) -> SocketAddr {
    let pid = std::process::id();
    let listener = TcpListener::bind(SocketAddr::from(([127, 77, (pid % 250) as u8, last], 0))).unwrap();
    listener.local_addr().unwrap()
}

const CHECKED: &str = "health_check: { kind: tcp, interval: 200ms, timeout: 1s, rise: 1, fall: 1 }";

#[test]
fn a_backend_that_goes_down_and_comes_back_is_a_problem_and_then_none() {
    let (address, other) = (own_address(1), Backend::echoing());
    let running = Lb::new().route_with("a.test", [address, other.address], CHECKED).start();
    // Since when is known a moment later.
    let with_time = |status: &Value| problem(status, "pool_partly_down").filter(|found| !found["since"].is_null());
    let found = wait(&running, "/api/v1/status", with_time);
    let message = found["message"].as_str().unwrap();
    assert!(message.starts_with("pool pool-0: 1 of 2 backends has been failing since "), "{message}");
    assert!(message.ends_with(&format!("{address}: cannot connect: Connection refused")), "{message}");
    assert_eq!((&found["severity"], &found["backend"]), (&json!("warning"), &json!(address.to_string())));
    assert!(found["cure"].as_str().unwrap().starts_with("Start the service"), "{found}");
    let status = get(&running, "/api/v1/status");
    let (pool, backend) = (&status["pools"][0], &status["pools"][0]["backends"][0]);
    assert_eq!((&pool["state"], &backend["state"]), (&json!("partly_down"), &json!("failing")));
    assert_eq!(backend["why"], "cannot connect: Connection refused");
    assert_eq!(found["since"], pool["since"]);
    let again = Backend::on(TcpListener::bind(address).unwrap(), |mut stream| {
        let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
    });
    wait(&running, "/api/v1/status", |status| problem(status, "pool_partly_down").is_none().then_some(()));
    wait(&running, "/api/v1/status", |status| (status["pools"][0]["state"] == "up").then_some(()));
    drop(again);
    running.stop();
}

#[test]
fn a_pool_whose_backends_refuse_clients_is_the_first_problem() {
    let addresses = [own_address(2), own_address(3)];
    let running = Lb::new().route("a.test", addresses).start();
    let status = wait(&running, "/api/v1/status", |status| {
        ask(running.address(), &hello("a.test"));
        problem(status, "pool_down").filter(|found| !found["since"].is_null()).map(|_| status.clone())
    });
    let first = &status["problems"][0];
    assert_eq!(
        (&first["kind"], &first["severity"], &first["pool"]),
        (&json!("pool_down"), &json!("critical"), &json!("pool-0"))
    );
    assert!(first["message"].as_str().unwrap().contains("both backends have been failing since"), "{first}");
    // snigate turned nobody away.
    let listener = &status["listeners"][0];
    let failed = listener["failed"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
    assert!(listener["failed"]["connect_refused"].as_u64() > Some(0), "{status:#}");
    assert_eq!((&status["totals"]["failed"], &listener["refused"]), (&json!(failed), &json!({})), "{status:#}");
    assert_eq!(status["routes"]["busiest"][0]["name"], "a.test", "{status:#}");
    running.stop();
}

#[test]
fn a_rejected_reload_is_shown_with_its_place_and_line_until_one_is_accepted() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend);
    let running = Running::start(&lb.config());
    let broken = lb.config().replace("pool: pool-0 }", "pool: pol-0 } # <b>\u{202e}");
    assert_eq!(running.edit(&broken), Reload::Rejected);
    let found = wait(&running, "/api/v1/status", |status| problem(status, "reload_rejected"));
    let place = found["place"].as_str().unwrap();
    assert!(place.contains("config.yaml:4:"), "{found}");
    assert!(found["message"].as_str().unwrap().contains(place), "{found}");
    let status = get(&running, "/api/v1/status");
    let reload = &status["last_reload"];
    assert_eq!((&reload["result"], &reload["problems"][0]["line"]), (&json!("rejected"), &json!(4)));
    let line = "  - { sni: \"a.test\", pool: pol-0 } # <b>\\u{202e}";
    assert_eq!(reload["problems"][0]["text"], line, "{reload}");
    assert_ne!(running.edit(&(lb.config() + "\n# mended\n")), Reload::Rejected);
    wait(&running, "/api/v1/status", |status| problem(status, "reload_rejected").is_none().then_some(()));
    running.stop();
}

#[test]
fn who_was_turned_away_is_listed_and_unknown_names_are_counted() {
    let backend = Backend::echoing();
    let running = Lb::new().route("a.test", &backend).start();
    let long = format!("{0}.{0}.{0}.{1}.test", "x".repeat(63), "y".repeat(56));
    for _ in 0..3 {
        ask(running.address(), &hello("typo.test"));
    }
    for name in [long.as_str(), "<img src=x>.test", "\u{1b}[2J.test", "Upper.TEST"] {
        ask(running.address(), &hello(name));
    }
    let report = wait(&running, "/api/v1/refusals", |report| {
        (report["refusals"].as_array().unwrap().len() == 7).then(|| report.clone())
    });
    // A client may be answered before the one that came before it is counted.
    let is_upper = |of: &&Value| of["name"] == "upper.test" && of["reason"] == "no_route" && of["listener"] == "https";
    assert_eq!(report["refusals"].as_array().unwrap().iter().filter(is_upper).count(), 1, "{report}");
    let names = report["unknown_names"].as_array().unwrap();
    assert_eq!((&names[0]["name"], &names[0]["count"]), (&json!("typo.test"), &json!(3)));
    assert!(names.iter().any(|name| name["name"] == long.as_str()), "{report}");
    // What is no host name is refused as such, and not shown at all.
    assert_eq!(names.len(), 3, "{report}");
    let text = report.to_string();
    assert!(!text.contains('<') && !text.contains("\\u001b"), "{text}");
    let status = get(&running, "/api/v1/status");
    assert_eq!(status["listeners"][0]["refused"], json!({ "no_route": 5, "invalid_sni": 2 }));
    assert_eq!(status["totals"]["refused"], 7);
    running.stop();
}

#[test]
fn a_listener_has_its_real_port_and_bytes_are_counted_while_the_connection_is_open() {
    let backend = Backend::answering(SERVER_HELLO);
    let running = Lb::new().route("a.test", &backend).start();
    let hello = hello("a.test");
    let before = get(&running, "/api/v1/status");
    assert_eq!(before["pools"][0]["state"], "unchecked", "nobody has tried its backend");
    let client = send(running.address(), &hello);
    let status =
        wait(&running, "/api/v1/status", |status| (status["pools"][0]["state"] == "up").then(|| status.clone()));
    let listener = &status["listeners"][0];
    assert_eq!(listener["bind"], json!(["127.0.0.1:0"]));
    assert_eq!(listener["addresses"], json!([running.address().to_string()]));
    assert_eq!(
        (&listener["bytes_to_backends"], &listener["bytes_to_clients"]),
        (&json!(hello.len()), &json!(SERVER_HELLO.len()))
    );
    for key in ["bytes_to_backends", "bytes_to_clients"] {
        assert_eq!(status["totals"][key], listener[key]);
        assert_eq!(get(&running, "/api/v1/routes")["routes"][0][key], listener[key]);
    }
    let memory = &status["resources"]["memory"];
    assert!(memory["used"].as_u64() > Some(1 << 20), "{memory}");
    drop(client);
    running.stop();
}

/// 20,000 names from many clients: the report stays small, and what is frequent is seen.
#[test]
fn a_flood_of_names_leaves_a_bounded_report() {
    let backend = Backend::echoing();
    let running = Lb::new().route("a.test", &backend).with("log: { connections: off }").start();
    let address = running.address();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for number in 0..1000 {
                    ask(address, &hello(&format!("n{thread}-{number}.test")));
                    if number % 4 == 0 {
                        ask(address, &hello("frequent.test"));
                    }
                }
            });
        }
    });
    let report = wait(&running, "/api/v1/refusals", |report| {
        (report["unknown_names"][0]["name"] == "frequent.test").then(|| report.clone())
    });
    assert_eq!(report["refusals"].as_array().unwrap().len(), 200);
    assert_eq!(report["unknown_names"].as_array().unwrap().len(), 64);
    assert!(report.to_string().len() < 64 << 10);
    let found = wait(&running, "/api/v1/status", |status| problem(status, "no_route"));
    assert!(
        found["message"].as_str().unwrap().starts_with("no route matches the name of 5000 connections since"),
        "{found}"
    );
    running.stop();
}

#[test]
fn ten_thousand_routes_are_paged_searched_and_sorted() {
    let backend = Backend::echoing();
    let mut config = Lb::new().route("a.test", &backend).config();
    let routes: String = (0..10_000)
        .map(|n| format!("\n  - {{ name: r{n}, sni: [n{n}.test, \"*.w{n}.test\"], pool: pool-0 }}"))
        .collect();
    config = config.replace("routes:", &format!("routes:{routes}"));
    let running = Running::start(&config);
    for (name, times) in [("n77.test", 3), ("x.w8080.test", 2), ("a.test", 1)] {
        for _ in 0..times {
            let stream = send(running.address(), &hello(name));
            running.wait_for_metric("backend_connections_active", &[], 1.0);
            drop(stream);
            running.wait_for_metric("backend_connections_active", &[], 0.0);
        }
    }
    let began = Instant::now();
    let page = get(&running, "/api/v1/routes?sort=connections&limit=3");
    let took = began.elapsed();
    let names: Vec<_> = page["routes"].as_array().unwrap().iter().map(|route| route["name"].clone()).collect();
    assert_eq!(names, [json!("r77"), json!("r8080"), json!("a.test")], "{page}");
    assert_eq!(
        (&page["total"], &page["matching"], &page["routes"][0]["connections"]),
        (&json!(10_001), &json!(10_001), &json!(3))
    );
    // Of a debug build on a busy machine; a release build takes a few milliseconds.
    assert!(took < Duration::from_secs(2), "{took:?}");
    let page = get(&running, "/api/v1/routes?q=*.W999&limit=5");
    assert_eq!((&page["matching"], &page["routes"][0]["patterns"]), (&json!(11), &json!(["n999.test", "*.w999.test"])));
    let page = get(&running, "/api/v1/routes?q=r123&offset=10&limit=1000");
    assert_eq!((&page["matching"], page["routes"].as_array().unwrap().len()), (&json!(11), 1));
    assert_eq!(get(&running, "/api/v1/routes?state=used")["matching"], 3);
    assert_eq!(get(&running, "/api/v1/routes?offset=99999")["routes"], json!([]));
    let status = get(&running, "/api/v1/status");
    assert_eq!((&status["routes"]["total"], &status["routes"]["never_matched"]), (&json!(10_001), &json!(9_998)));
    assert!(status["routes"]["busiest"].as_array().unwrap().len() <= 20);
    assert!(status.to_string().len() < 20 << 10, "never all in one answer");
    running.stop();
}

#[test]
fn a_wrong_query_is_refused_with_the_parameter_to_blame() {
    let running = Lb::new().route("a.test", &Backend::echoing()).start();
    for (path, parameter) in [
        ("/api/v1/status?backend=1", "backend"),
        ("/api/v1/status?backends=-1", "backends"),
        ("/api/v1/status?backends=1&backends=2", "backends"),
        ("/api/v1/routes?limit=0", "limit"),
        ("/api/v1/routes?limit=1001", "limit"),
        ("/api/v1/routes?sort=size", "sort"),
        ("/api/v1/routes?offset=99999999999999999999999", "offset"),
        ("/api/v1/history?kind=all&x=%3Cb%3E", "x"),
        ("/api/v1/history?kind=everything", "kind"),
        ("/api/v1/refusals?limit=3", "limit"),
        ("/api/v1/connections?sort=age&after=1", "after"),
        ("/api/v1/connections?offset=100001", "offset"),
        ("/api/v1/connections?client=x", "client"),
        ("/api/v1/events?since=3", "since"),
        ("/api/v1/explain", "name"),
        ("/api/v1/openapi.json?x=1", "x"),
    ] {
        let (status, body) = running.admin_get(path);
        let problem: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"));
        assert_eq!(
            (status, &problem["status"], &problem["title"]),
            (400, &json!(400), &json!("Bad Request")),
            "{path}"
        );
        assert_eq!(problem["parameter"], parameter, "{path}: {body}");
        assert!(
            problem["detail"].as_str().is_some_and(|detail| !detail.is_empty())
                && problem["detail"] == problem["error"]
        );
    }
    running.stop();
}

#[test]
fn every_answer_is_as_the_document_says() {
    let backend = Backend::echoing();
    let lb = Lb::new().route_with("a.test", &backend, CHECKED).controlled();
    let running = Running::start(&lb.config());
    let mut stream = send(running.address(), &hello("a.test"));
    stream.read_exact(&mut [0; 5]).unwrap();
    ask(running.address(), &hello("b.test"));
    wait(&running, "/api/v1/refusals", |report| report["refusals"][0]["name"].as_str().map(|_| ()));
    wait(&running, "/api/v1/history", |history| history["series"][0]["kind"].as_str().map(|_| ()));
    // The history goes on over reloads.
    let of_route = |name| get(&running, &format!("/api/v1/history?kind=route&name={name}"))["series"].clone();
    assert_eq!((&of_route("a.test")[0]["connections"][0], &of_route("b.test")), (&json!(1), &json!([])));
    assert_eq!(
        running.edit(&lb.config().replace("routes:", "routes:\n  - { sni: c.test, pool: pool-0 }")),
        Reload::Applied
    );
    assert_eq!(of_route("a.test")[0]["connections"][0], 1);
    let document = get(&running, "/api/v1/openapi.json");
    let validate = |operation: &Value, status: u16, body: &str| {
        let content = &operation["responses"][status.to_string()]["content"];
        let (_, content) = content
            .as_object()
            .and_then(|content| content.iter().next())
            .unwrap_or_else(|| panic!("no {status}: {operation}"));
        let mut schema = content["schema"].clone();
        schema["components"] = document["components"].clone();
        let answer: Value = serde_json::from_str(body).unwrap();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&answer).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{errors:#?} in {answer:#}");
    };
    let mut checked = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let operation = &operations["get"];
        if !path.starts_with("/api/") || operation.is_null() || path == "/api/v1/events" {
            continue;
        }
        let query = if path == "/api/v1/explain" { "?name=a.test" } else { "" };
        let (status, body) = running.admin_get(&format!("{path}{query}"));
        assert_eq!(status, 200, "{path}: {body}");
        validate(operation, status, &body);
        let (status, body) = running.admin_get(&format!("{path}?no_such=1"));
        validate(operation, status, &body);
        checked += 1;
    }
    assert!(checked >= 8, "{checked}");
    let of = |path: &str, method: &str| document["paths"][path][method].clone();
    let at = format!("/api/v1/pools/pool-0/backends/{}", backend.address);
    const BACKEND: &str = "/api/v1/pools/{pool}/backends/{backend}";
    for (method, path, template, body) in [
        ("PUT", format!("{at}/weight"), format!("{BACKEND}/weight"), "{\"weight\": 3}"),
        ("DELETE", format!("{at}/weight"), format!("{BACKEND}/weight"), ""),
        ("PUT", format!("{at}/state"), format!("{BACKEND}/state"), "{\"state\": \"ready\"}"),
        ("PUT", format!("{at}/state"), format!("{BACKEND}/state"), "{\"state\": \"up\"}"),
        ("PUT", "/api/v1/pools/p/backends/b/state".into(), format!("{BACKEND}/state"), "ready"),
        ("POST", "/api/v1/reload".into(), "/api/v1/reload".into(), ""),
        ("DELETE", "/api/v1/connections/ffff".into(), "/api/v1/connections/{id}".into(), ""),
        ("DELETE", "/api/v1/connections".into(), "/api/v1/connections".into(), ""),
        ("DELETE", "/api/v1/connections?name=A.test".into(), "/api/v1/connections".into(), ""),
    ] {
        let (status, answer) = running.admin_send(method, &path, body);
        validate(&of(&template, &method.to_ascii_lowercase()), status, &answer);
    }
    assert!(stream.read_to_end(&mut Vec::new()).is_err(), "it was ended, by its name");
    running.stop();
}
