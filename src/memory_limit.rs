//! Finds how much memory the process may use: the limit of its control group, and that of its address space.
//!
//! In:  /proc/self/cgroup and the files of the groups, RLIMIT_AS.
//! Out: limits in bytes; `None` where there is none.
//! Source: cgroups(7); the kernel's admin-guide/cgroup-v2 and admin-guide/cgroup-v1/memory.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// The lowest limit of the control groups that the process is in, of either version.
pub(crate) fn of_group() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    // Version 1 writes a huge number, rounded down to a whole page, where there is no limit.
    lowest(&groups, Path::new("/sys/fs/cgroup")).filter(|limit| *limit < NO_LIMIT)
}

/// RLIMIT_AS, which bounds virtual memory.
pub(crate) fn of_address_space() -> Option<u64> {
    getrlimit(Resource::As).current
}

/// The lowest memory limit of the groups in `groups` (/proc/self/cgroup) and of those around them. In a container,
/// whose own group is mounted at `root`, the paths need not exist.
fn lowest(groups: &str, root: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let (mount, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let limit = |group: &Path| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
        mount.join(path).ancestors().take_while(|group| group.starts_with(&mount)).filter_map(limit).min()
    });
    limits.min()
}

const NO_LIMIT: u64 = 1 << 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_of_both_kinds_of_groups_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("below the root")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("memory.max", "max\n");
        write("a/memory.max", "5000\n");
        write("a/b/memory.max", "max\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/c/memory.limit_in_bytes", "4000\n");
        assert_eq!(lowest("0::/a/b\n", root.path()), Some(5000));
        assert_eq!(lowest("0::/a/b\n4:cpu,memory:/c/d\n", root.path()), Some(4000));
        assert_eq!(lowest("0::/\n", root.path()), None);
    }
}
