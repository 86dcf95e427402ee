//! The commands that ask a running snigate, as a shell sees them.

#[path = "../harness/mod.rs"]
mod harness;

mod failures;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod live;
mod progress;
mod terminal;
mod top;

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use harness::{Lb, Running};

/// A snigate with a unix socket, which its routing file names; commands use that file.
struct Served {
    lb: Running,
    /// With what the file holds at first.
    config: String,
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Served {
    fn start(lb: Lb) -> Self {
        Self::with_admin(lb, "")
    }

    /// With more keys in the section `admin`.
    fn with_admin(lb: Lb, keys: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        let admin = format!("admin: {{ bind: [\"127.0.0.1:0\", \"unix:{}\"]{keys} }}", socket.display());
        let config = lb.with(&admin).config();
        Self { lb: start_in(directory, &config), config }
    }

    fn file(&self) -> PathBuf {
        self.lb.config_file()
    }

    /// Runs `snigate` with these arguments, then `--config FILE`.
    fn run(&self, arguments: &[&str]) -> Ended {
        let file = self.file();
        let arguments = arguments.iter().map(OsStr::new);
        run(command(arguments).arg("--config").arg(file))
    }
}

fn start_in(directory: TempDir, config: &str) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
    command.stdin(Stdio::null());
    Running::start_in(directory, command, config)
}

fn command<'a>(arguments: impl IntoIterator<Item = &'a OsStr>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
    command.args(arguments).env_remove("SNIGATE_CONFIG").env_remove("SNIGATE_TOKEN").stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Ended {
    let output = command.output().expect("it runs");
    Ended {
        code: output.status.code().expect("no signal ends it"),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

impl Ended {
    #[track_caller]
    fn well(self) -> String {
        assert_eq!((self.code, &*self.stderr), (0, ""), "{self:?}");
        self.stdout
    }

    /// The only message, and the exit code.
    #[track_caller]
    fn fails(self, code: i32) -> String {
        assert_eq!((self.code, &*self.stdout), (code, ""), "{self:?}");
        self.stderr
    }
}

#[track_caller]
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The rows of a table, each as its words.
fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

/// Writes a file beside the routing file.
fn beside(served: &Served, name: &str, text: &str) -> PathBuf {
    let file = served.lb.directory().join(name);
    fs::write(&file, text).unwrap();
    file
}
