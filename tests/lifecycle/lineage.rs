//! A process and those that come after it by upgrades.
//!
//! In:  a running binary.
//! Out: [`Lineage`], which knows the one that serves now, and ends it.

use std::ops::Deref;
use std::sync::Once;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};

use crate::harness::{DEADLINE, Running, poll};

pub struct Lineage {
    first: Running,
    now: u32,
    /// Lines of the log before the newest upgrade was asked for.
    seen: usize,
}

/// What came of an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgraded {
    Yes,
    No,
}

impl Lineage {
    pub fn of(first: Running) -> Self {
        // Processes whose parent has ended come to this one, so that it sees how they end.
        static ADOPT: Once = Once::new();
        ADOPT.call_once(|| set_child_subreaper(Pid::from_raw(1)).unwrap());
        Self { now: first.pid(), first, seen: 0 }
    }

    pub fn pid(&self) -> u32 {
        self.now
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.as_pid(), signal).expect("the process is there");
    }

    /// Asks for an upgrade and waits for what comes of it.
    #[track_caller]
    pub fn upgrade(&mut self) -> Upgraded {
        self.seen = self.first.log().len();
        self.signal(Signal::USR2);
        let outcome = self.first.wait_for_line_after(self.seen, |line| {
            line["event"] == "upgrade_finished" || line["event"] == "upgrade_failed"
        });
        let Some(new) = outcome["new_pid"].as_u64().or_else(|| outcome["new_pid"].as_str()?.parse().ok()) else {
            return Upgraded::No;
        };
        self.now = u32::try_from(new).unwrap();
        Upgraded::Yes
    }

    /// Waits until the process that was first has ended, by itself and well.
    #[track_caller]
    pub fn wait_for_first(&mut self) {
        assert!(self.first.wait_for_exit().success());
    }

    /// Ends the one that serves now, and waits until all that went before have ended too.
    #[track_caller]
    pub fn stop(mut self) {
        self.first.check_accounts();
        self.signal(Signal::TERM);
        if self.now == self.first.pid() {
            assert!(self.first.wait_for_exit().success());
            return;
        }
        self.wait_for_first();
        let now = self.as_pid();
        let status = poll(|| match waitpid(Some(now), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => Ok(status),
            other => Err(other.err()),
        });
        let status = status.unwrap_or_else(|error| panic!("{now:?} still runs after {DEADLINE:?}: {error:?}"));
        assert_eq!(status.exit_status(), Some(0), "{status:?}");
        poll(|| if self.first.lines().have_ended() { Ok(()) } else { Err(()) }).expect("all of them end");
        self.now = self.first.pid();
    }

    fn as_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.now).unwrap()).unwrap()
    }
}

impl Deref for Lineage {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.first
    }
}

impl Drop for Lineage {
    fn drop(&mut self) {
        if self.now != self.first.pid() {
            let _ = kill_process(self.as_pid(), Signal::KILL);
        }
    }
}
