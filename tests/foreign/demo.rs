//! The commands that `snigate demo` invites to try do what it says.

use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{DEADLINE, Lines};
use crate::program::{Program, Started};
use crate::refusals::says_unrecognized_name;

#[test]
fn the_demo_prints_curl_commands_that_work() {
    if Program::find("curl").is_none() {
        return;
    }
    let mut demo = Command::new(env!("CARGO_BIN_EXE_snigate"))
        .args(["demo", "--any-port"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let printed = Lines::follow(demo.stdout.take().unwrap());
    let last = |line: &Value| line.as_str().is_some_and(|line| line.starts_with("Ctrl-C"));
    printed.wait_for(0, DEADLINE, last).expect("an invitation");

    let lines = printed.all();
    let commands = lines.iter().filter_map(|line| line.as_str()?.trim().strip_prefix("curl "));
    let mut answered = Vec::new();
    for command in commands {
        // As a person would paste it, but deaf to the settings of this machine.
        let pasted = format!("curl -q -sS --noproxy '*' {command}");
        let output = Started::new(Command::new("sh").args(["-c", &pasted]), b"").end();
        if command.contains("refused") {
            assert!(!output.success && says_unrecognized_name(&output), "{pasted}: {output:?}");
        } else {
            assert!(output.success, "{pasted}: {output:?}");
            answered.extend(output.stdout.lines().take(2).map(str::to_owned));
        }
    }
    let wanted = ["one.localhost", "two.localhost", "a.two.localhost"];
    let wanted = wanted.iter().zip(["one", "two", "two"]);
    let wanted: Vec<_> =
        wanted.flat_map(|(name, by)| [format!("backend: {by}"), format!("server name: {name}")]).collect();
    assert_eq!(answered, wanted);

    kill_process(Pid::from_child(&demo), Signal::TERM).unwrap();
    assert!(demo.wait().unwrap().success());
}
