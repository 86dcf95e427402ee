//! Runs a test of this binary in a network namespace of its own, where what it sets is set for nobody else.

use std::process::{Command, Output};

/// Runs the ignored test called `test`, with the loopback up, after `setup`, a command of the shell. Does nothing where
/// there are no network namespaces, unless they are required.
pub fn run_test(setup: &str, test: &str) {
    if !isolated(setup, &["true"]).is_ok_and(|made| made.status.success()) {
        assert!(std::env::var_os("SNIGATE_REQUIRE_FOREIGN").is_none(), "no network namespaces here");
        return;
    }
    let itself = std::env::current_exe().unwrap();
    let inside = isolated(setup, &[itself.to_str().unwrap(), "--exact", test, "--ignored", "--nocapture"]).unwrap();
    let reported = String::from_utf8_lossy(&inside.stdout);
    let errors = String::from_utf8_lossy(&inside.stderr);
    assert!(inside.status.success() && reported.contains("1 passed"), "{reported}{errors}");
    println!("{reported}");
}

/// Whether `command` of the shell works in a namespace of its own: a kernel may lack what it needs.
pub fn can(command: &str) -> bool {
    isolated(command, &["true"]).is_ok_and(|made| made.status.success())
}

fn isolated(setup: &str, command: &[&str]) -> std::io::Result<Output> {
    let script = format!("ip link set lo up && {setup} && exec \"$@\"");
    let unshare = ["--user", "--map-root-user", "--net", "sh", "-c", &script, "sh"];
    Command::new("unshare").args(unshare).args(command).output()
}
