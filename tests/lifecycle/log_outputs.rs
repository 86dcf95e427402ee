//! The forms of the log, as the real binary writes them: to a pipe, to a terminal and to a file.

use std::fs;
use std::io::Read;
use std::net::{Shutdown, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::backend::Backend;
use crate::bytes::{SERVER_HELLO, hello};
use crate::harness::{DEADLINE, Lb, Lines, Reload, Running, poll};
use crate::wire::{ask, send};

/// A snigate whose lines are text, not JSON.
struct Plain {
    child: Child,
    lines: Lines,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Plain {
    /// `terminal`: behind the pseudo-terminal of script(1).
    fn start(lb: &Lb, terminal: bool, environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.yaml");
        fs::write(&file, lb.config()).unwrap();
        let run = format!("exec {} run --config {}", env!("CARGO_BIN_EXE_snigate"), file.display());
        let mut command = if terminal {
            let mut command = Command::new("script");
            command.args(["-qec", &run, "/dev/null"]);
            command
        } else {
            let mut command = Command::new("sh");
            command.args(["-c", &run]);
            command
        };
        command.env_remove("NO_COLOR").env("TERM", "xterm").envs(environment.iter().copied());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = Lines::follow(child.stdout.take().unwrap());
        let text = |line: &Value| without_colour(line.as_str().unwrap_or_default());
        let listening = lines.wait_for(0, DEADLINE, |line| text(line).contains("listener=https"));
        let listening = text(&listening.unwrap_or_else(|| panic!("it does not listen: {lines}")));
        lines.wait_for(0, DEADLINE, |line| text(line).contains("ready")).expect("ready");
        let mut words = listening.split([' ', '=']);
        let address = words.find_map(|word| word.trim().parse::<SocketAddr>().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {listening}"));
        Self { child, lines, address, _directory: directory }
    }

    /// The first line that has `part`.
    fn line(&self, part: &str) -> String {
        let has = |line: &Value| line.as_str().is_some_and(|line| line.contains(part));
        let line = self.lines.wait_for(0, DEADLINE, has).unwrap_or_else(|| panic!("no {part} in\n{}", self.lines));
        line.as_str().unwrap().trim_end_matches('\r').to_owned()
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

fn without_colour(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// With each run of digits as one `0`.
fn without_numbers(line: &str) -> String {
    let mut text = String::new();
    for c in line.chars() {
        match c {
            '0'..='9' if text.ends_with('0') => {}
            '0'..='9' => text.push('0'),
            c => text.push(c),
        }
    }
    text
}

fn one_route(format: &str) -> (Lb, Backend) {
    let backend = Backend::answering(b"never");
    (Lb::new().route("a.test", &backend).with(&format!("log: {{ format: {format} }}")), backend)
}

#[test]
fn logfmt_and_pretty_are_one_line_each_without_escape_sequences_in_a_pipe() {
    let (lb, _backend) = one_route("logfmt");
    let logfmt = Plain::start(&lb, false, &[]);
    ask(logfmt.address, &hello("nobody.test"));
    let line = without_numbers(&logfmt.line("reason=no_route"));
    let wanted = "ts=0-0-0T0:0:0.0Z level=INFO event=connection reason=no_route listener=https client=0.0.0.0:0 \
                  sni=nobody.test match=unmatched duration_ms=0.0 bytes_to_backend=0 bytes_to_client=0 phase=refusing ";
    assert!(line.starts_with(wanted), "{line}");

    let (lb, _backend) = one_route("pretty");
    let pretty = Plain::start(&lb, false, &[]);
    ask(pretty.address, &hello("nobody.test"));
    let line = pretty.line("nobody.test");
    assert!(!line.contains('\x1b') && line.chars().count() <= 120, "{line:?}");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!((words[2], words[3], words[4], words[5]), ("nobody.test", "no_route", "0↑", "0↓"), "{line}");
}

#[test]
fn a_terminal_shows_lines_for_people_in_colors_unless_they_are_not_wanted() {
    let (lb, _backend) = one_route("auto");
    for (environment, has_colour) in [(&[][..], true), (&[("NO_COLOR", "1")], false), (&[("TERM", "dumb")], false)] {
        let shown = Plain::start(&lb, true, environment);
        ask(shown.address, &hello("nobody.test"));
        let line = shown.line("nobody.test");
        assert_eq!(line.contains("\x1b[33mno_route\x1b[0m"), has_colour, "{line:?}");
        assert_eq!(line.contains('\x1b'), has_colour, "{line:?}");
        assert!(without_colour(&line).chars().count() <= 120, "{line:?}");
    }
}

fn read(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

fn refused(lines: &[Value]) -> usize {
    lines.iter().filter(|line| line["reason"] == "no_route").count()
}

#[test]
fn a_file_that_is_rotated_under_churn_loses_no_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.log");
    let log = format!("log: {{ file: {}, refusals: off }}", file.display());
    let lb = Lb::new().route("a.test", &Backend::answering(b"never")).with(&log).start();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    let rotated = |number: usize| directory.path().join(format!("a.log.{number}"));
    let (clients, each, rotations) = (4, 100, 5);
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| (0..each).for_each(|_| _ = ask(lb.address(), &hello("nobody.test"))));
        }
        for number in 0..rotations {
            let wanted = refused(&lb.log()) + 20;
            let seen = poll(|| if refused(&lb.log()) >= wanted.min(clients * each) { Ok(()) } else { Err(()) });
            seen.expect("connections go on");
            fs::rename(&file, rotated(number)).unwrap();
            lb.signal(Signal::HUP);
            poll(|| if file.exists() { Ok(()) } else { Err(()) }).expect("the file is made again");
        }
    });
    let total = || refused(&read(&file)) + (0..rotations).map(|number| refused(&read(&rotated(number)))).sum::<usize>();
    let seen = poll(|| if total() == clients * each { Ok(()) } else { Err(total()) });
    assert_eq!(seen, Ok(()), "lines of {}", clients * each);
    lb.wait_for_line(|line| line["event"] == "log_file_opened");
    assert_eq!(lb.metric("log_lines_dropped_total", &[]), 0.0);
    lb.stop();
}

/// The sandbox allows the directory of the file, where a rotated one is made again, and no other.
#[test]
fn in_a_sandbox_the_file_can_be_rotated_and_a_reload_stays_in_its_directory() {
    let [inside, outside] = [0; 2].map(|_| tempfile::tempdir().unwrap());
    let backend = Backend::answering(b"never");
    let lb = Lb::new().route("a.test", &backend);
    let to = |file: &Path| lb.config() + &format!("log: {{ file: {} }}\n", file.display());
    let file = inside.path().join("a.log");
    let running = Running::start(&to(&file));
    if running.wait_for_line(|line| line["event"] == "sandbox")["files"] != true {
        println!("skipped: no Landlock here");
        return running.stop();
    }
    fs::rename(&file, inside.path().join("a.log.1")).unwrap();
    running.signal(Signal::HUP);
    poll(|| if file.exists() { Ok(()) } else { Err(()) }).expect("the file is made again");
    ask(running.address(), &hello("nobody.test"));
    poll(|| if refused(&read(&file)) == 1 { Ok(()) } else { Err(()) }).expect("the line is in the new file");

    assert_eq!(running.edit(&to(&outside.path().join("a.log"))), Reload::Rejected);
    assert!(running.log().iter().any(|line| line.to_string().contains("log.file: cannot open")));
    assert_eq!(running.edit(&to(&inside.path().join("b.log"))), Reload::Applied);
    ask(running.address(), &hello("nobody.test"));
    let other = inside.path().join("b.log");
    poll(|| if refused(&read(&other)) == 1 { Ok(()) } else { Err(()) }).expect("the line is in the other file");
    running.stop();
}

/// Of fields that depend on the run, only the place is known.
#[test]
fn the_line_of_a_connection_has_these_fields_in_this_order() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.log");
    let backend = Backend::answering(SERVER_HELLO);
    let log = format!("log: {{ file: {} }}", file.display());
    let lb = Lb::new().route("a.test", &backend).with(&log).start();
    let mut client = send(lb.address(), &hello("a.test"));
    client.shutdown(Shutdown::Write).unwrap();
    client.read_to_end(&mut Vec::new()).unwrap();
    lb.wait_for_connection("a.test");
    lb.stop();
    let text = fs::read_to_string(&file).unwrap();
    let line = text.lines().find(|line| line.contains("\"sni\":\"a.test\"")).expect("the line");
    let value: Value = serde_json::from_str(line).unwrap();
    let (backend, hello_bytes) = (format!("\"{}\"", backend.address), hello("a.test").len().to_string());
    let answer_bytes = SERVER_HELLO.len().to_string();
    let fields = [
        ("ts", None),
        ("level", Some("\"INFO\"")),
        ("event", Some("\"connection\"")),
        ("reason", Some("\"ok\"")),
        ("listener", Some("\"https\"")),
        ("client", None),
        ("sni", Some("\"a.test\"")),
        ("route", None),
        ("match", Some("\"exact\"")),
        ("pool", None),
        ("backend", Some(&*backend)),
        ("attempts", Some("1")),
        ("answer", Some("\"server_hello\"")),
        ("duration_ms", None),
        ("connect_ms", None),
        ("first_byte_ms", None),
        ("bytes_to_backend", Some(&*hello_bytes)),
        ("bytes_to_client", Some(&*answer_bytes)),
        ("phase", Some("\"relaying\"")),
        ("tls", Some("\"1.3\"")),
        ("alpn", Some("[\"h2\",\"http/1.1\"]")),
        ("offers", None),
        ("hello_bytes", Some(&*hello_bytes)),
        ("hello_records", Some("1")),
        ("hello_ms", None),
        ("id", Some("\"0000000000000001\"")),
        ("config", None),
    ];
    let mut rest = line.strip_prefix('{').unwrap();
    for (name, known) in fields {
        let begins = format!("\"{name}\":{}", known.unwrap_or_default());
        let place = rest.find(&begins).unwrap_or_else(|| panic!("{begins} is missing, or not in its place: {line}"));
        rest = &rest[place + begins.len()..];
    }
    assert_eq!(value.as_object().unwrap().len(), fields.len(), "{line}");
}

#[test]
fn a_reload_changes_the_file_or_is_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let backend = Backend::answering(b"never");
    let lb = Lb::new().route("a.test", &backend);
    let to = |file: &Path| lb.config() + &format!("log: {{ file: {} }}\n", file.display());
    // Without a sandbox: its directories are those of the start.
    let running = Running::start(&(to(&path("one.log")) + "sandbox: off\n"));
    let edit = |file: &Path| running.edit(&(to(file) + "sandbox: off\n"));
    assert_eq!(edit(&path("none/a.log")), Reload::Rejected);
    assert!(running.log().iter().any(|line| line.to_string().contains("log.file: cannot open")));
    assert_eq!(edit(&path("two.log")), Reload::Applied);
    ask(running.address(), &hello("nobody.test"));
    poll(|| if refused(&read(&path("two.log"))) == 1 { Ok(()) } else { Err(()) }).expect("the line is in the new file");
    assert_eq!(refused(&read(&path("one.log"))), 0);
    assert_eq!(running.edit(&(lb.config() + "sandbox: off\n")), Reload::Applied);
    let seen = running.log().len();
    ask(running.address(), &hello("nobody.test"));
    running.wait_for_line_after(seen, |line| line["reason"] == "no_route");
    assert_eq!(refused(&read(&path("two.log"))), 1, "it is closed");
    running.stop();
}

#[test]
fn hashes_are_equal_for_the_same_and_show_nothing() {
    let backend = Backend::answering(b"never");
    let lb = Lb::new().route("a.test", &backend).with("log: { names: hashed, clients: hashed }").start();
    let mut lines = Vec::new();
    for name in ["one.test", "two.test", "one.test"] {
        let seen = lb.log().len();
        ask(lb.address(), &hello(name));
        lines.push(lb.wait_for_line_after(seen, |line| line["reason"] == "no_route"));
    }
    assert_eq!(lines[0]["sni"], lines[2]["sni"]);
    assert_ne!(lines[0]["sni"], lines[1]["sni"]);
    assert!(lines.iter().all(|line| line["client"] == lines[0]["client"]));
    for line in &lines {
        assert!(line["sni"].as_str().unwrap().starts_with('#') && line["client"].as_str().unwrap().starts_with('#'));
        assert!(!line.to_string().contains("127.0.0.1") && !line.to_string().contains(".test"), "{line}");
    }
    let seen = lb.log().len();
    ask(lb.address(), &hello("bad name.test"));
    let line = lb.wait_for_line_after(seen, |line| line["reason"] == "invalid_sni");
    assert!(line["error"].as_str().unwrap().starts_with("invalid server name: "), "{line}");
    lb.stop();
}
