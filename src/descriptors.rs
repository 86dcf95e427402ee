//! Divides up the file descriptors of the process: connections never take the last ones, so that the admin server still
//! answers and files can still be read.
//!
//! In:  the limit of the process (RLIMIT_NOFILE), the number of workers, `limits.max_connections`.
//! Out: a [`Budget`], made once at start; for a descriptor of a connection, whether it is one of the reserve.
//! Source: open(2): the kernel always hands out the lowest free number, so a number says how many are in use.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the descriptors of the process are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    limit: u64,
    /// All but those of connections.
    others: u64,
    /// Per worker.
    pub most_pipes: usize,
}

/// `limits.max_connections` needs more descriptors than the limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany {
    wanted: usize,
    budget: Budget,
}

impl Budget {
    /// Pipes get a quarter of the descriptors at most, and only those that `max_connections` leaves: without a pipe,
    /// bulk data is copied, but without a descriptor a client is not served at all.
    pub(crate) fn new(limit: u64, workers: usize, max_connections: Option<usize>, most_pipes: usize) -> Self {
        // Runtimes, listeners, admin, log, files.
        let base = 64 + 8 * workers as u64;
        let left = max_connections
            .map_or(limit, |most| limit.saturating_sub((most as u64).saturating_mul(2).saturating_add(base)));
        let pipes = usize::try_from(left.min(limit / 4)).unwrap_or(usize::MAX) / (2 * workers);
        let most_pipes = pipes.min(most_pipes);
        Self { limit, others: base + (2 * workers * most_pipes) as u64, most_pipes }
    }

    /// The value of `limits.max_connections: auto`.
    pub(crate) fn max_connections(&self) -> usize {
        self.most().clamp(1, MOST_AUTO)
    }

    /// # Errors
    /// There are too few descriptors for `max_connections` connections.
    pub(crate) fn check(&self, max_connections: Option<usize>) -> Result<(), TooMany> {
        match max_connections {
            Some(wanted) if wanted > self.most() => Err(TooMany { wanted, budget: *self }),
            _ => Ok(()),
        }
    }

    /// Each connection needs two.
    fn most(&self) -> usize {
        usize::try_from(self.limit.saturating_sub(self.others) / 2).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, budget: Budget { limit, others, .. } } = self;
        let (needed, most) = ((*wanted as u64).saturating_mul(2).saturating_add(*others), self.budget.most());
        write!(
            f,
            "limits.max_connections: {wanted} connections need 2 x {wanted} + {others} = {needed} open files, and this \
             process may open {limit}: write at most {most}, or `auto`, or raise the limit (`LimitNOFILE=` in a systemd \
             unit, `--ulimit nofile=` in Docker, `ulimit -n` in a shell)"
        )
    }
}

/// Raises the soft limit to the hard limit, as proxies usually do; returns the limit now in force.
pub(crate) fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    look_at_limit();
    if raised.is_ok() { maximum } else { current }.unwrap_or(u64::MAX)
}

/// Reads the limit again, since other processes may change it (prlimit(2)).
pub(crate) fn look_at_limit() {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let ours = limit - (limit / 8).min(RESERVE);
    FOR_CONNECTIONS.store(i32::try_from(ours).unwrap_or(i32::MAX), Relaxed);
}

/// Whether `file`, just opened for a connection, is one of the reserve.
pub(crate) fn is_reserved(file: &impl AsFd) -> bool {
    file.as_fd().as_raw_fd() >= FOR_CONNECTIONS.load(Relaxed)
}

/// Whether the next descriptor would be one of the reserve. `any` is any open file.
pub(crate) fn are_scarce(any: &impl AsFd) -> bool {
    look_at_limit();
    any.as_fd().try_clone_to_owned().map_or(true, |next| is_reserved(&next))
}

/// Descriptors from this number up are the reserve.
static FOR_CONNECTIONS: AtomicI32 = AtomicI32::new(i32::MAX);
/// Enough for the admin server, a reload and DNS. A small limit has a smaller reserve.
const RESERVE: u64 = 32;
const MOST_AUTO: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_leaves_descriptors_for_the_rest() {
        let auto = |limit, workers| Budget::new(limit, workers, None, 256).max_connections();
        // 64 + 8 for the process, and 2 x 128 for pipes.
        assert_eq!(auto(1024, 1), (1024 - 72 - 256) / 2);
        assert_eq!(auto(1 << 20, 4), 65_536);
        assert_eq!(auto(64, 4), 1);
    }

    #[test]
    fn what_the_file_asks_for_comes_before_pipes() {
        let budget = Budget::new(1024, 2, Some(450), 256);
        assert_eq!(budget.most_pipes, (1024 - 80 - 900) / 4);
        assert_eq!(budget.check(Some(450)), Ok(()));
        assert_eq!(budget.check(None), Ok(()));
        let reported = Budget::new(256, 2, Some(1000), 256).check(Some(1000)).expect_err("too many").to_string();
        let sum =
            "1000 connections need 2 x 1000 + 80 = 2080 open files, and this process may open 256: write at most 88,";
        assert!(reported.contains(sum), "{reported}");
        let most = Some(usize::MAX);
        let all = Budget::new(256, 2, most, 256).check(most).expect_err("too many").to_string();
        assert!(all.contains("write at most"), "{all}");
    }
}
