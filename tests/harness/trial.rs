//! One run of the binary that must come out of its trial as it went in.
//!
//! In:  the routing file of a test.
//! Out: [`Trial`]; its [`Trial::end`] checks the accounting law and the open files.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::time::Duration;

use crate::harness::{Lb, Running, poll};

pub struct Trial {
    lb: Running,
    files: usize,
}

impl Trial {
    #[track_caller]
    pub fn of(lb: Lb) -> Self {
        Self::with(&lb.config())
    }

    /// As [`Self::of`], with more keys for the one listener, say `max_connections: 3`.
    #[track_caller]
    pub fn on_listener(keys: &str, lb: Lb) -> Self {
        Self::of(lb.on_listener(keys))
    }

    #[track_caller]
    pub fn with(config: &str) -> Self {
        let lb = Running::start(config);
        // The file watch begins right after it is ready, and before the first answer.
        lb.scrape();
        let files = open_files(lb.pid());
        Self { lb, files }
    }

    pub fn status(&self) -> serde_json::Value {
        let (code, body) = self.lb.admin_get("/api/v1/status");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Everything that was accepted has ended and is counted once; no file is left open; SIGTERM ends it with 0.
    #[track_caller]
    pub fn end(self) {
        self.settle();
        self.lb.stop();
    }

    /// As [`Self::end`], when there are other files open than before.
    #[track_caller]
    pub fn stop(self) {
        self.lb.stop();
    }

    /// The first half of [`Self::end`], for a test that goes on.
    #[track_caller]
    pub fn settle(&self) {
        self.lb.wait_for_metric("connections_active", &[], 0.0);
        // Without a pool there is no such series.
        if self.lb.admin_get("/metrics").1.contains("snigate_backend_connections_active{") {
            self.lb.wait_for_metric("backend_connections_active", &[], 0.0);
        }
        self.lb.check_accounts();
        let back = poll(|| match open_files(self.lb.pid()) {
            now if now.abs_diff(self.files) <= 2 => Ok(()),
            now => Err(now),
        });
        if let Err(now) = back {
            let files: Vec<_> =
                fs::read_dir(self.proc("fd")).unwrap().filter_map(|f| fs::read_link(f.ok()?.path()).ok()).collect();
            panic!("{} files were open before the trial, {now} are after it: {files:?}", self.files);
        }
    }

    /// How many connections ended for `reason` so far.
    #[track_caller]
    pub fn closed(&self, reason: &str) -> f64 {
        self.lb.metric("connections_closed_total", &[("reason", reason)])
    }

    #[track_caller]
    pub fn wait_for_closed(&self, reason: &str, count: f64) {
        self.lb.wait_for_metric("connections_closed_total", &[("reason", reason)], count);
    }

    /// User and system time so far.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
        // Fields 14 and 15 of proc(5), of which two are cut off; USER_HZ is 100 wherever Rust runs.
        Duration::from_millis(10 * (ticks(11) + ticks(12)))
    }

    /// How often the workers have waited for something, so far (proc(5), voluntary_ctxt_switches).
    pub fn worker_sleeps(&self) -> u64 {
        let tasks = fs::read_dir(self.proc("task")).unwrap().map(|task| task.unwrap().path());
        let status = tasks.filter_map(|task| fs::read_to_string(task.join("status")).ok());
        let workers = status.filter(|status| status.starts_with("Name:\tworker-"));
        let sleeps = |status: String| {
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        };
        workers.filter_map(sleeps).sum()
    }

    /// Counted page by page: what `status` tells is up to a megabyte behind.
    pub fn resident_bytes(&self) -> u64 {
        let rollup = fs::read_to_string(self.proc("smaps_rollup")).unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Holds that some round leaves less than so many bytes behind: what leaks does so in each, what the allocator
    /// keeps for the next round, or where pages happen to be shared, does not.
    pub fn some_round_leaves_less_than(&self, bytes: u64, mut round: impl FnMut()) {
        let mut left = vec![];
        let mut resident = self.resident_bytes();
        while left.len() < 6 {
            round();
            let now = self.resident_bytes();
            left.push(now.saturating_sub(std::mem::replace(&mut resident, now)));
            if left.last().is_some_and(|left| *left < bytes) {
                return;
            }
        }
        panic!("each round left more than {bytes} bytes behind: {left:?}");
    }

    pub fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.lb.pid()))
    }
}

/// Descriptors in use, without pipes: the relay keeps some of its empty ones for the next bulk transfer.
fn open_files(pid: u32) -> usize {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let is_pipe = |target: PathBuf| target.to_string_lossy().starts_with("pipe:");
    files
        .filter_map(Result::ok)
        .filter_map(|file| fs::read_link(file.path()).ok())
        .filter(|t| !is_pipe(t.clone()))
        .count()
}

impl Deref for Trial {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.lb
    }
}

impl DerefMut for Trial {
    fn deref_mut(&mut self) -> &mut Running {
        &mut self.lb
    }
}

/// Whether the long forms are asked for.
pub fn soaking() -> bool {
    std::env::var_os("SNIGATE_SOAK").is_some_and(|value| value == "1")
}

/// How long a long test runs: 3 s, and so many minutes in its long form unless `SNIGATE_SOAK_MINUTES` says another number.
pub fn soak_minutes(minutes: u64) -> Duration {
    let asked = std::env::var("SNIGATE_SOAK_MINUTES").ok().and_then(|asked| asked.parse().ok());
    Duration::from_secs(if soaking() { 60 * asked.unwrap_or(minutes) } else { 3 })
}
