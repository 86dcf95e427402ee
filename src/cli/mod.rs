//! The commands, one file each.

mod check;
mod demo;
pub mod demo_backends;
pub mod healthcheck;
mod run;
mod schema;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;

/// Routes TLS by its server name without decrypting it.
#[derive(Debug, Parser)]
#[command(name = "snigate", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The routing file; without it ./config.yaml, then /etc/snigate/config.yaml
    #[arg(long, short, global = true, env = "SNIGATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves until SIGTERM, which drains; SIGHUP and a changed file reload (this is what no command means)
    Run,
    /// Tells all problems of a routing file, with their places
    Check {
        /// The routing file
        file: Option<PathBuf>,
        /// Prints the problems as JSON
        #[arg(long)]
        json: bool,
    },
    /// Starts two small TLS backends and snigate in front of them, to try with curl
    Demo(demo::Options),
    /// Asks the running snigate of this configuration whether it is ready; for containers
    Healthcheck,
    /// Prints the JSON Schema of the routing file, for editors
    Schema,
}

/// What the process says with its end.
#[derive(Clone, Copy, Debug)]
pub enum Exit {
    Config = 1,
    Usage = 2,
    Bind = 3,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let Arguments { command, config } = Arguments::parse();
    match command {
        Some(Command::Demo(options)) => demo::demo(&options),
        Some(Command::Schema) => match schema::schema(&mut std::io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => output_failed(&error),
        },
        Some(Command::Check { file, json }) => with_config(file.or(config), |file| check_file(&file, json)),
        Some(Command::Healthcheck) => with_config(config, |file| ask_health(&file)),
        Some(Command::Run) | None => with_config(config, run::run),
    }
}

fn with_config(told: Option<PathBuf>, command: impl FnOnce(PathBuf) -> ExitCode) -> ExitCode {
    match run::find_config(told) {
        Ok(file) => command(file),
        Err(message) => {
            eprintln!("snigate: {message}");
            Exit::Usage.into()
        }
    }
}

fn check_file(file: &std::path::Path, json: bool) -> ExitCode {
    let stdout = std::io::stdout();
    let form = match (json, stdout.is_terminal()) {
        (true, _) => check::Form::Json,
        (false, true) => check::Form::Snippets,
        (false, false) => check::Form::Lines,
    };
    match check::check(file, form, &mut stdout.lock()) {
        Ok(verdict) => verdict.into(),
        Err(error) => output_failed(&error),
    }
}

fn ask_health(file: &std::path::Path) -> ExitCode {
    let loaded = match Config::load(file) {
        Ok(loaded) => loaded,
        Err(problems) => {
            run::tell(&problems);
            return Exit::Config.into();
        }
    };
    match healthcheck::healthcheck(&loaded.config.admin.bind) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            eprintln!("snigate: {error}{cause}");
            ExitCode::FAILURE
        }
    }
}

/// Nobody reads what a command prints: no failure of the command, but it cannot claim success either.
fn output_failed(error: &io::Error) -> ExitCode {
    eprintln!("snigate: cannot write: {error}");
    ExitCode::FAILURE
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

const AFTER_HELP: &str =
    "Exit codes: 0 ended as asked, 1 a problem in the configuration, 2 usage, 3 an address that cannot be bound.";
