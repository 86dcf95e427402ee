//! Explains which route matches a connection, and why no other does.
//!
//! In:  a [`Snapshot`], of a file or of the running process, and a [`Question`].
//! Out: an [`Explanation`], the same for the command line and for `/api/v1/explain`.
//! Source: [`Snapshot::choose_watched`], the same function that routes real connections.

mod access;
mod text;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) use self::access::Decision;
pub(crate) use self::text::{pools, text};
use crate::alert::Alert;
use crate::client_hello::Alpn;
use crate::config::Settings;
use crate::ids::ListenerIndex;
use crate::refuse::{self, Offer, TurnedAway};
use crate::route::{By, Candidate, NearMiss};
use crate::server_name::{InvalidName, Pattern, ServerName, Sni};
use crate::settings::{self, Access, AcmeChallenge, Others, Refuse, SendProxyProtocol, ValueKind};
use crate::snapshot::{self, Chosen, Destination, HttpTerms, OtherRequests, RouteQuery, Snapshot};
use crate::telemetry::{Match, Reason};

/// A hypothetical connection. Properties that are not given are assumed, and the answer says so.
#[derive(Clone, Debug, Default)]
pub(crate) struct Question {
    /// As a client sends it; [`NO_NAME`] for a client that sends none.
    pub name: String,
    pub alpn: Vec<String>,
    pub source: Option<IpAddr>,
    /// The name of a listener.
    pub listener: Option<String>,
}

/// Why a question is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadQuestion {
    NoListener {
        asked: String,
        known: Vec<String>,
    },
    /// RFC 7301 §3.1: protocol names are 1 to 255 bytes.
    Protocol {
        bytes: usize,
    },
}

/// Where a connection goes. Its JSON is a stable interface: fields keep their names, new ones may be added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    /// As given in the question.
    pub name: String,
    /// The name that is routed: lower-case, without a trailing dot. `None`: there is none, or it is invalid.
    pub server_name: Option<String>,
    pub alpn: Vec<String>,
    pub source: IpAddr,
    pub listener: String,
    /// Which of `alpn`, `source` and `listener` were not given.
    pub assumed: Vec<String>,
    /// The kind of pattern or the fallback that decided, as in the log. `None`: the name is invalid.
    #[serde(rename = "match")]
    pub matched: Option<String>,
    /// The route or the fallback, as in the log.
    pub route: Option<String>,
    /// The entry of the route that matched. `None`: a fallback decided.
    pub taken: Option<Entry>,
    /// More specific entries, in the order they were checked.
    pub passed_over: Vec<PassedOver>,
    /// What `allow` and `deny` decide, first those of the listener, then those of the route. Empty if there are none, or
    /// if the source was not given.
    #[serde(default)]
    pub access: Vec<Decision>,
    /// The destination; one of this, `split` and `refusal` is set.
    pub pool: Option<Pool>,
    /// The pools that the connections are split over.
    #[serde(default)]
    pub split: Option<Vec<Share>>,
    pub refusal: Option<Refusal>,
    /// Further hints for people.
    pub hints: Vec<String>,
    pub config: Source,
}

/// One pattern of a route, with the conditions of the route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub route: String,
    pub pattern: String,
    pub file: String,
    pub line: u32,
    pub column: u32,
    /// An empty list means no condition, here and below.
    pub alpn: Vec<String>,
    pub source: Vec<String>,
    pub listeners: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PassedOver {
    #[serde(flatten)]
    pub entry: Entry,
    /// The first condition that did not hold: `listeners`, `source` or `alpn`.
    pub unmet: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pool {
    pub name: String,
    pub backends: Vec<Backend>,
    /// Whether the connections leave from the client's own address.
    #[serde(default)]
    pub transparent: bool,
    /// The PROXY header that the backends get.
    #[serde(default)]
    pub proxy_header: Option<SentHeader>,
}

/// The PROXY header that the backends of a pool get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SentHeader {
    /// `v1` or `v2`.
    pub version: String,
    /// The types of values that are passed on, as `0xea`.
    pub relay: Vec<String>,
    /// The types of values that are added.
    pub add: Vec<String>,
}

/// A pool of a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub pool: Pool,
    pub weight: u32,
    /// Of the connections, to two decimal places.
    pub percent: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backend {
    pub address: String,
    pub weight: u32,
    /// Used only while no other backend is available.
    #[serde(default)]
    pub backup: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// As in the log and the metrics.
    pub reason: String,
    /// `alert`, `close`, `reset` or `drop`; on a listener that speaks HTTP `status 404`, say.
    pub client_sees: String,
    /// The name of the alert in RFC 8446 §6.2.
    pub alert: Option<String>,
    /// The alert for a client that does not offer TLS 1.3, if it differs.
    pub alert_before_tls13: Option<String>,
    /// Why the name is invalid.
    pub detail: Option<String>,
}

/// The question, as answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    pub file: String,
    pub hash: String,
}

/// Answers `question` with the decision that a real connection would get.
///
/// # Errors
/// [`BadQuestion`]. An invalid name is not an error here: clients can send one, and are refused.
pub(crate) fn explain(snapshot: &Snapshot, question: &Question) -> Result<Explanation, BadQuestion> {
    let config = &snapshot.config;
    let listener = listener(snapshot, question.listener.as_deref())?;
    if let Some(protocol) = question.alpn.iter().find(|protocol| !(1..=255).contains(&protocol.len())) {
        return Err(BadQuestion::Protocol { bytes: protocol.len() });
    }
    let source = question.source.unwrap_or(SOME_CLIENT).to_canonical();
    let given = [
        ("alpn", !question.alpn.is_empty()),
        ("source", question.source.is_some()),
        ("listener", question.listener.is_some()),
    ];
    let mut explanation = Explanation {
        name: question.name.clone(),
        server_name: None,
        alpn: question.alpn.clone(),
        source,
        listener: snapshot.listener(listener).name.to_string(),
        assumed: given.iter().filter(|(_, given)| !given).map(|(what, _)| (*what).to_owned()).collect(),
        matched: None,
        route: None,
        taken: None,
        passed_over: Vec::new(),
        access: Vec::new(),
        pool: None,
        split: None,
        refusal: None,
        hints: Vec::new(),
        config: Source {
            file: config.files.first().map(|file| file.display().to_string()).unwrap_or_default(),
            hash: config.hash.clone(),
        },
    };
    let sni = match question.name.as_str() {
        // A client that sends an empty name is one that sends none.
        NO_NAME | "" => Ok(None),
        name => Sni::from_wire(name.as_bytes()).map(Some),
    };
    if explanation.refuses_at_listener(snapshot, listener) {
        return Ok(explanation);
    }
    match sni {
        Ok(sni) => {
            let alpn = Alpn::of(&question.alpn);
            explanation.decide(snapshot, RouteQuery { sni: sni.as_ref(), alpn: &alpn, source: Some(source), listener });
        }
        Err(invalid) => explanation.refuse_name(invalid),
    }
    explanation.hints.extend(whose_address(snapshot, listener));
    if let Some(terms) = &snapshot.listener(listener).http {
        explanation.over_http(config, terms);
    }
    Ok(explanation)
}

impl Explanation {
    /// Applies `allow` and `deny` of the listener. Returns whether they keep the client out.
    fn refuses_at_listener(&mut self, snapshot: &Snapshot, listener: ListenerIndex) -> bool {
        let terms = snapshot.listener(listener);
        let is_refused = !self.admits(terms.access.as_deref(), || format!("listener {}", terms.name), snapshot);
        if is_refused {
            self.refusal = Some(denied(refuse::Refusal::Reset));
        }
        is_refused
    }

    /// Whether `access` lets the client in. An assumed address decides nothing: it would hide where others go.
    fn admits(&mut self, access: Option<&Access>, of: impl Fn() -> String, snapshot: &Snapshot) -> bool {
        let Some(access) = access else { return true };
        if self.assumed.iter().any(|what| what == "source") {
            self.hints.push(format!("`source` was not given, so `allow` and `deny` of {} were not applied", of()));
            return true;
        }
        let main = snapshot.config.files.first().map_or(Path::new(""), |main| main);
        let decision = access::decide(access, of(), self.source, main);
        let is_admitted = decision.admitted;
        self.access.push(decision);
        is_admitted
    }

    /// Fills in the routing decision.
    fn decide(&mut self, snapshot: &Snapshot, asked: RouteQuery<'_>) {
        let mut candidates = Vec::new();
        let Chosen { route, matched } = snapshot.choose_watched(asked, |candidate| candidates.push(candidate));
        self.route = Some(route.name.to_string());
        self.matched = Some(matched.as_str().to_owned());
        let is_admitted = self.admits(route.access.as_deref(), || format!("route {}", route.name), snapshot);
        match &route.to {
            _ if !is_admitted => self.refusal = Some(denied(refuse::denied(Offer::TLS13).refusal)),
            Destination::Pool(pool) => self.pool = Some(reported_pool(&snapshot.config, &pool.name)),
            Destination::Split(split) => {
                let share = |share: &snapshot::Share| Share {
                    pool: reported_pool(&snapshot.config, &share.pool.name),
                    weight: share.weight,
                    percent: (split.part(share) * 1e4).round() / 1e2,
                };
                self.split = Some(split.shares().iter().map(share).collect());
                self.hints.push("the shares are of connections: those of one client may go to different pools".into());
            }
            Destination::Refuse(how) => self.refusal = Some(refusal(*how, matched)),
        }
        if let Some(Sni::Name(name)) = asked.sni {
            self.server_name = Some(name.to_string());
            for candidate in candidates {
                let entry = entry(snapshot, &candidate, name);
                match candidate.unmet {
                    None => self.taken = Some(entry),
                    Some(unmet) => self.passed_over.push(PassedOver { entry, unmet: unmet.as_str().to_owned() }),
                }
            }
            self.hint_at_assumptions();
            if matched == Match::Unmatched {
                self.hints.extend(near_misses(snapshot, name));
            }
        }
        if matches!(asked.sni, Some(Sni::IpLiteral(_))) {
            self.hints
                .push("an address is not a server name (RFC 6066 section 3); it is treated as no name".to_owned());
        }
    }

    /// Says what a request gets on a listener that speaks HTTP: the name was routed as that of a hello.
    fn over_http(&mut self, config: &Settings, terms: &HttpTerms) {
        let port = |name: &str| config.pools.iter().find(|pool| *pool.name == *name).map(|pool| pool.http_port.0);
        let challenges = match &self.pool {
            _ if terms.acme_challenge == AcmeChallenge::Off || self.refusal.is_some() => String::new(),
            Some(pool) => {
                let port = port(&pool.name).unwrap_or_default();
                format!("ACME challenges of this name go to port {port} of the backends, and ")
            }
            None => "ACME challenges of this name go to the `http_port` of the backends, and ".to_owned(),
        };
        let others = match &terms.otherwise {
            OtherRequests::Redirect if self.refusal.is_none() => {
                "all other requests are redirected to https".to_owned()
            }
            OtherRequests::Redirect => "every request is refused".to_owned(),
            OtherRequests::Refuse => "all other requests are answered with 404".to_owned(),
            OtherRequests::Pool(route) => {
                let pool = route.only_pool().map(|to| &*to.pool.name).unwrap_or_default();
                format!("all other requests go to pool `{pool}`")
            }
        };
        self.hints.push(format!("listener `{}` speaks HTTP: {challenges}{others}", self.listener));
        if let Some(refusal) = self.refusal.as_mut().filter(|refusal| refusal.alert.is_some()) {
            let is_routed = self.matched.is_some();
            if !is_routed {
                refusal.reason = Reason::BadRequest.as_str().to_owned();
            }
            refusal.client_sees = if is_routed { "status 404" } else { "status 400" }.to_owned();
            (refusal.alert, refusal.alert_before_tls13) = (None, None);
        }
    }

    /// Fills in the refusal of an invalid name, which is not routed even to a fallback.
    fn refuse_name(&mut self, invalid: InvalidName) {
        self.refusal = Some(Refusal {
            reason: Reason::InvalidSni.as_str().to_owned(),
            client_sees: Refuse::Alert.as_str().to_owned(),
            alert: Some(Alert::ILLEGAL_PARAMETER.name().to_owned()),
            alert_before_tls13: None,
            detail: Some(invalid.to_string()),
        });
        self.hints.extend(match (invalid, self.name.parse::<Pattern>()) {
            (InvalidName::Byte(b'*'), _) => Some(
                "a pattern is not a name: ask for a name that it should match, such as one with `www` for the star"
                    .into(),
            ),
            (_, Ok(Pattern::Exact(ascii))) => Some(format!("clients send this name as `{ascii}`")),
            _ => no_bare_name(&self.name),
        });
    }

    /// Adds hints for assumptions that made a difference, or could have.
    fn hint_at_assumptions(&mut self) {
        let entries: Vec<&Entry> = self.passed_over.iter().map(|over| &over.entry).chain(&self.taken).collect();
        for what in &self.assumed {
            let wanted = |entry: &Entry| match what.as_str() {
                "alpn" => !entry.alpn.is_empty(),
                "source" => !entry.source.is_empty(),
                _ => !entry.listeners.is_empty(),
            };
            let routes = entries.iter().filter(|entry| wanted(entry)).take(MOST_HINTS);
            let routes: Vec<String> = routes.map(|entry| format!("`{}`", entry.route)).collect();
            if !routes.is_empty() {
                let routes = routes.join(" and ");
                self.hints.push(format!("`{what}` was assumed; the conditions of {routes} depend on it"));
            }
        }
    }
}

/// Says that `source` is what a PROXY header announces, on a listener that believes some.
fn whose_address(snapshot: &Snapshot, ListenerIndex(index): ListenerIndex) -> Option<String> {
    let listener = &snapshot.config.listeners[index];
    let trusted = listener.trusted_proxies()?;
    let shown: Vec<String> = trusted.iter().take(MOST_HINTS).map(ToString::to_string).collect();
    let more = if trusted.len() > MOST_HINTS { " and others" } else { "" };
    let others = match listener.other_peers() {
        Others::Refuse => "are refused",
        Others::Plain => "are known by their own address",
    };
    Some(format!(
        "listener `{}` takes the client's address from PROXY headers of {}{more}; peers elsewhere {others}",
        listener.name,
        shown.join(", ")
    ))
}

fn listener(snapshot: &Snapshot, asked: Option<&str>) -> Result<ListenerIndex, BadQuestion> {
    let Some(asked) = asked else { return Ok(ListenerIndex(0)) };
    snapshot.find_listener(asked).ok_or_else(|| BadQuestion::NoListener {
        asked: asked.to_owned(),
        known: snapshot.config.listeners.iter().map(|listener| listener.name.to_string()).collect(),
    })
}

/// Converts a candidate's indices into names.
fn entry(snapshot: &Snapshot, candidate: &Candidate<'_>, name: &ServerName) -> Entry {
    let Candidate { route, by, suffix_bytes, conditions, .. } = *candidate;
    let place = snapshot.place(candidate.number());
    let listener = |index: &ListenerIndex| snapshot.listener(*index).name.to_string();
    Entry {
        route: snapshot.route(route).name.to_string(),
        pattern: pattern(by, suffix(name, suffix_bytes)),
        file: place.file.display().to_string(),
        line: place.line,
        column: place.column,
        alpn: conditions.alpn.iter().map(|protocol| String::from_utf8_lossy(protocol).into_owned()).collect(),
        source: conditions.source.iter().map(ToString::to_string).collect(),
        listeners: conditions.listeners.iter().map(listener).collect(),
    }
}

/// As written in the routing file.
fn pattern(by: By, suffix: &str) -> String {
    match by {
        By::Exact => suffix.to_owned(),
        By::OneLabel => format!("*.{suffix}"),
        By::ManyLabels => format!("**.{suffix}"),
        By::Any => "*".to_owned(),
    }
}

fn suffix(name: &ServerName, bytes: usize) -> &str {
    let name = name.as_str();
    &name[name.len() - bytes..]
}

fn reported_pool(config: &Settings, name: &str) -> Pool {
    let backend = |backend: &settings::Backend| Backend {
        address: backend.address.to_string(),
        weight: backend.weight,
        backup: backend.backup,
    };
    let pool = config.pools.iter().find(|pool| *pool.name == *name);
    Pool {
        name: name.to_owned(),
        backends: pool.into_iter().flat_map(|pool| &pool.backends).map(backend).collect(),
        transparent: pool.is_some_and(|pool| pool.transparent),
        proxy_header: pool.and_then(|pool| sent_header(&pool.send_proxy_protocol)),
    }
}

fn sent_header(settings: &SendProxyProtocol) -> Option<SentHeader> {
    settings.version()?;
    Some(SentHeader {
        version: settings.version.as_str().to_owned(),
        relay: settings.relay.iter().map(ToString::to_string).collect(),
        add: settings.add.0.iter().map(|added| ValueKind(added.kind).to_string()).collect(),
    })
}

/// How a client that offers TLS 1.3 is refused and, if the alert differs, one that does not.
fn refusal(how: Refuse, matched: Match) -> Refusal {
    let alert = |refusal| match refusal {
        refuse::Refusal::Alert { alert, .. } => Some(alert),
        _ => None,
    };
    let TurnedAway { reason, refusal: with_tls13 } = refuse::for_hello(how, matched, Offer::TLS13);
    let before_tls13 = refuse::for_hello(how, matched, Offer::TLS12).refusal;
    let (sent, before) = (alert(with_tls13), alert(before_tls13));
    Refusal {
        reason: reason.as_str().to_owned(),
        client_sees: how.as_str().to_owned(),
        alert: sent.map(|alert| alert.name().to_owned()),
        alert_before_tls13: before.filter(|_| before != sent).map(|alert| alert.name().to_owned()),
        detail: None,
    }
}

/// How a client is refused that `allow` or `deny` keep out.
fn denied(how: refuse::Refusal) -> Refusal {
    let (client_sees, alert) = match how {
        refuse::Refusal::Alert { alert, .. } => (Refuse::Alert, Some(alert.name().to_owned())),
        _ => (Refuse::Reset, None),
    };
    Refusal {
        reason: Reason::Denied.as_str().to_owned(),
        client_sees: client_sees.as_str().to_owned(),
        alert,
        alert_before_tls13: None,
        detail: None,
    }
}

/// Patterns that look as if they matched `name`, but do not.
fn near_misses(snapshot: &Snapshot, name: &ServerName) -> Vec<String> {
    let near = snapshot.table.near_misses(name).into_iter().map(|NearMiss { number, by, suffix_bytes }| {
        let suffix = suffix(name, suffix_bytes);
        let (pattern, place) = (pattern(by, suffix), snapshot.place(number));
        if suffix_bytes == name.as_str().len() {
            format!("`{pattern}` ({place}) matches names below `{suffix}`, not `{suffix}` itself")
        } else {
            format!(
                "`{pattern}` ({place}) takes exactly one label more than `{suffix}`; `**.{suffix}` would take this name"
            )
        }
    });
    near.take(MOST_HINTS).collect()
}

/// A hint for a URL or an address with a port: the server name in it.
fn no_bare_name(asked: &str) -> Option<String> {
    let host = asked.split_once("://").map_or(asked, |(_, rest)| rest);
    let host = host.split(['/', ':']).next().unwrap_or_default();
    (host.len() < asked.len() && !host.is_empty())
        .then(|| format!("a server name has no scheme, port or path: `{host}` is what clients send"))
}

impl fmt::Display for BadQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoListener { asked, known } => {
                write!(f, "there is no listener `{}`; there is `{}`", asked.escape_debug(), known.join("`, `"))
            }
            Self::Protocol { bytes } => write!(f, "an ALPN protocol is 1 to 255 bytes long, not {bytes}"),
        }
    }
}

impl std::error::Error for BadQuestion {}

/// Stands for a client that sends no server name.
pub(crate) const NO_NAME: &str = "-";
/// A client address outside every real network (RFC 5737).
const SOME_CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const MOST_HINTS: usize = 5;

#[cfg(test)]
mod tests;
