//! `snigate reload`: makes a running snigate read its routing file again, and waits for the result.
//!
//! In:  the answer of `/api/v1/reload`.
//! Out: every problem with its place and the line of the file; an exit code as that of `check`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::check::{self, LineSource};
use super::figures::counted;
use super::printable::printable;
use super::progress::Progress;
use super::remote::{Remote, Target};
use super::table::{BAD, GOOD, WARN};
use super::{Exit, output, output_failed, print_json};
use crate::config::{Place, Problem, Problems, Severity};
use crate::settings::Address;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    pub(super) target: Target,
    /// Prints the answer of the admin API
    #[arg(long)]
    json: bool,
}

/// Reloads, and prints what came of it.
pub(super) fn run(options: &Options, file: impl FnOnce() -> Option<PathBuf>) -> ExitCode {
    let answer = Remote::find(&options.target.remote, file).and_then(|remote| {
        let accepted = &[StatusCode::UNPROCESSABLE_ENTITY];
        let _progress = Progress::start("waiting for the reload", None);
        let (status, answer) = remote.change(Method::POST, "/api/v1/reload", "", LIMIT, accepted)?;
        Ok((status, answer, is_local(remote.address())))
    });
    let (status, answer, is_local) = match answer {
        Ok(answer) => answer,
        Err(failure) => return failure.report(),
    };
    let printed = if options.json { print_json(&answer) } else { text(&answer, is_local, &mut output()) };
    match printed {
        Ok(()) if status.is_success() => ExitCode::SUCCESS,
        Ok(()) => Exit::Config.into(),
        Err(error) => output_failed(&error),
    }
}

/// Whether its files are probably those of this machine.
fn is_local(address: &Address) -> bool {
    address.tcp().is_none_or(|tcp| tcp.ip().is_loopback() || tcp.ip().is_unspecified())
}

/// The answer, as far as people need it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reloaded {
    result: String,
    hash: String,
    took_ms: u64,
    error: Option<String>,
    problems: Vec<Reported>,
    problems_left_off: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reported {
    severity: String,
    file: String,
    line: u32,
    column: u32,
    path: String,
    message: String,
    /// The line of the file.
    text: Option<String>,
}

fn text(answer: &Value, is_local: bool, out: &mut dyn Write) -> io::Result<()> {
    let reloaded = Reloaded::deserialize(answer)?;
    let Reloaded { result, hash, took_ms, error, problems, problems_left_off } = &reloaded;
    let (parsed, lines) = parsed(problems);
    let source = if is_local { LineSource::FilesAnd(lines) } else { LineSource::Only(lines) };
    check::write_problems(&parsed, &source, out)?;
    if *problems_left_off > 0 {
        writeln!(out, "and {problems_left_off} more")?;
    }
    let (hash, errors, warnings) = (printable(hash), parsed.errors(), parsed.warnings());
    let warned = if warnings > 0 { format!(", {WARN}{}{WARN:#}", counted(warnings, "warning")) } else { String::new() };
    match &**result {
        "applied" => writeln!(out, "{GOOD}applied{GOOD:#} in {took_ms} ms: {hash} is in force{warned}"),
        "unchanged" => writeln!(out, "{GOOD}unchanged{GOOD:#}: {hash} is in force already{warned}"),
        _ => {
            // Without a problem of the file there is another reason, such as a port that is taken.
            let why = match errors {
                0 => printable(error.as_deref().unwrap_or("no reason is given")).into_owned(),
                errors => counted(errors + problems_left_off, "error"),
            };
            writeln!(out, "{BAD}rejected{BAD:#}: {why}{warned}; {hash} stays in force")
        }
    }
}

/// The problems, and those lines of the files that came with them.
fn parsed(reported: &[Reported]) -> (Problems, check::Lines) {
    let (mut problems, mut lines) = (Problems::default(), check::Lines::default());
    for Reported { severity, file, line, column, path, message, text } in reported {
        let severity = if severity == "warning" { Severity::Warning } else { Severity::Error };
        let file: Arc<Path> = Path::new(&*printable(file)).into();
        if let Some(text) = text {
            lines.insert((Arc::clone(&file), *line), text.clone());
        }
        let (path, message) = (printable(path).into_owned(), printable(message).into_owned());
        problems.push(Problem { severity, place: Place { file, line: *line, column: *column }, path, message });
    }
    (problems, lines)
}

/// A reload reads a file that may hold a million routes.
const LIMIT: Duration = Duration::from_secs(115);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(answer: &Value) -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        text(answer, false, &mut out).unwrap();
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[test]
    fn a_problem_has_its_place_and_the_line_that_came_with_it() {
        let answer = json!({ "result": "rejected", "hash": "aa", "error": "the file has problems", "problems": [
            { "severity": "error", "file": "c.yaml", "line": 6, "column": 3, "path": "routes[0].pool",
              "message": "there is no pool `\u{1b}[2J`", "text": "  pool: x" },
        ] });
        let expected = "c.yaml:6:3: routes[0].pool: there is no pool `\\u{1b}[2J`\n 6 |   pool: x\n   |   ^\n\
                        rejected: 1 error; aa stays in force\n";
        assert_eq!(shown(&answer), expected);
    }

    #[test]
    fn the_result_is_one_line() {
        let applied = json!({ "result": "applied", "hash": "aa", "took_ms": 3, "problems": [] });
        assert_eq!(shown(&applied), "applied in 3 ms: aa is in force\n");
        let unchanged = json!({ "result": "unchanged", "hash": "aa" });
        assert_eq!(shown(&unchanged), "unchanged: aa is in force already\n");
        let taken = json!({ "result": "rejected", "hash": "aa", "error": "127.0.0.1:1: address in use" });
        assert_eq!(shown(&taken), "rejected: 127.0.0.1:1: address in use; aa stays in force\n");
    }
}
