//! Reports the state of the process to systemd, and takes the sockets of its socket units.
//!
//! In:  `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `LISTEN_FDS` and related variables, as systemd sets them.
//! Out: datagrams; descriptors with their names. Without systemd, nothing.
//! Source: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::sys;

/// The process is ready, or has finished a reload.
pub(crate) fn ready() {
    tell("READY=1");
}

/// A reload has begun; [`ready`] ends it.
pub(crate) fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

/// The process is stopping.
pub(crate) fn stopping() {
    tell("STOPPING=1");
}

/// Makes another process the main process of the service.
pub(crate) fn main_process_is(id: u32) {
    tell(&format!("MAINPID={id}"));
}

/// A watchdog keep-alive; send it more often than the interval from [`watchdog`].
pub(crate) fn alive() {
    tell("WATCHDOG=1");
}

/// The watchdog interval, if systemd watches this process.
pub(crate) fn watchdog() -> Option<Duration> {
    let is_ours = env::var("WATCHDOG_PID").map_or(true, |id| id == process::id().to_string());
    let micros = env::var("WATCHDOG_USEC").ok().filter(|_| is_ours)?.parse().ok()?;
    Some(Duration::from_micros(micros)).filter(|interval| !interval.is_zero())
}

/// The sockets that the service manager passed to this process, with their names.
///
/// Call it once, before anything else is opened.
///
/// # Errors
/// A passed descriptor is missing.
pub(crate) fn sockets() -> io::Result<Vec<(String, OwnedFd)>> {
    let read = |name| env::var(name).unwrap_or_default();
    let count = listed(&read("LISTEN_PID"), &read("LISTEN_FDS"), process::id());
    let names = read("LISTEN_FDNAMES");
    let mut names = names.split(':');
    let descriptors = FIRST_DESCRIPTOR..FIRST_DESCRIPTOR + count;
    descriptors.map(|number| Ok((names.next().unwrap_or_default().to_owned(), sys::inherited(number)?))).collect()
}

/// How many descriptors were passed to the process `ours`.
fn listed(for_process: &str, count: &str, ours: u32) -> RawFd {
    if for_process != ours.to_string() {
        return 0;
    }
    count.parse().ok().filter(|count| (0..=MOST_DESCRIPTORS).contains(count)).unwrap_or_default()
}

/// Removed from a child's environment: they describe this process only.
pub(crate) const OWN_VARIABLES: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// Failing to notify systemd must not affect the service, so errors are only logged.
fn tell(state: &str) {
    let Some(path) = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return };
    let tell = || {
        let (socket, address) = (UnixDatagram::unbound()?, address(&path)?);
        // systemd may be stopped, and its queue full.
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.send_to_addr(state.as_bytes(), &address)
    };
    if let Err(error) = tell() {
        tracing::debug!(event = "systemd_notify_failed", %error, "cannot notify systemd");
    }
}

/// A path, or with a leading `@` a name in the abstract namespace.
fn address(path: &OsString) -> io::Result<SocketAddr> {
    match path.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(path),
    }
}

const PATIENCE: Duration = Duration::from_millis(100);
/// SD_LISTEN_FDS_START.
const FIRST_DESCRIPTOR: RawFd = 3;
const MOST_DESCRIPTORS: RawFd = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_for_another_process_are_not_ours() {
        assert_eq!(listed("7", "2", 7), 2);
        assert_eq!(listed("8", "2", 7), 0);
        assert_eq!(listed("", "2", 7), 0);
        for wrong in ["", "-1", "x", "99999999"] {
            assert_eq!(listed("7", wrong, 7), 0, "{wrong}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_address_is_a_path_or_an_abstract_name() {
        assert_eq!(address(&"@a/b".into()).unwrap().as_abstract_name(), Some(&b"a/b"[..]));
        assert_eq!(address(&"/run/a".into()).unwrap().as_pathname(), Some("/run/a".as_ref()));
    }
}
