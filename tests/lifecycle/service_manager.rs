//! Sockets from the service manager, and what it is told.
//!
//! Source: sd_listen_fds(3), sd_notify(3).

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::Signal;

use crate::backend::Backend;
use crate::churn::Churn;
use crate::harness::{DEADLINE, Lb, Reload, Running};
use crate::lineage::{Lineage, Upgraded};

/// A shell that does what the service manager does: it puts a socket at descriptor 3, says so, and becomes the program.
fn activated(socket: &TcpListener, name: &str, process: &str) -> Command {
    let script = format!(
        "exec 3<&0 0</dev/null; LISTEN_PID={process} LISTEN_FDS=1 LISTEN_FDNAMES=\"$0\"; \
         export LISTEN_PID LISTEN_FDS LISTEN_FDNAMES; exec \"$@\""
    );
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script, name, env!("CARGO_BIN_EXE_snigate")]);
    command.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    command
}

#[test]
fn a_socket_of_the_service_manager_is_accepted_from_by_all_workers_and_outlives_the_process() {
    let backend = Backend::echoing();
    let ours = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = ours.local_addr().unwrap();
    let lb = Lb::new().route("a.test", &backend).with("runtime: { workers: 3 }\nlog: { connections: failed }");
    // By its address under another name, and by its name where the file has another address.
    for (name, bind) in [("other", address.to_string()), ("https", "127.0.0.1:0".to_owned())] {
        let config = lb.config().replacen("127.0.0.1:0", &bind, 1);
        let mut lineage = Lineage::of(Running::start_by(activated(&ours, name, "$$"), &config));
        assert_eq!(lineage.address(), address, "{name}");
        let churn = Churn::at(address);
        churn.go_on_for(50);
        assert_eq!(lineage.upgrade(), Upgraded::Yes);
        churn.go_on_for(50);
        // Another socket beside it, and only that: the one that was lent is let go, and no SYN is dropped on it.
        churn.end();
        let seen = lineage.log().len();
        assert_eq!(lineage.edit(&lb.config().replacen("127.0.0.1:0", "127.0.0.2:0", 1)), Reload::Applied, "{name}");
        lineage.wait_for_line_after(seen, |line| line["event"] == "listener_closed");
        lineage.wait_for_metric("connections_active", &[], 0.0);
        TcpStream::connect_timeout(&address, Duration::from_millis(700)).expect("it is still there to connect to");
        lineage.stop();
        ours.set_nonblocking(true).unwrap();
        while ours.accept().is_ok() {}
    }
}

#[test]
fn what_is_meant_for_another_process_is_not_taken() {
    let backend = Backend::echoing();
    let ours = TcpListener::bind("127.0.0.1:0").unwrap();
    let command = activated(&ours, "https", "1");
    let running = Running::start_by(command, &Lb::new().route("a.test", &backend).config());
    assert_ne!(running.address(), ours.local_addr().unwrap());
    running.stop();
}

/// The program that comes with systemd, where there is one.
#[test]
fn systemd_socket_activate_starts_it() {
    let program = "/usr/bin/systemd-socket-activate";
    if !std::path::Path::new(program).exists() {
        eprintln!("SKIPPED: no {program}");
        return;
    }
    let backend = Backend::echoing();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(program);
    command.args(["-l", &address.to_string(), "--fdname=https", env!("CARGO_BIN_EXE_snigate")]);
    // It waits for the first client before it becomes the program.
    let knock = std::thread::spawn(move || {
        crate::harness::poll(|| TcpStream::connect(address)).expect("somebody listens");
    });
    let running = Running::start_by(command, &Lb::new().route("a.test", &backend).config());
    knock.join().unwrap();
    assert_eq!(running.address(), address);
    let churn = Churn::at(address);
    churn.go_on_for(20);
    churn.end();
    running.wait_for_metric("connections_active", &[], 0.0);
    running.stop();
}

/// Hears what is said, as the service manager does; without a pause, since its queue is short.
struct Manager {
    reported: Receiver<String>,
    _directory: tempfile::TempDir,
}

impl Manager {
    fn new() -> (Self, Command) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let (tell, reported) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(length) = socket.recv(&mut bytes) {
                if tell.send(String::from_utf8_lossy(&bytes[..length]).into_owned()).is_err() {
                    break;
                }
            }
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "2000000").stdin(Stdio::null());
        (Self { reported, _directory: directory }, command)
    }

    /// The next that is said but for signs of life.
    #[track_caller]
    fn reported(&self) -> String {
        loop {
            match self.reported.recv_timeout(DEADLINE).expect("something is said") {
                alive if alive == "WATCHDOG=1" => {}
                other => return other,
            }
        }
    }
}

#[test]
fn the_service_manager_is_reported_of_every_state() {
    let backend = Backend::echoing();
    let lb = Lb::new().route("a.test", &backend);
    let (manager, command) = Manager::new();
    let mut lineage = Lineage::of(Running::start_by(command, &lb.config()));
    assert_eq!(manager.reported(), "READY=1");

    // Rejected or not, it serves on.
    for text in ["listeners: [", &lb.config()] {
        lineage.edit(text);
        let reloading = manager.reported();
        let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
        assert!(micros.parse::<u64>().is_ok_and(|micros| micros > 0), "{reloading}");
        assert_eq!(manager.reported(), "READY=1");
    }

    assert_eq!(lineage.upgrade(), Upgraded::Yes);
    let reported = [manager.reported(), manager.reported()];
    assert!(
        reported.contains(&format!("MAINPID={}", lineage.pid())) && reported.contains(&"READY=1".to_owned()),
        "{reported:?}"
    );

    // The new process gives signs of life.
    for _ in 0..3 {
        assert_eq!(manager.reported.recv_timeout(DEADLINE).as_deref(), Ok("WATCHDOG=1"));
    }
    lineage.signal(Signal::TERM);
    assert_eq!(manager.reported(), "STOPPING=1");
    lineage.wait_for_line(|line| line["event"] == "ended");
}
