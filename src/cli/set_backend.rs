//! `snigate drain`, `ready`, `down`, `weight`: takes backends of a running snigate out of service, or puts them back.
//!
//! In:  backends, as [`backend_name`] finds them; the state or the weight.
//! Out: a row for each backend that changed.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::backend_name::{self, Named};
use super::figures::counted;
use super::printable::printable;
use super::remote::{Remote, RemoteOptions, segment};
use super::remote_failure::Failure;
use super::reported::{Backend, Status};
use super::status::{state_style, status};
use super::table::{Align, Cell, Table};
use super::{Exit, output, print_json, printed};
use crate::settings::{MAX_WEIGHT, UnitError, duration_in};

#[derive(Args, Clone, Debug)]
pub(super) struct StateOptions {
    /// The backends, such as 10.0.0.11:443 or shop/10.0.0.11; a short form that fits only one is enough
    #[arg(required = true, value_name = "BACKEND")]
    backends: Vec<String>,
    #[command(flatten)]
    pub(super) remote: RemoteOptions,
    /// Prints the answers of the admin API
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct DrainOptions {
    #[command(flatten)]
    pub(super) state: StateOptions,
    /// Waits until their connections have ended, for so long at most
    #[arg(long, value_name = "DURATION", value_parser = wait)]
    wait: Option<Duration>,
}

#[derive(Args, Clone, Debug)]
pub(super) struct WeightOptions {
    /// The backend, such as 10.0.0.11:443 or shop/10.0.0.11; a short form that fits only one is enough
    backend: String,
    /// 0 to 1000; `default` restores that of the routing file
    #[arg(value_parser = weight)]
    weight: Weight,
    #[command(flatten)]
    pub(super) remote: RemoteOptions,
    /// Prints the answer of the admin API
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    OfTheFile,
    Set(u32),
}

/// Sets the state `wanted`: `ready`, `drain` or `down`.
pub(super) fn state(options: &StateOptions, wanted: &'static str, file: impl FnOnce() -> Option<PathBuf>) -> ExitCode {
    let done = Remote::find(&options.remote, file).and_then(|remote| set_state(&remote, options, wanted));
    done.map_or_else(|failure| failure.report(), |changed| changed.print(options.json))
}

/// As [`state`] with `drain`; then waits, if that is asked for.
pub(super) fn drain(options: &DrainOptions, file: impl FnOnce() -> Option<PathBuf>) -> ExitCode {
    let DrainOptions { state: options, wait } = options;
    let drained = Remote::find(&options.remote, file).and_then(|remote| {
        let changed = set_state(&remote, options, "drain")?;
        let open = match wait {
            Some(limit) => wait_for_the_end(&remote, &changed, *limit)?,
            None => 0,
        };
        Ok((changed, open))
    });
    match drained {
        Err(failure) => failure.report(),
        Ok((changed, 0)) => changed.print(options.json),
        Ok((changed, open)) => {
            changed.print(options.json);
            eprintln!("snigate: {} still open", counted(open, "connection"));
            Exit::Config.into()
        }
    }
}

/// Sets the weight of a backend.
pub(super) fn set_weight(options: &WeightOptions, file: impl FnOnce() -> Option<PathBuf>) -> ExitCode {
    let done = Remote::find(&options.remote, file).and_then(|remote| {
        remote.is_certain()?;
        let (_, before) = status(&remote)?;
        let backend = backend_name::find(&before, &options.backend).map_err(Failure::Usage)?;
        let (method, body) = match options.weight {
            Weight::Set(weight) => (Method::PUT, weight.to_string()),
            Weight::OfTheFile => (Method::DELETE, String::new()),
        };
        change(&remote, vec![backend], method, "weight", &body)
    });
    done.map_or_else(|failure| failure.report(), |changed| changed.print(options.json))
}

/// What changed, as the process reports it.
struct Changed {
    backends: Vec<(Named, Value)>,
    /// Pools in which no backend gets connections.
    empty: Vec<String>,
}

fn set_state(remote: &Remote, options: &StateOptions, wanted: &str) -> Result<Changed, Failure> {
    remote.is_certain()?;
    let (_, before) = status(remote)?;
    // All of them are found before one is changed.
    let backends: Result<Vec<Named>, String> =
        options.backends.iter().map(|given| backend_name::find(&before, given)).collect();
    change(remote, backends.map_err(Failure::Usage)?, Method::PUT, "state", wanted)
}

fn change(remote: &Remote, backends: Vec<Named>, method: Method, what: &str, body: &str) -> Result<Changed, Failure> {
    let mut changed = Changed { backends: Vec::new(), empty: Vec::new() };
    for named in backends {
        let path = format!("/api/v1/pools/{}/backends/{}/{what}", segment(&named.pool), segment(&named.backend));
        let (_, answer) = remote.change(method.clone(), &path, body, LIMIT, &[])?;
        changed.backends.push((named, answer));
    }
    let (_, after) = status(remote)?;
    for pool in &after.pools {
        let is_concerned = changed.backends.iter().any(|(named, _)| named.pool == pool.name);
        if is_concerned && !pool.backends.iter().any(Backend::takes_connections) {
            changed.empty.push(pool.name.clone());
        }
    }
    Ok(changed)
}

/// Polls the status until no connection to the backends is open; returns how many are when the time is over.
fn wait_for_the_end(remote: &Remote, changed: &Changed, limit: Duration) -> Result<usize, Failure> {
    let deadline = Instant::now() + limit;
    loop {
        let (_, now) = status(remote)?;
        let open: u64 = changed.backends.iter().map(|(named, _)| open(&now, named)).sum();
        if open == 0 || Instant::now() >= deadline {
            return Ok(usize::try_from(open).unwrap_or(usize::MAX));
        }
        thread::sleep(POLL);
    }
}

fn open(status: &Status, named: &Named) -> u64 {
    let pools = status.pools.iter().filter(|pool| pool.name == named.pool);
    let backends =
        pools.flat_map(|pool| &pool.backends).filter(|backend| backend_name::is_called(backend, &named.backend));
    backends.map(|backend| backend.active).sum()
}

impl Changed {
    fn print(&self, json: bool) -> ExitCode {
        let written = if json { self.json() } else { self.text(&mut output()) };
        for pool in &self.empty {
            let pool = printable(pool);
            eprintln!("snigate: no backend of pool {pool} gets connections now: its clients are reset (`no_backend`)");
        }
        printed(written)
    }

    fn json(&self) -> io::Result<()> {
        let pools: Vec<Value> = (self.backends.iter())
            .map(|(named, answer)| json!({ "pool": named.pool, "backends": answer["backends"] }))
            .collect();
        print_json(&json!({ "changed": pools, "pools_without_backend": self.empty }))
    }

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        use Align::{Left, Right};
        let mut table =
            Table::new(&[("POOL", Left), ("BACKEND", Left), ("STATE", Left), ("WEIGHT", Right), ("OPEN", Right)]);
        for (named, answer) in &self.backends {
            for backend in Vec::<Backend>::deserialize(&answer["backends"])? {
                table.row([
                    Cell::new(&named.pool),
                    Cell::new(&backend.name),
                    Cell::new(&backend.state).styled(state_style(&backend.state)),
                    Cell::new(backend.weight.to_string()),
                    Cell::new(backend.active.to_string()),
                ]);
            }
        }
        table.write("", out)
    }
}

fn weight(text: &str) -> Result<Weight, String> {
    match (text, text.parse()) {
        ("default", _) => Ok(Weight::OfTheFile),
        (_, Ok(weight)) if weight <= MAX_WEIGHT => Ok(Weight::Set(weight)),
        _ => Err(format!("write a number from 0 to {MAX_WEIGHT}, or `default`")),
    }
}

fn wait(text: &str) -> Result<Duration, UnitError> {
    duration_in(Duration::from_secs(1)..=Duration::from_secs(86_400))(text)
}

const LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at the connections that are still open.
const POLL: Duration = Duration::from_millis(250);
