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
use crate::operate::explain::{Decision, Entry, Explanation, PassedOver, Pool, Question, SentHeader, Share, explain};
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

/// The pools that get connections.
fn pools(Explanation { pool, split, .. }: &Explanation) -> Vec<&str> {
    let shares = split.iter().flatten().filter(|share| share.weight > 0).map(|share| &share.pool);
    pool.iter().chain(shares).map(|pool| pool.name.as_str()).collect()
}

fn from_file(options: &Options, config: Option<PathBuf>) -> Result<Explanation, ExitCode> {
    let snapshot = offline(load(&config_file(config)?)?);
    let Options { name, alpn, source, listener, .. } = options.clone();
    explain(&snapshot, &Question { name, alpn, source, listener }).map_err(|error| {
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
    let pairs = pairs.into_iter().chain([("listener", options.listener.clone())]);
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
            (StatusCode::BAD_REQUEST, Some(said)) => AskError::Question(said),
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

/// Formats the explanation for people. It contains no control characters for the terminal.
fn text(explanation: &Explanation) -> String {
    let mut text = headline(explanation);
    let mut rows = vec![("asked", asked(explanation))];
    let widths = Widths::of(explanation);
    let entries = explanation.passed_over.iter().map(|over| passed_over(over, widths));
    rows.extend(labelled("passed over", entries));
    match (&explanation.taken, explanation.matched.as_deref()) {
        (Some(taken), _) => rows.push(("matched by", format!("{}{}", widths.row(taken), conditions(taken)))),
        (None, Some("no_sni")) => rows.push(("fallback", "no_sni, for clients without a server name".to_owned())),
        (None, Some(fallback)) => rows.push(("fallback", format!("{fallback}, for names that no route matches"))),
        (None, None) => {}
    }
    rows.extend(explanation.access.iter().map(access));
    if let Some(pool) = &explanation.pool {
        rows.extend(labelled("backends", backends(pool)));
        rows.extend(labelled("connects", how(pool)));
    }
    for share in explanation.split.iter().flatten() {
        let Share { pool, weight, percent } = share;
        rows.push(("share", format!("pool {}, weight {weight}: {percent} % of the connections", pool.name)));
        rows.extend(labelled("  backends", backends(pool)));
        rows.extend(labelled("  connects", how(pool)));
    }
    if explanation.refusal.is_some() {
        rows.push(("client sees", client_sees(explanation)));
    }
    rows.extend(labelled("note", explanation.hints.iter().cloned()));
    text.push('\n');
    for (label, row) in rows {
        let line = format!("  {label:11}  {row}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn backends(pool: &Pool) -> impl Iterator<Item = String> {
    let width = pool.backends.iter().map(|backend| backend.address.len()).max().unwrap_or_default();
    pool.backends.iter().map(move |backend| {
        let backup = if backend.backup { ", backup" } else { "" };
        format!("{:width$}  weight {}{backup}", backend.address, backend.weight)
    })
}

/// What is not usual about the connections to the backends.
fn how(Pool { transparent, proxy_header, .. }: &Pool) -> impl Iterator<Item = String> {
    let transparent = transparent.then(|| "from the client's own address (`transparent`)".to_owned());
    let header = proxy_header.as_ref().map(|SentHeader { version, relay, add }| {
        let listed = |what: &str, kinds: &[String]| match kinds {
            [] => String::new(),
            kinds => format!(", {what} {}", kinds.join(", ")),
        };
        format!("with a PROXY header {version}{}{}", listed("passing on", relay), listed("adding", add))
    });
    transparent.into_iter().chain(header)
}

fn headline(explanation: &Explanation) -> String {
    let Explanation { name, server_name, refusal, .. } = explanation;
    let who = match server_name {
        Some(server_name) => server_name.clone(),
        None if name == crate::operate::explain::NO_NAME => "a client without a server name".to_owned(),
        None => format!("\"{}\"", name.escape_debug()),
    };
    match (&*pools(explanation), refusal) {
        ([pool], _) => format!("{who} goes to pool {pool}\n"),
        ([pools @ .., last], _) => format!("{who} goes, by weight, to pool {} or {last}\n", pools.join(", ")),
        ([], Some(refusal)) => match &refusal.detail {
            Some(detail) => format!("{who} is refused, reason {}: {detail}\n", refusal.reason),
            None => format!("{who} is refused, reason {}\n", refusal.reason),
        },
        ([], None) => format!("{who} goes nowhere\n"),
    }
}

fn asked(Explanation { alpn, source, listener, assumed, .. }: &Explanation) -> String {
    let mark = |what: &str| if assumed.iter().any(|open| open == what) { " (assumed)" } else { "" };
    let alpn = if alpn.is_empty() { "no ALPN".to_owned() } else { format!("ALPN {}", alpn.join(", ")) };
    format!("{alpn}{}, from {source}{}, through listener {listener}{}", mark("alpn"), mark("source"), mark("listener"))
}

/// Only the first row has the label.
fn labelled(label: &'static str, rows: impl Iterator<Item = String>) -> impl Iterator<Item = (&'static str, String)> {
    rows.enumerate().map(move |(number, row)| (if number == 0 { label } else { "" }, row))
}

fn passed_over(over: &PassedOver, widths: Widths) -> String {
    let wanted = |list: &[String]| list.join(" or ");
    let why = match over.unmet.as_str() {
        "source" => format!("only from {}", wanted(&over.entry.source)),
        "alpn" => format!("only with ALPN {}", wanted(&over.entry.alpn)),
        "listeners" => format!("only through listener {}", wanted(&over.entry.listeners)),
        other => format!("{other} does not hold"),
    };
    format!("{}{why}", widths.row(&over.entry))
}

/// What `allow` and `deny` decided.
fn access(Decision { of, list, admitted, network, place }: &Decision) -> (&'static str, String) {
    let label = if *admitted { "let in by" } else { "denied by" };
    let entry = match (network, place, list.as_str(), admitted) {
        (Some(network), Some(place), ..) => format!("{network} ({place})"),
        (_, _, "allow", false) => "none of its entries holds the address".to_owned(),
        (_, _, "deny", true) => "none of its entries holds the address".to_owned(),
        _ => "an entry that the file no longer has".to_owned(),
    };
    (label, format!("{list} of {of}: {entry}"))
}

/// The conditions that matched.
fn conditions(entry: &Entry) -> String {
    let listed = [("ALPN", &entry.alpn), ("from", &entry.source), ("through listener", &entry.listeners)];
    let listed = listed.iter().filter(|(_, list)| !list.is_empty());
    let reported: Vec<String> = listed.map(|(what, list)| format!("{what} {}", list.join(" or "))).collect();
    reported.join(", ")
}

fn client_sees(Explanation { refusal, .. }: &Explanation) -> String {
    let Some(refusal) = refusal else { return String::new() };
    match (refusal.client_sees.as_str(), &refusal.alert, &refusal.alert_before_tls13) {
        (_, Some(alert), Some(before)) => format!("the TLS alert {alert}; before TLS 1.3 {before}"),
        (_, Some(alert), None) => format!("the TLS alert {alert}"),
        ("reset", ..) => "a reset (RST)".to_owned(),
        ("drop", ..) => "nothing: the connection disappears".to_owned(),
        (http, ..) if http.starts_with("status ") => format!("an HTTP answer, {http}"),
        _ => "an orderly close (FIN)".to_owned(),
    }
}

/// The widths of the route and pattern columns.
#[derive(Clone, Copy)]
struct Widths {
    route: usize,
    pattern: usize,
    place: usize,
}

impl Widths {
    fn of(explanation: &Explanation) -> Self {
        let entries = || explanation.passed_over.iter().map(|over| &over.entry).chain(&explanation.taken);
        let widest = |of: fn(&Entry) -> usize| entries().map(of).max().unwrap_or_default();
        Self {
            route: widest(|entry| entry.route.len()),
            pattern: widest(|entry| entry.pattern.len()),
            place: widest(|entry| place(entry).len()),
        }
    }

    fn row(self, entry: &Entry) -> String {
        let Self { route, pattern, place: width } = self;
        format!("{:route$}  {:pattern$}  {:width$}  ", entry.route, entry.pattern, place(entry))
    }
}

fn place(entry: &Entry) -> String {
    format!("{}:{}:{}", entry.file, entry.line, entry.column)
}

/// For the whole request and response.
/// The page, up to its query.
const PATH: &str = "/api/v1/explain?";
const PATIENCE: Duration = Duration::from_secs(5);
/// Enough for a pool of ten thousand backends.
const MOST_ANSWER_BYTES: usize = 4 << 20;
