//! `snigate top` in a real terminal.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, kill_process};
use snigate::internals::terminal::on_a_terminal;

use crate::harness::backend::Backend;
use crate::harness::wire::send;
use crate::harness::{Lb, bytes};
use crate::terminal::Terminal;
use crate::{Served, command, run};

fn top(file: &Path) -> Command {
    let mut command = command(["top", "--config"].map(OsStr::new));
    command.arg(file);
    command
}

#[test]
fn it_shows_the_process_live_at_any_size() {
    let backend = Backend::echoing();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let check = "health_check: { kind: tcp, interval: 100ms, timeout: 50ms }";
    let served = Served::start(Lb::new().route("a.test", &backend).route_with("b.test", gone, check));
    let mut terminal = Terminal::run(&mut top(&served.file()), 24, 80);
    let wrong = terminal.wait_for(|text| text.contains("critical  pool pool-1"));
    assert!(wrong.contains("ready, up ") && wrong.contains(&gone.to_string()) && wrong.contains("q quit"), "{wrong}");
    assert!(wrong.lines().count() <= 24 && !wrong.contains("WEIGHT"), "{wrong}");

    // A connection of now, found by its name.
    let client = send(served.lb.address(), &bytes::hello("a.test"));
    terminal.press("2");
    terminal.wait_for(|text| text.contains("1 connection, number 1 selected") && text.contains("a.test"));
    terminal.press("/b.test");
    terminal.wait_for(|text| text.contains("0 connections with \"b.test\"") && text.contains("Search: b.test"));
    terminal.press("\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}a.te\r");
    terminal.wait_for(|text| text.contains("1 connection with \"a.te\"") && text.contains("127.0.0.1:"));

    terminal.press("1");
    terminal.resize(60, 200);
    let large = terminal.wait_for(|text| text.contains("15 MINUTES") && text.contains("WEIGHT"));
    assert!(large.lines().any(|line| line.contains("q quit")), "{large}");
    terminal.resize(24, 80);
    terminal.wait_for(|text| !text.contains("15 MINUTES") && text.contains("POOL"));
    terminal.press("q");
    assert!(terminal.ends_restored().success());
    drop(client);
    served.lb.stop();
}

#[test]
fn it_survives_a_restart_of_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    let socket = directory.path().join("admin.sock");
    let admin = format!("admin: {{ bind: \"unix:{}\" }}", socket.display());
    fs::write(&file, Lb::new().with(&admin).config()).unwrap();
    let mut terminal = Terminal::run(&mut top(&file), 24, 120);
    terminal.wait_for(|text| text.contains("there is no such socket; trying again"));
    let first = Process::start(&file);
    terminal.wait_for(|text| text.contains("ready, up ") && !text.contains("no answer"));
    drop(first);
    let lost = terminal.wait_for(|text| text.contains("no answer for "));
    // What was known is still there.
    assert!(lost.contains("LISTENER"), "{lost}");
    let _second = Process::start(&file);
    terminal.wait_for(|text| text.contains("ready, up ") && !text.contains("no answer"));
    // As the key is in raw mode.
    terminal.press("\u{3}");
    assert!(terminal.ends_restored().success());
}

#[test]
fn it_restores_the_terminal_when_a_signal_or_a_panic_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    fs::write(&file, "admin: { bind: \"unix:/nowhere/admin.sock\" }\n").unwrap();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut terminal = Terminal::run(&mut top(&file), 24, 80);
        terminal.wait_for(|text| text.contains("Is snigate running?"));
        kill_process(terminal.pid(), signal).unwrap();
        assert!(terminal.ends_restored().success(), "{signal:?}");
    }
    // The test below, in this terminal.
    let mut panics = Command::new(std::env::current_exe().unwrap());
    panics.args(["--ignored", "--exact", "--nocapture", "top::a_panic_in_a_terminal"]);
    // The screen has room for the message, and not for where it came from.
    panics.env("RUST_BACKTRACE", "0");
    let mut terminal = Terminal::run(&mut panics, 24, 120);
    assert!(!terminal.ends_restored().success());
    let message = terminal.wait_for(|text| text.contains("the screen is gone"));
    assert!(!message.contains("before the panic"), "{message}");
}

/// Run by the test above.
#[test]
#[ignore = "takes over the terminal"]
fn a_panic_in_a_terminal() {
    let _ = on_a_terminal(|terminal| {
        terminal.draw(|frame| frame.render_widget("before the panic", frame.area()))?;
        panic!("the screen is gone");
    });
}

#[test]
fn what_is_selected_is_changed_once_it_is_confirmed() {
    let (one, two) = (Backend::echoing(), Backend::echoing());
    let served = Served::start(Lb::new().route("a.test", vec![one.address, two.address]));
    let state = |at: usize| {
        let status = crate::json(&served.run(&["status", "--json"]).well());
        status["pools"][0]["backends"][at]["operator"].as_str().unwrap().to_owned()
    };
    let mut terminal = Terminal::run(&mut top(&served.file()), 24, 80);
    terminal.wait_for(|text| text.contains(&two.address.to_string()));
    // The first row is the pool.
    terminal.press("d");
    terminal.wait_for(|text| text.contains("Select a backend first"));
    let question = format!("Set pool-0/{} to drain?", two.address);
    terminal.press("\u{1b}[B\u{1b}[Bd");
    terminal.wait_for(|text| text.contains(&question) && text.contains("y yes   any other key no"));
    terminal.press("n");
    terminal.wait_for(|text| !text.contains(&question));
    assert_eq!(state(1), "ready");
    terminal.press("d");
    terminal.wait_for(|text| text.contains(&question));
    terminal.press("y");
    terminal.wait_for(|text| text.contains(&format!("pool-0/{} is set to drain.", two.address)));
    assert_eq!([state(0), state(1)], ["ready", "drain"]);
    terminal.press("r");
    terminal.wait_for(|text| text.contains("to ready?"));
    terminal.press("y");
    terminal.wait_for(|text| text.contains("is set to ready."));
    assert_eq!(state(1), "ready");

    let mut client = send(served.lb.address(), &bytes::hello("a.test"));
    terminal.press("2");
    terminal.wait_for(|text| text.contains("1 connection, number 1 selected") && text.contains("a.test"));
    terminal.press("e");
    terminal.wait_for(|text| text.contains("End the connection of 127.0.0.1:") && text.contains("to a.test?"));
    terminal.press("y");
    terminal.wait_for(|text| text.contains("was ended.") && text.contains("0 connections"));
    let _ = std::io::Read::read_to_end(&mut client, &mut Vec::new());
    served.lb.wait_for_line(|line| line["reason"] == "killed");
    terminal.press("q");
    assert!(terminal.ends_restored().success());
    served.lb.stop();
}

#[test]
fn where_changes_are_turned_off_it_says_so() {
    let backend = Backend::echoing();
    let served = Served::with_admin(Lb::new().route("a.test", &backend), ", allow_control: never");
    let mut terminal = Terminal::run(&mut top(&served.file()), 24, 80);
    terminal.wait_for(|text| text.contains(&backend.address.to_string()));
    terminal.press("\u{1b}[Bx");
    terminal.wait_for(|text| text.contains("Changes are turned off: `admin.allow_control` is `never`."));
    served.lb.stop();
}

#[test]
fn where_a_token_is_missing_it_says_what_helps() {
    let backend = Backend::echoing();
    let served = Served::start(Lb::new().route("a.test", &backend));
    let admin = served.lb.admin().to_string();
    let mut terminal = Terminal::run(&mut command(["top", "--admin", &admin].map(OsStr::new)), 24, 80);
    terminal.wait_for(|text| text.contains(&backend.address.to_string()));
    terminal.press("\u{1b}[Bxy");
    terminal.wait_for(|text| text.contains("refused: ") && text.contains("admin.token_file"));
    let status = crate::json(&served.run(&["status", "--json"]).well());
    assert_eq!(status["pools"][0]["backends"][0]["operator"], "ready");
    served.lb.stop();
}

#[test]
fn it_ends_when_its_terminal_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    fs::write(&file, "admin: { bind: \"unix:/nowhere/admin.sock\" }\n").unwrap();
    let mut terminal = Terminal::run(&mut top(&file), 24, 80);
    terminal.wait_for(|text| text.contains("Is snigate running?"));
    terminal.ends_when_closed();
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    let ended = run(&mut command(["top", "--admin", "127.0.0.1:1"].map(OsStr::new)));
    assert_eq!(ended.fails(2), "snigate: `top` needs a terminal; `snigate status` prints the same once\n");
}

/// A snigate that is killed when dropped.
struct Process(Child);

impl Process {
    fn start(file: &Path) -> Self {
        let mut command = command(["run", "--config"].map(OsStr::new));
        Self(command.arg(file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
