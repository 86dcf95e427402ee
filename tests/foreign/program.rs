//! Finds and runs a program of the machine.
//!
//! In:  its name, its arguments, what it is to read on stdin.
//! Out: [`Output`], or a failed test when it does not end.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::{env, thread};

use crate::harness::DEADLINE;

/// A program that is installed.
#[derive(Clone, Debug)]
pub struct Program(PathBuf);

impl Program {
    /// Looks along PATH, where Debian puts servers, which not everybody has in it, and where `.ci/setup` puts tools. `None` is for a test to return on:
    /// see the crate's words on what is not installed.
    pub fn find(name: &str) -> Option<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let cache =
            env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(env::home_dir().map(|home| home.join(".cache")));
        let tools = cache.map(|cache| cache.join("snigate-ci"));
        let directories = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).chain(tools);
        let found = directories.map(|directory| directory.join(name)).find(|file| file.is_file());
        if found.is_none() {
            assert!(env::var_os("SNIGATE_REQUIRE_FOREIGN").is_none_or(|value| value != "1"), "{name} is not installed");
            println!("skipped: no {name}");
        }
        found.map(Self)
    }

    pub fn command(&self) -> Command {
        Command::new(&self.0)
    }

    /// Runs it to its end with nothing on stdin.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        self.run_with_input(arguments, b"")
    }

    #[track_caller]
    pub fn run_with_input<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>, input: &[u8]) -> Output {
        let mut command = self.command();
        Started::new(command.args(arguments), input).end()
    }
}

/// What a program left behind. What it printed is text in every test.
#[derive(Debug)]
pub struct Output {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

/// A program that is running; killed when dropped.
pub struct Started {
    child: Child,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
}

impl Started {
    /// `input` must fit into a pipe's buffer: it is written before anything is read.
    pub fn new(command: &mut Command, input: &[u8]) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("an installed program starts");
        // It may have ended without reading: its exit tells more than our EPIPE.
        let _ = child.stdin.take().unwrap().write_all(input);
        let stdout = read_aside(child.stdout.take().unwrap());
        let stderr = read_aside(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    #[track_caller]
    pub fn end(mut self) -> Output {
        let Ok(stdout) = self.stdout.recv_timeout(DEADLINE) else { panic!("it still runs after {DEADLINE:?}") };
        let Ok(stderr) = self.stderr.recv_timeout(DEADLINE) else { panic!("it still runs after {DEADLINE:?}") };
        let success = self.child.wait().unwrap().success();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Output { success, stdout: text(stdout), stderr: text(stderr) }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_aside(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (whole, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let _ = whole.send(bytes);
    });
    receiver
}
