//! `snigate explain NAME`: shows which route matches a name and why, from a routing file or from the running process.
//!
//! In:  the name, and the other client properties that routes can match.
//! Out: an [`Explanation`] as text or JSON; exit codes that a pipeline can test.

use std::fmt;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hyper::StatusCode;

use super::admin_client;
use super::{Exit, config_file, load, output_failed};
use crate::config::Loaded;
use crate::operate::explain::{Explanation, Question, explain, pools, text};
use crate::route::NameForm;
use crate::settings::Address;
use crate::snapshot::Snapshot;
use crate::telemetry::Metrics;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// The server name as a client sends it, or `-` for a client that sends none
    name: String,
    /// The routing file
    #[arg(conflicts_with = "admin")]
    pub file: Option<PathBuf>,
    /// ALPN protocols the client offers, such as h2 [default: none]
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',')]
    alpn: Vec<String>,
    /// The client's address [default: 192.0.2.1]
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
    /// The listener the client connects to [default: the first]
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The name is encrypted (Encrypted ClientHello), and opened with the keys of `ech`
    #[arg(long)]
    ech: bool,
    /// Exits with 0 only if the name goes to this pool, otherwise with 5
    #[arg(long, value_name = "POOL")]
    expect_pool: Option<String>,
    /// Prints the answer as JSON
    #[arg(long)]
    json: bool,
    /// Asks the running snigate at this admin address (HOST:PORT or unix:/PATH) instead of reading a file
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<String>,
}

/// Answers from `config` or through the admin address.
pub(super) fn run(options: &Options, config: Option<PathBuf>) -> ExitCode {
    let explained = match &options.admin {
        Some(admin) => ask(admin, options).map_err(|error| {
            eprintln!("snigate: {error}");
            error.exit().into()
        }),
        None => from_file(options, config),
    };
    let explanation = match explained {
        Ok(explanation) => explanation,
        Err(exit) => return exit,
    };
    let mut out = io::stdout().lock();
    let reported = if options.json {
        serde_json::to_writer_pretty(&mut out, &explanation).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        out.write_all(text(&explanation).as_bytes())
    };
    match reported {
        Ok(()) => verdict(&explanation, options.expect_pool.as_deref()),
        Err(error) => output_failed(&error),
    }
}

fn verdict(explanation: &Explanation, expected: Option<&str>) -> ExitCode {
    let pools = pools(explanation);
    match expected {
        Some(expected) if pools != [expected] => {
            let got = match *pools {
                [] => "is refused".to_owned(),
                [pool] => format!("goes to pool `{pool}`"),
                _ => format!("is split over the pools `{}`", pools.join("`, `")),
            };
            eprintln!("snigate: pool `{expected}` was expected, but the name {got}");
            Exit::OtherPool.into()
        }
        _ if pools.is_empty() => Exit::Refused.into(),
        _ => ExitCode::SUCCESS,
    }
}

fn from_file(options: &Options, config: Option<PathBuf>) -> Result<Explanation, ExitCode> {
    let loaded = load(&config_file(config)?)?;
    if loaded.config.docker.is_some() {
        eprintln!(
            "snigate: note: containers may add routes for names that `docker.allow` covers; ask the running snigate with \
             --admin"
        );
    }
    let snapshot = offline(loaded);
    let Options { name, alpn, source, listener, ech, .. } = options.clone();
    let form = if ech { NameForm::Encrypted } else { NameForm::Clear };
    explain(&snapshot, &Question { name, alpn, source, listener, form }).map_err(|error| {
        eprintln!("snigate: {error}");
        Exit::Usage.into()
    })
}

/// The snapshot that `run` would serve; its metrics are not exported.
pub(super) fn offline(loaded: Loaded) -> Snapshot {
    Snapshot::build(loaded.config, None, &Metrics::new())
}

/// Asks `/api/v1/explain`.
fn ask(admin: &str, options: &Options) -> Result<Explanation, AskError> {
    let address = admin_client::address(admin);
    let address = address.map_err(|error| AskError::Address { reported: admin.to_owned(), error })?;
    let source = options.source.map(|source| source.to_string());
    let alpn = (!options.alpn.is_empty()).then(|| options.alpn.join(","));
    let pairs = [("name", Some(options.name.clone())), ("alpn", alpn), ("source", source)];
    let ech = options.ech.then(|| "true".to_owned());
    let pairs = pairs.into_iter().chain([("listener", options.listener.clone()), ("ech", ech)]);
    let pairs = pairs.filter_map(|(key, value)| Some((key, value?)));
    let path = form_urlencoded::Serializer::for_suffix(PATH.to_owned(), PATH.len()).extend_pairs(pairs).finish();
    let answer = match admin_client::get(&address, &path, PATIENCE, MOST_ANSWER_BYTES) {
        Ok(answer) => answer,
        Err(error) => return Err(AskError::NoAnswer { address, error }),
    };
    let said = || serde_json::from_str::<serde_json::Value>(&answer.body).ok()?["error"].as_str().map(str::to_owned);
    match answer.status {
        StatusCode::OK => serde_json::from_str(&answer.body).map_err(|error| AskError::NotOurs { address, error }),
        status => Err(match (status, said()) {
            (StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND, Some(said)) => AskError::Question(said),
            (_, said) => AskError::Status { address, status, said },
        }),
    }
}

#[derive(Debug)]
enum AskError {
    Address {
        reported: String,
        error: io::Error,
    },
    NoAnswer {
        address: Address,
        error: io::Error,
    },
    Status {
        address: Address,
        status: StatusCode,
        said: Option<String>,
    },
    /// The answer is not an explanation.
    NotOurs {
        address: Address,
        error: serde_json::Error,
    },
    /// The process reports that the question is invalid.
    Question(String),
}

impl AskError {
    fn exit(&self) -> Exit {
        match self {
            Self::Address { .. } | Self::Question(_) => Exit::Usage,
            Self::NoAnswer { .. } | Self::Status { .. } | Self::NotOurs { .. } => Exit::Config,
        }
    }
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { reported, error } => {
                write!(
                    f,
                    "`{}` is not a valid admin address (HOST:PORT or unix:/PATH): {error}",
                    reported.escape_debug()
                )
            }
            Self::NoAnswer { address, error } => write!(f, "no answer from the admin address {address}: {error}"),
            Self::Status { address, status, said } => {
                write!(f, "the admin address {address} answered \"{status}\"")?;
                said.as_ref().map_or(Ok(()), |said| write!(f, ": {}", said.escape_debug()))
            }
            Self::NotOurs { address, error } => write!(f, "unexpected answer from {address}: {error}"),
            Self::Question(said) => write!(f, "{}", said.escape_debug()),
        }
    }
}

/// For the whole request and response.
/// The page, up to its query.
const PATH: &str = "/api/v1/explain?";
const PATIENCE: Duration = Duration::from_secs(5);
/// Enough for a pool of ten thousand backends.
const MOST_ANSWER_BYTES: usize = 4 << 20;
