//! Runs the commands of the pages, each page in a fresh copy of the tree.
//!
//! All of it is in a network namespace of its own, in which the ports of the examples are free.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::blocks::{Block, Page, pages, root};
use crate::harness::{DEADLINE, Lines};
use crate::namespace;

/// What a snigate serves for the commands that ask a running one.
const LIVE: &str = "listeners: [{ name: https, bind: \"0.0.0.0:443\" }]\n\
    routes: [{ name: shop, sni: [shop.example.com, \"*.shop.example.com\"], pool: shop }]\n\
    pools: { shop: { backends: [10.0.0.11:443, 10.0.0.12:443] } }\n\
    admin: { bind: 127.0.0.1:9901, token_file: token }\n\
    log: { file: snigate.log }\n";

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Stands in for cargo: what it would build is built already.
const CARGO: &str = "#!/bin/sh\n\
    case \"$1\" in\n\
    run) while [ \"$1\" != -- ]; do shift; done; shift; exec snigate \"$@\" ;;\n\
    install | build) ;;\n\
    *) echo \"this stand-in for cargo does not know: $*\" >&2; exit 64 ;;\n\
    esac\n";

#[test]
fn every_command_of_the_pages_works() {
    namespace::run_test("true", "commands::of_all_pages");
}

#[test]
#[ignore = "for the test above, which runs it in a namespace of its own"]
fn of_all_pages() {
    let only = std::env::var("SNIGATE_PAGE").unwrap_or_default();
    let mut run = 0;
    for page in pages().iter().filter(|page| page.name.contains(&only)) {
        run += Desk::run(page);
    }
    assert!(run > 15 || !only.is_empty(), "only {run} blocks of commands were run");
}

/// Blocks of commands, apart from those of docs/cli.md that tests/cli.rs compares with its own files.
fn runs(page: &Page, block: &Block) -> bool {
    let shell = block.language == "sh" && block.mark != "skip";
    shell || block.language == "console" && page.name != "docs/cli.md"
}

/// A fresh copy of the tree, for one page.
struct Desk {
    directory: tempfile::TempDir,
    served: Vec<(String, Child)>,
}

impl Desk {
    /// How many blocks were run.
    fn run(page: &Page) -> usize {
        let blocks: Vec<&Block> = page.blocks.iter().filter(|block| runs(page, block)).collect();
        let missing = blocks.iter().find_map(|block| missing_program(&block.text));
        if let Some(program) = missing {
            assert!(std::env::var_os("SNIGATE_REQUIRE_FOREIGN").is_none(), "{}: no {program} here", page.name);
            println!("skipped: {}: no {program}", page.name);
            return 0;
        }
        if blocks.is_empty() {
            return 0;
        }
        let mut desk = Self::copy();
        for block in page.blocks.iter().filter(|block| block.language == "yaml" && !block.rest.is_empty()) {
            fs::write(desk.path(&block.rest), &block.text).unwrap();
        }
        let is_live = blocks.iter().any(|block| block.mark == "live");
        if is_live {
            fs::write(desk.path("live.yaml"), LIVE).unwrap();
            desk.serve(&page.name, "snigate run live.yaml");
        }
        for block in &blocks {
            match (&*block.language, &*block.mark) {
                ("console", _) => desk.compare(block),
                (_, "serve") => {
                    desk.end(usize::from(is_live));
                    desk.serve(&block.place, block.text.trim());
                }
                _ => drop(desk.succeed(&block.place, &block.text)),
            }
        }
        desk.end(0);
        blocks.len()
    }

    fn copy() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let desk = Self { directory, served: Vec::new() };
        for name in ["README.md", "config.yaml", "config.schema.json", "book.toml", "deploy", "docs"] {
            copy(&root().join(name), &desk.path(name));
        }
        fs::create_dir(desk.path("bin")).unwrap();
        symlink(env!("CARGO_BIN_EXE_snigate"), desk.path("bin/snigate")).unwrap();
        fs::write(desk.path("bin/cargo"), CARGO).unwrap();
        fs::set_permissions(desk.path("bin/cargo"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(desk.path("token"), TOKEN).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn bash(&self, script: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(self.directory.path())
            .env_clear()
            .stdin(Stdio::null());
        command.env("PATH", format!("{}:{path}", self.path("bin").display()));
        command.env("HOME", self.directory.path()).env("NO_PROXY", "*").env("TOKEN", TOKEN).env("SNIGATE_TOKEN", TOKEN);
        command
    }

    /// Runs commands that end; returns what they print.
    fn succeed(&self, place: &str, script: &str) -> String {
        let output = self.bash(script).output().unwrap();
        let [printed, errors] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "{place}: {}\n{script}\n{printed}{errors}", output.status);
        printed
    }

    /// Starts a command that runs until it is stopped, and waits until it serves.
    fn serve(&mut self, place: &str, script: &str) {
        let mut command = self.bash(&format!("exec {script} 2>&1"));
        let mut child = command.stdout(Stdio::piped()).process_group(0).spawn().unwrap();
        let lines = Lines::follow(child.stdout.take().unwrap());
        self.served.push((place.to_owned(), child));
        let up = |line: &serde_json::Value| {
            let line = line.to_string();
            [" ready ", "\"event\":\"ready\"", "event: "].iter().any(|sign| line.contains(sign))
        };
        assert!(lines.wait_for(0, DEADLINE, up).is_some(), "{place}: {script} does not serve: {:?}", lines.all());
    }

    /// Runs the commands of a block behind `$ `, and compares what they print with what is shown.
    fn compare(&self, block: &Block) {
        for example in format!("\n{}", block.text).split("\n$ ").skip(1) {
            let (command, shown) = example.split_once('\n').unwrap_or((example, ""));
            let output = self.bash(&format!("{command} 2>&1")).output().unwrap();
            let printed = String::from_utf8_lossy(&output.stdout);
            assert!(is_shown(&printed, shown), "{}: $ {command}\n{printed}\nis shown as\n{shown}", block.place);
        }
    }

    /// Stops what is served, apart from the first `kept`.
    fn end(&mut self, kept: usize) {
        for (place, mut child) in self.served.drain(kept..).rev() {
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            let mut rest = String::new();
            child.stdout.take().map(|mut out| out.read_to_string(&mut rest));
            let status = child.wait().unwrap();
            // A program such as curl has no orderly end.
            assert!(status.success() || status.code().is_none(), "{place}: {status}");
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        for (_, child) in &mut self.served {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether `printed` is `shown`, in which a line `…` stands for any number of lines.
fn is_shown(printed: &str, shown: &str) -> bool {
    let mut rest: Vec<&str> = printed.trim_end().lines().collect();
    let parts: Vec<&str> = shown.trim_end().split('…').map(|part| part.trim_matches('\n')).collect();
    if let [whole] = parts[..] {
        return rest.join("\n") == whole;
    }
    parts.iter().all(|part| {
        let lines: Vec<&str> = part.lines().collect();
        let found = (0..=rest.len().saturating_sub(lines.len())).find(|&at| rest[at..].starts_with(&lines));
        found.is_some_and(|at| {
            rest.drain(..at + lines.len());
            true
        })
    })
}

/// The first program of a script that is not installed.
fn missing_program(script: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    let programs = ["curl", "jq", "openssl", "promtool", "mdbook"];
    let used = |name: &str| script.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == name);
    programs.into_iter().find(|name| used(name) && !is_there(name)).map(str::to_owned)
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            if name != "node_modules" && name != "artifacts" {
                copy(&from.join(&name), &to.join(&name));
            }
        }
    } else {
        fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
}
