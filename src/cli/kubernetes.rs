//! `snigate kubernetes`: shows, without a cluster, what snigate makes of manifests.
//!
//! In:  files with manifests.
//! Out: the statuses that the objects would get; where a name goes. By the same function as in a cluster.

mod check;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::printable::printable;
use super::{Exit, output_failed};
use crate::config::Config;
use crate::operate::explain::{Question, explain, text};
use crate::route::NameForm;
use crate::snapshot::Snapshot;
use crate::sources::kubernetes::manifests::Manifests;
use crate::sources::kubernetes::{Cluster, Objects, Translation, join};
use crate::telemetry::Metrics;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Shows the statuses that manifests would get; fails if something would not be accepted
    Check {
        #[command(flatten)]
        given: Given,
    },
    /// Shows where a name goes by manifests, at each listener of each Gateway
    Explain {
        /// The server name as a client sends it
        name: String,
        #[command(flatten)]
        given: Given,
    },
}

#[derive(Args, Clone, Debug)]
struct Given {
    /// Files or directories with manifests, in YAML or JSON; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A routing file whose `kubernetes` settings apply [default: the defaults]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

/// Runs a command: `check` and `explain` differ in what they print, and in when they fail.
pub(super) fn run(options: &Options) -> ExitCode {
    let (given, name) = match &options.command {
        Command::Check { given } => (given, None),
        Command::Explain { name, given } => (given, Some(name)),
    };
    let made = match Made::of(given) {
        Ok(made) => made,
        Err(exit) => return exit,
    };
    for problem in &made.problems {
        eprintln!("snigate: {}", printable(problem));
    }
    let has_problems = !made.problems.is_empty();
    let (printed, exit) = match name {
        None => check::check(&made),
        Some(name) => made.explained(name),
    };
    match io::stdout().lock().write_all(printed.as_bytes()) {
        Ok(()) if has_problems => Exit::Config.into(),
        Ok(()) => exit,
        Err(error) => output_failed(&error),
    }
}

/// What becomes of manifests.
struct Made {
    config: Config,
    objects: Objects,
    translation: Translation,
    left_out: BTreeMap<(String, String), usize>,
    problems: Vec<String>,
}

impl Made {
    fn of(given: &Given) -> Result<Self, ExitCode> {
        let mut manifests = Manifests::default();
        for given in &given.files {
            let read = listed(given).map_err(|error| (given.clone(), error)).and_then(|files| {
                files.into_iter().try_for_each(|file| match content(&file) {
                    Ok(text) => {
                        manifests.read(&file.display().to_string(), &text);
                        Ok(())
                    }
                    Err(error) => Err((file, error)),
                })
            });
            if let Err((file, error)) = read {
                eprintln!("snigate: cannot read {}: {error}", printable(&file.display().to_string()));
                return Err(Exit::Usage.into());
            }
        }
        let mut config = match &given.settings {
            Some(file) => super::load(file)?.config,
            None => defaults(),
        };
        config.settings.kubernetes.get_or_insert_default();
        let Manifests { objects, left_out, problems, .. } = manifests;
        let cluster = Cluster { objects, ..Cluster::default() };
        let translation = join(&mut config, &cluster).unwrap_or_default();
        Ok(Self { config, objects: cluster.objects, translation, left_out, problems })
    }

    /// Where `name` goes, and whether it goes anywhere.
    fn explained(self, name: &str) -> (String, ExitCode) {
        let mut out = String::new();
        let listeners = self.translation.listeners.iter().map(|listener| listener.name.to_string());
        let listeners: Vec<String> = listeners.collect();
        if listeners.is_empty() {
            return (
                "no listener of a Gateway is served: `snigate kubernetes check` shows why\n".to_owned(),
                Exit::Refused.into(),
            );
        }
        let snapshot = Snapshot::build(self.config, None, &Metrics::new());
        let mut is_served = false;
        for listener in listeners {
            let question = Question {
                name: name.to_owned(),
                alpn: Vec::new(),
                source: None,
                listener: Some(listener.clone()),
                form: NameForm::Clear,
            };
            match explain(&snapshot, &question) {
                Ok(explanation) => {
                    is_served |= explanation.refusal.is_none();
                    out.push_str(&text(&explanation));
                }
                // It was joined to the configuration, unless the file has one of its name.
                Err(error) => out.push_str(&format!("{listener}: {error}\n")),
            }
            out.push('\n');
        }
        (out, if is_served { ExitCode::SUCCESS } else { Exit::Refused.into() })
    }
}

/// As if the routing file had nothing but `kubernetes: {}`.
fn defaults() -> Config {
    let parsed = Config::parse("kubernetes: {}\n", Path::new("defaults"));
    parsed.expect("this file has no errors").config
}

/// The largest file of manifests that is read, in bytes.
const MOST_BYTES: u64 = 256 << 20;

/// The files to read: of a directory those that `kubectl -f` takes, without those below it.
///
/// # Errors
/// A directory cannot be read, or has none.
fn listed(given: &Path) -> io::Result<Vec<PathBuf>> {
    if given == Path::new("-") || !given.is_dir() {
        return Ok(vec![given.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(given)? {
        let path = entry?.path();
        let is_manifest = path.extension().is_some_and(|it| ["yaml", "yml", "json"].iter().any(|known| it == *known));
        if is_manifest && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(io::Error::other("the directory has no files `*.yaml`, `*.yml` or `*.json`")),
        false => Ok(files),
    }
}

fn content(file: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let read: Box<dyn Read> =
        if file == Path::new("-") { Box::new(io::stdin()) } else { Box::new(fs::File::open(file)?) };
    if read.take(MOST_BYTES + 1).read_to_end(&mut bytes)? as u64 > MOST_BYTES {
        return Err(io::Error::other("it is larger than 256 MiB"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        io::Error::other(format!("line {line} is not text in UTF-8"))
    })
}
