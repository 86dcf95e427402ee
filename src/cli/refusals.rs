//! `snigate refusals`: lists the latest clients that a running snigate refused.
//!
//! In:  `/api/v1/refusals` of the running process.
//! Out: two tables, or the answer as it came.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::figures::counted;
use super::remote::{Remote, Target};
use super::remote_failure::Failure;
use super::table::{Align, Cell, FAINT, STRONG, Table};
use super::{output, printed};

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    pub(super) target: Target,
    /// Lists only refusals with this reason, such as `no_route`
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Prints the answer of the admin API, as JSON
    #[arg(long, conflicts_with = "reason")]
    json: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Report {
    refusals: Vec<Refused>,
    not_recorded: u64,
    unknown_names: Vec<Unknown>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refused {
    at: String,
    reason: String,
    listener: String,
    client: String,
    name: Option<String>,
    route: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Unknown {
    name: String,
    count: u64,
    at_most_too_many: u64,
}

/// Asks once and prints the answer.
pub(super) fn run(options: &Options, file: impl FnOnce() -> Option<PathBuf>) -> ExitCode {
    let answer = Remote::find(&options.target.remote, file).and_then(|remote| ask(&remote));
    let (value, report) = match answer {
        Ok(answer) => answer,
        Err(failure) => return failure.report(),
    };
    let reason = options.reason.as_deref();
    printed(if options.json { super::print_json(&value) } else { text(&report, reason, &mut output()) })
}

fn ask(remote: &Remote) -> Result<(Value, Report), Failure> {
    let value: Value = remote.read("/api/v1/refusals")?;
    let report = Report::deserialize(&value);
    let report =
        report.map_err(|error| Failure::NotSnigate { address: remote.address().clone(), why: error.to_string() })?;
    Ok((value, report))
}

fn text(report: &Report, reason: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
    let is_wanted = |refused: &&Refused| reason.is_none_or(|reason| refused.reason == reason);
    let listed: Vec<&Refused> = report.refusals.iter().filter(is_wanted).collect();
    if !listed.is_empty() {
        latest(&listed).write("", out)?;
    }
    write!(out, "{FAINT}{}", counted(listed.len(), "refused client"))?;
    match report.not_recorded {
        0 => writeln!(out, "{FAINT:#}"),
        more => writeln!(out, "; {more} more came too fast to be listed{FAINT:#}"),
    }?;
    if reason.is_some_and(|reason| reason != "no_route") || report.unknown_names.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{STRONG}Names that no route matches{STRONG:#}")?;
    unknown(&report.unknown_names).write("", out)
}

fn latest(refusals: &[&Refused]) -> Table {
    use Align::Left;
    let columns = ["AT", "REASON", "LISTENER", "CLIENT", "NAME", "ROUTE"];
    let mut table = Table::new(&columns.map(|column| (column, Left)));
    for refused in refusals {
        let given = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        table.row([
            Cell::new(&refused.at),
            Cell::new(&refused.reason),
            Cell::new(&refused.listener),
            Cell::new(&refused.client),
            Cell::new(given(&refused.name)),
            Cell::new(given(&refused.route)),
        ]);
    }
    table
}

fn unknown(names: &[Unknown]) -> Table {
    let mut table = Table::new(&[("COUNT", Align::Right), ("NAME", Align::Left)]);
    for name in names {
        let about = if name.at_most_too_many > 0 { "≤ " } else { "" };
        table.row([Cell::new(format!("{about}{}", name.count)), Cell::new(&name.name)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(report: &str, reason: Option<&str>) -> String {
        let report: Report = serde_json::from_str(report).expect("a report");
        let mut out = Vec::new();
        text(&report, reason, &mut anstream::StripStream::new(&mut out)).expect("written");
        String::from_utf8(out).expect("text")
    }

    const REPORT: &str = r#"{"refusals":[
        {"at":"2026-11-30T12:04:29.771Z","reason":"no_route","listener":"https","client":"192.0.2.7:50312","name":"typo.test","route":null},
        {"at":"2026-11-30T12:04:28.771Z","reason":"denied","listener":"https","client":"192.0.2.9:1","name":null,"route":null}],
        "not_recorded":3,"unknown_names":[{"name":"typo.test","count":1021,"at_most_too_many":3}]}"#;

    #[test]
    fn the_latest_are_listed_and_then_the_names_without_a_route() {
        assert_eq!(
            shown(REPORT, None),
            "AT                        REASON    LISTENER  CLIENT           NAME       ROUTE\n\
             2026-11-30T12:04:29.771Z  no_route  https     192.0.2.7:50312  typo.test  -\n\
             2026-11-30T12:04:28.771Z  denied    https     192.0.2.9:1      -          -\n\
             2 refused clients; 3 more came too fast to be listed\n\
             \nNames that no route matches\n COUNT  NAME\n≤ 1021  typo.test\n"
        );
    }

    #[test]
    fn a_reason_leaves_out_the_others() {
        let denied = shown(REPORT, Some("denied"));
        assert!(denied.contains("192.0.2.9:1") && !denied.contains("typo.test"), "{denied}");
        assert!(denied.contains("\n1 refused client; "), "{denied}");
        assert_eq!(shown("{}", None), "0 refused clients\n");
    }
}
