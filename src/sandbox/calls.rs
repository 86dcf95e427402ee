//! Restricts system calls with seccomp to a list that covers what this program, the C library and a new version of it use.
//!
//! In:  nothing.
//! Out: a filter. Other calls fail with ENOSYS, as on a kernel that does not have them: libraries then fall back to what
//!      they did before that call existed, and nothing dies.
//! Source: seccomp(2). The systemd unit allows these too; tests/lifecycle/system_calls.rs compares both with what is called.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use libc::c_long;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

/// # Errors
/// The kernel has no filters, or there is no list for this processor.
pub(super) fn restrict() -> Result<(), String> {
    let arch = TargetArch::try_from(ARCH).map_err(|error| error.to_string())?;
    // On the processors that seccompiler knows, both are 64 bits wide.
    let rules: BTreeMap<c_long, _> = allowed().map(|(_, number)| (number, Vec::new())).collect();
    // What the list leaves out may be a call that is newer than this program.
    let refused = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let filter = SeccompFilter::new(rules, refused, SeccompAction::Allow, arch).map_err(|error| error.to_string())?;
    let program: BpfProgram = filter.try_into().map_err(|error: seccompiler::BackendError| error.to_string())?;
    apply_filter(&program).map_err(|error| error.to_string())
}

/// The names and numbers of all calls that are allowed.
pub(super) fn allowed() -> impl Iterator<Item = (&'static str, c_long)> {
    CALLS.iter().chain(OLD_CALLS).map(|(name, number)| (*name, *number))
}

macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}

const CALLS: &[(&str, c_long)] = calls! {
    // Memory.
    SYS_brk SYS_madvise SYS_membarrier SYS_mincore SYS_mmap SYS_mprotect SYS_mremap SYS_munmap SYS_get_mempolicy
    // Threads and processes.
    SYS_clone SYS_clone3 SYS_execve SYS_exit SYS_exit_group SYS_futex SYS_futex_waitv SYS_get_robust_list SYS_getcpu
    SYS_getpgid SYS_getpid SYS_getppid SYS_getpriority SYS_getrandom SYS_getrusage SYS_getsid SYS_gettid SYS_kill
    SYS_pidfd_open SYS_pidfd_send_signal SYS_prctl SYS_prlimit64 SYS_restart_syscall SYS_rseq SYS_sched_getaffinity
    SYS_sched_getparam SYS_sched_getscheduler SYS_sched_yield SYS_set_robust_list SYS_set_tid_address SYS_setpgid
    SYS_setpriority SYS_setsid SYS_tgkill SYS_tkill SYS_umask SYS_uname SYS_sysinfo SYS_times SYS_wait4 SYS_waitid
    // Identity.
    SYS_capget SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups SYS_getresgid SYS_getresuid SYS_getuid
    // Signals.
    SYS_rt_sigaction SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend
    SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo SYS_sigaltstack
    // Time.
    SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep SYS_getitimer SYS_gettimeofday SYS_nanosleep
    SYS_setitimer SYS_timer_create SYS_timer_delete SYS_timer_gettime SYS_timer_settime SYS_timerfd_create
    SYS_timerfd_gettime SYS_timerfd_settime
    // Descriptors.
    SYS_close SYS_close_range SYS_copy_file_range SYS_dup SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait
    SYS_epoll_pwait2 SYS_eventfd2 SYS_fcntl SYS_flock SYS_ioctl SYS_lseek SYS_pipe2 SYS_ppoll SYS_pread64 SYS_preadv
    SYS_preadv2 SYS_pselect6 SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read SYS_readv SYS_sendfile SYS_signalfd4
    SYS_splice SYS_tee SYS_vmsplice SYS_write SYS_writev
    // Files, as far as Landlock allows.
    SYS_chdir SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fchdir SYS_fchmod SYS_fchmodat
    SYS_fdatasync SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_getcwd SYS_getdents64 SYS_getxattr
    SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_linkat SYS_mkdirat SYS_newfstatat SYS_openat
    SYS_openat2 SYS_readlinkat SYS_renameat SYS_renameat2 SYS_statfs SYS_statx SYS_symlinkat SYS_unlinkat
    SYS_utimensat
    // Sockets.
    SYS_accept SYS_accept4 SYS_bind SYS_connect SYS_getpeername SYS_getsockname SYS_getsockopt SYS_listen
    SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_setsockopt SYS_shutdown SYS_socket
    SYS_socketpair
};

/// Those that newer processors have under one of the names above only.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[(&str, c_long)] = calls! {
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_creat SYS_dup2 SYS_epoll_create SYS_epoll_wait SYS_eventfd
    SYS_fork SYS_getdents SYS_getpgrp SYS_link SYS_lstat SYS_mkdir SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink
    SYS_rename SYS_rmdir SYS_select SYS_stat SYS_symlink SYS_time SYS_unlink SYS_vfork
};
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[(&str, c_long)] = &[];

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn other_calls_fail_as_if_the_kernel_had_them_not() {
        // Of this thread only.
        let restricted = thread::spawn(|| {
            if let Err(error) = restrict() {
                return println!("skipped: {error}");
            }
            assert_eq!(rustix::process::chroot("/"), Err(Errno::NOSYS));
            // Threads, files, memory and sockets are as ever.
            let read = thread::spawn(|| fs::read("/proc/self/status").map(|bytes| bytes.len()));
            assert!(read.join().unwrap().unwrap() > 0);
            std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        });
        restricted.join().unwrap();
    }
}
