//! Reads the process's own metrics from the kernel, at each scrape.
//!
//! In:  nothing.
//! Out: the `process_*` metrics; those that the system cannot provide are left out (another Unix, no /proc).
//! Source: <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>; proc(5).

use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::table::{self, Metric};

pub(super) fn read() -> impl Iterator<Item = (&'static Metric, f64)> {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let values = [
        (&table::PROCESS_CPU, Some(cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9)),
        (&table::PROCESS_MAX_FDS, getrlimit(Resource::Nofile).current.map(|limit| limit as f64)),
        (&table::PROCESS_OPEN_FDS, open_fds().map(|open| open as f64)),
        (&table::PROCESS_RESIDENT, status_bytes(&status, "VmRSS:").map(|bytes| bytes as f64)),
        (&table::PROCESS_VIRTUAL, status_bytes(&status, "VmSize:").map(|bytes| bytes as f64)),
    ];
    values.into_iter().filter_map(|(metric, value)| Some((metric, value?)))
}

/// What the process uses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub cpu_seconds: f64,
    pub open_files: Option<u64>,
    pub max_open_files: Option<u64>,
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
}

/// The same for the status.
pub(crate) fn usage() -> Usage {
    let all: Vec<_> = read().collect();
    let value = |wanted: &Metric| all.iter().find(|(metric, _)| metric.name == wanted.name).map(|(_, value)| *value);
    let whole = |metric| value(metric).map(|value| value as u64);
    Usage {
        cpu_seconds: value(&table::PROCESS_CPU).unwrap_or_default(),
        open_files: whole(&table::PROCESS_OPEN_FDS),
        max_open_files: whole(&table::PROCESS_MAX_FDS),
        resident_bytes: whole(&table::PROCESS_RESIDENT),
        virtual_bytes: whole(&table::PROCESS_VIRTUAL),
    }
}

/// Since Linux 6.2 the size of the directory is the count; reading all entries takes 20 ms with 65,536 open.
fn open_fds() -> Option<u64> {
    let path = "/proc/self/fd";
    match fs::metadata(path).ok()?.len() {
        0 => Some(fs::read_dir(path).ok()?.count() as u64),
        count => Some(count),
    }
}

fn status_bytes(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status_file() {
        let status = "Name:\tsnigate\nVmSize:\t  120000 kB\nVmRSS:\t    2048 kB\n";
        assert_eq!(status_bytes(status, "VmRSS:"), Some(2 << 20));
        assert_eq!(status_bytes(status, "VmSwap:"), None);
        assert_eq!(status_bytes("VmRSS:\tmany kB\n", "VmRSS:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_open_file_is_counted() {
        let before = open_fds().unwrap();
        let held: Vec<_> = (0..100).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        // Tests run in parallel, so other descriptors are counted too.
        assert!(open_fds().unwrap() + 50 > before + held.len() as u64);
    }
}
