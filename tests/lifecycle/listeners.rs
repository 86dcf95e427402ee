//! Reloads that add, remove, rename and re-bind listeners, all or nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::churn::Churn;
use crate::harness::{DEADLINE, Lb, Lines, Reload, Running, poll};
use crate::soaking;
use crate::wire::send;

const FIRST: &str = "  - { name: https, bind: \"127.0.0.1:0\" }\n";

/// The configuration of a test with these listeners, a line each, in the place of the one that it has by itself.
fn with(lb: &Lb, listeners: &[String]) -> String {
    let config = lb.config();
    assert!(config.contains(FIRST));
    let lines: String = listeners.iter().map(|listener| format!("  - {{ {listener} }}\n")).collect();
    config.replacen(FIRST, &lines, 1)
}

/// As a line of [`with`].
fn listener(name: &str, bind: impl std::fmt::Display) -> String {
    format!("name: {name}, bind: \"{bind}\"")
}

/// Where the log said that a listener of that name came to listen, after the first `seen` lines.
fn bound(lb: &Running, seen: usize, name: &str) -> SocketAddr {
    let line = lb.wait_for_line_after(seen, |line| line["event"] == "listening" && line["listener"] == name);
    line["address"].as_str().unwrap().parse().unwrap()
}

fn is_served(address: SocketAddr) -> bool {
    // A reset may come before `connect` returns.
    let Ok(mut client) = TcpStream::connect(address) else { return false };
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.write_all(&hello("a.test")).and_then(|()| client.read_exact(&mut [0; 6])).is_ok()
}

/// A connection that is open through all that happens to its listener.
fn hold(address: SocketAddr) -> TcpStream {
    let hello = hello("a.test");
    let mut held = send(address, &hello);
    held.read_exact(&mut vec![0; hello.len()]).unwrap();
    held
}

fn echoes(mut held: &TcpStream) -> bool {
    use std::io::Write;
    let mut back = [0; 5];
    held.write_all(b"still").and_then(|()| held.read_exact(&mut back)).is_ok() && &back == b"still"
}

#[test]
fn a_listener_comes_is_renamed_and_goes_while_others_serve() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("log: { connections: failed }");
    let running = Running::start(&lb.config());
    let stays = listener("https", "127.0.0.1:0");
    let churn = Churn::at(running.address());

    let seen = running.log().len();
    let config = with(&lb, &[listener("new", "127.0.0.1:0"), stays.clone()]);
    assert_eq!(running.edit(&config), Reload::Applied);
    let address = bound(&running, seen, "new");
    assert!(is_served(address));
    let held = hold(address);
    assert_eq!(running.metric("connections_accepted_total", &[("listener", "new")]), 2.0);

    // Another name and another place in the file, the same socket.
    assert_eq!(running.edit(&with(&lb, &[stays.clone(), listener("renamed", address)])), Reload::Applied);
    assert!(is_served(address) && echoes(&held));
    assert_eq!(running.metric("connections_accepted_total", &[("listener", "renamed")]), 1.0);

    assert_eq!(running.edit(&with(&lb, &[stays])), Reload::Applied);
    poll(|| TcpStream::connect(address).map_or(Ok(()), Err)).expect("nobody listens there any more");
    assert!(echoes(&held));
    churn.go_on_for(20);
    churn.end();
    drop(held);
    running.wait_for_metric("connections_active", &[], 0.0);
    assert_eq!(running.metric("connections_closed_total", &[("reason", "drained")]), 0.0);
    running.stop();
}

/// Ten in the time of the short form: each address comes and goes, beside one that stays.
#[test]
fn no_client_is_lost_while_the_address_that_it_came_to_is_bound_anew() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("log: { connections: failed }");
    let running = Running::start(&lb.config());
    let port = running.port();
    let (narrow, wide) = (format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"));
    let churn = Churn::at(running.address());
    for turn in 0..if soaking() { 100 } else { 5 } {
        assert_eq!(running.edit(&with(&lb, &[listener("https", &wide)])), Reload::Applied, "turn {turn}");
        churn.go_on_for(50);
        assert_eq!(running.edit(&with(&lb, &[listener(&format!("l{turn}"), &narrow)])), Reload::Applied);
        churn.go_on_for(50);
    }
    churn.end();
    running.wait_for_metric("connections_active", &[], 0.0);
    running.stop();
}

#[test]
fn options_of_a_listener_change_under_its_clients() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("log: { connections: failed }");
    let running = Running::start(&lb.config());
    let stays = listener("https", "127.0.0.1:0");
    let churn = Churn::at(running.address());
    for turn in 0..10 {
        let more = ["", ", congestion: reno", ", max_connections: 50"][turn % 3];
        let config = with(&lb, &[format!("{stays}{more}")]);
        let tcp = format!("tcp: {{ backlog: {}, nodelay: {} }}\n", 64 + turn, turn % 2 == 0);
        assert_eq!(running.edit(&format!("{config}{tcp}")), Reload::Applied, "turn {turn}");
        churn.go_on_for(10);
    }
    churn.end();
    running.wait_for_metric("connections_active", &[], 0.0);
    running.stop();
}

#[test]
fn if_one_address_cannot_be_bound_nothing_changes() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("log: { connections: failed }");
    let running = Running::start(&lb.config());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let taken_address = taken.local_addr().unwrap();
    let churn = Churn::at(running.address());
    let listeners = [listener("free", free), listener("https", "127.0.0.1:0"), listener("taken", taken_address)];
    let seen = running.log().len();
    let admin_moves = with(&lb, &listeners).replace("admin: { bind: \"127.0.0.1:0\" }", "admin: { bind: [] }");
    assert_eq!(running.edit(&admin_moves), Reload::Rejected);
    let reported = running.wait_for_line_after(seen, |line| line["why"].is_string());
    let why = reported["why"].as_str().unwrap();
    assert!(why.contains("taken") && why.contains(&taken_address.to_string()) && why.contains("in use"), "{why}");
    assert!(TcpStream::connect(free).is_err(), "half of it is in force");
    assert_eq!(running.metric("config_last_reload_successful", &[]), 0.0);
    let listening = |line: &Value| line["event"] == "listening" || line["event"] == "listener_closed";
    assert!(!running.log()[seen..].iter().any(listening));
    churn.go_on_for(20);

    // And the admin address, which is bound last.
    let seen = running.log().len();
    let admin_taken = with(&lb, &[listener("free", free)])
        .replace("admin: { bind: \"127.0.0.1:0\" }", &format!("admin: {{ bind: \"{taken_address}\" }}"));
    assert_eq!(running.edit(&admin_taken), Reload::Rejected);
    let reported = running.wait_for_line_after(seen, |line| line["why"].is_string());
    assert!(reported["why"].as_str().unwrap().starts_with("admin: cannot bind"), "{reported}");
    assert!(TcpStream::connect(free).is_err(), "half of it is in force");

    drop(taken);
    assert_eq!(running.edit(&format!("{}# free now\n", with(&lb, &listeners))), Reload::Applied);
    churn.go_on_for(20);
    churn.end();
    assert!(is_served(free) && is_served(taken_address));
    running.wait_for_metric("connections_active", &[], 0.0);
    running.stop();
}

/// Whoever the kernel had accepted before the listener went is a client like any other.
#[test]
fn who_was_queued_on_a_listener_that_goes_is_served() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("log: { connections: off }");
    let running = Running::start(&lb.config());
    let seen = running.log().len();
    let stays = listener("https", "127.0.0.1:0");
    assert_eq!(running.edit(&with(&lb, &[stays.clone(), listener("goes", "127.0.0.1:0")])), Reload::Applied);
    let address = bound(&running, seen, "goes");
    let seen = running.log().len();
    running.signal(Signal::STOP);
    let queued: Vec<TcpStream> = (0..300).map(|_| send(address, &hello("a.test"))).collect();
    std::fs::write(running.config_file(), with(&lb, &[stays])).unwrap();
    running.signal(Signal::HUP);
    running.signal(Signal::CONT);
    let lost = queued.iter().filter(|client| (&mut &**client).read_exact(&mut [0; 6]).is_err()).count();
    assert_eq!(lost, 0, "of 300 that were queued");
    assert_eq!(running.wait_for_reload_after(seen), Reload::Applied);
    poll(|| TcpStream::connect(address).map_or(Ok(()), Err)).expect("nobody listens there any more");
    drop(queued);
    running.wait_for_metric("connections_active", &[], 0.0);
    running.stop();
}

/// A listener that goes and comes back: whoever comes in between waits a second at most, as for a lost packet.
#[test]
fn a_listener_that_comes_back_counts_on() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend);
    let running = Running::start(&lb.config());
    let port = running.port();
    let stays = listener("other", "127.0.0.1:0");
    let limited = format!("{}, max_connections: 1", listener("https", format!("127.0.0.1:{port}")));
    assert_eq!(running.edit(&with(&lb, &[limited.clone(), stays.clone()])), Reload::Applied);
    let held = hold(running.address());
    assert_eq!(running.edit(&with(&lb, std::slice::from_ref(&stays))), Reload::Applied);
    assert_eq!(running.edit(&format!("{}# again\n", with(&lb, &[limited, stays]))), Reload::Applied);
    // The one that is held has the only place, though its listener was away.
    assert!(!is_served(running.address()));
    assert!(echoes(&held));
    drop(held);
    poll(|| if is_served(running.address()) { Ok(()) } else { Err(()) }).expect("the place is free again");
    assert!(running.metric("connections_closed_total", &[("reason", "limit_listener")]) >= 1.0);
    running.wait_for_metric("connections_active", &[], 0.0);
    running.stop();
}

/// The binary's exit code and what it wrote to stderr, on a configuration that it refuses.
fn refused(config: &str) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
    let output = command.args(["run", "--config"]).arg(&file).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// With SO_REUSEPORT alone, the second instance would be let in and get half of the connections.
#[test]
fn a_second_instance_does_not_share_the_port() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("runtime: { workers: 2 }");
    let first = Running::start(&lb.config());
    let port = first.port();
    for bind in ["127.0.0.1", "0.0.0.0", "[::]"] {
        let (code, said) = refused(&with(&lb, &[listener("https", format!("{bind}:{port}"))]));
        assert_eq!(code, Some(3), "{bind}: {said}");
        let wanted = format!("listener https: cannot bind {bind}:{port} (another program listens there: `ss -ltnp`");
        assert!(said.contains(&wanted), "{bind}: {said}");
    }
    // Nor does one that has the other address already.
    let second = Running::start(&with(&lb, &[listener("https", "127.0.0.1:0")]));
    let taken = with(&lb, &[listener("https", "127.0.0.1:0"), listener("taken", first.address())]);
    assert_eq!(second.edit(&taken), Reload::Rejected);
    let beside = with(&lb, &[listener("https", "127.0.0.1:0"), listener("beside", format!("127.0.0.2:{port}"))]);
    assert_eq!(second.edit(&beside), Reload::Applied, "another address");
    assert!(is_served(first.address()) && is_served(format!("127.0.0.2:{port}").parse().unwrap()));
    second.stop();
    first.stop();
}

#[test]
fn of_instances_that_start_at_once_one_gets_the_port() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("runtime: { workers: 2 }");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    for round in 0..5 {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        std::fs::write(&file, with(&lb, &[listener("https", free)])).unwrap();
        let start = |_| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
            command.arg("run").arg(&file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let mut started: Vec<Child> = (0..4).map(start).collect();
        let outputs: Vec<Lines> = started.iter_mut().map(|child| Lines::follow(child.stdout.take().unwrap())).collect();
        let ready = |lines: &Lines| lines.wait_for(0, DEADLINE, |line| line["event"] == "ready").is_some();
        let ready = outputs.iter().filter(|lines| ready(lines)).count();
        for child in &mut started {
            let _ = child.kill();
            child.wait().unwrap();
        }
        assert_eq!(ready, 1, "round {round}");
    }
}

/// Two addresses of one file may overlap: the narrower one gets its own connections.
#[test]
fn one_instance_may_listen_on_a_wildcard_and_on_one_address_of_it() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("log: { connections: off }");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let wide = listener("wide", format!("0.0.0.0:{}", free.port()));
    let running = Running::start(&with(&lb, &[wide, listener("narrow", free)]));
    assert!(is_served(free) && is_served(format!("127.0.0.9:{}", free.port()).parse().unwrap()));
    for name in ["wide", "narrow"] {
        assert_eq!(running.metric("connections_accepted_total", &[("listener", name)]), 1.0, "{name}");
    }
    running.stop();
}
