//! `snigate check FILE`: shows every problem of a routing file.
//!
//! In:  the path of the file.
//! Out: one line per problem, optionally with the line of the file below it, and a summary; or everything as JSON.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use super::figures::counted;
use super::printable::printable;
use super::progress::Progress;
use crate::config::{Config, Loaded, Place, Problem, Problems, Severity};
use crate::telemetry::escape::misleads;

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One line per problem, for programs that parse `file:line:column: …`.
    Lines,
    /// The line of the file and a caret below each problem, for people.
    Snippets,
    Json,
}

/// Whether the file can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Usable,
    /// It can be used, but there are warnings.
    Doubtful,
    Refused,
}

/// Loads `file` as `run` would, and writes its problems. `strict`: the caller refuses warnings, too.
///
/// # Errors
/// Fails if `out` cannot be written.
pub(super) fn check(file: &Path, form: Form, strict: bool, out: &mut dyn Write) -> io::Result<Verdict> {
    let loaded = {
        let _progress = Progress::start(format!("reading {}", printable(&file.display().to_string())), None);
        Config::load(file)
    };
    let (config, problems) = match &loaded {
        Ok(Loaded { config, warnings }) => (Some(config), warnings),
        Err(problems) => (None, problems),
    };
    match form {
        Form::Json => json(file, config, problems, out)?,
        Form::Lines | Form::Snippets => text(file, form, strict, config, problems, out)?,
    }
    Ok(match config {
        Some(_) if problems.warnings() > 0 => Verdict::Doubtful,
        Some(_) => Verdict::Usable,
        None => Verdict::Refused,
    })
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Usable | Verdict::Doubtful => Self::SUCCESS,
            Verdict::Refused => Self::FAILURE,
        }
    }
}

fn text(
    file: &Path,
    form: Form,
    strict: bool,
    config: Option<&Config>,
    problems: &Problems,
    out: &mut dyn Write,
) -> io::Result<()> {
    let source =
        if form == Form::Snippets { LineSource::FilesAnd(Lines::new()) } else { LineSource::Only(Lines::new()) };
    write_problems(problems, &source, out)?;
    if problems.left_off() > 0 {
        writeln!(out, "and {} more", problems.left_off())?;
    }
    write!(out, "{}: ", file.display())?;
    let errors = counted(problems.errors(), "error");
    let warnings = counted(problems.warnings(), "warning");
    match config {
        None => write!(out, "{errors}")?,
        Some(config) => {
            let routes = counted(config.routes.len(), "route");
            let pools = counted(config.pools.len(), "pool");
            write!(out, "ok, {routes}{}, {pools}", from_files(config))?;
            if config.docker.is_some() {
                write!(out, " (containers may add routes for names that `docker.allow` covers)")?;
            }
        }
    }
    match problems.warnings() {
        0 => writeln!(out),
        _ if strict && config.is_some() => writeln!(out, ", {warnings}, which --strict refuses"),
        _ => writeln!(out, ", {warnings}"),
    }
}

/// How many names are not in the routing file itself.
fn from_files(config: &Config) -> String {
    let listed = config.routes.iter().filter_map(|route| Some(route.patterns.len() - route.listed.as_ref()?.inline));
    match listed.clone().count() {
        0 => String::new(),
        _ => format!(" ({} from files)", counted(listed.sum(), "name")),
    }
}

/// Lines of files, by their number.
pub(super) type Lines = HashMap<(Arc<Path>, u32), String>;

/// Where the lines of the files are from that are shown below the problems.
pub(super) enum LineSource {
    Only(Lines),
    /// These; those that are missing are read.
    FilesAnd(Lines),
}

/// Writes a line for each problem; below it the line of the file, if `source` has it.
///
/// # Errors
/// Fails if `out` cannot be written.
pub(super) fn write_problems(problems: &Problems, source: &LineSource, out: &mut dyn Write) -> io::Result<()> {
    let (given, read) = match source {
        LineSource::Only(lines) => (lines, Lines::new()),
        LineSource::FilesAnd(lines) => (lines, lines_of(problems)),
    };
    for problem in problems {
        writeln!(out, "{problem}")?;
        let at = (Arc::clone(&problem.place.file), problem.place.line);
        if let Some(line) = given.get(&at).or_else(|| read.get(&at)) {
            snippet(line, &problem.place, out)?;
        }
    }
    Ok(())
}

/// Reads the lines that have problems. For a file that cannot be read there are none; its problem says why.
fn lines_of(problems: &Problems) -> Lines {
    let mut wanted: HashMap<Arc<Path>, Vec<u32>> = HashMap::new();
    for Problem { place, .. } in problems {
        wanted.entry(Arc::clone(&place.file)).or_default().push(place.line);
    }
    let mut lines = HashMap::new();
    for (path, numbers) in wanted {
        // Reading anything but a regular file may block or never end.
        let Some(file) = path.is_file().then(|| File::open(&path).ok()).flatten() else { continue };
        let last = numbers.iter().max().copied().unwrap_or_default();
        for (number, line) in (1..=last).zip(BufReader::new(file).lines()) {
            let Ok(line) = line else { break };
            if numbers.contains(&number) {
                lines.insert((Arc::clone(&path), number), line);
            }
        }
    }
    lines
}

/// Writes a line of the file, and a caret under the column.
fn snippet(line: &str, place: &Place, out: &mut dyn Write) -> io::Result<()> {
    let column = place.column.max(1) as usize - 1;
    if line.chars().count() > MAX_SNIPPET || line.trim().is_empty() {
        return Ok(());
    }
    // A tab is repeated, since its width depends on the terminal; control characters are replaced.
    let is_unsafe = |c: char| c != '\t' && (c.is_control() || misleads(c));
    let shown: String = line.chars().map(|c| if is_unsafe(c) { ' ' } else { c }).collect();
    let indent: String = line.chars().take(column).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let number = place.line.to_string();
    writeln!(out, " {number} | {shown}")?;
    writeln!(out, " {} | {indent}^", " ".repeat(number.len()))
}

fn json(file: &Path, config: Option<&Config>, problems: &Problems, out: &mut dyn Write) -> io::Result<()> {
    let report = Report {
        file: file.display().to_string(),
        ok: config.is_some(),
        errors: problems.errors(),
        warnings: problems.warnings(),
        problems: problems.iter().map(Finding::new).collect(),
        config: config.map(|config| Summary {
            listeners: config.listeners.len(),
            routes: config.routes.len(),
            pools: config.pools.len(),
            files: config.files.iter().map(|file| file.display().to_string()).collect(),
            hash: &config.hash,
        }),
    };
    serde_json::to_writer_pretty(&mut *out, &report)?;
    writeln!(out)
}

#[derive(Serialize)]
struct Report<'c> {
    file: String,
    ok: bool,
    errors: usize,
    warnings: usize,
    /// The first hundred of each severity.
    problems: Vec<Finding<'c>>,
    config: Option<Summary<'c>>,
}

#[derive(Serialize)]
struct Finding<'c> {
    severity: &'static str,
    file: String,
    line: u32,
    column: u32,
    path: &'c str,
    message: &'c str,
}

#[derive(Serialize)]
struct Summary<'c> {
    listeners: usize,
    routes: usize,
    pools: usize,
    files: Vec<String>,
    hash: &'c str,
}

impl<'c> Finding<'c> {
    fn new(problem: &'c Problem) -> Self {
        Self {
            severity: match problem.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            file: problem.place.file.display().to_string(),
            line: problem.place.line,
            column: problem.place.column,
            path: &problem.path,
            message: &problem.message,
        }
    }
}

/// A longer line would fill the terminal.
const MAX_SNIPPET: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str, form: Form) -> (Verdict, String) {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("config.yaml");
        std::fs::write(&file, text).expect("written");
        let mut out = Vec::new();
        let verdict = check(&file, form, false, &mut out).expect("a vector takes everything");
        let out = String::from_utf8(out).expect("text").replace(&file.display().to_string(), "config.yaml");
        (verdict, out)
    }

    #[test]
    fn a_good_file_is_summed_up() {
        let text = "listeners: [{ name: a, bind: 127.0.0.1:0 }]\npools: { p: { backends: [127.0.0.1:1] } }\n\
                    routes: [{ sni: a.test, pool: p }]\n";
        let expected = (Verdict::Usable, "config.yaml: ok, 1 route, 1 pool\n".to_owned());
        assert_eq!(checked(text, Form::Snippets), expected);
    }

    #[test]
    fn a_problem_is_shown_where_it_stands() {
        let text = "listeners:\n  - name: a\n    bind: 127.0.0.1\nrotes: []\n";
        let expected = "config.yaml:3:11: listeners[0].bind: a port is missing; write `127.0.0.1:PORT`\n \
                        3 |     bind: 127.0.0.1\n   |           ^\n\
                        config.yaml:4:1: rotes: unknown key; did you mean `routes`?\n \
                        4 | rotes: []\n   | ^\n\
                        config.yaml: 2 errors\n";
        assert_eq!(checked(text, Form::Snippets), (Verdict::Refused, expected.to_owned()));
    }

    #[test]
    fn the_same_is_reported_as_json() {
        let (verdict, out) = checked("listeners: [{ name: a }]\n", Form::Json);
        let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(verdict, Verdict::Refused);
        assert_eq!(report["ok"], false);
        assert_eq!(report["problems"][0]["path"], "listeners[0]");
        assert_eq!(report["problems"][0]["message"], "`bind` is missing");
    }
}
