//! Words the hints of an explanation: what the answer depends on, and what was probably meant.
//!
//! In:  the explanation so far, the snapshot.
//! Out: sentences, in which what can be typed stands between backticks.

use super::shape::{Entry, Explanation};
use super::{pattern, suffix};
use crate::config::Settings;
use crate::ids::ListenerIndex;
use crate::route::NearMiss;
use crate::server_name::{InvalidName, Pattern, ServerName};
use crate::settings::{AcmeChallenge, Others};
use crate::snapshot::{HttpTerms, OtherRequests, Snapshot};
use crate::telemetry::Reason;

impl Explanation {
    /// Says what a request gets on a listener that speaks HTTP: the name was routed as that of a hello.
    pub(super) fn over_http(&mut self, config: &Settings, terms: &HttpTerms) {
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

    /// Adds hints for assumptions that made a difference, or could have.
    pub(super) fn hint_at_assumptions(&mut self) {
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

/// What was probably meant by a name that is invalid.
pub(super) fn of_invalid_name(invalid: InvalidName, name: &str) -> Option<String> {
    match (invalid, name.parse::<Pattern>()) {
        (InvalidName::Byte(b'*'), _) => Some(
            "a pattern is not a name: ask for a name that it should match, such as one with `www` for the star".into(),
        ),
        (_, Ok(Pattern::Exact(ascii))) => Some(format!("clients send this name as `{ascii}`")),
        _ => no_bare_name(name),
    }
}

/// Says that `source` is what a PROXY header announces, on a listener that believes some.
pub(super) fn whose_address(snapshot: &Snapshot, ListenerIndex(index): ListenerIndex) -> Option<String> {
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

/// Patterns that look as if they matched `name`, but do not.
pub(super) fn near_misses(snapshot: &Snapshot, listener: ListenerIndex, name: &ServerName) -> Vec<String> {
    let near = snapshot.table_of(listener).near_misses(name).into_iter().map(|NearMiss { number, by, suffix_bytes }| {
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

const MOST_HINTS: usize = 5;
