//! Judges the certificates of an answer: names, dates, chain.

use rustls::{CertificateError, Error};

use super::{Context, Place};
use crate::backends::handshake::{Certificate, Handshake, Verdict};
use crate::cli::doctor::date::Date;
use crate::cli::doctor::finding::{Finding, Kind, Severity};
use crate::cli::doctor::plan::{Question, Why};

pub(super) fn judge(
    context: &Context<'_>,
    place: &Place<'_>,
    asked: &Question,
    handshake: &Handshake,
    findings: &mut Vec<Finding>,
) {
    let Ok(leaf) = &handshake.leaf else {
        findings.push(place.finding(
            Severity::Error,
            Kind::CertificateUnreadable,
            asked,
            "the certificate cannot be read".to_owned(),
            "The certificate that the backend sends is damaged, or older than X.509 version 3. Replace it.".to_owned(),
        ));
        return;
    };
    findings.extend(coverage(place, asked, leaf));
    findings.extend(dates(context, place, asked, leaf, Of::Leaf));
    let issuers = handshake.chain[1..].iter().filter_map(|der| Certificate::read(der).ok());
    for issuer in issuers.filter(|issuer| !issuer.self_signed) {
        findings.extend(dates(context, place, asked, &issuer, Of::Issuer));
    }
    findings.extend(chain(context, place, asked, handshake, leaf));
}

fn coverage(place: &Place<'_>, asked: &Question, leaf: &Certificate) -> Option<Finding> {
    let name = asked.name.as_deref()?;
    if matches!(asked.why, Why::AnyName) || leaf.covers(name) {
        return None;
    }
    let mend = match &asked.why {
        Why::MadeUpFor(_) => {
            "Clients refuse the certificate for names that the wildcard matches and the certificate does not cover. Give the \
             backend a certificate that covers them (a wildcard in a certificate matches exactly one label), or route only \
             the names that it covers."
        }
        _ => {
            "Clients refuse this certificate for this name. Give the backend a certificate that covers it, or route the name \
             to the pool that has one."
        }
    };
    let seen = format!("the certificate does not cover the name; it covers {}", covered(leaf));
    Some(place.finding(asked.severity(), Kind::NameNotCovered, asked, seen, mend.to_owned()))
}

/// The names of a certificate; only the first few if there are many.
pub(super) fn covered(leaf: &Certificate) -> String {
    let names = leaf.names.iter().map(|name| name.escape_debug().to_string());
    let all: Vec<_> = names.chain(leaf.addresses.iter().map(ToString::to_string)).collect();
    match (all.len(), &leaf.common_name) {
        (0, Some(name)) => format!("no name (clients ignore its common name, {})", name.escape_debug()),
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

fn dates(
    context: &Context<'_>,
    place: &Place<'_>,
    asked: &Question,
    certificate: &Certificate,
    of: Of,
) -> Option<Finding> {
    let (what, grave) = match of {
        Of::Leaf => ("the certificate".to_owned(), Severity::Error),
        // A client may know another path to a root.
        Of::Issuer => (format!("the issuer's certificate {}", certificate.subject.escape_debug()), Severity::Warning),
    };
    let (from, to) = (Date(certificate.not_before), Date(certificate.not_after));
    let left = (certificate.not_after - context.now).div_euclid(DAY);
    let found =
        |severity, kind, seen: String, mend: &str| Some(place.finding(severity, kind, asked, seen, mend.to_owned()));
    if certificate.not_after < context.now {
        let seen = format!("{what} expired on {to}");
        found(grave, Kind::Expired, seen, "Clients refuse it. Renew it, and have the backend load the new one.")
    } else if certificate.not_before > context.now {
        let seen = format!("{what} is not valid before {from}");
        found(
            grave,
            Kind::NotYetValid,
            seen,
            "Clients refuse it until then. Correct the clock of this machine or of the issuer, or use another certificate.",
        )
    } else if left < context.days {
        let seen = format!("{what} expires on {to}, in {left} day{}", if left == 1 { "" } else { "s" });
        found(
            Severity::Warning,
            Kind::ExpiresSoon,
            seen,
            "Renew it, and check why automatic renewal has not done so. If it has, reload the backend: it still sends the \
             old certificate.",
        )
    } else {
        None
    }
}

fn chain(
    context: &Context<'_>,
    place: &Place<'_>,
    asked: &Question,
    handshake: &Handshake,
    leaf: &Certificate,
) -> Option<Finding> {
    let severity = if context.trust_matters[place.number] { Severity::Error } else { Severity::Info };
    let found = |kind, seen: String, mend: &str| Some(place.finding(severity, kind, asked, seen, mend.to_owned()));
    let error = match &handshake.verdict {
        Verdict::Refused(Error::InvalidCertificate(error)) => error,
        Verdict::Refused(other) => {
            return found(Kind::Untrusted, format!("the certificate is not trusted: {other}"), OTHER);
        }
        Verdict::NotAsked if leaf.self_signed => {
            return found(Kind::SelfSigned, SELF_SIGNED_SEEN.to_owned(), SELF_SIGNED);
        }
        Verdict::Verified if leaf.self_signed && leaf.is_ca => {
            let (seen, mend) = (SELF_SIGNED_AUTHORITY_SEEN.to_owned(), SELF_SIGNED_AUTHORITY.to_owned());
            return Some(place.finding(Severity::Info, Kind::SelfSigned, asked, seen, mend));
        }
        Verdict::NotAsked | Verdict::Verified => return None,
    };
    match error {
        // Reported by a more specific finding.
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => None,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } if leaf.not_after < context.now => None,
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
            false => found(Kind::Untrusted, "the certificate is that of a CA, not of a server".to_owned(), AUTHORITY),
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

const SELF_SIGNED_SEEN: &str = "the certificate is self-signed";
const SELF_SIGNED: &str =
    "Only clients configured to trust this certificate accept it. For others, use one issued by a CA.";
const SELF_SIGNED_AUTHORITY_SEEN: &str = "the certificate is self-signed, and is a CA certificate";
const SELF_SIGNED_AUTHORITY: &str = "Clients configured to trust this certificate may accept it; some refuse it even then, since it may sign others \
                                     (rustls, webpki). `openssl req -x509` makes such certificates unless it is called with `-addext \
                                     basicConstraints=critical,CA:FALSE`. For other clients, use one issued by a CA.";
const INCOMPLETE: &str = "Browsers may find the missing intermediate elsewhere; other clients fail. Have the backend send the intermediate \
                          too (the file is often called fullchain.pem). If the CA is your own, pass its root with --ca FILE.";
const PRIVATE: &str =
    "Clients that do not have this root refuse the certificate. If the CA is your own, pass its root with --ca FILE.";
const AUTHORITY: &str = "Clients may refuse a server certificate that may sign others (basicConstraints CA:TRUE). Have the CA issue one for \
                         the server.";
const NAMESAKE: &str = "The signature is that of another key: a CA of the same name was created again with a new key, or the certificate is \
                        damaged. Have clients trust the new root, or have the old one sign the certificate.";
const OTHER: &str = "Clients that verify certificates refuse it. Correct the backend's certificate and chain.";
const DAY: i64 = 86_400;
const MOST_NAMES: usize = 5;
