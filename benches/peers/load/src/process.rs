//! Reads what a process and its children have used: CPU time, resident memory.
//!
//! Source: proc(5). `schedstat` is user plus system time in nanoseconds, where `stat` has ticks of 10 ms; what a
//! running thread used since the last scheduler tick (4 ms at most) is missing from both ends of an interval.

use std::fs;
use std::time::Duration;

/// The processes of a proxy.
#[derive(Clone, Debug, Default)]
pub struct Processes(Vec<u32>);

impl Processes {
    /// `root` and its descendants as they are now.
    pub fn under(root: u32) -> Self {
        let parents = all_parents();
        let mut found = vec![root];
        let mut looked_at = 0;
        while let Some(&parent) = found.get(looked_at) {
            found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid));
            looked_at += 1;
        }
        Self(found)
    }

    pub fn own() -> Self {
        Self(vec![std::process::id()])
    }

    /// CPU time of all threads there are; a thread that ends takes its time along, so none should end meanwhile.
    pub fn cpu(&self) -> Duration {
        self.0.iter().map(|pid| threads_cpu(*pid)).sum()
    }

    pub fn resident_bytes(&self) -> u64 {
        self.0.iter().filter_map(|pid| resident_bytes(*pid)).sum()
    }

    /// Whether the processes that were found are all there still.
    pub fn alive(&self) -> bool {
        self.0.iter().all(|pid| resident_bytes(*pid).is_some_and(|bytes| bytes > 0))
    }
}

/// CPU time that the whole machine has spent, ours and everybody else's; in ticks of 10 ms.
pub fn machine_cpu() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let mut ticks = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let mut next = || ticks.next().and_then(|ticks| ticks.parse().ok()).unwrap_or(0_u64);
    let (user, nice, system) = (next(), next(), next());
    let (_idle, _waiting) = (next(), next());
    let interrupts = next() + next();
    Duration::from_millis((user + nice + system + interrupts) * MILLIS_A_TICK)
}

fn threads_cpu(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let used = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
    };
    threads.flatten().filter_map(used).sum()
}

fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Every process with its parent.
fn all_parents() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let parent = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name before may hold blanks and parentheses.
        let (_, rest) = stat.rsplit_once(')')?;
        Some((pid, rest.split_whitespace().nth(1)?.parse().ok()?))
    };
    entries.flatten().filter_map(parent).collect()
}

/// USER_HZ is 100 on every Linux there is (time(7)).
const MILLIS_A_TICK: u64 = 10;
