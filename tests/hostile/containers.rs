//! Containers that are found by their labels, behind an engine that a test scripts: in a network namespace that has the
//! addresses of the containers.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello};
use crate::engine::{Answer, Container, Engine};
use crate::harness::{Lb, Reload, Running, poll};
use crate::namespace;
use crate::trial::Trial;
use crate::wire::{Close, ask};

const ADDRESSES: &str = "ip addr add 10.88.0.2/32 dev lo && ip addr add 10.88.0.3/32 dev lo";

macro_rules! in_a_namespace {
    ($($name:ident, $inside:ident;)*) => {$(
        #[test]
        fn $name() {
            namespace::run_test(ADDRESSES, concat!("containers::", stringify!($inside)));
        }
    )*};
}

in_a_namespace! {
    a_container_is_served_from_its_start_to_its_removal, from_start_to_removal;
    labels_add_only_what_is_allowed, hostile_labels;
    an_engine_that_goes_away_changes_nothing, engine_goes_away;
    broken_answers_change_nothing, broken_answers;
    a_container_that_cannot_be_inspected_is_left_out_alone, broken_containers;
    a_flood_of_events_is_gathered, flood;
    an_engine_that_says_nothing_does_not_hold_up_the_start_for_long, silent_engine;
    settings_may_change_while_it_runs, settings_change;
}

/// A backend at the address of a container. It answers and closes.
fn backend(ip: &str) -> Backend {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    Backend::on(listener, |mut stream| {
        use std::io::{Read, Write};
        if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
            let _ = stream.write_all(SERVER_HELLO);
        }
    })
}

fn container(name: &str, created: u64, backend: &Backend, sni: &str) -> Container {
    let SocketAddr::V4(address) = backend.address else { panic!("an IPv4 address") };
    Container::new(name, created, &address.ip().to_string(), sni, address.port())
}

fn config(engine: &Engine) -> Lb {
    let socket = engine.socket().display();
    Lb::new().with(&format!("docker: {{ socket: \"{socket}\", allow: [\"**.example.com\"] }}"))
}

/// How a client that asks for `name` is answered, which says where it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Served,
    /// The name is known, and no backend of it can be used.
    Down,
    Unknown,
}

fn seen(lb: &Running, name: &str) -> Seen {
    match ask(lb.address(), &hello(name)) {
        (answer, _) if answer == SERVER_HELLO => Seen::Served,
        // unrecognized_name
        (answer, Close::Fin) if answer.ends_with(&[2, 112]) => Seen::Unknown,
        (answer, _) => {
            assert!(answer.is_empty() || answer.ends_with(&[2, 80]), "{answer:?}");
            Seen::Down
        }
    }
}

#[track_caller]
fn wait_until(lb: &Running, name: &str, wanted: Seen) {
    let last = poll(|| match seen(lb, name) {
        now if now == wanted => Ok(()),
        now => Err(now),
    });
    last.unwrap_or_else(|now| panic!("{name} is {now:?}, not {wanted:?}"));
}

/// The container of that name in the status; null if there is none.
fn reported(lb: &Trial, name: &str) -> Value {
    let containers = lb.status()["docker"]["containers"].clone();
    let found = containers.as_array().unwrap().iter().find(|one| one["name"] == name).cloned();
    found.unwrap_or_default()
}

/// The status follows what is in force.
#[track_caller]
fn wait_for_report(lb: &Trial, name: &str, key: &str, wanted: &str) {
    let last = poll(|| match reported(lb, name) {
        one if one[key] == wanted => Ok(()),
        other => Err(other),
    });
    last.unwrap_or_else(|other| panic!("{key} is not {wanted}: {other}"));
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn from_start_to_removal() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::start(directory.path());
    let (one, two) = (backend("10.88.0.2"), backend("10.88.0.3"));
    let mut shop = container("shop-1", 1, &one, "shop.example.com, *.shop.example.com");
    engine.put(&shop, "start");
    let lb = Trial::of(config(&engine));

    // It was there at the start, so it is served from the first client on.
    assert_eq!(seen(&lb, "shop.example.com"), Seen::Served);
    assert_eq!(seen(&lb, "a.shop.example.com"), Seen::Served);
    assert_eq!(seen(&lb, "blog.example.com"), Seen::Unknown);
    let blog = container("blog-1", 2, &two, "blog.example.com").label("snigate.pool", "blog");
    engine.put(&blog, "start");
    wait_until(&lb, "blog.example.com", Seen::Served);
    assert_eq!((one.contacts(), two.contacts()), (2, 1));

    // Where it comes from shows wherever a route does.
    let (_, explained) = lb.admin_get("/api/v1/explain?name=blog.example.com");
    let explained: Value = serde_json::from_str(&explained).unwrap();
    assert_eq!(
        (&explained["pool"]["name"], &explained["taken"]["file"]),
        (&"blog@docker".into(), &"container blog-1".into())
    );
    let (_, effective) = lb.admin_get("/api/v1/config");
    assert!(effective.contains(r#""name":"blog@docker","sni":"#), "{effective}");
    wait_for_report(&lb, "blog-1", "state", "served");
    assert_eq!(reported(&lb, "blog-1")["address"], two.address.to_string());
    assert_eq!(lb.metric("docker_containers", &[("state", "served")]), 2.0);
    assert_eq!(lb.metric("docker_connected", &[]), 1.0);

    // Stopped: known and refused. Started again with another address: served.
    (shop.status, shop.address) = ("exited", None);
    engine.put(&shop, "die");
    wait_until(&lb, "shop.example.com", Seen::Down);
    wait_for_report(&lb, "shop-1", "why", "it has stopped");
    let problems = lb.status()["problems"].to_string();
    assert!(problems.contains("pool shop-1@docker has had no container that runs and is healthy"), "{problems}");
    let mut shop = Container { labels: container("", 0, &two, "shop.example.com").labels, ..shop };
    (shop.status, shop.address) = ("running", Some("10.88.0.3".to_owned()));
    engine.put(&shop, "start");
    wait_until(&lb, "shop.example.com", Seen::Served);
    assert_eq!(seen(&lb, "a.shop.example.com"), Seen::Unknown, "a name that it no longer wants");

    for (health, wanted) in [("unhealthy", Seen::Down), ("starting", Seen::Down), ("healthy", Seen::Served)] {
        shop.health = Some(health);
        engine.put(&shop, &format!("health_status: {health}"));
        wait_until(&lb, "shop.example.com", wanted);
    }
    engine.remove(&shop);
    wait_until(&lb, "shop.example.com", Seen::Unknown);
    assert_eq!(seen(&lb, "blog.example.com"), Seen::Served);
    lb.wait_for_metric("docker_containers", &[], 1.0);
    let (code, page) = lb.admin_get("/");
    assert!(code == 200 && page.contains("blog-1"), "{page}");
    lb.end();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn hostile_labels() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::start(directory.path());
    let (of_the_file, one, two) = (backend("127.0.0.1"), backend("10.88.0.2"), backend("10.88.0.3"));
    let lb = Trial::of(config(&engine).route("admin.example.com", &of_the_file).route("*.other.com", &of_the_file));
    let good = container("good", 5, &one, "good.example.com");
    engine.put(&good, "start");
    wait_until(&lb, "good.example.com", Seen::Served);

    let hostile = [
        container("file", 1, &two, "admin.example.com"),
        container("outside", 1, &two, "a.other.com, new.example.com"),
        container("all", 1, &two, "*"),
        container("later", 6, &two, "good.example.com"),
        container("nonsense", 1, &two, "\u{1b}[31m..\u{202e}"),
        container("long", 1, &two, &"a.example.com,".repeat(10_000)),
        container("unknown", 1, &two, "unknown.example.com").label("snigate.allow", "*"),
        container("loopback", 1, &two, "loopback.example.com").label("snigate.port", "9901"),
        container("own", 1, &two, "own.example.com").label("snigate.port", &lb.port().to_string()),
        container("port", 1, &two, "port.example.com").label("snigate.port", "22 "),
    ];
    let mut loopback = hostile[7].clone();
    loopback.address = Some("127.0.0.1".to_owned());
    for container in hostile.iter().chain([&loopback]) {
        engine.put(container, "start");
    }
    let mut proof = container("proof", 7, &one, "proof.example.com");
    engine.put(&proof, "start");
    wait_until(&lb, "proof.example.com", Seen::Served);

    wait_for_report(&lb, "proof", "state", "served");
    let contacts = two.contacts();
    for name in ["admin.example.com", "good.example.com", "a.other.com"] {
        assert_eq!(seen(&lb, name), Seen::Served, "{name}");
    }
    assert_eq!((two.contacts(), of_the_file.contacts()), (contacts, 2), "nobody was led astray");
    for name in ["new.example.com", "unknown.example.com", "loopback.example.com", "any.test"] {
        assert_eq!(seen(&lb, name), Seen::Unknown, "{name}");
    }
    for (name, label, why) in [
        ("file", "snigate.sni", "goes to route `admin.example.com` of the file"),
        ("outside", "snigate.sni", "does not cover `a.other.com`"),
        ("all", "snigate.sni", "does not cover `*`"),
        ("later", "snigate.sni", "goes to the older container good"),
        ("nonsense", "snigate.sni", "\\u{1b}[31m"),
        ("long", "snigate.sni", "at most 4096 bytes"),
        ("unknown", "snigate.allow", "unknown label"),
        ("loopback", "snigate.network", "no usable address"),
    ] {
        let reported = reported(&lb, name);
        let problem = &reported["problems"][0];
        assert_eq!(
            (reported["state"].as_str(), problem["label"].as_str()),
            (Some("left_out"), Some(label)),
            "{reported}"
        );
        assert!(problem["message"].as_str().unwrap().contains(why), "{problem}");
        let is_it = |line: &Value| line["event"] == "container_problem" && line["container"] == name;
        assert!(lb.wait_for_line(is_it)["error"].as_str().unwrap().contains(why));
    }
    let problems = lb.status()["problems"].to_string();
    assert!(problems.contains("container outside is left out: snigate.sni"), "{problems}");
    assert_eq!(seen(&lb, "port.example.com"), Seen::Down, "its own address, where nothing listens");

    // What was logged is not logged again at each look.
    let logged = || lb.log().iter().filter(|line| line["event"] == "container_problem").count();
    let before = logged();
    proof.status = "paused";
    engine.put(&proof, "pause");
    wait_until(&lb, "proof.example.com", Seen::Down);
    assert_eq!(logged(), before);
    // The older one goes, and the next in line has the name.
    engine.remove(&good);
    wait_for_report(&lb, "later", "state", "served");
    assert_eq!((seen(&lb, "good.example.com"), two.contacts()), (Seen::Served, contacts + 1));
    lb.end();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn engine_goes_away() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::start(directory.path());
    let one = backend("10.88.0.2");
    let shop = container("shop", 1, &one, "shop.example.com");
    engine.put(&shop, "start");
    let lb = Trial::of(config(&engine));
    assert_eq!(seen(&lb, "shop.example.com"), Seen::Served);

    engine.vanish();
    let lost =
        lb.wait_for_line(|line| line["event"] == "docker_lost" && line["error"].to_string().contains("no socket"));
    assert_eq!(lost["level"], "WARN");
    assert_eq!(seen(&lb, "shop.example.com"), Seen::Served, "what was in force goes on");
    let status = lb.status();
    assert_eq!(status["docker"]["connected"], false);
    assert!(status["docker"]["since"].is_string() && status["docker"]["looked_at"].is_string(), "{status}");
    assert!(status["problems"].to_string().contains("has not answered since"), "{}", status["problems"]);
    assert_eq!(lb.metric("docker_connected", &[]), 0.0);
    // A reload meanwhile keeps the containers.
    assert_eq!(lb.edit(&config(&engine).route("a.test", &one).config()), Reload::Applied);
    assert_eq!(seen(&lb, "shop.example.com"), Seen::Served);

    // Back, with another container that no event has announced.
    engine.remove(&shop);
    engine.put(&container("blog", 2, &one, "blog.example.com"), "start");
    engine.listen();
    wait_until(&lb, "blog.example.com", Seen::Served);
    assert_eq!(seen(&lb, "shop.example.com"), Seen::Unknown);
    lb.wait_for_metric("docker_connected", &[], 1.0);
    assert_eq!(lb.status()["docker"]["connected"], true);

    // The same when only the connections end.
    engine.hang_up();
    let wiki = container("wiki", 3, &one, "wiki.example.com");
    engine.put(&wiki, "start");
    wait_until(&lb, "wiki.example.com", Seen::Served);
    lb.stop();

    // Without an engine from the beginning, it is ready all the same.
    engine.vanish();
    let lb = Trial::of(config(&engine).route("a.test", &one));
    assert_eq!((seen(&lb, "a.test"), seen(&lb, "wiki.example.com")), (Seen::Served, Seen::Unknown));
    let lost = lb.wait_for_line(|line| line["event"] == "docker_lost");
    assert!(lost["msg"].as_str().unwrap().contains("are missing until it can"), "{lost}");
    assert!(!lb.log().iter().any(|line| line["event"] == "ready_before_containers"), "no wait for what is not there");
    let doctor = || {
        let mut doctor = Command::new(env!("CARGO_BIN_EXE_snigate"));
        let said = doctor.args(["doctor", "--timeout", "500ms"]).arg(lb.config_file()).output().unwrap();
        String::from_utf8(said.stdout).unwrap() + &String::from_utf8_lossy(&said.stderr)
    };
    let said = doctor();
    assert!(said.contains("[docker_unreachable]") && said.contains("there is no socket"), "{said}");
    engine.listen();
    let said = doctor();
    assert!(said.contains("docker.sock: version 27.5.1, API 1.47"), "{said}");
    wait_until(&lb, "wiki.example.com", Seen::Served);
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn broken_answers() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::start(directory.path());
    let one = backend("10.88.0.2");
    let shop = container("shop", 1, &one, "shop.example.com");
    engine.put(&shop, "start");
    let lb = Trial::of(config(&engine));
    assert_eq!(seen(&lb, "shop.example.com"), Seen::Served);

    let body = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes();
    for (answer, why) in [
        (Answer::Bytes(body("[{]")), "not the expected JSON"),
        (Answer::Bytes(body("{\"message\":\"x\"}")), "not the expected JSON"),
        (Answer::Bytes(body(&"[".repeat(100_000))), "not the expected JSON"),
        (Answer::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[{\"Id\":\"00\"".to_vec()), "incomplete"),
        (Answer::Bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec()), "incomplete"),
        (Answer::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), "not valid HTTP"),
        (
            Answer::Bytes(
                b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 17\r\n\r\n{\"message\":\"oops\"}".to_vec(),
            ),
            "500 Internal Server Error",
        ),
        (Answer::Bytes(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_vec()), "403 Forbidden"),
        (Answer::Endless, "more than"),
    ] {
        let before = lb.log().len();
        engine.answers(answer.clone());
        engine.hang_up();
        let is_it = |line: &Value| line["event"] == "docker_lost" && line["error"].to_string().contains(why);
        lb.wait_for_line_after(before, is_it);
        assert_eq!(seen(&lb, "shop.example.com"), Seen::Served, "{answer:?}");
        // Each error is logged once, so the next is seen though its text be the same.
        let before = lb.log().len();
        engine.answers(Answer::Right);
        lb.wait_for_line_after(before, |line| line["event"] == "docker_connected");
    }
    // Events that are none cost a look, and not the connection.
    let before = lb.log().len();
    for line in ["{", "[1]", &"x".repeat(5_000_000)] {
        let listed = engine.listed();
        engine.line(line);
        poll(|| if engine.listed() > listed { Ok(()) } else { Err(()) }).expect("a look");
    }
    assert!(!lb.log()[before..].iter().any(|line| line["event"] == "docker_lost"));
    assert_eq!(seen(&lb, "shop.example.com"), Seen::Served);
    let (_, metrics) = lb.admin_get("/metrics");
    let resident = metrics.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    let resident: f64 = resident.unwrap().parse().unwrap();
    assert!(resident < 200e6, "{resident} bytes");
    engine.put(&container("blog", 2, &one, "blog.example.com"), "start");
    wait_until(&lb, "blog.example.com", Seen::Served);
    lb.end();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn broken_containers() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::start(directory.path());
    let one = backend("10.88.0.2");
    let with = |status: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let refused = with("500 Internal Server Error", r#"{"message":"oops"}"#);
    let bad = [
        ("large", with("200 OK", &"[".repeat(2 << 20)), "more than 1048576 bytes; shorten the labels"),
        ("stateless", with("200 OK", "{}"), "missing field `State`"),
        ("nonsense", with("200 OK", "<html>"), "not the expected JSON"),
        ("refused", refused.clone(), "500 Internal Server Error: oops"),
        ("silent", Vec::new(), "no complete answer within 3 s"),
    ];
    for (name, bytes, _) in &bad {
        let container = container(name, 1, &one, &format!("{name}.example.com"));
        engine.inspects_as(&container, bytes);
        engine.put(&container, "start");
    }
    let mut shop = container("shop", 2, &one, "shop.example.com");
    engine.put(&shop, "start");
    let lb = Trial::of(config(&engine));
    wait_until(&lb, "shop.example.com", Seen::Served);
    for (name, _, why) in bad {
        wait_for_report(&lb, name, "state", "left_out");
        let problem = reported(&lb, name)["problems"][0].clone();
        assert_eq!(problem["label"], "inspect");
        assert!(problem["message"].as_str().unwrap().contains(why), "{problem}");
        assert_eq!(seen(&lb, &format!("{name}.example.com")), Seen::Unknown);
    }
    assert!(lb.status()["problems"].to_string().contains("or create it again; it is looked at again every minute"));
    assert!(!lb.log().iter().any(|line| line["event"] == "docker_lost"));

    // What may pass leaves a container as it was found last; what it says of itself does not.
    engine.inspects_as(&shop, &refused);
    shop.status = "exited";
    engine.put(&shop, "die");
    let blog = container("blog", 3, &one, "blog.example.com");
    engine.put(&blog, "start");
    wait_until(&lb, "blog.example.com", Seen::Served);
    assert_eq!(seen(&lb, "shop.example.com"), Seen::Served);
    engine.inspects_as(&shop, &with("200 OK", "{}"));
    engine.put(&shop, "die");
    wait_until(&lb, "shop.example.com", Seen::Unknown);
    assert_eq!(seen(&lb, "blog.example.com"), Seen::Served);
    lb.end();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn flood() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::start(directory.path());
    let one = backend("10.88.0.2");
    let lb = Trial::of(config(&engine));
    let began = std::time::Instant::now();
    let mut shop = container("shop", 1, &one, "shop.example.com");
    for number in 0..3000 {
        shop.status = if number % 2 == 0 { "exited" } else { "running" };
        engine.put(&shop, "update");
    }
    wait_until(&lb, "shop.example.com", Seen::Served);
    let most = began.elapsed().as_millis() as f64 / Duration::from_millis(200).as_millis() as f64 + 3.0;
    let changes = lb.metric("docker_changes_total", &[]);
    assert!(changes <= most, "{changes} changes, at most {most}");
    assert!(engine.listed() as f64 <= most, "{} looks, at most {most}", engine.listed());
    lb.end();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn silent_engine() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::start(directory.path());
    engine.answers(Answer::Nothing);
    let one = backend("10.88.0.2");
    engine.put(&container("shop", 1, &one, "shop.example.com"), "start");
    let lb = Trial::of(config(&engine).route("a.test", &one));
    assert!(lb.log().iter().any(|line| line["event"] == "ready_before_containers"));
    assert_eq!((seen(&lb, "a.test"), seen(&lb, "shop.example.com")), (Seen::Served, Seen::Unknown));
    engine.answers(Answer::Right);
    engine.hang_up();
    wait_until(&lb, "shop.example.com", Seen::Served);
    lb.stop();
}

#[test]
#[ignore = "for a test above, which runs it in a namespace of its own"]
fn settings_change() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::start(directory.path());
    let (one, two) = (backend("10.88.0.2"), backend("10.88.0.3"));
    engine.put(&container("shop", 1, &one, "shop.example.com"), "start");
    engine.put(&container("other", 2, &two, "shop.other.com"), "start");
    let lb = Trial::of(config(&engine));
    assert_eq!((seen(&lb, "shop.example.com"), seen(&lb, "shop.other.com")), (Seen::Served, Seen::Unknown));

    // What is allowed holds with the reload, not later.
    assert_eq!(lb.edit(&config(&engine).config().replace("example.com", "other.com")), Reload::Applied);
    assert_eq!((seen(&lb, "shop.example.com"), seen(&lb, "shop.other.com")), (Seen::Unknown, Seen::Served));
    // A route of the file takes the name back.
    let contacts = two.contacts();
    let with_route = config(&engine).route("shop.other.com", &one).config().replace("example.com", "other.com");
    assert_eq!(lb.edit(&with_route), Reload::Applied);
    assert_eq!((seen(&lb, "shop.other.com"), two.contacts()), (Seen::Served, contacts));
    wait_for_report(&lb, "other", "state", "left_out");
    // Off, and on again.
    assert_eq!(lb.edit(&Lb::new().route("a.test", &one).config()), Reload::Applied);
    assert_eq!(seen(&lb, "shop.other.com"), Seen::Unknown);
    assert!(lb.status()["docker"].is_null());
    assert_eq!(lb.edit(&config(&engine).config()), Reload::Applied);
    wait_until(&lb, "shop.example.com", Seen::Served);
    lb.stop();
}
