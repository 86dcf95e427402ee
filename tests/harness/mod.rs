//! Runs the real binary for a test: `Lb::new().route("a.test", backend).start()`.
//!
//! In:  routes and whatever else of the routing file a test is about.
//! Out: [`Running`]: where it listens, what it logged, what it counted; killed when dropped.
//!
//! Plain threads and blocking sockets, so that a test reads from top to bottom. Every wait has a deadline, and a
//! test that fails prints what the binary had logged.

// Each test crate that includes this uses another part of it.
#![allow(dead_code)]

pub mod backend;
pub mod bytes;
mod config;
pub mod dice;
mod log;
mod metrics;
pub mod nameserver;
pub mod recorder;
pub mod trial;
pub mod wire;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub use self::config::{Backends, Lb};
pub use self::log::Lines;
pub use self::metrics::Scrape;

/// A snigate that is serving.
pub struct Running {
    child: Child,
    directory: TempDir,
    stdout: Lines,
    stderr: Lines,
    addresses: Vec<SocketAddr>,
    admin: SocketAddr,
}

/// What a reload came to, as the log says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    Applied,
    Rejected,
    Unchanged,
}

impl Running {
    /// Starts the binary on `config` and waits until it says that it is ready.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
        command.stdin(Stdio::null());
        Self::start_by(command, config)
    }

    /// As [`Self::start`], by a command that passes its arguments on to the binary.
    #[track_caller]
    pub fn start_by(command: Command, config: &str) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory"), command, config)
    }

    #[track_caller]
    pub fn start_in(directory: TempDir, mut command: Command, config: &str) -> Self {
        let file = directory.path().join("config.yaml");
        fs::write(&file, config).unwrap();
        fs::write(directory.path().join("token"), TOKEN).unwrap();
        command.args(["run", "--config"]).arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let stdout = Lines::follow(child.stdout.take().unwrap());
        let stderr = Lines::follow(child.stderr.take().unwrap());

        if stdout.wait_for(0, DEADLINE, |line| line["event"] == "ready").is_none() {
            let _ = child.kill();
            let ended = child.wait();
            panic!("never ready ({ended:?})\n{stdout}\n{stderr}\non the config\n{config}");
        }
        let bound = |event: &str| -> Vec<SocketAddr> {
            let lines = stdout.all();
            let bound = lines.iter().filter(|line| line["event"] == event);
            bound.filter_map(|line| line["address"].as_str()?.parse().ok()).collect()
        };
        let (addresses, admin) = (bound("listening"), bound("admin_listening"));
        assert!(!addresses.is_empty() && !admin.is_empty(), "ready without an address\n{stdout}");
        Self { admin: admin[0], addresses, child, directory, stdout, stderr }
    }

    /// The first listener's.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// Every bound address, in the order of the file.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it, and every process that comes after it, wrote so far.
    pub fn lines(&self) -> &Lines {
        &self.stdout
    }

    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join("config.yaml")
    }

    /// A place for a test's own files; goes away with the rest.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    // What it says

    /// The lines of its log so far.
    pub fn log(&self) -> Vec<Value> {
        self.stdout.all()
    }

    /// The first line of all that `wanted` takes, waiting for it if need be.
    #[track_caller]
    pub fn wait_for_line(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait_for_line_after(0, wanted)
    }

    /// As [`Self::wait_for_line`], but passes over the first `seen` lines: `let seen = lb.log().len()` before the
    /// deed makes it wait for what the deed brought about.
    #[track_caller]
    pub fn wait_for_line_after(&self, seen: usize, wanted: impl Fn(&Value) -> bool) -> Value {
        match self.stdout.wait_for(seen, DEADLINE, wanted) {
            Some(line) => line,
            None => panic!("no such line within {DEADLINE:?}"),
        }
    }

    /// The line of the first connection that asked for `sni` and ended.
    #[track_caller]
    pub fn wait_for_connection(&self, sni: &str) -> Value {
        self.wait_for_line(|line| line["sni"] == sni && line["reason"].is_string())
    }

    // What it counts

    pub fn scrape(&self) -> Scrape {
        let (status, text) = self.admin_get("/metrics");
        assert_eq!(status, 200, "{text}");
        Scrape::parse(&text)
    }

    /// The sum over the series of `name` (without the prefix `snigate_`) that carry all of `labels`.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.scrape().sum(name, labels)
    }

    /// Waits until a metric has a value, for counters that are updated after the client has seen the end.
    #[track_caller]
    pub fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], wanted: f64) {
        let last = poll(|| {
            let value = self.metric(name, labels);
            if value == wanted { Ok(()) } else { Err(value) }
        });
        if let Err(value) = last {
            panic!("{name}{labels:?} is {value}, not {wanted}");
        }
    }

    /// The accounting law: accepted = active + the sum over the reasons. A scrape is no instant, so it may need
    /// another look while connections come and go.
    #[track_caller]
    pub fn check_accounts(&self) {
        let last = poll(|| {
            let now = self.scrape();
            let accepted = now.sum("connections_accepted_total", &[]);
            let active = now.sum("connections_active", &[]);
            let closed = now.sum("connections_closed_total", &[]);
            if accepted == active + closed { Ok(()) } else { Err((accepted, active, closed)) }
        });
        if let Err((accepted, active, closed)) = last {
            panic!("{accepted} accepted are not {active} active and {closed} closed");
        }
    }

    /// A plain GET at the admin address: the status and the body.
    pub fn admin_get(&self, path: &str) -> (u16, String) {
        self.admin_send("GET", path, "")
    }

    /// A request at the admin address: the status and the body.
    pub fn admin_send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).expect("the admin address answers");
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let (admin, length) = (self.admin, body.len());
        let proof = if method == "GET" { String::new() } else { format!("Authorization: Bearer {TOKEN}\r\n") };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {admin}\r\n{proof}Connection: close\r\nContent-Length: {length}"
        );
        write!(stream, "{head}\r\n\r\n{body}").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("the admin answer ends");
        let (head, body) = response.split_once("\r\n\r\n").expect("a whole head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    // What is done to it

    /// Puts `config` in the place of the file (by rename, as careful editors do) and waits for what comes of it.
    #[track_caller]
    pub fn edit(&self, config: &str) -> Reload {
        let seen = self.stdout.len();
        let beside = self.directory.path().join(".config.yaml.new");
        fs::write(&beside, config).unwrap();
        fs::rename(&beside, self.config_file()).unwrap();
        self.wait_for_reload_after(seen)
    }

    /// What the first reload after the first `seen` log lines came to.
    #[track_caller]
    pub fn wait_for_reload_after(&self, seen: usize) -> Reload {
        let outcome = |line: &Value| match line["event"].as_str()? {
            "reload_applied" => Some(Reload::Applied),
            "reload_rejected" => Some(Reload::Rejected),
            "reload_unchanged" => Some(Reload::Unchanged),
            _ => None,
        };
        let line = self.wait_for_line_after(seen, |line| outcome(line).is_some());
        outcome(&line).expect("the line was waited for by its outcome")
    }

    pub fn signal(&self, signal: Signal) {
        self.try_signal(signal).expect("the process is there");
    }

    /// As [`Self::signal`], to a process that may have ended.
    pub fn try_signal(&self, signal: Signal) -> rustix::io::Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        match poll(|| self.child.try_wait().unwrap().ok_or(())) {
            Ok(status) => status,
            Err(()) => panic!("still runs after {DEADLINE:?}"),
        }
    }

    /// The accounting law, then SIGTERM, then exit 0: how most tests end.
    #[track_caller]
    pub fn stop(mut self) {
        self.check_accounts();
        self.signal(Signal::TERM);
        let status = self.wait_for_exit();
        assert!(status.success(), "ended with {status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- snigate logged\n{}\n--- and on stderr\n{}", self.stdout, self.stderr);
        }
    }
}

/// Whether a connection's line tells of one that was relayed until its ends had enough. A client that has its answer
/// often closes with a close_notify still unread, which its kernel turns into a RST: to TLS that is a normal end.
pub fn was_served(line: &Value) -> bool {
    matches!(line["reason"].as_str(), Some("ok" | "client_reset" | "backend_reset"))
}

/// Looks again and again until `look` is content; its last complaint otherwise.
pub fn poll<T, E>(mut look: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let seen = look();
        if seen.is_ok() || Instant::now() > deadline {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Beside the file, as `token`; see [`Lb::controlled`].
pub const TOKEN: &str = "open-sesame";
/// For whatever should take milliseconds, on a machine that is busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(20);
