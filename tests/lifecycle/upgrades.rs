//! Processes that follow one another under churn, and some that fail to.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::churn::Churn;
use crate::harness::{Lb, Reload, Running, poll};
use crate::lineage::{Lineage, Upgraded};
use crate::soaking;
use crate::wire::send;

#[test]
fn ten_upgrades_in_a_row_lose_nobody() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("log: { connections: failed }");
    let mut lineage = Lineage::of(Running::start(&lb.config()));
    let churn = Churn::at(lineage.address());
    let mut pids = vec![lineage.pid()];
    for turn in 1..=if soaking() { 50 } else { 10 } {
        assert_eq!(lineage.upgrade(), Upgraded::Yes, "upgrade {turn}");
        assert!(!pids.contains(&lineage.pid()));
        pids.push(lineage.pid());
        churn.go_on_for(20);
    }
    churn.end();
    lineage.wait_for_metric("connections_active", &[], 0.0);
    let cut = |line: &serde_json::Value| line["reason"] == "drained";
    assert!(!lineage.log().iter().any(cut), "a connection was cut");
    lineage.stop();
}

/// Of a process that has nothing left to relay, so that it ends at once.
#[test]
fn no_request_at_the_admin_address_is_lost_over_upgrades() {
    let backend = Backend::echoing();
    let mut lineage = Lineage::of(Running::start(&Lb::new().route("a.test", &backend).config()));
    let (admin, over) = (lineage.admin(), AtomicBool::new(false));
    let asking = || {
        let mut asked = 0;
        while !over.load(Ordering::Relaxed) {
            let mut client = TcpStream::connect(admin).unwrap();
            write!(client, "GET /healthz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "request {asked} got {answer:?}");
            asked += 1;
        }
        asked
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(asking)).collect();
        for turn in 0..10 {
            assert_eq!(lineage.upgrade(), Upgraded::Yes, "upgrade {turn}");
        }
        over.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
    });
    lineage.stop();
}

/// Fewer and more workers than sockets, an admin socket in the file system, and a reload after it.
#[test]
fn the_new_process_may_be_set_up_otherwise() {
    let backend = Backend::echoing();
    let directory = tempfile::tempdir().unwrap();
    let admin = directory.path().join("admin.sock");
    let config = |workers: usize| {
        let lb = Lb::new().route("a.test", &backend).with("log: { connections: failed }");
        let lb = lb.with(&format!("admin: {{ bind: [\"127.0.0.1:0\", \"unix:{}\"] }}", admin.display()));
        lb.with(&format!("runtime: {{ workers: {workers} }}")).config()
    };
    let mut lineage = Lineage::of(Running::start(&config(2)));
    let churn = Churn::at(lineage.address());
    for workers in [5, 1, 3] {
        // That it cannot change while the process runs is what the log says of it.
        assert_eq!(lineage.edit(&config(workers)), Reload::Rejected);
        assert_eq!(lineage.upgrade(), Upgraded::Yes, "to {workers} workers");
        churn.go_on_for(100);
        assert!(answers(&admin), "with {workers} workers");
    }
    assert_eq!(lineage.edit(&format!("{}# again\n", config(3))), Reload::Applied);
    churn.end();
    lineage.wait_for_metric("connections_active", &[], 0.0);
    lineage.stop();
    assert!(!admin.exists());
}

/// What the new process has no use for is served by the old one, under the configuration that had it.
#[test]
fn who_is_queued_on_a_listener_that_the_new_process_does_not_have_is_served() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("log: { connections: off }\nreload: { watch: false, poll: 1h }");
    let two = lb.config().replace("routes:\n", "  - { name: goes, bind: \"127.0.0.1:0\" }\nroutes:\n");
    let mut lineage = Lineage::of(Running::start(&two));
    let [stays, goes] = lineage.addresses()[..] else { panic!("two listeners") };
    let churn = Churn::at(stays);
    fs::write(lineage.config_file(), lb.config()).unwrap();
    lineage.signal(Signal::STOP);
    let queued: Vec<TcpStream> = (0..100).map(|_| send(goes, &hello("a.test"))).collect();
    lineage.signal(Signal::CONT);
    assert_eq!(lineage.upgrade(), Upgraded::Yes);
    let lost = queued.iter().filter(|client| (&mut &**client).read_exact(&mut [0; 6]).is_err()).count();
    assert_eq!(lost, 0, "of 100 that were queued");
    poll(|| TcpStream::connect(goes).map_or(Ok(()), Err)).expect("nobody listens there any more");
    drop(queued);
    churn.go_on_for(20);
    churn.end();
    lineage.wait_for_metric("connections_active", &[], 0.0);
    lineage.stop();
}

/// The file that is started is looked up when it is started: here it is a link that leads elsewhere now.
#[test]
fn a_new_process_that_fails_leaves_the_old_one_as_it_was() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("log: { connections: failed }");
    // The scripts are run by /bin/sh.
    let lb = lb.with("timeouts: { upgrade: 2s }\nreload: { watch: false, poll: 1h }\nsandbox: off");
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("snigate");
    let real = env!("CARGO_BIN_EXE_snigate");
    let install = |text: &str| {
        let script = directory.path().join("script");
        let _ = fs::remove_file(&script);
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&script, &program).unwrap();
    };
    symlink(real, &program).unwrap();
    let mut lineage = Lineage::of(Running::start_by(Command::new(&program), &lb.config()));
    let churn = Churn::at(lineage.address());
    let failures: [(&str, &dyn Fn(), &str); 4] = [
        ("crashes", &|| install("#!/bin/sh\nkill -SEGV $$\n"), "ended before it served, with signal: 11"),
        ("hangs", &|| install("#!/bin/sh\nexec sleep 600\n"), "did not serve within 2s"),
        ("is no program", &|| install("\0"), "cannot be started"),
        ("is gone", &|| fs::remove_file(&program).unwrap(), "cannot be started"),
    ];
    for (what, make, why) in failures {
        make();
        let seen = lineage.log().len();
        assert_eq!(lineage.upgrade(), Upgraded::No, "{what}");
        let reported = lineage.wait_for_line_after(seen, |line| line["why"].is_string());
        assert!(reported["why"].as_str().unwrap().contains(why), "{what}: {reported}");
        assert_eq!(lineage.admin_get("/readyz").0, 200, "{what}");
        churn.go_on_for(20);
    }
    // A configuration that it cannot start with.
    symlink(real, &program).unwrap();
    let good = fs::read(lineage.config_file()).unwrap();
    fs::write(lineage.config_file(), "listeners: []\n").unwrap();
    let seen = lineage.log().len();
    assert_eq!(lineage.upgrade(), Upgraded::No);
    let reported = lineage.wait_for_line_after(seen, |line| line["why"].is_string());
    assert!(reported["why"].as_str().unwrap().contains("exit status: 1"), "{reported}");
    churn.go_on_for(20);
    // And back on the way.
    fs::write(lineage.config_file(), good).unwrap();
    assert_eq!(lineage.upgrade(), Upgraded::Yes);
    churn.go_on_for(20);
    churn.end();
    lineage.wait_for_metric("connections_active", &[], 0.0);
    lineage.stop();
}

#[test]
fn the_end_may_be_asked_for_while_a_new_process_starts() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend).with("sandbox: off");
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("snigate");
    symlink(env!("CARGO_BIN_EXE_snigate"), &program).unwrap();
    let mut running = Running::start_by(Command::new(&program), &lb.config());
    fs::remove_file(&program).unwrap();
    fs::write(&program, "#!/bin/sh\nexec sleep 600\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    running.signal(Signal::USR2);
    let starting = running.wait_for_line(|line| line["event"] == "upgrade_started");
    running.signal(Signal::TERM);
    assert!(running.wait_for_exit().success());
    let new = starting["new_pid"].as_u64().unwrap();
    poll(|| if Path::new(&format!("/proc/{new}")).exists() { Err(()) } else { Ok(()) }).expect("it is ended with it");
}

fn answers(path: &Path) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
