//! Judges the certificates of an answer: names, dates, chain.

use rustls::{CertificateError, Error};

use super::{Bench, Place};
use crate::backends::handshake::{Certificate, Handshake, Verdict};
use crate::cli::doctor::date::Date;
use crate::cli::doctor::finding::{Finding, Kind, Severity};
use crate::cli::doctor::plan::{Asked, Why};

pub(super) fn judge(
    bench: &Bench<'_>,
    place: &Place<'_>,
    asked: &Asked,
    handshake: &Handshake,
    findings: &mut Vec<Finding>,
) {
    let Ok(leaf) = &handshake.leaf else {
        findings.push(place.finding(
            Severity::Error,
            Kind::CertificateUnreadable,
            asked,
            "the certificate cannot be read".to_owned(),
            "What the backend sends as its certificate is damaged, or older than X.509 version 3. Give it a new one."
                .to_owned(),
        ));
        return;
    };
    findings.extend(coverage(place, asked, leaf));
    findings.extend(dates(bench, place, asked, leaf, Of::Leaf));
    let issuers = handshake.chain[1..].iter().filter_map(|der| Certificate::read(der).ok());
    for issuer in issuers.filter(|issuer| !issuer.self_signed) {
        findings.extend(dates(bench, place, asked, &issuer, Of::Issuer));
    }
    findings.extend(chain(bench, place, asked, handshake, leaf));
}

fn coverage(place: &Place<'_>, asked: &Asked, leaf: &Certificate) -> Option<Finding> {
    let name = asked.name.as_deref()?;
    if matches!(asked.why, Why::AnyName) || leaf.covers(name) {
        return None;
    }
    let mend = match &asked.why {
        Why::MadeUpFor(pattern) => format!(
            "Names that {pattern} takes and the certificate does not cover are refused by clients. Give the backend a \
             certificate that covers them (a wildcard in a certificate stands for exactly one label), or route only the \
             names that it has."
        ),
        _ => "Clients refuse this certificate for this name. Give the backend a certificate that covers it, or route the name \
              to the pool that has one."
            .to_owned(),
    };
    let seen = format!("the certificate does not cover the name; it covers {}", covered(leaf));
    Some(place.finding(asked.gravity(), Kind::NameNotCovered, asked, seen, mend))
}

/// The names of a certificate; only the first few if there are many.
pub(super) fn covered(leaf: &Certificate) -> String {
    let names = leaf.names.iter().map(|name| name.escape_debug().to_string());
    let all: Vec<_> = names.chain(leaf.addresses.iter().map(ToString::to_string)).collect();
    match (all.len(), &leaf.common_name) {
        (0, Some(name)) => format!("no name (its common name, {}, is not looked at any more)", name.escape_debug()),
        (0, None) => "no name".to_owned(),
        (1..=MOST_NAMES, _) => all.join(", "),
        (many, _) => format!("{} and {} more", all[..MOST_NAMES].join(", "), many - MOST_NAMES),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Of {
    Leaf,
    Issuer,
}

fn dates(bench: &Bench<'_>, place: &Place<'_>, asked: &Asked, certificate: &Certificate, of: Of) -> Option<Finding> {
    let (what, grave) = match of {
        Of::Leaf => ("the certificate".to_owned(), Severity::Error),
        // A client may know another path to a root.
        Of::Issuer => (format!("the issuer's certificate {}", certificate.subject.escape_debug()), Severity::Warning),
    };
    let (from, to) = (Date(certificate.not_before), Date(certificate.not_after));
    let left = (certificate.not_after - bench.now).div_euclid(DAY);
    let found =
        |severity, kind, seen: String, mend: &str| Some(place.finding(severity, kind, asked, seen, mend.to_owned()));
    if certificate.not_after < bench.now {
        let seen = format!("{what} expired on {to}");
        found(grave, Kind::Expired, seen, "Clients refuse it. Renew it, and have the backend load the new one.")
    } else if certificate.not_before > bench.now {
        let seen = format!("{what} is not valid before {from}");
        found(
            grave,
            Kind::NotYetValid,
            seen,
            "Clients refuse it until then. Correct the clock here or there, or use another.",
        )
    } else if left < bench.days {
        let seen = format!("{what} expires on {to}, in {left} day{}", if left == 1 { "" } else { "s" });
        found(
            Severity::Warning,
            Kind::ExpiresSoon,
            seen,
            "Renew it, and look why the renewal that should have happened did not; a backend that renewed but still shows \
             the old one must be reloaded.",
        )
    } else {
        None
    }
}

fn chain(
    bench: &Bench<'_>,
    place: &Place<'_>,
    asked: &Asked,
    handshake: &Handshake,
    leaf: &Certificate,
) -> Option<Finding> {
    let severity = if bench.trust_matters[place.number] { Severity::Error } else { Severity::Info };
    let found = |kind, seen: String, mend: &str| Some(place.finding(severity, kind, asked, seen, mend.to_owned()));
    let error = match &handshake.verdict {
        Verdict::Refused(Error::InvalidCertificate(error)) => error,
        Verdict::Refused(other) => {
            return found(Kind::Untrusted, format!("the certificate is not trusted: {other}"), OTHER);
        }
        Verdict::NotAsked if leaf.self_signed => {
            return found(Kind::SelfSigned, SELF_SIGNED_SEEN.to_owned(), SELF_SIGNED);
        }
        Verdict::NotAsked | Verdict::Verified => return None,
    };
    match error {
        // Reported by a more specific finding.
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => None,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } if leaf.not_after < bench.now => None,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => None,
        CertificateError::UnknownIssuer if leaf.self_signed => {
            found(Kind::SelfSigned, SELF_SIGNED_SEEN.to_owned(), SELF_SIGNED)
        }
        CertificateError::UnknownIssuer if handshake.chain.len() == 1 => {
            let issuer = leaf.issuer.escape_debug();
            found(
                Kind::ChainIncomplete,
                format!("only the certificate itself is sent; its issuer, {issuer}, is not a trusted root here"),
                INCOMPLETE,
            )
        }
        CertificateError::UnknownIssuer => found(
            Kind::Untrusted,
            format!("the chain leads to {}, which is not a trusted root here", last_issuer(handshake)),
            PRIVATE,
        ),
        // rustls has no variant for this webpki error.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => match leaf.self_signed {
            true => found(Kind::SelfSigned, SELF_SIGNED_AUTHORITY_SEEN.to_owned(), SELF_SIGNED_AUTHORITY),
            false => {
                found(Kind::Untrusted, "the certificate is that of an authority, not of a server".to_owned(), AUTHORITY)
            }
        },
        CertificateError::BadSignature => {
            let issuer = last_issuer(handshake);
            found(
                Kind::Untrusted,
                format!("the chain leads to {issuer}, but not to the one that is trusted here"),
                NAMESAKE,
            )
        }
        other => found(Kind::Untrusted, format!("the certificate is not trusted: {other}"), OTHER),
    }
}

/// The issuer of the last certificate that was sent.
fn last_issuer(handshake: &Handshake) -> String {
    let last = handshake.chain.last().and_then(|der| Certificate::read(der).ok());
    last.map_or_else(|| "nobody".to_owned(), |last| last.issuer.escape_debug().to_string())
}

const SELF_SIGNED_SEEN: &str = "the certificate is signed by itself";
const SELF_SIGNED: &str =
    "Only clients that were given this very certificate trust it. For others take one from an authority.";
const SELF_SIGNED_AUTHORITY_SEEN: &str = "the certificate is signed by itself, and is that of an authority";
const SELF_SIGNED_AUTHORITY: &str = "Clients that were given this very certificate may trust it; some refuse it even then, since it may sign \
                                     others (`openssl req -x509` makes such ones, unless told `-addext \
                                     basicConstraints=critical,CA:FALSE`). For others take one from an authority.";
const INCOMPLETE: &str = "Browsers may know the missing link from elsewhere, other clients fail. Have the backend send the \
                          intermediate too (often the file is called fullchain.pem). If the authority is your own, give its \
                          root with --ca FILE.";
const PRIVATE: &str = "Clients that do not have this root refuse the certificate. If the authority is your own, give its root with \
                       --ca FILE.";
const AUTHORITY: &str = "Clients may refuse a server's certificate that may sign others (basicConstraints CA:TRUE). Have the authority \
                         sign one for the server.";
const NAMESAKE: &str = "Another authority of the same name signed it, as when one was made anew with another key, or it is damaged. Have \
                        clients trust the new root, or sign it with the old.";
const OTHER: &str = "Clients that verify refuse it. Give the backend a certificate and chain that are right.";
const DAY: i64 = 86_400;
const MOST_NAMES: usize = 5;
