//! The commands, one file each.

pub(crate) mod admin_client;
mod check;
mod completions;
mod demo;
pub(crate) mod demo_backends;
mod diff;
mod doctor;
mod explain;
pub(crate) mod healthcheck;
mod man;
mod run;
mod schema;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{CommandFactory, Parser, Subcommand, ValueHint};

use crate::config::{Config, Loaded, Problems};

/// Routes TLS by its server name without decrypting it.
#[derive(Debug, Parser)]
#[command(name = "snigate", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The routing file; without it ./config.yaml, then /etc/snigate/config.yaml
    // An empty value is none: `SNIGATE_CONFIG=` in a compose file.
    #[arg(long, short, global = true, env = "SNIGATE_CONFIG", value_name = "FILE", hide_env_values = true,
        value_parser = OsStringValueParser::new().map(PathBuf::from), value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves until SIGTERM, which drains; SIGHUP and a changed file reload (this is what no command means)
    Run {
        /// The routing file
        file: Option<PathBuf>,
    },
    /// Tells all problems of a routing file, with their places
    Check {
        /// The routing file
        file: Option<PathBuf>,
        /// Prints the problems as JSON
        #[arg(long)]
        json: bool,
    },
    /// Tells which route takes a name, what was passed over and why
    Explain(explain::Options),
    /// Tells which names another file would send elsewhere
    Diff(diff::Options),
    /// Connects to every backend with every name routed to it, and tells what clients will meet
    Doctor(doctor::Options),
    /// Starts two small TLS backends and snigate in front of them, to try with curl
    Demo(demo::Options),
    /// Asks the running snigate of this configuration whether it is ready; for containers
    Healthcheck,
    /// Prints the JSON Schema of the routing file, for editors
    Schema,
    /// Prints a completion script
    Completions {
        /// The shell that is to complete
        shell: clap_complete::Shell,
    },
    /// Prints a man page
    Man {
        /// The page of this command; without it that of snigate itself
        command: Option<String>,
    },
}

/// What the process says with its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Config = 1,
    Usage = 2,
    Bind = 3,
    /// `explain`: the client is refused.
    Refused = 4,
    /// `explain`: not the pool that was expected.
    OtherPool = 5,
    /// `diff`: somebody goes elsewhere.
    Changes = 6,
    /// `doctor`: there is something to mend.
    Findings = 7,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let Arguments { command, config } = Arguments::parse();
    let config = config.filter(|file| !file.as_os_str().is_empty());
    match command {
        Some(Command::Explain(options)) => explain::run(&options, options.file.clone().or(config)),
        Some(Command::Diff(options)) => diff::run(&options),
        Some(Command::Doctor(options)) => doctor::run(&options, options.file.clone().or(config)),
        Some(Command::Demo(options)) => demo::demo(&options),
        Some(Command::Schema) => printed(schema::schema(&mut io::stdout().lock())),
        Some(Command::Completions { shell }) => {
            printed(completions::completions(shell, Arguments::command(), &mut io::stdout().lock()))
        }
        Some(Command::Man { command }) => man_page(command.as_deref()),
        Some(Command::Check { file, json }) => with_config(file.or(config), |file| check_file(&file, json)),
        Some(Command::Healthcheck) => with_config(config, |file| ask_health(&file)),
        Some(Command::Run { file }) => with_config(file.or(config), run::run),
        None => with_config(config, run::run),
    }
}

fn with_config(told: Option<PathBuf>, command: impl FnOnce(PathBuf) -> ExitCode) -> ExitCode {
    config_file(told).map_or_else(|exit| exit, command)
}

/// Finds the routing file, or says where it was looked for.
fn config_file(told: Option<PathBuf>) -> Result<PathBuf, ExitCode> {
    run::find_config(told).map_err(|message| {
        eprintln!("snigate: {message}");
        Exit::Usage.into()
    })
}

/// Loads `file`, or says what is wrong with it.
fn load(file: &Path) -> Result<Loaded, ExitCode> {
    usable(file, Config::load(file))
}

fn usable(file: &Path, loaded: Result<Loaded, Problems>) -> Result<Loaded, ExitCode> {
    loaded.map_err(|problems| {
        eprintln!("{problems}");
        let count = problems.errors();
        eprintln!("snigate: {} has {count} error{}", file.display(), if count == 1 { "" } else { "s" });
        Exit::Config.into()
    })
}

fn man_page(command: Option<&str>) -> ExitCode {
    match man::man(command, Arguments::command(), &mut io::stdout().lock()) {
        Some(result) => printed(result),
        None => {
            let command = command.unwrap_or_default().escape_debug();
            eprintln!("snigate: there is no command `{command}`; `snigate --help` lists them");
            Exit::Usage.into()
        }
    }
}

/// The end of a command that only prints.
fn printed(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output_failed(&error),
    }
}

fn check_file(file: &Path, json: bool) -> ExitCode {
    let stdout = io::stdout();
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

fn ask_health(file: &Path) -> ExitCode {
    let loaded = match load(file) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
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

const AFTER_HELP: &str = "Exit codes: 0 ended as asked, 1 a problem in the configuration, 2 usage, 3 an address that \
cannot be bound; explain: 4 refused, 5 another pool than expected; diff: 6 something changes; \
doctor: 7 something to mend.";
