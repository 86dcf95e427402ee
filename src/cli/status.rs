//! `snigate status`: shows what a running snigate does, first what is wrong.
//!
//! In:  `/api/v1/status` of the running process.
//! Out: text for people, or the answer as it came.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anstyle::Style;
use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::figures::{age, bytes, counted, latency, rate};
use super::printable::printable;
use super::remote::{Remote, Target};
use super::remote_failure::Failure;
use super::reported::{Backend, Gauge, Listener, Pool, Quantiles, Severity, Status, Trouble};
use super::table::{Align, BAD, Cell, FAINT, GOOD, STRONG, Table, WARN};
use super::{output, printed};

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    pub(super) target: Target,
    /// Prints the answer of the admin API
    #[arg(long)]
    json: bool,
}

/// Asks once and prints the answer.
pub(super) fn run(options: &Options, file: impl FnOnce() -> Option<PathBuf>) -> ExitCode {
    let answer = Remote::find(&options.target.remote, file).and_then(|remote| status(&remote));
    let (value, status) = match answer {
        Ok(answer) => answer,
        Err(failure) => return failure.report(),
    };
    printed(if options.json { super::print_json(&value) } else { text(&status, &mut output()) })
}

/// The whole status as it came, and as the commands read it.
///
/// # Errors
/// There is no answer, or it is not a status.
pub(super) fn status(remote: &Remote) -> Result<(Value, Status), Failure> {
    let value: Value = remote.read("/api/v1/status")?;
    // Of anything else that answers with JSON, every key would be missing.
    let is_one = value["version"].is_string() && value["pools"].is_array();
    match Status::deserialize(&value) {
        Ok(status) if is_one => Ok((value, status)),
        Ok(_) => Err(Failure::NotSnigate { address: remote.address().clone(), why: "this is not a status".to_owned() }),
        Err(error) => Err(Failure::NotSnigate { address: remote.address().clone(), why: error.to_string() }),
    }
}

/// Writes the status for people.
fn text(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    head(status, out)?;
    problems(&status.problems, status.problems_left_off, out)?;
    totals(status, out)?;
    if !status.listeners.is_empty() {
        writeln!(out)?;
        listeners(&status.listeners).write("", out)?;
    }
    writeln!(out)?;
    pools(status).write("", out)?;
    if let Some(left_off) = status.left_off() {
        writeln!(out, "{FAINT}{left_off}{FAINT:#}")?;
    }
    if !status.names.is_empty() {
        writeln!(out)?;
        names(status).write("", out)?;
    }
    Ok(())
}

fn head(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let Status { version, revision, pid, uptime_s, stage, config, last_reload, .. } = status;
    let style = match &**stage {
        "ready" => GOOD,
        "draining" | "starting" => WARN,
        _ => BAD,
    };
    let revision = if matches!(&**revision, "" | "unknown") { String::new() } else { format!(" ({revision})") };
    let pid = pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
    let up = age(std::time::Duration::from_secs(*uptime_s));
    let (version, revision, stage) = (printable(version), printable(&revision), printable(stage));
    writeln!(out, "{STRONG}snigate {version}{STRONG:#}{revision}  {style}{stage}{style:#}, up {up}{pid}")?;
    let mut line = String::from("configuration");
    for part in [&config.file, &config.hash].into_iter().flatten() {
        line = format!("{line} {}", printable(part));
    }
    if let Some(reload) = last_reload {
        let ago = status.ago(reload.at.as_deref()).map(|ago| format!(" {} ago", age(ago))).unwrap_or_default();
        let style = if reload.result == "rejected" { BAD } else { Style::new() };
        let (result, trigger) = (printable(&reload.result), printable(&reload.trigger));
        line = format!("{line}, last reload {style}{result}{style:#}{ago} ({trigger})");
    }
    writeln!(out, "{line}")
}

/// What is wrong, each with its cure below it.
fn problems(problems: &[Trouble], left_off: usize, out: &mut dyn Write) -> io::Result<()> {
    if !problems.is_empty() {
        writeln!(out)?;
    }
    for Trouble { severity, message, cure, .. } in problems {
        let (style, word) = (style_of(*severity), severity.as_str());
        writeln!(out, "{style}{word:8}{style:#}  {}", printable(message))?;
        if !cure.is_empty() {
            writeln!(out, "          {FAINT}{}{FAINT:#}", printable(cure))?;
        }
    }
    if left_off > 0 { writeln!(out, "          and {left_off} more") } else { Ok(()) }
}

pub(super) const fn style_of(severity: Severity) -> Style {
    match severity {
        Severity::Critical => BAD,
        Severity::Warning => WARN,
        Severity::Notice => FAINT,
    }
}

fn totals(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let Some(totals) = &status.totals else { return Ok(()) };
    writeln!(
        out,
        "\n{} open, {}; {} accepted, {} refused, {} failed at backends; {} to backends, {} to clients",
        counted(usize::try_from(totals.active).unwrap_or(usize::MAX), "connection"),
        rate(totals.per_second),
        totals.accepted,
        totals.refused,
        totals.failed,
        bytes(totals.bytes_to_backends),
        bytes(totals.bytes_to_clients),
    )?;
    let resources = &status.resources;
    let plain = |count: u64| count.to_string();
    let parts = [
        used("connections", resources.connections, plain),
        used("descriptors", resources.descriptors, plain),
        used("memory of hellos", resources.hello_memory, bytes),
        used("memory", resources.memory_of_limit(), bytes),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { Ok(()) } else { writeln!(out, "{FAINT}{}{FAINT:#}", parts.join(", ")) }
}

/// `connections 812 of 65536`.
pub(super) fn used(what: &str, gauge: Option<Gauge>, shown: fn(u64) -> String) -> Option<String> {
    let Gauge { used, limit } = gauge?;
    let of = limit.map(|limit| format!(" of {}", shown(limit))).unwrap_or_default();
    Some(format!("{what} {}{of}", shown(used?)))
}

fn listeners(listeners: &[Listener]) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("LISTENER", Left),
        ("ADDRESS", Left),
        ("OPEN", Right),
        ("NEW", Right),
        ("ACCEPTED", Right),
        ("REFUSED", Left),
        ("FAILED", Left),
    ];
    let mut table = Table::new(&columns);
    for listener in listeners {
        let paused = listener.accept_paused_since.is_some();
        let refused = if paused { "accepting is paused".to_owned() } else { most_frequent(&listener.refused) };
        table.row([
            Cell::new(&listener.name),
            Cell::new(listener.shown_addresses()),
            Cell::new(listener.active.to_string()),
            Cell::new(listener.per_second.map(rate).unwrap_or_default()),
            Cell::new(listener.accepted.to_string()),
            Cell::new(refused).styled(if paused { BAD } else { Style::new() }),
            Cell::new(most_frequent(&listener.failed)),
        ]);
    }
    table
}

/// The most frequent reasons, with their counts.
pub(super) fn most_frequent(reasons: &BTreeMap<String, u64>) -> String {
    let mut reasons: Vec<(&String, &u64)> = reasons.iter().filter(|(_, count)| **count > 0).collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let shown: Vec<String> = reasons.iter().take(3).map(|(reason, count)| format!("{reason} {count}")).collect();
    let more = if reasons.len() > shown.len() { ", …" } else { "" };
    if shown.is_empty() { "0".to_owned() } else { shown.join(", ") + more }
}

/// The DNS names among the backends.
fn names(status: &Status) -> Table {
    use Align::{Left, Right};
    let mut table =
        Table::new(&[("NAME", Left), ("POOLS", Left), ("ANSWERED", Right), ("ADDRESSES", Left), ("ERROR", Left)]);
    for name in &status.names {
        let answered = status.ago(name.answered.as_deref());
        table.row([
            Cell::new(&name.name),
            Cell::new(name.pools.join(", ")),
            Cell::new(answered.map_or_else(|| "never".to_owned(), |ago| format!("{} ago", age(ago)))),
            Cell::new(name.addresses.join(", ")),
            Cell::new(name.error.as_deref().unwrap_or_default()).styled(BAD),
        ]);
    }
    table
}

/// A row for each pool, and below it one for each of its backends.
fn pools(status: &Status) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("POOL", Left),
        ("STATE", Left),
        ("SINCE", Right),
        ("OPEN", Right),
        ("NEW", Right),
        ("CONNECT 50/99%", Right),
        ("FIRST BYTE 50/99%", Right),
        ("WEIGHT", Right),
        ("CERTIFICATE", Right),
        ("WHY", Left),
    ]);
    for pool in &status.pools {
        table.row(pool_cells(status, pool));
        for backend in &pool.backends {
            table.row(backend_cells(status, backend));
        }
    }
    table
}

fn pool_cells(status: &Status, pool: &Pool) -> [Cell; 10] {
    let state = pool.state.as_deref().unwrap_or_default();
    let active = pool.active.unwrap_or_else(|| pool.backends.iter().map(|backend| backend.active).sum());
    let queue = pool.queue.filter(|queue| queue.waiting > 0);
    let queue = queue.map(|queue| format!("{} of {} wait in the queue", queue.waiting, queue.size));
    let why = pool.why.as_deref().filter(|_| state != "up");
    let why: Vec<&str> = queue.as_deref().into_iter().chain(why).collect();
    [
        Cell::new(&pool.name).styled(STRONG),
        Cell::new(state.replace('_', " ")).styled(state_style(state)),
        since(status, pool.since.as_deref(), state),
        Cell::new(active.to_string()),
        Cell::new(pool.per_second.map(rate).unwrap_or_default()),
        Cell::new(quantiles(pool.connect_ms)),
        Cell::new(quantiles(pool.first_byte_ms)),
        Cell::new(""),
        Cell::new(""),
        Cell::new(why.join("; ")),
    ]
}

fn backend_cells(status: &Status, backend: &Backend) -> [Cell; 10] {
    let state = &*backend.state;
    let name = format!("  {}", if backend.name.is_empty() { &backend.address } else { &backend.name });
    let expires = backend.certificate.as_ref().and_then(|certificate| status.until(certificate.expires.as_deref()));
    let (expiry, style) = match expires {
        None => (String::new(), Style::new()),
        Some(left) if left.is_zero() => ("expired".to_owned(), BAD),
        Some(left) => (age(left), if left.as_secs() < SOON_S { WARN } else { Style::new() }),
    };
    let weight = match (backend.weight_set, backend.backup) {
        (Some(_), _) => format!("{} (set)", backend.weight),
        (None, true) => format!("{} (backup)", backend.weight),
        (None, false) => backend.weight.to_string(),
    };
    let why = if matches!(state, "up" | "unchecked") { None } else { backend.trouble() };
    [
        Cell::new(name),
        Cell::new(state).styled(state_style(state)),
        since(status, backend.since.as_deref(), state),
        Cell::new(backend.active.to_string()),
        Cell::new(backend.per_second.map(rate).unwrap_or_default()),
        Cell::new(quantiles(backend.connect_ms)),
        Cell::new(quantiles(backend.first_byte_ms)),
        Cell::new(weight),
        Cell::new(expiry).styled(style),
        Cell::new(why.unwrap_or_default()),
    ]
}

/// The style of a pool's or a backend's state.
pub(super) fn state_style(state: &str) -> Style {
    match state {
        "up" => GOOD,
        "unchecked" | "drain" | "drained" | "ejected" | "partly_down" => WARN,
        "failing" | "down" => BAD,
        _ => Style::new(),
    }
}

fn since(status: &Status, at: Option<&str>, state: &str) -> Cell {
    let cell = Cell::new(status.ago(at).map(age).unwrap_or_default());
    if state == "up" { cell.styled(FAINT) } else { cell }
}

/// `0.41/3.2 ms`.
pub(super) fn quantiles(of: Option<Quantiles>) -> String {
    match of {
        Some(Quantiles { p50: Some(p50), p99: Some(p99) }) => {
            format!("{}/{}", latency(p50 / 1e3), latency(p99 / 1e3))
        }
        _ => String::new(),
    }
}

/// When a certificate's expiry is worth a colour: the doctor's default.
const SOON_S: u64 = 21 * 86_400;
