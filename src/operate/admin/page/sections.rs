//! The sections of the page, each rendered on its own, so that only those that changed are sent again.
//!
//! In:  [`Data`].
//! Out: HTML of each section.

use std::collections::BTreeMap;

use askama::Template;

use super::data::{Data, Graphs};
use super::query::{PageQuery, Paged};
use super::tone::Tone;
use super::{backends, containers, format, kubernetes, names, sparkline};
use crate::operate::status::{
    At, ConnectionStatus, LastReload, ListenerStatus, Problem, RefusedClient, ReloadProblem, RouteStatus, Series,
    SeriesKind, Severity, Status, UnknownName, Usage,
};

/// The sections in the order of the page, with their HTML.
pub(super) fn render(data: &Data) -> askama::Result<Vec<(&'static str, String)>> {
    let graphs = Graphs::of(&data.history);
    Ok(vec![
        ("wrong", wrong(data).render()?),
        ("figures", figures(data, &graphs).render()?),
        ("listeners", listeners(data, &graphs).render()?),
        ("routes", routes(data, &graphs).render()?),
        ("pools", backends::section(data, &graphs).render()?),
        ("names", names::section(data).render()?),
        ("containers", containers::section(data).render()?),
        ("kubernetes", kubernetes::section(data).render()?),
        ("refusals", refusals(data).render()?),
        ("unknown", unknown(data).render()?),
        ("reload", reload(data).render()?),
        ("limits", limits(data).render()?),
        ("explain", explain(data).render()?),
        ("connections", connections(data).render()?),
    ])
}

/// The title of the window: what is wrong is visible while another one is in front.
pub(super) fn title(status: &Status) -> String {
    match status.problems.len() + status.problems_left_off {
        0 => "snigate".to_owned(),
        1 => "(1 problem) snigate".to_owned(),
        problems => format!("({problems} problems) snigate"),
    }
}

/// The tone of the most serious problem.
pub(super) fn mood(status: &Status) -> Tone {
    status.problems.iter().map(|problem| tone_of(problem.severity)).min().unwrap_or(Tone::Ok)
}

// ---- what is wrong

#[derive(Template)]
#[template(path = "wrong.html")]
struct Wrong {
    problems: Vec<ShownProblem>,
    /// Behind a click.
    more: Vec<ShownProblem>,
    left_off: usize,
    calm: String,
}

struct ShownProblem {
    tone: Tone,
    word: &'static str,
    key: String,
    message: String,
    cure: String,
    link: Option<&'static str>,
}

fn wrong(data: &Data) -> Wrong {
    let status = &data.status;
    let mut problems: Vec<_> = status.problems.iter().map(shown).collect();
    let critical = problems.iter().take_while(|problem| problem.tone == Tone::Bad).count();
    let more = problems.split_off(critical.clamp(PROBLEMS, MOST_PROBLEMS).min(problems.len()));
    Wrong { problems, more, left_off: status.problems_left_off, calm: calm(status) }
}

fn shown(problem: &Problem) -> ShownProblem {
    let (pool, backend) = (problem.pool.as_deref(), problem.backend.as_deref());
    let link = match () {
        () if problem.pool.is_some() || problem.backend.is_some() => Some("#pools"),
        () if problem.place.is_some() => Some("#reload"),
        () if problem.route.is_some() => Some("#routes"),
        () if problem.listener.is_some() => Some("#listeners"),
        () => None,
    };
    ShownProblem {
        tone: tone_of(problem.severity),
        word: match problem.severity {
            Severity::Critical => "Critical",
            Severity::Warning => "Warning",
            Severity::Notice => "Notice",
        },
        key: format!("{:?} {} {}", problem.kind, pool.unwrap_or_default(), backend.unwrap_or_default()),
        message: format::sentence(&problem.message),
        cure: problem.cure.clone(),
        link,
    }
}

const fn tone_of(severity: Severity) -> Tone {
    match severity {
        Severity::Critical => Tone::Bad,
        Severity::Warning => Tone::Warn,
        Severity::Notice => Tone::Note,
    }
}

/// Why nothing is wrong.
fn calm(status: &Status) -> String {
    let (up, all) = backends::usable(status);
    let listeners = status.listeners.len();
    let plural = |number: usize| if number == 1 { "" } else { "s" };
    let mut text = format!("{listeners} listener{} accept{}", plural(listeners), if listeners == 1 { "s" } else { "" });
    text += &format!(", {up} of {all} backend{} can be used", plural(all));
    if let Some(reload) = &status.last_reload {
        text += &format!(", the last reload was {} at {}", reload.result, format::clock(&reload.at, &status.at));
    }
    text + "."
}

// ---- figures at a glance

#[derive(Template)]
#[template(path = "figures.html")]
struct Figures {
    tiles: Vec<Tile>,
}

struct Tile {
    label: &'static str,
    value: String,
    unit: &'static str,
    under: String,
    /// SVG.
    graph: String,
}

fn figures(data: &Data, graphs: &Graphs<'_>) -> Figures {
    let (status, totals) = (&data.status, &data.status.totals);
    let graph = |values: fn(&Series) -> &[u32]| sparkline::rates(&graphs.of_listeners(values), &[], graphs.step_s);
    let rate = |label, rate, more: String, graph| Tile {
        label,
        value: format::figure(&rate),
        unit: "per second",
        under: more,
        graph,
    };
    let (up, all) = backends::usable(status);
    let open = Tile {
        label: "Open connections",
        value: format::count(totals.active),
        unit: "",
        under: status.resources.connections.limit.map_or(String::new(), |most| format!("of {}", format::count(most))),
        graph: sparkline::levels(&graphs.of_listeners(|series| &series.active)),
    };
    let news = graph(|series| &series.connections);
    let errors = graph(|series| &series.errors);
    let usable = Tile {
        label: "Usable backends",
        value: format::count(up),
        unit: "",
        under: format!("of {}", format::count(all)),
        graph: backends::segments(status),
    };
    let uptime = Tile {
        label: "Up for",
        value: format::duration(status.uptime_s),
        unit: "",
        under: format!("version {}", status.version),
        graph: String::new(),
    };
    let routes = Tile {
        label: "Routes",
        value: format::count(status.routes.total),
        unit: "",
        under: match status.routes.never_matched {
            0 => "all have matched".to_owned(),
            never => format!("{} never matched", format::count(never)),
        },
        graph: String::new(),
    };
    let ended = format!("{} refused, {} failed", format::count(totals.refused), format::count(totals.failed));
    Figures {
        tiles: vec![
            open,
            rate("New", totals.per_second, format!("{} since the start", format::count(totals.accepted)), news),
            rate("Errors", totals.errors_per_second, ended, errors),
            usable,
            routes,
            uptime,
        ],
    }
}

// ---- listeners

#[derive(Template)]
#[template(path = "listeners.html")]
struct Listeners<'d> {
    listeners: Vec<ShownListener<'d>>,
    now: &'d At,
}

struct ShownListener<'d> {
    status: &'d ListenerStatus,
    addresses: String,
    /// By snigate, the most frequent reason first.
    refused: Vec<(&'d str, u64)>,
    /// At backends.
    failed: Vec<(&'d str, u64)>,
    spark: String,
}

impl Listeners<'_> {
    fn clock(&self, at: &At) -> String {
        format::clock(at, self.now)
    }
}

fn listeners<'d>(data: &'d Data, graphs: &Graphs<'_>) -> Listeners<'d> {
    let shown = |status: &'d ListenerStatus| {
        // Until it is bound, the file says where it will be.
        let addresses = if status.addresses.is_empty() { &status.bind } else { &status.addresses };
        ShownListener {
            status,
            addresses: addresses.join(", "),
            refused: most_frequent(&status.refused),
            failed: most_frequent(&status.failed),
            spark: graphs.svg(SeriesKind::Listener, "", &status.name),
        }
    };
    Listeners { listeners: data.status.listeners.iter().map(shown).collect(), now: &data.status.at }
}

fn most_frequent(reasons: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    let mut reasons: Vec<_> = reasons.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    reasons
}

// ---- routes

#[derive(Template)]
#[template(path = "routes.html")]
struct Routes<'d> {
    search: &'d str,
    total: usize,
    never_matched: usize,
    rows: Vec<ShownRoute<'d>>,
    paged: Paged,
}

struct ShownRoute<'d> {
    status: &'d RouteStatus,
    patterns: String,
    spark: String,
}

fn routes<'d>(data: &'d Data, graphs: &Graphs<'_>) -> Routes<'d> {
    let page = &data.routes;
    let shown = |status: &'d RouteStatus| {
        let mut patterns = status.patterns.join(", ");
        if status.more_patterns > 0 {
            patterns += &format!(" and {} more", format::count(status.more_patterns));
        }
        if patterns == status.name {
            patterns.clear();
        }
        ShownRoute { status, patterns, spark: graphs.svg(SeriesKind::Route, "", &status.name) }
    };
    let at = (page.offset, page.routes.len(), page.matching);
    Routes {
        search: &data.query.routes,
        total: page.total,
        never_matched: data.status.routes.never_matched,
        rows: page.routes.iter().map(shown).collect(),
        paged: Paged::new(&data.query, "routes", "routes_from", at, ROUTES),
    }
}

// ---- refusals

#[derive(Template)]
#[template(path = "refusals.html")]
struct Refusals<'d> {
    rows: &'d [RefusedClient],
    not_recorded: u64,
    paged: Paged,
    now: &'d At,
}

impl Refusals<'_> {
    fn clock(&self, at: &At) -> String {
        format::clock(at, self.now)
    }
}

fn refusals(data: &Data) -> Refusals<'_> {
    let all = &data.refusals.refusals;
    let from = data.query.refusals_from.min(all.len().saturating_sub(1));
    let rows = &all[from..(from + REFUSALS).min(all.len())];
    Refusals {
        rows,
        not_recorded: data.refusals.not_recorded,
        paged: Paged::new(&data.query, "refusals", "refusals_from", (from, rows.len(), all.len()), REFUSALS),
        now: &data.status.at,
    }
}

#[derive(Template)]
#[template(path = "unknown.html")]
struct Unknown<'d> {
    names: &'d [UnknownName],
    left_off: usize,
}

fn unknown(data: &Data) -> Unknown<'_> {
    let all = &data.refusals.unknown_names;
    let names = &all[..all.len().min(UNKNOWN_NAMES)];
    Unknown { names, left_off: all.len() - names.len() }
}

// ---- the last reload

#[derive(Template)]
#[template(path = "reload.html")]
struct Reload<'d> {
    reload: Option<&'d LastReload>,
    tone: Tone,
    trigger: String,
    sentence: String,
    now: &'d At,
}

impl Reload<'_> {
    fn clock(&self, at: &At) -> String {
        format::clock(at, self.now)
    }
}

fn reload(data: &Data) -> Reload<'_> {
    let reload = data.status.last_reload.as_ref();
    let problems: &[ReloadProblem] = reload.map_or(&[], |reload| &reload.problems);
    let word = reload.map_or("", |reload| reload.result.as_ref());
    let (tone, sentence) = match (word, problems.is_empty()) {
        ("rejected", _) => {
            let why = reload.and_then(|reload| reload.error.as_deref()).unwrap_or("the file has problems");
            (Tone::Bad, format!("{} The previous configuration stays in force.", format::sentence(why)))
        }
        ("unchanged", _) => (Tone::Ok, "The file says the same as the configuration in force.".to_owned()),
        (_, true) => (Tone::Ok, "The configuration is in force, without warnings.".to_owned()),
        (_, false) => (Tone::Warn, "The configuration is in force. These are warnings:".to_owned()),
    };
    let trigger = match reload.map_or("", |reload| reload.trigger.as_ref()) {
        "start" => "at the start".to_owned(),
        "file" => "because the file changed".to_owned(),
        "signal" => "because of SIGHUP".to_owned(),
        "api" => "through the admin API".to_owned(),
        other => other.to_owned(),
    };
    Reload { reload, tone, trigger, sentence, now: &data.status.at }
}

// ---- limits

#[derive(Template)]
#[template(path = "limits.html")]
struct Limits {
    meters: Vec<Meter>,
    facts: Vec<(&'static str, String)>,
}

struct Meter {
    label: &'static str,
    text: String,
    percent: Option<u64>,
    tone: Tone,
}

fn limits(data: &Data) -> Limits {
    let (status, resources) = (&data.status, &data.status.resources);
    let meter = |label, usage: Usage, write: fn(&u64) -> String| {
        let percent =
            usage.limit.filter(|limit| *limit > 0).map(|limit| (usage.used.saturating_mul(100) / limit).min(100));
        let text = match usage.limit {
            Some(limit) => format!("{} of {}", write(&usage.used), write(&limit)),
            None => format!("{}, no limit", write(&usage.used)),
        };
        let tone = match percent {
            Some(95..) => Tone::Bad,
            Some(80..) => Tone::Warn,
            _ => Tone::Ok,
        };
        Meter { label, text, percent, tone }
    };
    let in_force = match (&status.config.file, &status.config.hash) {
        (Some(file), Some(hash)) => format!("{file}, hash {hash}"),
        (None, Some(hash)) => hash.clone(),
        (file, None) => file.clone().unwrap_or_else(|| "none yet".to_owned()),
    };
    let mut facts = vec![
        (
            "Processor time",
            format!("{} on {} workers", format::duration(resources.cpu_seconds as u64), resources.workers),
        ),
        ("State", format!("{}, process {}", status.stage, status.pid)),
        (
            "Up since",
            format!("{}, for {}", format::clock(&status.started, &status.at), format::duration(status.uptime_s)),
        ),
        ("Version", format!("{}, revision {}", status.version, status.revision)),
        ("Configuration in force", in_force),
    ];
    if resources.log_lines_dropped > 0 {
        facts.push(("Log lines dropped", format::count(resources.log_lines_dropped)));
    }
    Limits {
        meters: vec![
            meter("Connections", resources.connections, |n| format::count(n)),
            meter("File descriptors", resources.descriptors, |n| format::count(n)),
            meter("Memory", resources.memory, format::bytes),
            meter("Memory of unfinished hellos", resources.hello_memory, format::bytes),
        ],
        facts,
    }
}

// ---- explain

#[derive(Template)]
#[template(path = "explain.html")]
struct Explain<'d> {
    name: &'d str,
    alpn: &'d str,
    source: &'d str,
    answer: Option<&'d Result<String, String>>,
}

fn explain(data: &Data) -> Explain<'_> {
    let PageQuery { name, alpn, source, .. } = &data.query;
    Explain { name, alpn, source, answer: data.explained.as_ref() }
}

// ---- live connections

#[derive(Template)]
#[template(path = "connections.html")]
struct Connections<'d> {
    search: &'d str,
    matching: usize,
    rows: &'d [ConnectionStatus],
    paged: Paged,
    may_change: bool,
}

fn connections(data: &Data) -> Connections<'_> {
    let page = &data.connections;
    let at = (page.offset, page.connections.len(), page.matching);
    Connections {
        search: &data.query.connections,
        matching: page.matching,
        rows: &page.connections,
        paged: Paged::new(&data.query, "connections", "connections_from", at, CONNECTIONS),
        may_change: data.may_change,
    }
}

/// Problems at once; more if clients are refused because of them.
const PROBLEMS: usize = 4;
const MOST_PROBLEMS: usize = 10;
/// Rows at once.
pub(super) const ROUTES: usize = 25;
pub(super) const CONNECTIONS: usize = 8;
const REFUSALS: usize = 6;
const UNKNOWN_NAMES: usize = 6;
