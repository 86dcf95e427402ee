//! `snigate kubernetes`: shows, without a cluster, what snigate makes of manifests.
//!
//! In:  files with manifests.
//! Out: the statuses that the objects would get; where a name goes. By the same function as in a cluster.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Exit, output_failed};
use crate::config::Config;
use crate::operate::explain::{Question, explain, text};
use crate::route::NameForm;
use crate::snapshot::Snapshot;
use crate::sources::kubernetes::manifests::Manifests;
use crate::sources::kubernetes::status::Condition;
use crate::sources::kubernetes::{Cluster, ObjectName, Translation, join};
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
    /// Files with manifests, in YAML or JSON; `-` is standard input
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
        eprintln!("snigate: {problem}");
    }
    let has_problems = !made.problems.is_empty();
    let (printed, exit) = match name {
        None => made.checked(),
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
    translation: Translation,
    left_out: Vec<String>,
    problems: Vec<String>,
}

impl Made {
    fn of(given: &Given) -> Result<Self, ExitCode> {
        let mut manifests = Manifests::default();
        for file in &given.files {
            let shown = file.display().to_string();
            match content(file) {
                Ok(text) => manifests.read(&shown, &text),
                Err(error) => {
                    eprintln!("snigate: cannot read {shown}: {error}");
                    return Err(Exit::Usage.into());
                }
            }
        }
        let mut config = match &given.settings {
            Some(file) => super::load(file)?.config,
            None => defaults(),
        };
        config.settings.kubernetes.get_or_insert_default();
        let Manifests { objects, left_out, problems } = manifests;
        let cluster = Cluster { objects, ..Cluster::default() };
        let translation = join(&mut config, &cluster).unwrap_or_default();
        let left_out = left_out.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        Ok(Self { config, translation, left_out, problems })
    }

    /// The statuses, and whether all is accepted.
    fn checked(&self) -> (String, ExitCode) {
        let statuses = &self.translation.statuses;
        let mut out = Lines::default();
        for (name, status) in &statuses.gateway_classes {
            out.object("GatewayClass", name);
            out.conditions("  ", &status.conditions);
        }
        for (name, status) in &statuses.gateways {
            out.object("Gateway", name);
            // Without a cluster, nothing has an address or is in force.
            let known = status.conditions.iter().filter(|condition| condition.kind != "Programmed");
            out.conditions("  ", known);
            for listener in &status.listeners {
                out.line(format_args!("  listener {}: {} routes attached", listener.name, listener.attached_routes));
                out.conditions("    ", listener.conditions.iter().filter(|condition| condition.kind != "Programmed"));
            }
        }
        for (name, status) in &statuses.tls_routes {
            out.object("TLSRoute", name);
            for parent in &status.parents {
                let section = parent.parent.section_name.iter().map(|section| format!(", listener {section}"));
                let section: String = section.collect();
                out.line(format_args!("  at Gateway {}{section}", parent.parent.name));
                out.conditions("    ", &parent.conditions);
            }
        }
        for (name, status) in &statuses.ingresses {
            out.object("Ingress", name);
            if let Some(gateway) = &status.gateway {
                out.line(format_args!("  at Gateway {gateway}"));
            }
            status.problems.iter().for_each(|problem| out.bad(format_args!("  {problem}")));
        }
        if !self.left_out.is_empty() {
            out.line(format_args!("not read: {}", self.left_out.join(", ")));
        }
        let seen = statuses.gateways.len() + statuses.tls_routes.len() + statuses.ingresses.len();
        if seen == 0 {
            out.bad(format_args!(
                "no Gateway is of a class of ours: is the GatewayClass in one of the files, with the controllerName {}?",
                self.config.kubernetes.iter().map(|settings| settings.controller_name.to_string()).collect::<String>()
            ));
        }
        let exit = if out.is_bad { Exit::Config.into() } else { ExitCode::SUCCESS };
        (out.text, exit)
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

/// What is printed, and whether something in it would not be accepted.
#[derive(Default)]
struct Lines {
    text: String,
    is_bad: bool,
}

impl Lines {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.text.push_str(&super::printable::printable(&line.to_string()));
        self.text.push('\n');
    }

    fn bad(&mut self, line: std::fmt::Arguments<'_>) {
        self.is_bad = true;
        self.line(line);
    }

    fn object(&mut self, kind: &str, name: &ObjectName) {
        self.line(format_args!("{kind} {name}"));
    }

    fn conditions<'c>(&mut self, indent: &str, conditions: impl IntoIterator<Item = &'c Condition>) {
        for condition in conditions {
            let Condition { kind, is_true, reason, message, .. } = condition;
            let line = format!("{indent}{kind}={} {reason}: {message}", if *is_true { "True" } else { "False" });
            if condition.is_good() { self.line(format_args!("{line}")) } else { self.bad(format_args!("{line}")) }
        }
    }
}

/// As if the routing file had nothing but `kubernetes: {}`.
fn defaults() -> Config {
    let parsed = Config::parse("kubernetes: {}\n", Path::new("defaults"));
    parsed.expect("this file has no errors").config
}

/// The largest file of manifests that is read, in bytes.
const MOST_BYTES: u64 = 256 << 20;

fn content(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read: Box<dyn Read> =
        if file == Path::new("-") { Box::new(io::stdin()) } else { Box::new(fs::File::open(file)?) };
    if read.take(MOST_BYTES + 1).read_to_string(&mut text)? as u64 > MOST_BYTES {
        return Err(io::Error::other("the file is larger than 256 MiB"));
    }
    Ok(text)
}
