//! A part of the process that is stuck, or dies: strace(1) holds up or fails the system calls of one thread.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::Signal;

use crate::backend::Backend;
use crate::bytes::hello;
use crate::harness::{Lb, Running, poll};
use crate::wire::send;

/// strace, attached to one thread of the process; ends with it.
struct Strace {
    child: Child,
    _stderr: BufReader<ChildStderr>,
}

impl Strace {
    /// Does `what` to every wait for events of the thread called `name` from now on. `None` where there is no strace.
    fn inject(lb: &Running, name: &str, what: &str) -> Option<Self> {
        let tasks = fs::read_dir(format!("/proc/{}/task", lb.pid())).unwrap();
        let is_it = |task: &std::path::PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|it| it.trim() == name);
        let task = tasks.map(|task| task.unwrap().path()).find(is_it).unwrap_or_else(|| panic!("a thread {name}"));
        let mut strace = Command::new("strace");
        strace.arg("-p").arg(task.file_name().unwrap()).args(["-e", "trace=epoll_wait,epoll_pwait"]);
        strace.args(["-e", &format!("inject=epoll_wait,epoll_pwait:{what}")]).args(["-o", "/dev/null"]);
        let Ok(mut child) = strace.stderr(Stdio::piped()).spawn() else {
            assert!(std::env::var_os("SNIGATE_REQUIRE_FOREIGN").is_none(), "strace is not installed");
            println!("skipped: no strace");
            return None;
        };
        let (mut stderr, mut line) = (BufReader::new(child.stderr.take().unwrap()), String::new());
        stderr.read_line(&mut line).unwrap();
        if !line.contains("attached") {
            stderr.read_to_string(&mut line).unwrap();
            assert!(std::env::var_os("SNIGATE_REQUIRE_FOREIGN").is_none(), "{line}");
            println!("skipped: {line}");
            return None;
        }
        Some(Self { child, _stderr: stderr })
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_second_signal_ends_it_whatever_the_control_thread_does() {
    let backend = Backend::echoing();
    let mut lb = Running::start(&Lb::new().route("a.test", &backend).with("timeouts: { drain: 1h }").config());
    let mut held = send(lb.address(), &hello("a.test"));
    held.read_exact(&mut [0; 6]).unwrap();
    let Some(strace) = Strace::inject(&lb, "snigate", "delay_enter=3600000000") else { return };
    lb.signal(Signal::HUP);
    lb.signal(Signal::TERM);
    lb.signal(Signal::INT);
    poll(|| if threads(&lb) <= 1 { Ok(()) } else { Err(()) }).expect("it ends");
    // A thread that strace holds is not gone before strace.
    drop(strace);
    assert_eq!(lb.wait_for_exit().code(), Some(8));
    lb.wait_for_line(|line| line["event"] == "stop_unanswered");
}

#[test]
fn a_third_signal_ends_it_at_once() {
    let backend = Backend::echoing();
    let mut lb = Running::start(&Lb::new().route("a.test", &backend).with("timeouts: { drain: 1h }").config());
    let mut held = send(lb.address(), &hello("a.test"));
    held.read_exact(&mut [0; 6]).unwrap();
    let Some(strace) = Strace::inject(&lb, "snigate", "delay_enter=3600000000") else { return };
    lb.signal(Signal::HUP);
    let again = || {
        // Signals that are pending count once.
        lb.signal(Signal::TERM);
        if threads(&lb) <= 1 { Ok(()) } else { Err(()) }
    };
    poll(again).expect("it ends");
    drop(strace);
    assert_eq!(lb.wait_for_exit().code(), Some(8));
    assert!(!lb.log().iter().any(|line| line["event"] == "stop_unanswered"), "it waited");
}

fn threads(lb: &Running) -> usize {
    fs::read_dir(format!("/proc/{}/task", lb.pid())).unwrap().count()
}

/// Half a proxy is worse than one that is started again.
#[test]
fn the_end_of_a_thread_that_is_needed_ends_the_process() {
    for (thread, part) in [
        ("snigate", "the control thread"),
        ("worker-0", "worker-0"),
        ("admin", "the admin thread"),
        ("signals", "the signal thread"),
    ] {
        let backend = Backend::echoing();
        let mut lb = Running::start(&Lb::new().route("a.test", &backend).with("runtime: { workers: 1 }").config());
        let mut held = send(lb.address(), &hello("a.test"));
        held.read_exact(&mut [0; 6]).unwrap();
        let Some(_strace) = Strace::inject(&lb, thread, "error=EBADF") else { return };
        // So that each of them has something to wait for again.
        let _ = (lb.try_signal(Signal::HUP), TcpStream::connect(lb.admin()), TcpStream::connect(lb.address()));
        assert_eq!(lb.wait_for_exit().code(), Some(8), "{thread}");
        let line = lb.wait_for_line(|line| line["event"] == "thread_died");
        assert_eq!(line["thread"], part);
        lb.wait_for_line(|line| line["event"] == "panicked");
    }
}
