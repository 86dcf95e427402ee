//! Writes what was measured as one line of JSON.

use std::fmt;
use std::time::Duration;

#[derive(Debug, Default)]
pub struct Report {
    pub measured: Option<Measured>,
    pub memory: Option<Memory>,
    pub errors: u64,
}

/// One interval of work. Without a proxy, `proxy_cpu` is this tool's own.
#[derive(Debug)]
pub struct Measured {
    pub took: Duration,
    pub proxy_cpu: Duration,
    pub own_cpu: Duration,
    /// What the machine spent in all, so that a reader sees how much others were in the way.
    pub machine_cpu: Duration,
    pub connections: u64,
    pub bytes_down: u64,
    pub bytes_up: u64,
    pub trips: u64,
    /// Nanoseconds.
    pub latencies: Vec<u32>,
}

/// Resident bytes of the proxy without, with, and after so many idle connections.
#[derive(Debug)]
pub struct Memory {
    pub connections: u64,
    pub before: u64,
    pub held: u64,
    pub after: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{\"errors\": {}", self.errors)?;
        if let Some(measured) = &self.measured {
            let (took, cpu) = (measured.took.as_secs_f64(), measured.proxy_cpu.as_secs_f64());
            write!(f, ", \"seconds\": {took:.4}, \"cpu_seconds\": {cpu:.6}")?;
            write!(f, ", \"load_cpu_seconds\": {:.6}", measured.own_cpu.as_secs_f64())?;
            write!(f, ", \"machine_cpu_seconds\": {:.2}", measured.machine_cpu.as_secs_f64())?;
            write!(f, ", \"connections\": {}, \"trips\": {}", measured.connections, measured.trips)?;
            write!(f, ", \"bytes_down\": {}, \"bytes_up\": {}", measured.bytes_down, measured.bytes_up)?;
            let mut sorted = measured.latencies.clone();
            sorted.sort_unstable();
            for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
                if let Some(nanos) = percentile(&sorted, share) {
                    write!(f, ", \"{name}_us\": {:.1}", f64::from(nanos) / 1000.0)?;
                }
            }
        }
        if let Some(Memory { connections, before, held, after }) = self.memory {
            write!(f, ", \"idle\": {connections}, \"rss_before\": {before}, \"rss_held\": {held}")?;
            write!(f, ", \"rss_after\": {after}")?;
        }
        f.write_str("}")
    }
}

fn percentile(sorted: &[u32], share: f64) -> Option<u32> {
    sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().checked_sub(1)?)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_whole() {
        let sorted: Vec<u32> = (0..1000).collect();
        assert_eq!(percentile(&sorted, 0.5), Some(500));
        assert_eq!(percentile(&sorted, 0.999), Some(999));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
