//! Formats what the doctor observed and found, for people and as JSON.
//!
//! In:  exams and findings.
//! Out: [`Report`]; its JSON is a stable interface.

use std::fmt::Write as _;

use serde::Serialize;

use super::date::Date;
use super::examine::Examination;
use super::finding::{Finding, Severity};
use super::judge;
use crate::backends::handshake::Certificate;
use crate::config::Config;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Neither errors nor warnings.
    pub ok: bool,
    pub errors: usize,
    pub warnings: usize,
    pub infos: usize,
    pub backends: Vec<Backend>,
    /// What the Docker API answered; `None`: it is off, or did not answer.
    pub docker: Option<String>,
    pub findings: Vec<Finding>,
}

/// The observations for one address.
#[derive(Debug, Serialize)]
pub(super) struct Backend {
    pub pool: String,
    pub backend: String,
    /// How many names were tested, and for how many the handshake succeeded.
    pub names_asked: usize,
    pub names_answered: usize,
    /// The TLS versions it supports.
    pub tls: Vec<String>,
    /// What it selects from h2 and http/1.1.
    pub alpn: Option<String>,
    /// What it selects when X25519MLKEM768 is offered first.
    pub key_exchange: Option<String>,
    /// Without duplicates.
    pub certificates: Vec<Shown>,
    /// Why there was no handshake at all.
    pub failure: Option<String>,
}

/// A certificate, and the names for which it was sent.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub subject: String,
    pub issuer: String,
    pub names: Vec<String>,
    pub addresses: Vec<std::net::IpAddr>,
    pub not_before: String,
    pub not_after: String,
    /// SHA-256, in hexadecimal.
    pub fingerprint: String,
    pub shown_for: Vec<String>,
    #[serde(skip)]
    last_second: i64,
}

impl Report {
    pub(super) fn new(config: &Config, exams: &[Examination], docker: Option<String>, findings: Vec<Finding>) -> Self {
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        let (errors, warnings, infos) = (count(Severity::Error), count(Severity::Warning), count(Severity::Info));
        let backends = exams.iter().map(|exam| Backend::new(&config.pools[exam.target.pool].name, exam)).collect();
        Self { ok: errors + warnings == 0, errors, warnings, infos, backends, docker, findings }
    }

    /// Formats the report for people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut pool = None;
        let width = self.backends.iter().map(|backend| backend.backend.chars().count()).max().unwrap_or_default();
        for backend in &self.backends {
            if pool.replace(&backend.pool).is_none_or(|before| *before != backend.pool) {
                let _ = writeln!(text, "pool {}", backend.pool);
            }
            let _ = writeln!(text, "  {:width$}  {}", backend.backend, backend.in_short());
        }
        if let Some(docker) = &self.docker {
            let _ = writeln!(text, "docker\n  {docker}");
        }
        let mut rest: Vec<&Finding> = self.findings.iter().collect();
        while let Some(&first) = rest.first() {
            let is_alike = |finding: &&Finding| (finding.severity, &finding.mend) == (first.severity, &first.mend);
            let (alike, others): (Vec<&Finding>, _) = rest.into_iter().partition(is_alike);
            let _ = write!(text, "\n{}", explained(&alike));
            rest = others;
        }
        let _ = writeln!(text, "\n{}", self.sum());
        text
    }

    fn sum(&self) -> String {
        let asked: usize = self.backends.iter().map(|backend| backend.names_asked).sum();
        let (backends, names) = (counted(self.backends.len(), "backend"), counted(asked, "name"));
        let (errors, warnings) = (counted(self.errors, "error"), counted(self.warnings, "warning"));
        format!("{backends} tested with {names}: {errors}, {warnings}, {}", counted(self.infos, "note"))
    }
}

impl Backend {
    fn new(pool: &str, exam: &Examination) -> Self {
        let answered: Vec<_> =
            exam.answers.iter().filter_map(|answer| Some((answer, answer.outcome.as_ref().ok()?))).collect();
        let first = exam.first();
        let large = exam.more.as_ref().and_then(|more| more.large.as_ref().ok());
        let mut certificates: Vec<Shown> = Vec::new();
        for (answer, handshake) in &answered {
            let Ok(leaf) = &handshake.leaf else { continue };
            let (fingerprint, name) = (hexadecimal(&leaf.fingerprint), answer.asked.to_string());
            match certificates.iter_mut().find(|shown| shown.fingerprint == fingerprint) {
                Some(shown) => shown.shown_for.push(name),
                None => certificates.push(Shown::new(leaf, fingerprint, name)),
            }
        }
        Self {
            pool: pool.to_owned(),
            backend: exam.target.label.to_string(),
            names_asked: exam.answers.len(),
            names_answered: answered.len(),
            tls: exam.versions().iter().map(ToString::to_string).collect(),
            alpn: first.and_then(|handshake| handshake.alpn.as_ref()).map(|alpn| alpn.escape_ascii().to_string()),
            key_exchange: large.or(first).and_then(|handshake| handshake.group.clone()),
            certificates,
            failure: match exam.answers.iter().find_map(|answer| answer.outcome.as_ref().err()) {
                Some(failure) if answered.is_empty() => Some(judge::describe(failure)),
                _ => None,
            },
        }
    }

    fn in_short(&self) -> String {
        if let Some(failure) = &self.failure {
            return failure.clone();
        }
        if self.names_asked == 0 {
            return "not examined, since no TLS is routed to it".to_owned();
        }
        let alpn = self.alpn.as_deref().unwrap_or("no ALPN");
        let group = self.key_exchange.as_deref().unwrap_or("no key exchange");
        let mut text = format!("TLS {}, {alpn}, {group}", self.tls.join(" and "));
        let soonest = self.certificates.iter().min_by_key(|shown| shown.last_second);
        if let Some(soonest) = soonest {
            let until = Date(soonest.last_second);
            let _ = match self.certificates.len() {
                1 => write!(text, ", certificate until {until}"),
                many => write!(text, ", {many} certificates, the first until {until}"),
            };
        }
        text
    }
}

impl Shown {
    fn new(leaf: &Certificate, fingerprint: String, name: String) -> Self {
        Self {
            subject: leaf.subject.clone(),
            issuer: leaf.issuer.clone(),
            names: leaf.names.clone(),
            addresses: leaf.addresses.clone(),
            not_before: Date(leaf.not_before).in_full(),
            not_after: Date(leaf.not_after).in_full(),
            fingerprint,
            shown_for: vec![name],
            last_second: leaf.not_after,
        }
    }
}

/// Findings with the same explanation: `error  pool shop, 10.0.0.11:443, a.test: what was observed` for each, and the
/// explanation once below them.
fn explained(alike: &[&Finding]) -> String {
    let mut text: String = alike.iter().map(|finding| observation(finding)).collect();
    let _ = writeln!(text, "{}", wrapped(&format!("{}{}", " ".repeat(INDENT), alike[0].mend)));
    text
}

fn observation(finding: &Finding) -> String {
    let mut place = match finding.pool.as_str() {
        "" => "docker".to_owned(),
        pool => format!("pool {pool}"),
    };
    for some in [&finding.backends, &finding.names] {
        if !some.is_empty() {
            let _ = write!(place, ", {}", few(some));
        }
    }
    wrapped(&format!("{:7}  {place}: {} [{}]", finding.severity, finding.seen, finding.kind)) + "\n"
}

/// Wraps words into lines; further lines are indented.
fn wrapped(text: &str) -> String {
    let indent = text.len() - text.trim_start().len();
    let mut lines = " ".repeat(indent);
    let mut column = indent;
    for (nth, word) in text.trim_start().split(' ').enumerate() {
        let length = word.chars().count();
        if nth > 0 && column + 1 + length > WIDTH {
            lines.push('\n');
            lines.push_str(&" ".repeat(INDENT));
            column = INDENT;
        } else if nth > 0 {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
    }
    lines
}

fn few(all: &[String]) -> String {
    if all.len() <= MOST_TOLD {
        return all.join(", ");
    }
    format!("{} and {} more", all[..MOST_TOLD].join(", "), all.len() - MOST_TOLD)
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

const WIDTH: usize = 110;
/// The width of the severity and two spaces.
const INDENT: usize = 9;
const MOST_TOLD: usize = 3;
