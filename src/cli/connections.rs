//! `snigate connections`: lists the open connections of a running snigate, or ends some.
//!
//! In:  filters; ids to end.
//! Out: a table, or the connections as JSON; how many were ended.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::figures::{age, bytes, counted};
use super::remote::{self, Remote, RemoteOptions};
use super::remote_failure::Failure;
use super::reported::{Connection, Connections};
use super::table::{Align, Cell, FAINT, Table};
use super::{output, printed};

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    pub(super) remote: RemoteOptions,
    #[command(flatten)]
    filters: Filters,
    /// Only those in whose name, client, backend, route or pool this text occurs
    #[arg(long, global = true, value_name = "TEXT")]
    search: Option<String>,
    /// The order of the list
    #[arg(long, value_enum, default_value_t = Sort::Id)]
    sort: Sort,
    /// How many to list at most
    #[arg(long, value_name = "N", default_value_t = USUAL_LIMIT)]
    limit: usize,
    /// Prints JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Ends connections: by id, or all that match the options; both sides are reset
    End {
        /// The ids, as listed and logged
        #[arg(value_name = "ID")]
        ids: Vec<String>,
        /// Ends every connection
        #[arg(long)]
        all: bool,
    },
}

#[derive(Args, Clone, Debug, Default, PartialEq)]
struct Filters {
    /// Only those whose client sent this server name
    #[arg(long, global = true)]
    name: Option<String>,
    /// Only those from this address or network
    #[arg(long, global = true, value_name = "NETWORK", value_parser = network)]
    client: Option<IpNet>,
    /// Only those to this backend, as in the configuration, or with this address
    #[arg(long, global = true)]
    backend: Option<String>,
    /// Only those of this pool
    #[arg(long, global = true)]
    pool: Option<String>,
    /// Only those of this route
    #[arg(long, global = true)]
    route: Option<String>,
    /// Only those through this listener
    #[arg(long, global = true)]
    listener: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// In the order in which they were accepted
    Id,
    /// The oldest first
    Age,
    /// Those that have moved most bytes first
    Bytes,
    Client,
    Name,
    Backend,
}

/// Lists or ends connections.
pub(super) fn run(options: &Options, file: impl FnOnce() -> Option<PathBuf>) -> ExitCode {
    let done = Remote::find(&options.remote, file).and_then(|remote| match &options.action {
        None => list(&remote, options).map(|(list, matching)| print(&list, matching, options)),
        Some(Action::End { ids, all }) => end(&remote, options, ids, *all).map(|ended| {
            if options.json {
                return super::print_json(&json!({ "ended": ended }));
            }
            writeln!(io::stdout(), "{} ended", counted(ended, "connection"))
        }),
    });
    done.map_or_else(|failure| failure.report(), printed)
}

impl Filters {
    fn pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        let client = self.client.as_ref().map(ToString::to_string);
        let pairs = [
            ("name", self.name.clone()),
            ("client", client),
            ("backend", self.backend.clone()),
            ("pool", self.pool.clone()),
            ("route", self.route.clone()),
            ("listener", self.listener.clone()),
        ];
        pairs.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }
}

/// Follows the pages up to the limit; returns the connections and how many match.
fn list(remote: &Remote, options: &Options) -> Result<(Vec<Value>, usize), Failure> {
    let (mut rows, mut matching) = (Vec::new(), 0);
    while rows.len() < options.limit {
        let page = (options.limit - rows.len()).min(LARGEST_PAGE);
        let mut query = form_urlencoded::Serializer::for_suffix(PATH.to_owned() + "?", PATH.len() + 1);
        query.extend_pairs(options.filters.pairs()).append_pair("limit", &page.to_string());
        if let Some(text) = &options.search {
            query.append_pair("q", text);
        }
        if options.sort != Sort::Id {
            let sort = options.sort.to_possible_value().map(|sort| sort.get_name().to_owned());
            query.append_pair("sort", &sort.unwrap_or_default()).append_pair("offset", &rows.len().to_string());
        } else if let Some(last) = rows.last().and_then(|row: &Value| row["id"].as_str()) {
            query.append_pair("after", last);
        }
        let answer: Page = remote.read(&query.finish())?;
        matching = answer.matching.max(rows.len());
        let is_last = answer.connections.len() < page;
        rows.extend(answer.connections);
        if is_last {
            break;
        }
    }
    Ok((rows, matching))
}

/// A page as it came.
#[derive(Deserialize)]
struct Page {
    connections: Vec<Value>,
    matching: usize,
}

/// Ends the connections with `ids`, or those that match; returns how many.
fn end(remote: &Remote, options: &Options, ids: &[String], all: bool) -> Result<usize, Failure> {
    let by_filter = options.filters != Filters::default() || options.search.is_some();
    if usize::from(!ids.is_empty()) + usize::from(by_filter) + usize::from(all) != 1 {
        let what = "say which connections to end: their ids, or a filter such as `--client 192.0.2.7`, or `--all`";
        return Err(Failure::Usage(what.to_owned()));
    }
    let search = options.search.iter().map(|text| ("search", text.clone()));
    if let Some((option, _)) = options.filters.pairs().chain(search).find(|(_, value)| value.trim().is_empty()) {
        let what = format!("`--{option}` is empty: give it a value, or `--all` alone to end every connection");
        return Err(Failure::Usage(what));
    }
    if !ids.is_empty() {
        return ids.iter().map(|id| ended(remote, &format!("{PATH}/{}", remote::segment(id)))).sum();
    }
    let mut query = form_urlencoded::Serializer::for_suffix(PATH.to_owned() + "?", PATH.len() + 1);
    query.extend_pairs(options.filters.pairs());
    if let Some(text) = &options.search {
        query.append_pair("q", text);
    }
    if all {
        query.append_pair("all", "true");
    }
    ended(remote, &query.finish())
}

fn ended(remote: &Remote, path: &str) -> Result<usize, Failure> {
    let (_, answer) = remote.change(Method::DELETE, path, "", LIMIT, &[])?;
    Ok(answer["ended"].as_u64().and_then(|ended| usize::try_from(ended).ok()).unwrap_or_default())
}

fn print(rows: &[Value], matching: usize, options: &Options) -> io::Result<()> {
    if options.json {
        return super::print_json(&json!({ "connections": rows, "matching": matching }));
    }
    let connections = Connections::deserialize(json!({ "connections": rows })).unwrap_or_default().connections;
    let table = table(&connections);
    let out = &mut output();
    if !table.is_empty() {
        table.write("", out)?;
    }
    match matching.saturating_sub(rows.len()) {
        0 => writeln!(out, "{FAINT}{}{FAINT:#}", counted(rows.len(), "connection")),
        _ => writeln!(out, "{FAINT}{} of {matching} connections; --limit N shows more{FAINT:#}", rows.len()),
    }
}

fn table(connections: &[Connection]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("ID", Left),
        ("AGE", Right),
        ("STATE", Left),
        ("CLIENT", Left),
        ("NAME", Left),
        ("POOL", Left),
        ("BACKEND", Left),
        ("TO BACKEND", Right),
        ("TO CLIENT", Right),
    ]);
    for connection in connections {
        let given = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        table.row([
            // The zeros in front are not needed to name it.
            Cell::new(connection.id.trim_start_matches('0')),
            Cell::new(age(Duration::from_millis(connection.age_ms))),
            Cell::new(&connection.state),
            Cell::new(&connection.client),
            Cell::new(given(&connection.sni)),
            Cell::new(given(&connection.pool)),
            Cell::new(given(&connection.backend)),
            Cell::new(bytes(connection.bytes_to_backend)),
            Cell::new(bytes(connection.bytes_to_client)),
        ]);
    }
    table
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| ip.to_canonical().into()));
    network.map_err(|_| "write an address, or a network such as `10.0.0.0/8`".to_owned())
}

const PATH: &str = "/api/v1/connections";
const USUAL_LIMIT: usize = 100;
/// Of the API.
const LARGEST_PAGE: usize = 1000;
const LIMIT: Duration = Duration::from_secs(10);
