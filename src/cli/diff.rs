//! `snigate diff OLD NEW`: shows which names would be routed differently by another file.
//!
//! In:  two valid routing files.
//! Out: patterns, fallbacks and pools that differ, with the effect on clients; an exit code that says whether any
//!      differs.

mod cases;
mod compare;
mod lists;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::Args;

use self::cases::When;
use self::compare::{BackendChange, Effect, Kind, PatternChange, PoolChange, Report, Target, compare};
use super::{Exit, output_failed, usable};
use crate::config::Config;
use crate::snapshot::Snapshot;
use crate::telemetry::Metrics;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// The routing file in force
    old: PathBuf,
    /// The one to compare with it
    new: PathBuf,
    /// Prints the differences as JSON
    #[arg(long)]
    json: bool,
}

/// One of the two files: its configuration, and the snapshot that `run` would build from it.
pub(super) struct Side {
    pub config: Config,
    snapshot: Snapshot,
}

impl Side {
    fn new(config: Config) -> Self {
        Self { snapshot: Snapshot::build(config.clone(), None, &Metrics::new()), config }
    }
}

/// Compares the files.
pub(super) fn run(options: &Options) -> ExitCode {
    // Large files take a while, so both are read in parallel.
    let (old, new) = thread::scope(|scope| {
        let new = scope.spawn(|| Config::load(&options.new));
        (Config::load(&options.old), new.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    // The problems of both files are printed, in this order.
    let (old, new) = match (usable(&options.old, old), usable(&options.new, new)) {
        (Ok(old), Ok(new)) => (Side::new(old.config), Side::new(new.config)),
        (Err(exit), _) | (_, Err(exit)) => return exit,
    };
    let report = compare(&old, &new);
    let mut out = io::stdout().lock();
    let reported = if options.json {
        serde_json::to_writer_pretty(&mut out, &report).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        out.write_all(text(&report).as_bytes())
    };
    match reported {
        Ok(()) if report.changes => Exit::Changes.into(),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output_failed(&error),
    }
}

/// Formats the report for people: `+` is new, `-` is removed, `~` is in both and differs.
fn text(report: &Report<'_>) -> String {
    let mut text = String::new();
    section(&mut text, "names", report.patterns.iter().take(MOST_NAMES).map(pattern));
    if let Some(more) = report.patterns.len().checked_sub(MOST_NAMES).filter(|more| *more > 0) {
        let _ = writeln!(text, "  and {more} more names; --json shows all\n");
    }
    let fallback = |change: &compare::FallbackChange<'_>| {
        format!("~ {}  {} -> {}\n", change.fallback, destination(&change.from), destination(&change.to))
    };
    section(&mut text, "fallbacks", report.fallbacks.iter().map(fallback));
    section(&mut text, "pools", report.pools.iter().map(pool));
    section(&mut text, "allow and deny", report.lists.iter().map(|change| format!("~ {change}\n")));
    let count = |kind| report.patterns.iter().filter(|change| change.kind == kind).count();
    let _ = match (report.changes, report.patterns.len()) {
        (false, _) => writeln!(text, "no routing differences"),
        (true, 0) => writeln!(text, "no pattern differs"),
        (true, _) => writeln!(
            text,
            "patterns: {} added, {} removed, {} changed",
            count(Kind::Added),
            count(Kind::Removed),
            count(Kind::Changed)
        ),
    };
    if !report.other_settings.is_empty() {
        let _ = writeln!(text, "other keys that differ: {}", report.other_settings.join(", "));
    }
    text
}

fn section(text: &mut String, title: &str, blocks: impl ExactSizeIterator<Item = String>) {
    if blocks.len() == 0 {
        return;
    }
    let _ = writeln!(text, "{title}");
    for line in blocks.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()) {
        let _ = writeln!(text, "  {line}");
    }
    text.push('\n');
}

fn pattern(change: &PatternChange<'_>) -> String {
    let head = format!("{} {}", sign(change.kind), change.pattern);
    match change.effects.as_slice() {
        [only] if only.when == When::default() => format!("{head}  {}\n", effect(only)),
        effects => {
            let mut block = format!("{head}\n");
            for one in effects {
                let _ = writeln!(block, "    {}: {}", when(&one.when), effect(one));
            }
            block
        }
    }
}

fn effect(effect: &Effect<'_>) -> String {
    let Effect { from, to, .. } = effect;
    if !effect.changes() {
        return format!("{}, as before", destination(to));
    }
    if from.route == to.route {
        return format!("{} -> {}", destination(from), destination(to));
    }
    format!("{} -> {}", decided(from), decided(to))
}

/// The destination, and the route or fallback that decided if its name differs.
fn decided(target: &Target<'_>) -> String {
    match target.matched {
        "unmatched" => format!("unmatched ({})", destination(target)),
        _ if target.pool == Some(target.route) => destination(target),
        _ => format!("{} (route {})", destination(target), target.route),
    }
}

fn destination(target: &Target<'_>) -> String {
    let to = match (target.pool, target.split) {
        (Some(pool), _) => format!("pool {pool}"),
        (None, Some(shares)) => {
            let shares: Vec<String> = shares.written().map(|(pool, weight)| format!("{pool} {weight}")).collect();
            format!("split {}", shares.join(", "))
        }
        (None, None) => format!("refuse: {}", target.refuse.unwrap_or_default()),
    };
    let idle = target.idle_timeout.map(|idle| format!(", idle_timeout {idle}"));
    let max_age = target.max_age.map(|max_age| match *max_age {
        Some(max_age) => format!(", max_age {max_age}"),
        None => ", max_age off".to_owned(),
    });
    let most = target.max_connections.map(|most| format!(", max_connections {most}"));
    [idle, max_age, most].into_iter().flatten().fold(to, |to, more| to + &more)
}

fn when(when: &When) -> String {
    let alpn = when.alpn.as_ref().map(|offered| match offered.as_slice() {
        [] => "without such ALPN".to_owned(),
        offered => format!("with ALPN {}", offered.join(" and ")),
    });
    let source = when.source.as_ref().map(|network| match network.as_str() {
        "other" => "from elsewhere".to_owned(),
        network => format!("from {network}"),
    });
    let listener = when.listener.as_ref().map(|listener| match listener.as_str() {
        "other" => "through other listeners".to_owned(),
        listener => format!("through listener {listener}"),
    });
    let name = when.name.map(|name| match name {
        "encrypted" => "with an encrypted name".to_owned(),
        _ => "with a name in the clear".to_owned(),
    });
    let reported: Vec<String> = [alpn, source, listener, name].into_iter().flatten().collect();
    if reported.is_empty() { "all clients".to_owned() } else { reported.join(", ") }
}

fn pool(change: &PoolChange<'_>) -> String {
    let mut block = format!("{} {}", sign(change.kind), change.pool);
    if !change.settings.is_empty() {
        let _ = write!(
            block,
            "  {} differ{}",
            change.settings.join(", "),
            if change.settings.len() == 1 { "s" } else { "" }
        );
    }
    block.push('\n');
    for BackendChange { address, kind, old_weight, new_weight } in &change.backends {
        let weights: Vec<String> = [old_weight, new_weight].into_iter().flatten().map(u32::to_string).collect();
        let _ = writeln!(block, "    {} {address}  weight {}", sign(*kind), weights.join(" -> "));
    }
    block
}

fn sign(kind: Kind) -> char {
    match kind {
        Kind::Added => '+',
        Kind::Removed => '-',
        Kind::Changed => '~',
    }
}

/// For people: files of names can differ in a million.
const MOST_NAMES: usize = 1_000;
