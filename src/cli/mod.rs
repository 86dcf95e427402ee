//! The commands, one file each.

pub(crate) mod admin_client;
mod backend_name;
mod check;
mod completions;
mod connections;
mod demo;
pub(crate) mod demo_backends;
mod diff;
mod doctor;
mod ech;
mod explain;
mod export;
mod figures;
pub(crate) mod healthcheck;
mod import;
mod init;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod man;
mod output_file;
mod printable;
mod progress;
mod refusals;
mod reload;
mod remote;
mod remote_failure;
mod reported;
mod run;
mod schema;
mod set_backend;
mod status;
mod table;
pub(crate) mod top;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};

use self::remote::Target;
use crate::config::{Config, Loaded, Problems};
use crate::settings::Address;

/// Layer-4 load balancer that routes TLS connections by server name (SNI) without decrypting them
#[derive(Debug, Parser)]
#[command(name = "snigate", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The routing file; if not given, ./config.yaml, then /etc/snigate/config.yaml
    // An empty value counts as unset: `SNIGATE_CONFIG=` in a compose file.
    #[arg(long, short, global = true, env = "SNIGATE_CONFIG", value_name = "FILE", hide_env_values = true,
        value_parser = OsStringValueParser::new().map(PathBuf::from), value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the load balancer (the default command); SIGTERM drains, SIGHUP or a changed file reloads
    Run {
        /// The routing file
        file: Option<PathBuf>,
    },
    /// Checks a routing file and shows every problem with its line and column
    Check {
        /// The routing file
        file: Option<PathBuf>,
        /// Prints the problems as JSON
        #[arg(long)]
        json: bool,
        /// Also fails if there are warnings
        #[arg(long)]
        strict: bool,
    },
    /// Shows which route matches a name, which were skipped, and why
    Explain(explain::Options),
    /// Shows which names would be routed differently by another file
    Diff(diff::Options),
    /// Writes a routing file for the services given
    Init(init::Options),
    /// Writes a routing file from the configuration of another program, and lists what it leaves out
    Import(import::Options),
    /// Writes the configuration of another program from a routing file, and lists what it leaves out
    Export(export::Options),
    /// Connects to every backend with every name routed to it, and reports the problems clients would see
    Doctor(doctor::Options),
    /// Shows, without a cluster, what snigate makes of Kubernetes manifests
    #[cfg(feature = "kubernetes")]
    Kubernetes(kubernetes::Options),
    /// Makes and shows keys for Encrypted ClientHello, and opens captured hellos with them
    Ech(ech::Options),
    /// Starts two small TLS backends with snigate in front of them, to try with curl
    Demo(demo::Options),
    /// Shows what the running snigate does, first what is wrong
    Status(status::Options),
    /// Shows the running snigate live in the terminal
    Top(top::Options),
    /// Lists open connections, or ends some
    Connections(connections::Options),
    /// Lists the latest clients that the running snigate refused, and the names that no route matches
    Refusals(refusals::Options),
    /// Makes the running snigate read its routing file again, and shows the result
    Reload(reload::Options),
    /// Takes backends out of service: no new connections; open ones continue
    Drain(set_backend::DrainOptions),
    /// Takes backends out of service as `drain` does, and stops checking them
    Down(set_backend::StateOptions),
    /// Puts backends back into service
    Ready(set_backend::StateOptions),
    /// Sets the weight of a backend
    Weight(set_backend::WeightOptions),
    /// Checks whether the running snigate is ready; for container health checks
    Healthcheck(healthcheck::Options),
    /// Prints the JSON Schema of the routing file, for editors and linters
    Schema,
    /// Prints a shell completion script
    Completions {
        /// The shell to generate the script for
        shell: clap_complete::Shell,
    },
    /// Prints a man page
    Man {
        /// The command to describe; if not given, snigate itself
        command: Option<String>,
    },
}

/// Exit codes other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Config = 1,
    Usage = 2,
    Bind = 3,
    /// `explain`, `kubernetes explain`, `ech open`: the client is refused.
    Refused = 4,
    /// `explain`: not the pool that was expected.
    OtherPool = 5,
    /// `diff`: routing differs.
    Changes = 6,
    /// `doctor`: there are errors or warnings.
    Findings = 7,
    /// `import`, `export`: the result does not say everything.
    LeftOut = 8,
}

/// Runs the command given on the command line.
pub fn main() -> ExitCode {
    let matches = Arguments::command().get_matches();
    let Arguments { command, config } = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let on_command_line = matches.value_source("config") == Some(ValueSource::CommandLine);
    if on_command_line && let Some(why) = command.as_ref().and_then(ignores_config) {
        Arguments::command().error(ErrorKind::ArgumentConflict, why).exit();
    }
    let config = config.filter(|file| !file.as_os_str().is_empty());
    // For the commands that ask a running process.
    let running = |named: Option<&PathBuf>| {
        let named = named.cloned().or(config.clone().filter(|_| on_command_line));
        let usual = config.clone();
        move || running_file(named, usual)
    };
    match command {
        Some(Command::Status(options)) => status::run(&options, running(options.target.file.as_ref())),
        Some(Command::Top(options)) => top::run(&options, running(options.target.file.as_ref())),
        Some(Command::Connections(options)) => connections::run(&options, running(None)),
        Some(Command::Refusals(options)) => refusals::run(&options, running(options.target.file.as_ref())),
        Some(Command::Reload(options)) => reload::run(&options, running(options.target.file.as_ref())),
        Some(Command::Drain(options)) => set_backend::drain(&options, running(None)),
        Some(Command::Down(options)) => set_backend::state(&options, "down", running(None)),
        Some(Command::Ready(options)) => set_backend::state(&options, "ready", running(None)),
        Some(Command::Weight(options)) => set_backend::set_weight(&options, running(None)),
        Some(Command::Explain(options)) => explain::run(&options, options.file.clone().or(config)),
        Some(Command::Diff(options)) => diff::run(&options),
        Some(Command::Export(options)) => {
            with_config(options.file.clone().or(config), |file| export::run(&options, &file))
        }
        Some(Command::Init(options)) => init::run(&options),
        Some(Command::Import(options)) => import::run(&options),
        Some(Command::Doctor(options)) => doctor::run(&options, options.file.clone().or(config)),
        Some(Command::Ech(options)) => ech::run(&options),
        #[cfg(feature = "kubernetes")]
        Some(Command::Kubernetes(options)) => kubernetes::run(&options),
        Some(Command::Demo(options)) => demo::demo(&options),
        Some(Command::Schema) => printed(schema::schema(&mut io::stdout().lock())),
        Some(Command::Completions { shell }) => {
            printed(completions::completions(shell, Arguments::command(), &mut io::stdout().lock()))
        }
        Some(Command::Man { command }) => man_page(command.as_deref()),
        Some(Command::Check { file, json, strict }) => {
            with_config(file.or(config), |file| check_file(&file, json, strict))
        }
        Some(Command::Healthcheck(options)) => health(&options, running(options.file.as_ref())),
        Some(Command::Run { file }) => with_config(file.or(config), run::run),
        None => with_config(config, run::run),
    }
}

/// Why `--config` would have no effect.
fn ignores_config(command: &Command) -> Option<&'static str> {
    match command {
        Command::Run { file: Some(_) }
        | Command::Check { file: Some(_), .. }
        | Command::Explain(explain::Options { file: Some(_), .. })
        | Command::Export(export::Options { file: Some(_), .. })
        | Command::Doctor(doctor::Options { file: Some(_), .. })
        | Command::Healthcheck(healthcheck::Options { file: Some(_), .. })
        | Command::Status(status::Options { target: Target { file: Some(_), .. }, .. })
        | Command::Top(top::Options { target: Target { file: Some(_), .. }, .. })
        | Command::Refusals(refusals::Options { target: Target { file: Some(_), .. }, .. })
        | Command::Reload(reload::Options { target: Target { file: Some(_), .. }, .. }) => {
            Some("the routing file is given twice, as an argument and with --config: leave one out")
        }
        Command::Explain(explain::Options { admin: Some(_), .. })
        | Command::Healthcheck(healthcheck::Options { admin: Some(_), .. }) => {
            Some("--admin asks the running snigate, which has its own routing file: leave out --config")
        }
        Command::Diff(_) => Some("`diff` compares the two files given as arguments: leave out --config"),
        #[cfg(feature = "kubernetes")]
        Command::Kubernetes(_) => Some("this command reads the routing file that --settings names: leave out --config"),
        Command::Demo(_)
        | Command::Ech(_)
        | Command::Import(_)
        | Command::Init(_)
        | Command::Schema
        | Command::Completions { .. }
        | Command::Man { .. } => Some("this command does not read a routing file: leave out --config"),
        _ => asks_elsewhere(command)
            .then_some("--admin asks the running snigate, which has its own routing file: leave out --config"),
    }
}

/// Whether `--admin` names the process.
fn asks_elsewhere(command: &Command) -> bool {
    let remote = match command {
        Command::Status(status::Options { target: Target { remote, .. }, .. })
        | Command::Top(top::Options { target: Target { remote, .. }, .. })
        | Command::Connections(connections::Options { remote, .. })
        | Command::Refusals(refusals::Options { target: Target { remote, .. }, .. })
        | Command::Reload(reload::Options { target: Target { remote, .. }, .. })
        | Command::Drain(set_backend::DrainOptions { state: set_backend::StateOptions { remote, .. }, .. })
        | Command::Down(set_backend::StateOptions { remote, .. })
        | Command::Ready(set_backend::StateOptions { remote, .. })
        | Command::Weight(set_backend::WeightOptions { remote, .. }) => remote,
        _ => return false,
    };
    remote.admin.is_some()
}

fn with_config(given: Option<PathBuf>, command: impl FnOnce(PathBuf) -> ExitCode) -> ExitCode {
    config_file(given).map_or_else(|exit| exit, command)
}

/// Finds the routing file, or prints where it was searched for.
fn config_file(given: Option<PathBuf>) -> Result<PathBuf, ExitCode> {
    run::find_config(given).map_err(|message| {
        eprintln!("snigate: {message}");
        Exit::Usage.into()
    })
}

/// Loads `file`, or prints its problems.
fn load(file: &Path) -> Result<Loaded, ExitCode> {
    usable(file, Config::load(file))
}

fn usable(file: &Path, loaded: Result<Loaded, Problems>) -> Result<Loaded, ExitCode> {
    loaded.map_err(|problems| refused(file, &problems))
}

/// Prints why `file` cannot be used.
fn refused(file: &Path, problems: &Problems) -> ExitCode {
    eprintln!("{problems}");
    eprintln!("snigate: {} has {}", file.display(), figures::counted(problems.errors(), "error"));
    Exit::Config.into()
}

/// Standard output, with colours if it is a terminal, unless `NO_COLOR` is set.
fn output() -> anstream::AutoStream<io::StdoutLock<'static>> {
    anstream::AutoStream::auto(io::stdout().lock())
}

fn print_json(value: &serde_json::Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
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

/// The exit code of a command that only prints.
fn printed(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output_failed(&error),
    }
}

fn check_file(file: &Path, json: bool, strict: bool) -> ExitCode {
    let stdout = io::stdout();
    let form = match (json, stdout.is_terminal()) {
        (true, _) => check::Form::Json,
        (false, true) => check::Form::Snippets,
        (false, false) => check::Form::Lines,
    };
    match check::check(file, form, strict, &mut stdout.lock()) {
        Ok(check::Verdict::Doubtful) if strict => Exit::Config.into(),
        Ok(verdict) => verdict.into(),
        Err(error) => output_failed(&error),
    }
}

/// Asks the address that is given, or the first one in the routing file.
fn health(options: &healthcheck::Options, file: impl FnOnce() -> Option<PathBuf>) -> ExitCode {
    if let Some(admin) = &options.admin {
        return match admin_client::address(admin) {
            Ok(address) => ask_health(&[address]),
            Err(error) => {
                eprintln!(
                    "snigate: `{}` is not a valid admin address (HOST:PORT or unix:/PATH): {error}",
                    admin.escape_debug()
                );
                Exit::Usage.into()
            }
        };
    }
    let file = match file().map_or_else(|| config_file(None), Ok) {
        Ok(file) => file,
        Err(exit) => return exit,
    };
    // A file that was edited and has errors since says nothing about the process.
    match Config::admin_of(&file) {
        Ok(section) => {
            remote::note_unreadable(&file, &section);
            ask_health(&section.admin.bind)
        }
        Err(problems) => refused(&file, &problems),
    }
}

/// The routing file of the process to ask: the one that is `named`; or else that of process 1, or the usual one; `None`:
/// there is none in the usual places.
fn running_file(named: Option<PathBuf>, usual: Option<PathBuf>) -> Option<PathBuf> {
    let of_init = || {
        let running = Arguments::try_parse_from(healthcheck::command_line_of_init()?).ok()?;
        let file = match running.command {
            Some(Command::Run { file }) => file.or(running.config),
            _ => running.config,
        };
        // A relative path is relative to the directory of that process.
        Some(Path::new("/proc/1/cwd").join(file?))
    };
    named.or_else(of_init).or(usual).or_else(|| run::find_config(None).ok())
}

fn ask_health(admin: &[Address]) -> ExitCode {
    match healthcheck::healthcheck(admin) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            eprintln!("snigate: {error}{cause}");
            ExitCode::FAILURE
        }
    }
}

/// Standard output is closed: the command did not fail, but cannot report success either.
fn output_failed(error: &io::Error) -> ExitCode {
    // Whoever read it, such as `head`, has what it wanted.
    if error.kind() != io::ErrorKind::BrokenPipe {
        eprintln!("snigate: cannot write: {error}");
    }
    ExitCode::FAILURE
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

const AFTER_HELP: &str = "Exit codes: 0 success, 1 configuration error or no answer, 2 usage error, 3 an address cannot be \
bound; explain, kubernetes explain, ech open: 4 refused; explain: 5 not the expected pool; diff: 6 routing differs; \
doctor: 7 errors or warnings found; import, export: 8 something was left out; run: 8 a thread failed or is stuck.";
