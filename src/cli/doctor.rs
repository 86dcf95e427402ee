//! `snigate doctor`: connects to every backend with every name routed to it, and reports what clients would see.
//!
//! In:  a routing file; backends that can be reached from here.
//! Out: what each backend answered, and findings with their meaning and fix; an exit code that says whether
//!      there are errors or warnings.

mod date;
mod destinations;
mod examine;
mod finding;
mod judge;
mod plan;
mod reach;
mod report;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use self::destinations::{Destinations, inner_names};
use self::examine::{Check, Examination, Target, examine};
use self::finding::{Finding, Kind, Severity};
use self::judge::{Context, judge};
use self::plan::{PoolPlan, Selection, plans};
use self::reach::{Connector, addresses};
use self::report::Report;
use super::{Exit, config_file, load, output_failed};
use crate::backends::handshake::{Roots, RootsError};
use crate::config::Config;
use crate::server_name::ServerName;
use crate::settings::{CheckKind, HealthCheck, UnitError, duration_in};
use crate::sources::docker::ping;
use crate::telemetry::readable;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// The routing file
    pub file: Option<PathBuf>,
    /// Checks only this pool; repeatable
    #[arg(long = "pool", value_name = "POOL")]
    pools: Vec<String>,
    /// Checks only this name, as a client sends it; repeatable
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<ServerName>,
    /// Checks all names, not only the first 100 of each pool
    #[arg(long)]
    all: bool,
    /// Warns about certificates that expire within this many days
    #[arg(long, value_name = "DAYS", default_value_t = 21)]
    days: u16,
    /// Timeout for connecting, and again for each handshake
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = timeout)]
    timeout: Duration,
    /// Reports an untrusted certificate as an error rather than as information
    #[arg(long)]
    verify: bool,
    /// Trusts the CA certificates in this PEM file instead of the system store; implies --verify
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Ignores findings of this kind (the name in brackets); repeatable
    #[arg(long, value_name = "KIND", hide_possible_values = true)]
    ignore: Vec<Kind>,
    /// Prints the report as JSON
    #[arg(long)]
    json: bool,
}

/// Checks the backends of the routing file.
pub(super) fn run(options: &Options, config: Option<PathBuf>) -> ExitCode {
    let config = match config_file(config).and_then(|file| load(&file)) {
        Ok(loaded) => loaded.config,
        Err(exit) => return exit,
    };
    let destinations = Destinations::new(&config);
    let planned = plans(&config, &destinations, &options.selection());
    let plans = match planned {
        Ok(plans) => plans,
        Err(error) => return stop(Exit::Usage, &error),
    };
    let trust = match trust(options, &config) {
        Ok(trust) => trust,
        Err(error) => return stop(error.exit(), &error),
    };
    let (exams, docker, unresolved) = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(async {
            let (exams, mut found) = visit(&config, &plans, &trust, options.timeout).await;
            let docker = docker(&config, options.timeout).await.map_err(|finding| found.push(finding)).ok().flatten();
            (exams, docker, found)
        }),
        Err(error) => return stop(Exit::Bind, &error),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let context = Context {
        config: &config,
        destinations: &destinations,
        now: i64::try_from(now).unwrap_or(i64::MAX),
        days: options.days.into(),
        inner: inner_names(&config),
        trust_matters: trust.iter().map(|trust| trust.matters).collect(),
    };
    let mut findings = unresolved;
    findings.extend(judge(&context, &plans, &exams));
    findings.retain(|finding| !options.ignore.contains(&finding.kind));
    print(&Report::new(&config, &exams, docker, findings), options.json)
}

fn stop(exit: Exit, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("snigate: {error}");
    exit.into()
}

/// Resolves and examines every backend; failed look-ups become findings here.
async fn visit(
    config: &Config,
    plans: &[PoolPlan],
    trust: &[Trust],
    limit: Duration,
) -> (Vec<Examination>, Vec<Finding>) {
    let (mut targets, mut unresolved) = (Vec::new(), Vec::new());
    let inner = inner_names(config);
    for plan in plans {
        let pool = &config.pools[plan.pool];
        for backend in &pool.backends {
            let written = backend.address.to_string();
            let addresses = match addresses(pool, backend, limit).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    unresolved.push(Finding {
                        severity: Severity::Error,
                        kind: Kind::Unresolved,
                        pool: pool.name.to_string(),
                        backends: vec![written],
                        names: Vec::new(),
                        seen: format!("the name has no address: {error}"),
                        mend: "Correct the name, or the resolver of this machine (/etc/resolv.conf).".to_owned(),
                    });
                    continue;
                }
            };
            for address in addresses {
                let at = address.to_string();
                let label = if at == written { at } else { format!("{written} ({at})") };
                targets.push(Target {
                    pool: plan.pool,
                    label: label.into(),
                    check: Check::new(pool, address.clone()),
                    connector: Connector::new(pool, address),
                    roots: trust[plan.pool].roots.clone(),
                    asked: plan.asked.clone(),
                    gets_inner_hellos: inner[plan.pool].is_some(),
                });
            }
        }
    }
    (examine(targets, limit).await, unresolved)
}

/// What the engine behind `docker.socket` answers; `None`: `docker` is off.
async fn docker(config: &Config, limit: Duration) -> Result<Option<String>, Finding> {
    let Some(settings) = &config.docker else { return Ok(None) };
    match ping(settings.socket.0.clone(), limit).await {
        Ok(engine) => Ok(Some(format!("{}: {}", settings.socket, readable(&engine, 200)))),
        Err(error) => Err(Finding {
            severity: Severity::Error,
            kind: Kind::DockerUnreachable,
            pool: String::new(),
            backends: Vec::new(),
            names: Vec::new(),
            seen: format!("the Docker API at {} does not answer: {error}", settings.socket),
            mend:
                "Containers get no routes until it does. The doctor needs the rights that snigate has: run it as the \
                   same user, in the same container."
                    .to_owned(),
        }),
    }
}

fn print(report: &Report, json: bool) -> ExitCode {
    let mut out = io::stdout().lock();
    let printed = if json {
        serde_json::to_writer_pretty(&mut out, report).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        out.write_all(report.text().as_bytes())
    };
    match printed {
        Ok(()) if report.ok => ExitCode::SUCCESS,
        Ok(()) => Exit::Findings.into(),
        Err(error) => output_failed(&error),
    }
}

impl Options {
    fn selection(&self) -> Selection {
        let most_names = if self.all { usize::MAX } else { MOST_NAMES };
        Selection { pools: self.pools.clone(), names: self.names.clone(), most_names }
    }
}

/// The roots that a pool's backends are verified against, and whether the result matters.
struct Trust {
    roots: Option<Roots>,
    matters: bool,
}

/// For each pool: the command line's, otherwise those of its `health_check`, otherwise the system's, for information
/// only.
fn trust(options: &Options, config: &Config) -> Result<Vec<Trust>, NoRoots> {
    let given = match &options.ca {
        Some(file) => Some(Roots::from_file(file).map_err(|error| NoRoots::Given { file: file.clone(), error })?),
        None => None,
    };
    let system = if given.is_none() { Roots::of_the_system().ok() } else { None };
    let pools = config.pools.iter().map(|pool| {
        let verifies = |check: &&HealthCheck| check.kind == CheckKind::Tls && check.verify;
        let check = pool.health_check.as_ref().filter(verifies).map(|check| check.ca_file.as_ref());
        let matters = options.verify || given.is_some() || check.is_some();
        let roots = match (&given, check) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(Some(file))) => {
                Some(Roots::from_file(&file.0).map_err(|error| NoRoots::Checks { file: file.0.clone(), error })?)
            }
            (None, _) => system.clone(),
        };
        if matters && roots.is_none() { Err(NoRoots::System) } else { Ok(Trust { roots, matters }) }
    });
    pools.collect()
}

/// Why the trusted roots could not be loaded.
#[derive(Debug)]
enum NoRoots {
    Given {
        file: PathBuf,
        error: RootsError,
    },
    /// The `ca_file` of a health check.
    Checks {
        file: PathBuf,
        error: RootsError,
    },
    System,
}

impl NoRoots {
    fn exit(&self) -> Exit {
        match self {
            Self::Checks { .. } => Exit::Config,
            Self::Given { .. } | Self::System => Exit::Usage,
        }
    }
}

impl fmt::Display for NoRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given { file, error } | Self::Checks { file, error } => {
                write!(f, "cannot use {}: {error}", file.display())
            }
            Self::System => f.write_str("this system has no CA certificates; pass the ones to trust with --ca FILE"),
        }
    }
}

impl std::error::Error for NoRoots {}

fn timeout(text: &str) -> Result<Duration, UnitError> {
    duration_in(Duration::from_millis(1)..=Duration::from_secs(600))(text)
}

/// Per backend.
const MOST_NAMES: usize = 100;
