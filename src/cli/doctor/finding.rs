//! The doctor's findings, merged so that each is reported once.
//!
//! In:  findings, one for each place where something was observed.
//! Out: the same, with those of one cause merged; most severe first.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// One finding. Its JSON is a stable interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub severity: Severity,
    pub kind: Kind,
    /// Empty: it is about no pool, but about `docker`.
    pub pool: String,
    /// The affected backends; empty: the pool as a whole.
    pub backends: Vec<String>,
    /// The names that were sent; empty: any name.
    pub names: Vec<String>,
    pub seen: String,
    /// What it means, and how to fix it.
    pub mend: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    /// Clients fail.
    Error,
    /// Some clients fail, or all will soon.
    Warning,
    Info,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(super) enum Kind {
    Unresolved,
    Unreachable,
    Silent,
    ProxyHeader,
    Closed,
    NotTls,
    CheckFails,
    EchUnconfirmed,
    NameRefused,
    HandshakeRefused,
    HandshakeFailed,
    NameNotSendable,
    CertificateUnreadable,
    NameNotCovered,
    Expired,
    NotYetValid,
    ExpiresSoon,
    SelfSigned,
    ChainIncomplete,
    Untrusted,
    ClientCertificate,
    AlpnRefused,
    AlpnDiffers,
    OldTls,
    NoTls12,
    TlsVersionsDiffer,
    LargeHello,
    SplitHello,
    SegmentedHello,
    DefaultCertificate,
    CertificatesDiffer,
    Coalescing,
    Transparent,
    NamesLeftOut,
    DockerUnreachable,
}

/// Merges equal findings: first the names of a backend, then backends with the same names.
pub(super) fn merge_equal(findings: Vec<Finding>) -> Vec<Finding> {
    let by_names = merge(
        findings,
        |one, other| one.backends == other.backends,
        |all, one| {
            // A name may occur twice in a row, for two certificates of its chain.
            for name in one.names {
                if all.names.last() != Some(&name) {
                    all.names.push(name);
                }
            }
        },
    );
    let mut gathered = merge(
        by_names,
        |one, other| one.names == other.names,
        |all, one| {
            all.backends.extend(one.backends);
        },
    );
    gathered.sort_by_key(|finding| finding.severity);
    gathered
}

fn merge(
    findings: Vec<Finding>,
    alike: impl Fn(&Finding, &Finding) -> bool,
    join: impl Fn(&mut Finding, Finding),
) -> Vec<Finding> {
    let mut merged: Vec<Finding> = Vec::new();
    for finding in findings {
        let same = merged.iter_mut().rev().take(MOST_COMPARED).find(|one| {
            let same_kind = (one.severity, one.kind) == (finding.severity, finding.kind);
            same_kind
                && one.pool == finding.pool
                && one.seen == finding.seen
                && one.mend == finding.mend
                && alike(one, &finding)
        });
        match same {
            Some(same) => join(same, finding),
            None => merged.push(finding),
        }
    }
    merged
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// Equal findings are close together; this bound keeps a thousand backends from costing a million comparisons.
const MOST_COMPARED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_name_every_kind() {
        let docs = include_str!("../../../docs/cli.md");
        for kind in Kind::value_variants() {
            assert!(docs.contains(&format!("`{kind}`")), "{kind}");
        }
    }

    fn finding(severity: Severity, backend: &str, name: &str, seen: &str) -> Finding {
        Finding {
            severity,
            kind: Kind::Expired,
            pool: "web".to_owned(),
            backends: vec![backend.to_owned()],
            names: vec![name.to_owned()],
            seen: seen.to_owned(),
            mend: String::new(),
        }
    }

    #[test]
    fn what_is_alike_is_reported_once_and_the_gravest_first() {
        use Severity::{Error, Info};
        let gathered = merge_equal(vec![
            finding(Info, "1", "a", "x"),
            finding(Error, "1", "a", "y"),
            finding(Error, "1", "b", "y"),
            finding(Error, "2", "a", "y"),
            finding(Error, "2", "b", "y"),
            finding(Error, "3", "b", "y"),
        ]);
        let reported: Vec<_> = gathered.iter().map(|one| (one.backends.join(","), one.names.join(","))).collect();
        let expected = [("1,2", "a,b"), ("3", "b"), ("1", "a")];
        assert_eq!(reported, expected.map(|(backends, names)| (backends.to_owned(), names.to_owned())));
    }
}
