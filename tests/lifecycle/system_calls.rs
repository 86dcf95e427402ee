//! The system calls that it makes, compared with those that the systemd unit allows.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::poll;
use crate::tour::tour;

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd/snigate.service");

#[test]
fn the_unit_allows_every_system_call_of_a_life() {
    let Some(allowed) = allowed_by(&fs::read_to_string(UNIT).unwrap()) else { return };
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let mut command = Command::new("strace");
    // With `-D` the process keeps its own number, and its parent. By default, strace shows signals too.
    command.args(["-D", "-f", "-q", "-e", "signal=none", "-o"]).arg(&trace).arg(env!("CARGO_BIN_EXE_snigate"));
    if !can_trace() {
        return;
    }
    command.stdin(Stdio::null());
    tour(command, "");
    // strace writes the last lines after the process has ended.
    let last = |text: &str| text.lines().last().is_some_and(|line| line.contains("+++ exited"));
    let text = poll(|| fs::read_to_string(&trace).ok().filter(|text| last(text)).ok_or(())).expect("a whole trace");
    let made: BTreeSet<&str> = text.lines().filter_map(name).collect();
    assert!(made.contains("accept4") && made.contains("splice") && made.contains("execve"), "{made:?}");
    // strace itself starts the process.
    let refused: Vec<&&str> = made.iter().filter(|name| !allowed.contains(**name)).collect();
    assert!(refused.is_empty(), "SystemCallFilter does not allow {refused:?}");
    // With these it enters its own.
    let before = ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp"];
    let own: BTreeSet<&str> = snigate::internals::sandbox::system_calls().chain(before).collect();
    let refused: Vec<&&str> = made.difference(&own).collect();
    assert!(refused.is_empty(), "src/sandbox/calls.rs does not allow {refused:?}");
}

/// `1234 openat(AT_FDCWD, …`, and `1234 <... openat resumed>`, which came before.
fn name(line: &str) -> Option<&str> {
    let (_, call) = line.split_once(' ')?;
    let (name, _) = call.trim_start().split_once('(')?;
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_').then_some(name)
}

fn can_trace() -> bool {
    let can = Command::new("strace").args(["-D", "-qq", "true"]).stderr(Stdio::null()).status();
    let can = can.is_ok_and(|status| status.success());
    assert!(can || std::env::var_os("SNIGATE_REQUIRE_FOREIGN").is_none(), "strace does not work here");
    if !can {
        println!("skipped: strace does not work here");
    }
    can
}

/// What `SystemCallFilter=` of a unit leaves: the first line decides that what is not named is refused; `~` takes away.
/// `None` where systemd's sets are not known.
pub fn allowed_by(unit: &str) -> Option<BTreeSet<String>> {
    let mut allowed = expand("@default")?;
    for line in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (takes_away, names) = line.strip_prefix('~').map_or((false, line), |names| (true, names));
        for name in names.split_whitespace() {
            let named = expand(name)?;
            if takes_away {
                allowed.retain(|call| !named.contains(call));
            } else {
                allowed.extend(named);
            }
        }
    }
    Some(allowed)
}

/// The system calls of a set, with those of the sets that it names.
fn expand(name: &str) -> Option<BTreeSet<String>> {
    if !name.starts_with('@') {
        return Some(BTreeSet::from([name.to_owned()]));
    }
    let program = Path::new("/usr/bin/systemd-analyze");
    if !program.exists() {
        assert!(std::env::var_os("SNIGATE_REQUIRE_FOREIGN").is_none(), "systemd-analyze is not installed");
        println!("skipped: no systemd-analyze");
        return None;
    }
    let listed = Command::new(program).args(["syscall-filter", name]).output().unwrap();
    assert!(listed.status.success(), "{name}: {}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let lines = listed.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut calls = BTreeSet::new();
    for line in lines {
        calls.extend(expand(line)?);
    }
    Some(calls)
}
