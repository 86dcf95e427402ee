//! A process that has given up what it does not need: it lives as ever, and what it gave up is refused.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::backend::Backend;
use crate::harness::{Lb, Reload, Running};
use crate::lineage::{Lineage, Upgraded};
use crate::tour::tour;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
    command.stdin(Stdio::null());
    command
}

/// Whether this kernel has all of the sandbox.
fn can_require() -> bool {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    // It gets as far as the address, which is taken.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = format!(
        "listeners: [{{ name: l, bind: \"{address}\" }}]\nadmin: {{ bind: \"127.0.0.1:0\" }}\nsandbox: require\n"
    );
    fs::write(&file, text).unwrap();
    let ended = program().args(["run", "--config"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    let can = !said.contains("`sandbox: require` asks for");
    assert!(can || std::env::var_os("SNIGATE_REQUIRE_FOREIGN").is_none(), "{said}");
    if !can {
        println!("skipped: {said}");
    }
    can
}

fn entered(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| line["event"] == "sandbox").collect()
}

#[test]
fn a_whole_life_fits_into_the_sandbox() {
    if !can_require() {
        return;
    }
    let lines = tour(program(), "sandbox: require");
    // Of the first process, and of the one that it started.
    let entered = entered(&lines);
    assert_eq!(entered.len(), 2);
    assert!(entered.iter().all(|line| line["files"] == true && line["calls"] == true), "{entered:?}");
}

#[test]
fn by_default_there_is_what_the_kernel_can_and_with_off_there_is_nothing() {
    let backend = Backend::echoing();
    for (keys, seccomp) in [("", "2"), ("sandbox: off", "0")] {
        let lb = Running::start(&Lb::new().route("a.test", &backend).with(keys).config());
        let lines = lb.log();
        let [line] = entered(&lines)[..] else { panic!("one line of the sandbox") };
        if keys.is_empty() && line["calls"] != true {
            println!("skipped: {line}");
            continue;
        }
        for task in fs::read_dir(format!("/proc/{}/task", lb.pid())).unwrap() {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            // A container around us has its own.
            let ours = fs::read_to_string("/proc/self/status").unwrap();
            let outside = ours.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
            let wanted = if keys.is_empty() { Some(seccomp) } else { outside };
            assert_eq!(value("Seccomp:"), wanted, "{keys}: {status}");
            assert_eq!(value("NoNewPrivs:"), Some("1"));
        }
        lb.stop();
    }
}

#[test]
fn what_lies_outside_is_refused_and_the_message_says_by_what() {
    if !can_require() {
        return;
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let outside = elsewhere.path();
    fs::write(outside.join("token"), "secret").unwrap();
    fs::write(outside.join("more.yaml"), "routes: []\n").unwrap();
    let backend = Backend::echoing();
    let plain = Lb::new().route("a.test", &backend);
    let text = |lb: &Lb| lb.clone().with("sandbox: require").config();
    let ports = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // No port but those of the first configuration.
    let [one, two, admin] = [ports(), ports(), ports()];
    let at = |text: String, at: &str| {
        text.replacen("127.0.0.1:0", at, 1).replacen("\"127.0.0.1:0\"", &format!("\"{admin}\""), 1)
    };
    let lb = Running::start(&at(text(&plain), &one.to_string()));
    let admin_at = |bind: &str| plain.clone().with(&format!("admin: {{ bind: \"127.0.0.1:0\", {bind} }}"));
    let shown = outside.display();
    let at_one = |lb: &Lb| at(text(lb), &one.to_string());
    for (name, config, said) in [
        ("token", at_one(&admin_at(&format!("token_file: {shown}/token"))), "or the sandbox forbids it"),
        ("include", format!("include: {shown}/more.yaml\n{}", at_one(&plain)), "or the sandbox forbids it"),
        ("pattern", format!("include: {shown}/*.yaml\n{}", at_one(&plain)), "or the sandbox forbids it"),
        (
            "socket",
            at_one(&plain).replace(&format!("\"{admin}\""), &format!("[\"{admin}\", \"unix:{shown}/a.sock\"]")),
            "or the sandbox forbids it",
        ),
        ("port", at(text(&plain), &two.to_string()), "`sandbox: require` allows the ports"),
        (
            "backend",
            at_one(&plain).replace(&backend.address.to_string(), "127.0.0.1:9"),
            "the sandbox forbids connections to port 9: `sandbox: require` allows",
        ),
        (
            "srv",
            at_one(&plain).replace(&backend.address.to_string(), "srv:_a._tcp.b.test"),
            "the sandbox forbids connections to ports that an SRV record or a container names",
        ),
        ("sandbox", at(plain.config(), &one.to_string()), "sandbox cannot change while snigate runs: restart it"),
    ] {
        let seen = lb.log().len();
        assert_eq!(lb.edit(&config), Reload::Rejected, "{name}");
        let lines = lb.log();
        let texts: Vec<&str> =
            lines[seen..].iter().flat_map(|line| [&line["msg"], &line["why"]]).filter_map(Value::as_str).collect();
        assert!(texts.iter().any(|text| text.contains(said)), "{name}: {texts:?}");
    }
    crate::wire::send(one, &crate::bytes::hello("a.test")).read_exact(&mut [0; 6]).unwrap();
    // What lies inside is as ever.
    fs::write(lb.directory().join("inside.yaml"), "routes: []\n").unwrap();
    assert_eq!(lb.edit(&format!("include: inside.yaml\n{}", at_one(&plain))), Reload::Applied);

    // The new process of an upgrade has the same sandbox.
    let mut lineage = Lineage::of(lb);
    assert_eq!(lineage.upgrade(), Upgraded::Yes);
    assert_eq!(lineage.edit(&at_one(&admin_at(&format!("token_file: {shown}/token")))), Reload::Rejected);
    assert_eq!(lineage.edit(&at_one(&plain)), Reload::Applied);
    // Far more often than Landlock can be entered.
    for turn in 0..20 {
        assert_eq!(lineage.upgrade(), Upgraded::Yes, "{turn}");
    }
    lineage.stop();
}
