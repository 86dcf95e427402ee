//! Explains which route matches a connection, and why no other does.
//!
//! In:  a [`Snapshot`], of a file or of the running process, and a [`Question`].
//! Out: an [`Explanation`], the same for the command line and for `/api/v1/explain`.
//! Source: [`Snapshot::choose_watched`], the same function that routes real connections.

mod access;
mod hints;
mod shape;
mod text;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use self::hints::{near_misses, whose_address};
use self::shape::{Backend, Refusal, SentHeader, Source};
pub(crate) use self::shape::{BadQuestion, Entry, Explanation, NO_NAME, PassedOver, Pool, Question, Share};
pub(crate) use self::text::{pools, text};
use crate::alert::Alert;
use crate::client_hello::Alpn;
use crate::config::Settings;
use crate::ids::ListenerIndex;
use crate::refuse::{self, Offer, TurnedAway};
use crate::route::{By, Candidate, NameForm};
use crate::server_name::{InvalidName, ServerName, Sni};
use crate::settings::{self, Access, Refuse, SendProxyProtocol, ValueKind};
use crate::snapshot::{self, Chosen, Destination, RouteQuery, Snapshot};
use crate::telemetry::{Match, Reason};

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
        ech: question.form == NameForm::Encrypted,
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
            let (source, form) = (Some(source), question.form);
            explanation.decide(snapshot, RouteQuery { sni: sni.as_ref(), alpn: &alpn, source, listener, form });
        }
        Err(invalid) => explanation.refuse_name(invalid),
    }
    explanation.hints.extend(whose_address(snapshot, listener));
    if explanation.ech && snapshot.listener(listener).ech.is_none() {
        let name = &snapshot.listener(listener).name;
        explanation.hints.push(format!("listener `{name}` does not open Encrypted ClientHello: no client gets there"));
    }
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
                self.hints.extend(near_misses(snapshot, asked.listener, name));
            }
        }
        if matches!(asked.sni, Some(Sni::IpLiteral(_))) {
            self.hints
                .push("an address is not a server name (RFC 6066 section 3); it is treated as no name".to_owned());
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
        self.hints.extend(hints::of_invalid_name(invalid, &self.name));
    }
}

fn listener(snapshot: &Snapshot, asked: Option<&str>) -> Result<ListenerIndex, BadQuestion> {
    let known =
        |snapshot: &Snapshot| snapshot.config.listeners.iter().map(|listener| listener.name.to_string()).collect();
    let Some(asked) = asked else {
        let is_none = snapshot.config.listeners.is_empty();
        return if is_none { Err(BadQuestion::NoListenerAtAll) } else { Ok(ListenerIndex(0)) };
    };
    snapshot
        .find_listener(asked)
        .ok_or_else(|| BadQuestion::NoListener { asked: asked.to_owned(), known: known(snapshot) })
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
        ech: conditions.ech.is_set().then(|| conditions.ech.as_str().to_owned()),
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

/// A client address outside every real network (RFC 5737).
const SOME_CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

#[cfg(test)]
mod tests;
