//! Compares the backends of a pool with each other, and pools with each other.

use std::collections::{BTreeMap, HashMap};

use super::{Context, leaf};
use crate::backends::handshake::{Certificate, Handshake};
use crate::cli::doctor::examine::Examination;
use crate::cli::doctor::finding::{Finding, Kind, Severity};
use crate::cli::doctor::plan::PoolPlan;

pub(super) fn judge(context: &Context<'_>, plan: &PoolPlan, exams: &[&Examination], findings: &mut Vec<Finding>) {
    let pool = &context.config.pools[plan.pool].name;
    let about = |severity, kind, seen, mend: &str| Finding {
        severity,
        kind,
        pool: pool.to_string(),
        backends: Vec::new(),
        names: Vec::new(),
        seen,
        mend: mend.to_owned(),
    };
    if plan.left_out > 0 {
        let (asked, all) = (plan.asked.len(), plan.asked.len() + plan.left_out);
        let seen = format!("{asked} of the {all} names that are routed to the pool were tested");
        findings.push(about(Severity::Info, Kind::NamesLeftOut, seen, "Use --all to test all of them."));
    }
    if context.config.pools[plan.pool].transparent {
        let seen = "clients' connections leave from their own addresses, those of the doctor from this machine's";
        findings.push(about(Severity::Info, Kind::Transparent, seen.to_owned(), TRANSPARENT));
    }
    if let Some(seen) = difference(exams, |exam| exam.first().map(alpn)) {
        findings.push(about(Severity::Warning, Kind::AlpnDiffers, seen, ALPN_DIFFERS));
    }
    if let Some(seen) = difference(exams, versions) {
        findings.push(about(Severity::Warning, Kind::TlsVersionsDiffer, seen, VERSIONS_DIFFER));
    }
    findings.extend(different_certificates(exams).map(|(name, seen)| Finding {
        names: vec![name],
        ..about(Severity::Info, Kind::CertificatesDiffer, seen, CERTIFICATES_DIFFER)
    }));
    coalescing(context, plan, exams, findings);
}

/// What the backend selects from h2 and http/1.1.
fn alpn(handshake: &Handshake) -> String {
    match &handshake.alpn {
        Some(protocol) => protocol.escape_ascii().to_string(),
        None => "no protocol".to_owned(),
    }
}

fn versions(exam: &Examination) -> Option<String> {
    match exam.versions()[..] {
        [] => None,
        [one] => Some(format!("TLS {one} only")),
        _ => Some("TLS 1.2 and 1.3".to_owned()),
    }
}

/// The different answers and who gives them; `None` if all are the same.
fn difference(exams: &[&Examination], of: impl Fn(&Examination) -> Option<String>) -> Option<String> {
    let mut answers: Vec<(String, Vec<&str>)> = Vec::new();
    for exam in exams {
        let Some(what) = of(exam) else { continue };
        match answers.iter_mut().find(|(before, _)| *before == what) {
            Some((_, backends)) => backends.push(&exam.target.label),
            None => answers.push((what, vec![&exam.target.label])),
        }
    }
    let say = |(what, backends): (String, Vec<&str>)| format!("{what} from {}", some_of(&backends));
    (answers.len() > 1).then(|| answers.into_iter().map(say).collect::<Vec<_>>().join("; "))
}

/// The names for which the backends send different certificates.
fn different_certificates(exams: &[&Examination]) -> impl Iterator<Item = (String, String)> {
    let mut shown: BTreeMap<String, HashMap<[u8; 32], usize>> = BTreeMap::new();
    for answer in exams.iter().flat_map(|exam| &exam.answers) {
        if let Some(leaf) = leaf(&answer.outcome) {
            *shown.entry(answer.asked.to_string()).or_default().entry(leaf.fingerprint).or_default() += 1;
        }
    }
    let different = shown.into_iter().filter(|(_, certificates)| certificates.len() > 1);
    different.map(|(name, shown)| (name, format!("the pool's backends send {} different certificates", shown.len())))
}

/// Certificates that let a browser reuse a connection to this pool for names of another (RFC 9113 §9.1.1).
fn coalescing(context: &Context<'_>, plan: &PoolPlan, exams: &[&Examination], findings: &mut Vec<Finding>) {
    let mut judged: HashMap<[u8; 32], Vec<Elsewhere>> = HashMap::new();
    for exam in exams {
        for answer in exam.answers.iter().filter(|answer| answer.asked.name.is_some()) {
            let Ok(handshake) = &answer.outcome else { continue };
            let (Ok(leaf), Some(b"h2")) = (&handshake.leaf, handshake.alpn.as_deref()) else { continue };
            let elsewhere = judged.entry(leaf.fingerprint).or_insert_with(|| elsewhere(context, plan.pool, leaf));
            for Elsewhere { pool, names } in elsewhere {
                let (here, there) = (&context.config.pools[plan.pool].name, &context.config.pools[*pool].name);
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                findings.push(Finding {
                    severity: Severity::Warning,
                    kind: Kind::Coalescing,
                    pool: here.to_string(),
                    backends: vec![exam.target.label.to_string()],
                    names: vec![answer.asked.to_string()],
                    seen: format!("the certificate also covers {}, which leads to pool {there}", some_of(&names)),
                    mend: COALESCING.to_owned(),
                });
            }
        }
    }
}

/// Names that a certificate covers but that are routed elsewhere.
struct Elsewhere {
    pool: usize,
    names: Vec<String>,
}

fn elsewhere(context: &Context<'_>, here: usize, leaf: &Certificate) -> Vec<Elsewhere> {
    let mut elsewhere: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut see = |name: &str, shown: &str| {
        let pools = context.destinations.of(name);
        if pools.contains(&here) {
            return;
        }
        for pool in pools.into_iter().filter(|pool| !same_backends(context, here, *pool)) {
            let names = elsewhere.entry(pool).or_default();
            // A name in a certificate is untrusted text.
            let shown = shown.escape_debug().to_string();
            if !names.contains(&shown) {
                names.push(shown);
            }
        }
    };
    for presented in leaf.names.iter().map(|name| name.to_ascii_lowercase()) {
        let Some(parent) = presented.strip_prefix("*.") else {
            see(&presented, &presented);
            continue;
        };
        for name in context.destinations.below(parent).iter().filter(|name| leaf.covers(name)) {
            see(name, name);
        }
        let made_up = format!("snigate-doctor.{parent}");
        if leaf.covers(&made_up) {
            see(&made_up, &presented);
        }
    }
    elsewhere.into_iter().map(|(pool, names)| Elsewhere { pool, names }).collect()
}

/// Two pools with the same backends serve the same sites.
fn same_backends(context: &Context<'_>, one: usize, other: usize) -> bool {
    let addresses = |pool: usize| context.config.pools[pool].backends.iter().map(|backend| &backend.address);
    addresses(one).all(|address| addresses(other).any(|there| there == address))
}

/// The first few of many.
fn some_of(all: &[&str]) -> String {
    if all.len() <= MOST_TOLD {
        return all.join(", ");
    }
    format!("{} and {} more", all[..MOST_TOLD].join(", "), all.len() - MOST_TOLD)
}

const TRANSPARENT: &str = "Test the way back with a client: the backends' answers must come back through this machine (docs/proxy-protocol.md).";
const ALPN_DIFFERS: &str = "Whether a client speaks HTTP/2 depends on the backend it reaches, and may change when it connects again. \
                            Offer the same protocols on all (nginx `http2 on`, Node.js `ALPNProtocols`).";
const VERSIONS_DIFFER: &str = "Some clients can use only a part of the pool, and a session of one backend cannot be resumed on another. Enable \
                               the same versions on all.";
const CERTIFICATES_DIFFER: &str =
    "Fine if each is valid. It may also mean that a backend was not reloaded after a renewal.";
const COALESCING: &str = "A browser that has an HTTP/2 connection for a name of this pool uses it for the other names too, since the \
                          certificate covers both and both have one address (RFC 9113 section 9.1.1): those requests then reach \
                          this pool. Give the pools certificates without each other's names, or have the backends answer 421 \
                          (Misdirected Request) to names that are not theirs, which makes browsers open a new connection.";
const MOST_TOLD: usize = 4;
