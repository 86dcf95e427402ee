//! Adds the line of the file to each problem of a configuration, for people who do not have the file at hand.
//!
//! In:  problems with their places.
//! Out: the same for the status, with the lines as the files are now.

use std::collections::HashMap;
use std::path::Path;

use crate::config::{Problem, Severity, read_file};
use crate::operate::status::ReloadProblem;
use crate::telemetry::readable;

pub(super) fn with_lines(problems: &[Problem]) -> Vec<ReloadProblem> {
    let mut files: HashMap<&Path, Option<String>> = HashMap::new();
    let mut reported = Vec::with_capacity(problems.len());
    for problem in problems {
        let file = files.entry(&problem.place.file).or_insert_with_key(|file| read(file));
        let line = usize::try_from(problem.place.line).unwrap_or(usize::MAX).checked_sub(1);
        let text = file.as_ref().zip(line).and_then(|(text, line)| text.lines().nth(line));
        reported.push(problem_of(problem, text.map(|text| readable(text, MOST_CHARACTERS))));
    }
    reported
}

/// One problem, with the line of its file.
pub(crate) fn problem_of(problem: &Problem, text: Option<String>) -> ReloadProblem {
    let Problem { severity, place, path, message } = problem;
    ReloadProblem {
        severity: match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
        .into(),
        file: place.file.display().to_string(),
        line: place.line,
        column: place.column,
        path: path.clone(),
        message: message.clone(),
        text,
    }
}

fn read(file: &Path) -> Option<String> {
    read_file(file, MOST_BYTES).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

const MOST_CHARACTERS: usize = 200;
/// A larger file is a list, which has no need to be read again for a line.
const MOST_BYTES: u64 = 1 << 20;
