//! What the commands show and change.

use std::ffi::OsStr;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::backend::Backend;
use crate::harness::wire::{read_to_close, send};
use crate::harness::{Lb, Reload, bytes, poll};
use crate::{Served, beside, command, json, rows, run};

/// A client whose connection is relayed.
fn client(served: &Served, name: &str) -> TcpStream {
    let stream = send(served.lb.address(), &bytes::hello(name));
    let relaying = || {
        let listed = served.lb.admin_get("/api/v1/connections").1;
        let listed = json(&listed)["connections"].as_array().unwrap().clone();
        listed.iter().any(|row| row["sni"] == name && row["state"] == "relaying").then_some(()).ok_or(listed)
    };
    poll(relaying).unwrap_or_else(|listed| panic!("{name} is not relayed: {listed:?}"));
    stream
}

#[test]
fn status_shows_the_process_its_pools_and_what_is_wrong_with_them() {
    let (good, gone) = (Backend::echoing(), closed_port());
    let check = "health_check: { kind: tcp, interval: 100ms, timeout: 50ms }";
    let served = Served::start(Lb::new().route("a.test", &good).route_with("b.test", gone, check));
    let failing = || {
        let shown = served.run(&["status"]).well();
        let is_failing = |row: &Vec<&str>| row[0] == gone.to_string() && row[1] == "failing";
        if rows(&shown).iter().any(|row| row.len() > 1 && is_failing(row)) { Ok(shown) } else { Err(shown) }
    };
    let shown = poll(failing).unwrap_or_else(|shown| panic!("{shown}"));
    let first = format!("snigate {}", env!("CARGO_PKG_VERSION"));
    assert!(shown.starts_with(&first) && shown.lines().next().unwrap().contains("ready, up "), "{shown}");
    // The file has port 0.
    assert!(shown.contains(&served.lb.address().to_string()), "{shown}");
    let bad = shown.lines().find(|line| line.contains(&gone.to_string()) && line.contains("failing")).unwrap();
    assert!(bad.contains("Connection refused"), "{shown}");
    let (good, is_up) = (good.address.to_string(), "unchecked");
    assert!(rows(&shown).iter().any(|row| row.len() > 1 && row[0] == good && row[1] == is_up), "{shown}");
    // Not a terminal: no colours.
    assert!(!shown.contains('\u{1b}'), "{shown:?}");

    let (by_file, by_address) = (served.run(&["status", "--json"]).well(), {
        let admin = format!("http://{}/", served.lb.admin());
        run(&mut command(["status", "--json", "--admin", &admin].map(OsStr::new))).well()
    });
    for shown in [by_file, by_address] {
        assert_eq!(json(&shown)["pools"][1]["backends"][0]["state"], "failing", "{shown}");
    }
    served.lb.stop();
}

#[test]
fn connections_are_listed_and_ended_one_by_one_or_by_a_filter() {
    let (a, b) = (Backend::echoing(), Backend::echoing());
    let served = Served::start(Lb::new().route("a.test", &a).route("b.test", &b));
    assert_eq!(served.run(&["connections"]).well(), "0 connections\n");
    let mut clients = [client(&served, "a.test"), client(&served, "b.test"), client(&served, "b.test")];

    let shown = served.run(&["connections"]).well();
    assert_eq!((shown.lines().count(), shown.lines().last()), (5, Some("3 connections")), "{shown}");
    let of_a: Vec<String> = rows(&shown)[1].iter().map(ToString::to_string).collect();
    let here = clients[0].local_addr().unwrap().to_string();
    assert!(
        of_a.contains(&"relaying".to_owned()) && of_a.contains(&here) && of_a.contains(&"a.test".to_owned()),
        "{shown}"
    );
    let to_b = served.run(&["connections", "--backend", &b.address.to_string(), "--limit", "1"]).well();
    assert!(to_b.ends_with("1 of 2 connections; --limit N shows more\n") && !to_b.contains("a.test"), "{to_b}");
    let listed = json(&served.run(&["connections", "--client", "127.0.0.0/8", "--json"]).well());
    assert_eq!((&listed["matching"], listed["connections"].as_array().unwrap().len()), (&json!(3), 3));
    assert_eq!(served.run(&["connections", "--client", "192.0.2.0/24"]).well(), "0 connections\n");
    for (arguments, count) in [(["--name", "B.test"], 2), (["--search", "a.te"], 1), (["--sort", "bytes"], 3)] {
        let shown = served.run(&[&["connections"], &arguments[..]].concat()).well();
        assert_eq!(shown.lines().count(), count + 2, "{arguments:?}: {shown}");
    }
    assert!(served.run(&["connections", "--client", "home"]).fails(2).contains("`10.0.0.0/8`"));

    // The id as the table shows it, without the zeros in front.
    assert_eq!(served.run(&["connections", "end", &of_a[0]]).well(), "1 connection ended\n");
    read_to_close(&mut clients[0]);
    let unknown = served.run(&["connections", "end", "ffffffff"]).fails(1);
    assert!(unknown.contains("no open connection with this id"), "{unknown}");
    let ended = served.run(&["connections", "end", "--backend", &b.address.to_string(), "--json"]).well();
    assert_eq!(json(&ended), json!({ "ended": 2 }));
    clients[1..].iter_mut().for_each(|client| drop(read_to_close(client)));
    let mut last = client(&served, "a.test");
    assert_eq!(served.run(&["connections", "end", "--name", "a.test"]).well(), "1 connection ended\n");
    read_to_close(&mut last);
    let mut found = client(&served, "b.test");
    assert_eq!(served.run(&["connections", "end", "--search", "B.te"]).well(), "1 connection ended\n");
    read_to_close(&mut found);
    for neither_or_both in [&["connections", "end"][..], &["connections", "end", "2a", "--all"]] {
        assert!(served.run(neither_or_both).fails(2).contains("say which connections to end"));
    }
    assert_eq!(served.run(&["connections", "end", "--all"]).well(), "0 connections ended\n");
    served.lb.stop();
}

#[test]
fn reload_waits_and_prints_each_problem_with_the_line_of_the_file() {
    let backend = Backend::echoing();
    let served = Served::start(Lb::new().route("a.test", &backend));
    let seen = served.lb.log().len();
    assert!(served.run(&["reload"]).well().starts_with("unchanged: "));
    // The command may be answered before its line is written, which would pass for that of the edit.
    assert_eq!(served.lb.wait_for_reload_after(seen), Reload::Unchanged);

    let wrong = served.config.replace("pool: pool-0", "pool: pol-0");
    assert_eq!(served.lb.edit(&wrong), Reload::Rejected);
    // The address of the process is still found in the file.
    let seen = served.lb.log().len();
    let rejected = served.run(&["reload"]);
    assert_eq!(served.lb.wait_for_reload_after(seen), Reload::Rejected);
    assert_eq!((rejected.code, &*rejected.stderr), (1, ""), "{rejected:?}");
    let line = wrong.lines().position(|line| line.contains("pol-0")).unwrap() + 1;
    let text = wrong.lines().nth(line - 1).unwrap();
    let problem = format!("config.yaml:{line}:28: routes[0].pool: there is no pool `pol-0`; did you mean `pool-0`?\n");
    let shown = &rejected.stdout;
    assert!(shown.contains(&problem) && shown.contains(&format!(" {line} | {text}\n")), "{shown}\n{problem}");
    assert!(shown.lines().last().unwrap().starts_with("rejected: 1 error; ") && shown.ends_with(" stays in force\n"));
    let seen = served.lb.log().len();
    let rejected = served.run(&["reload", "--json"]);
    assert_eq!((rejected.code, &json(&rejected.stdout)["result"]), (1, &json!("rejected")));
    assert_eq!(served.lb.wait_for_reload_after(seen), Reload::Rejected);
    // Nor is a process unhealthy whose file has errors.
    let socket = served.lb.directory().join("admin.sock");
    let broken = format!("admin: {{ bind: \"unix:{}\" }}\nroutes: 3\n", socket.display());
    let broken = beside(&served, "broken.yaml", &broken);
    let healthy = run(command(["healthcheck"].map(OsStr::new)).arg(broken));
    assert_eq!(healthy.code, 0, "{healthy:?}");

    assert_eq!(served.lb.edit(&(served.config.clone() + "# changed\n")), Reload::Applied);
    assert_eq!(served.run(&["reload"]).code, 0);
    served.lb.stop();
}

#[test]
fn a_backend_is_drained_and_put_back_by_a_short_name() {
    let (one, two) = (Backend::echoing(), Backend::echoing());
    let both = vec![one.address, two.address];
    let served = Served::start(Lb::new().route("a.test", both).route("b.test", &one));
    let (first, second) = (one.address.to_string(), two.address.to_string());

    let ambiguous = served.run(&["drain", &first]).fails(2);
    assert!(
        ambiguous.contains(&format!("fits 2 backends; write one of\n  pool-0/{first}\n  pool-1/{first}\n")),
        "{ambiguous}"
    );
    let drained = served.run(&["drain", &second]).well();
    assert_eq!(rows(&drained)[1], ["pool-0", &second, "drain", "1", "0"]);
    let warned = served.run(&["down", &format!("pool-0/{first}")]);
    assert_eq!((warned.code, rows(&warned.stdout)[1][2]), (0, "down"));
    assert_eq!(
        warned.stderr,
        "snigate: no backend of pool pool-0 gets connections now: its clients are reset (`no_backend`)\n"
    );
    // Both or none: the second does not exist.
    assert!(
        served
            .run(&["ready", &second, "nowhere"])
            .fails(2)
            .contains("no backend is named `nowhere`; known are\n  pool-0/")
    );
    let shown = json(&served.run(&["status", "--json"]).well());
    assert_eq!(shown["pools"][0]["backends"][1]["state"], "drain");
    let ready = served.run(&["ready", &second, &format!("pool-0/{first}"), "--json"]).well();
    assert_eq!(json(&ready)["changed"][1]["backends"][0]["state"], "unchecked", "{ready}");

    let weighted = served.run(&["weight", &second, "7"]).well();
    assert_eq!(rows(&weighted)[1][3], "7");
    let restored = served.run(&["weight", &second, "default"]).well();
    assert_eq!(rows(&restored)[1][3], "1");
    assert!(served.run(&["weight", &second, "1001"]).fails(2).contains("a number from 0 to 1000, or `default`"));
    served.lb.stop();
}

#[test]
fn draining_waits_for_the_connections_of_the_backend() {
    let backend = Backend::echoing();
    let served = Served::start(Lb::new().route("a.test", &backend));
    let client = client(&served, "a.test");
    let address = backend.address.to_string();
    let late = served.run(&["drain", &address, "--wait", "1s"]);
    assert_eq!(late.code, 1, "{late:?}");
    assert!(late.stderr.ends_with("snigate: 1 connection still open\n"), "{late:?}");

    let mut waiting = Command::new(env!("CARGO_BIN_EXE_snigate"));
    waiting.args(["drain", &address, "--wait", "1h", "--config"]).arg(served.file());
    let waiting = waiting.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(client);
    let ended = waiting.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    served.lb.stop();
}

fn closed_port() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
