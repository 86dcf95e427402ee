//! What the log says of a start, of a client that is turned away, and of what it was.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::{Lb, Reload, Scrape, poll};
use crate::wire::{ask, connect, send};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_first_line_says_what_starts_and_the_docs_show_it() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).route("b.test", &backend).with("runtime: { workers: 2 }");
    let lb = lb.with("limits: { max_connections: 100, max_hello: 32KiB }").start();
    let line = lb.log().into_iter().find(|line| line["event"] == "starting").expect("the first line");
    assert_eq!(line["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(line["file"], lb.config_file().to_str().unwrap());
    assert_eq!(line["hash"], json(&lb.admin_get("/api/v1/status").1)["config"]["hash"]);
    for (field, wanted) in [("listeners", 1), ("routes", 2), ("pools", 2), ("workers", 2)] {
        assert_eq!(line[field], wanted, "{field}");
    }
    assert_eq!((&line["max_connections"], &line["max_hello_bytes"]), (&100.into(), &32_768.into()));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", lb.pid())).unwrap();
    let open_files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(open_files.contains(&line["open_files"].to_string()), "{open_files}");

    let docs = include_str!("../../docs/logs.md");
    let shown: Vec<Value> = docs.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let shown = shown.iter().find(|line| line["event"] == "starting").expect("an example");
    let fields = |line: &Value| line.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&line), fields(shown));
    lb.stop();
}

/// Whatever it starts, or is made to start, cannot gain privileges (prctl(2)).
#[test]
fn no_new_privileges_can_be_gained() {
    let lb = Lb::new().start();
    for task in std::fs::read_dir(format!("/proc/{}/task", lb.pid())).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    }
    lb.stop();
}

#[test]
fn at_level_debug_each_stage_of_a_connection_has_a_line_with_its_id() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("log: { level: info }");
    let running = lb.start();
    let stages = || {
        let log = running.log();
        log.iter()
            .filter(|line| line["event"] == "stage")
            .map(|line| (line["stage"].as_str().unwrap().to_owned(), line["id"].clone()))
            .collect::<Vec<_>>()
    };
    drop(send(running.address(), &hello("a.test")));
    running.wait_for_connection("a.test");
    assert!(stages().is_empty());
    // It applies to connections that are open, too: their next stage has a line.
    let config = fs::read_to_string(running.config_file()).unwrap();
    assert_eq!(running.edit(&config.replace("level: info", "level: debug")), Reload::Applied);
    let seen = running.log().len();
    drop(send(running.address(), &hello("a.test")));
    let line = running.wait_for_line_after(seen, |line| line["sni"] == "a.test");
    let of_it: Vec<_> = stages().into_iter().filter(|(_, id)| *id == line["id"]).map(|(stage, _)| stage).collect();
    assert_eq!(of_it, ["hello", "connecting", "relaying"]);
    assert!(running.log().iter().any(|line| line["event"] == "stage" && line["duration_ms"].as_f64() > Some(0.0)));
    // One that is refused ends in another.
    drop(send(running.address(), &hello("nowhere.test")));
    let line = running.wait_for_line_after(seen, |line| line["sni"] == "nowhere.test");
    let of_it: Vec<_> = stages().into_iter().filter(|(_, id)| *id == line["id"]).map(|(stage, _)| stage).collect();
    assert_eq!(of_it, ["hello", "refusing"]);
    running.stop();
}

#[test]
fn a_client_above_the_limit_of_its_listener_has_a_line() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).on_listener("max_connections: 1");
    let lb = lb.with("log: { connections: failed }").start();
    let held = send(lb.address(), &hello("a.test"));
    lb.wait_for_metric("connections_active", &[], 1.0);
    let client = connect(lb.address());
    let line = lb.wait_for_line(|line| line["reason"] == "limit_listener");
    assert_eq!(line["client"], client.local_addr().unwrap().to_string());
    assert_eq!(
        (&line["event"], &line["listener"], &line["phase"]),
        (&"connection".into(), &"https".into(), &"hello".into())
    );
    drop(held);
    lb.wait_for_metric("connections_active", &[], 0.0);
    lb.stop();
}

#[test]
fn a_client_without_tls_is_described() {
    let lb = Lb::new().start();
    for (first, saw) in [
        (&b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"[..], "http"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "ssh"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 5 6\r\n", "proxy"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "proxy"),
        (b"\x03\0\0\x13\x0e\xe0\0\0", "other"),
        (b"get / nothing", "other"),
    ] {
        let seen = lb.log().len();
        ask(lb.address(), first);
        let line = lb.wait_for_line_after(seen, |line| line["reason"] == "not_tls");
        assert_eq!(line["saw"], saw, "{first:?}");
    }
    lb.stop();
}

/// A health check of another load balancer, from an address that may not connect here.
#[test]
fn a_silent_stranger_is_a_probe_and_one_that_speaks_is_not_trusted() {
    let lb = Lb::new().on_listener("proxy_protocol: { trusted: [10.0.0.0/8] }");
    let lb = lb.with("timeouts: { hello: 500ms }").start();
    drop(connect(lb.address()));
    lb.wait_for_line(|line| line["reason"] == "probe");
    let seen = lb.log().len();
    let silent = connect(lb.address());
    lb.wait_for_line_after(seen, |line| line["reason"] == "probe");
    drop(silent);
    connect(lb.address()).write_all(b"P").unwrap();
    lb.wait_for_line(|line| line["reason"] == "proxy_untrusted");
    assert_eq!(lb.metric("proxy_headers_total", &[("result", "untrusted")]), 1.0);
    lb.stop();
}

#[test]
fn a_full_disk_under_stdout_is_reported_once_and_what_it_cost_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (file, socket) = (directory.path().join("config.yaml"), directory.path().join("admin.sock"));
    fs::write(&file, Lb::new().with(&format!("admin: {{ bind: \"unix:{}\" }}", socket.display())).config()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
    command.args(["run", "--config"]).arg(&file).stdin(Stdio::null());
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut snigate = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(snigate.stderr.take().unwrap());
    let mut reported = String::new();
    stderr.read_line(&mut reported).unwrap();
    assert!(reported.contains("cannot write the log to stdout: No space left on device"), "{reported}");

    let dropped = || -> Option<f64> {
        let mut stream = UnixStream::connect(&socket).ok()?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(Scrape::parse(answer.split_once("\r\n\r\n")?.1).sum("log_lines_dropped_total", &[]))
    };
    let grows_beyond = |before: f64| {
        let seen = poll(|| dropped().filter(|dropped| *dropped > before).ok_or(()));
        seen.unwrap_or_else(|()| panic!("not more than {before} lost lines are counted"))
    };
    // "starting", "listening", "admin_listening" and "ready".
    let at_start = grows_beyond(3.0);
    let pid = Pid::from_child(&snigate);
    kill_process(pid, Signal::HUP).unwrap();
    grows_beyond(at_start);
    kill_process(pid, Signal::TERM).unwrap();
    assert!(snigate.wait().unwrap().success());
    let mut more = String::new();
    stderr.read_to_string(&mut more).unwrap();
    assert_eq!(more, "", "it is reported once");
}
