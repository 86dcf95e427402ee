//! Writes an explanation for people: the same text on the command line and on the status page.
//!
//! In:  an [`Explanation`].
//! Out: lines of text, without control characters.

use super::access::Decision;
use super::shape::{Entry, Explanation, NO_NAME, PassedOver, Pool, SentHeader, Share};

/// Formats the explanation for people. It contains no control characters for the terminal.
pub(crate) fn text(explanation: &Explanation) -> String {
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

/// The pools that get connections.
pub(crate) fn pools(Explanation { pool, split, .. }: &Explanation) -> Vec<&str> {
    let shares = split.iter().flatten().filter(|share| share.weight > 0).map(|share| &share.pool);
    pool.iter().chain(shares).map(|pool| pool.name.as_str()).collect()
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
        None if name == NO_NAME => "a client without a server name".to_owned(),
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

fn asked(Explanation { alpn, source, listener, assumed, ech, .. }: &Explanation) -> String {
    let mark = |what: &str| if assumed.iter().any(|open| open == what) { " (assumed)" } else { "" };
    let alpn = if alpn.is_empty() { "no ALPN".to_owned() } else { format!("ALPN {}", alpn.join(", ")) };
    let sent = if *ech { ", with an encrypted name" } else { "" };
    let [of_alpn, of_source, of_listener] = ["alpn", "source", "listener"].map(mark);
    format!("{alpn}{of_alpn}, from {source}{of_source}, through listener {listener}{of_listener}{sent}")
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
        "ech" => ech(over.entry.ech.as_deref()).to_owned(),
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
    let listed = listed.map(|(what, list)| format!("{what} {}", list.join(" or ")));
    let reported: Vec<String> =
        listed.chain(entry.ech.as_deref().map(|condition| ech(Some(condition)).to_owned())).collect();
    reported.join(", ")
}

fn ech(condition: Option<&str>) -> &'static str {
    if condition == Some("only") { "only with an encrypted name" } else { "only with a name in the clear" }
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
    match entry.line {
        // Not in a file, but a container.
        0 => entry.file.clone(),
        line => format!("{}:{line}:{}", entry.file, entry.column),
    }
}
