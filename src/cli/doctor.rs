//! `snigate doctor`: connects to every backend with every name routed to it, and tells what clients will meet.
//!
//! In:  a routing file; backends that can be reached from here.
//! Out: what was seen of each backend, and findings with what they mean and how to mend them; an exit code that says whether
//!      there is anything to mend.

mod date;
mod destinations;
mod examine;
mod finding;
mod judge;
mod plan;
mod reach;
mod report;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use self::destinations::Destinations;
use self::examine::{Exam, Manner, Subject, examine};
use self::finding::{Finding, Kind, Severity};
use self::judge::{Bench, judge};
use self::plan::{Narrowed, Round, rounds};
use self::reach::{Way, addresses};
use self::report::Report;
use super::{Exit, config_file, load, output_failed};
use crate::config::{Config, UnitError, duration_in};
use crate::handshake::{Roots, RootsError};
use crate::server_name::ServerName;

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Only this pool; may be given more than once
    #[arg(long = "pool", value_name = "POOL")]
    pools: Vec<String>,
    /// Only this name, as a client sends it; may be given more than once
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<ServerName>,
    /// Asks for all names, not only for the first 100 of each pool
    #[arg(long)]
    all: bool,
    /// Tells certificates that expire within so many days
    #[arg(long, value_name = "DAYS", default_value_t = 21)]
    days: u16,
    /// For connecting, and again for each handshake
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = timeout)]
    timeout: Duration,
    /// A certificate that is not trusted here is an error; else it is only told
    #[arg(long)]
    verify: bool,
    /// Trusts the authorities in this PEM file, not those of the system; implies --verify
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Leaves out findings of this kind (the word in brackets); may be given more than once
    #[arg(long, value_name = "KIND", hide_possible_values = true)]
    ignore: Vec<Kind>,
    /// Prints what was seen and found as JSON
    #[arg(long)]
    json: bool,
}

/// Examines the backends of the routing file.
pub fn run(options: &Options, config: Option<PathBuf>) -> ExitCode {
    let config = match config_file(config).and_then(|file| load(&file)) {
        Ok(loaded) => loaded.config,
        Err(exit) => return exit,
    };
    let destinations = Destinations::new(&config);
    let planned = rounds(&config, &destinations, &options.narrowed()).map_err(|error| error.to_string());
    let prepared = planned.and_then(|rounds| Ok((rounds, options.roots()?)));
    let (rounds, roots) = match prepared {
        Ok(prepared) => prepared,
        Err(message) => {
            eprintln!("snigate: {message}");
            return Exit::Usage.into();
        }
    };
    let manner = Manner { timeout: options.timeout, roots };
    let (exams, unresolved) = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(visit(&config, &rounds, &manner)),
        Err(error) => {
            eprintln!("snigate: cannot start: {error}");
            return Exit::Bind.into();
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let bench = Bench {
        config: &config,
        destinations: &destinations,
        now: i64::try_from(now).unwrap_or(i64::MAX),
        days: options.days.into(),
        trust_matters: vec![options.verify || options.ca.is_some(); config.pools.len()],
    };
    let mut findings = unresolved;
    findings.extend(judge(&bench, &rounds, &exams));
    findings.retain(|finding| !options.ignore.contains(&finding.kind));
    tell(&Report::new(&config, &exams, findings), options.json)
}

/// Looks up and examines every backend; those that cannot be looked up are findings already.
async fn visit(config: &Config, rounds: &[Round], manner: &Manner) -> (Vec<Exam>, Vec<Finding>) {
    let (mut subjects, mut unresolved) = (Vec::new(), Vec::new());
    for round in rounds {
        let pool = &config.pools[round.pool];
        for backend in &pool.backends {
            let told = backend.address.to_string();
            let addresses = match addresses(backend).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    unresolved.push(Finding {
                        severity: Severity::Error,
                        kind: Kind::Unresolved,
                        pool: pool.name.to_string(),
                        backends: vec![told],
                        names: Vec::new(),
                        seen: format!("the name does not resolve: {error}"),
                        mend: "Correct the name, or the resolver of this machine.".to_owned(),
                    });
                    continue;
                }
            };
            for address in addresses {
                let at = address.to_string();
                let label = if at == told { at } else { format!("{told} ({at})") };
                subjects.push(Subject {
                    pool: round.pool,
                    label: label.into(),
                    way: Way::new(pool, address),
                    asked: round.asked.clone(),
                });
            }
        }
    }
    (examine(subjects, manner).await, unresolved)
}

fn tell(report: &Report, json: bool) -> ExitCode {
    let mut out = io::stdout().lock();
    let told = if json {
        serde_json::to_writer_pretty(&mut out, report).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        out.write_all(report.text().as_bytes())
    };
    match told {
        Ok(()) if report.ok => ExitCode::SUCCESS,
        Ok(()) => Exit::Findings.into(),
        Err(error) => output_failed(&error),
    }
}

impl Options {
    fn narrowed(&self) -> Narrowed {
        let most_names = if self.all { usize::MAX } else { MOST_NAMES };
        Narrowed { pools: self.pools.clone(), names: self.names.clone(), most_names }
    }

    /// Whom to trust. Without a wish, nobody where the system trusts nobody.
    fn roots(&self) -> Result<Option<Roots>, String> {
        match (&self.ca, Roots::of_the_system()) {
            (Some(file), _) => {
                Roots::from_file(file).map(Some).map_err(|error| format!("cannot use {}: {error}", file.display()))
            }
            (None, Ok(roots)) => Ok(Some(roots)),
            (None, Err(RootsError::None | RootsError::Pem(_))) if self.verify => {
                Err("this system trusts no authority; name those to trust by --ca FILE".to_owned())
            }
            (None, Err(_)) => Ok(None),
        }
    }
}

fn timeout(text: &str) -> Result<Duration, UnitError> {
    duration_in(Duration::from_millis(1)..=Duration::from_secs(600))(text)
}

/// For one backend.
const MOST_NAMES: usize = 100;
