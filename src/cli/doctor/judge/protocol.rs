//! Judges what a backend supports: versions, protocols, and hellos that are large or split.

use super::failures::describe;
use super::{Place, leaf};
use crate::backends::handshake::{Handshake, HandshakeError, Version};
use crate::cli::doctor::examine::{Answer, Exam, Failure, More, RECORD_BYTES};
use crate::cli::doctor::finding::{Finding, Kind, Severity};
use crate::cli::doctor::plan::{UNKNOWN, Why};
use crate::cli::doctor::reach::PIECE_BYTES;

pub(super) fn judge_answer(place: &Place<'_>, answer: &Answer, handshake: &Handshake, findings: &mut Vec<Finding>) {
    let asked = &answer.asked;
    if answer.alpn_refused {
        findings.push(place.finding(
            Severity::Info,
            Kind::AlpnRefused,
            asked,
            "refuses clients that offer only h2 and http/1.1; it answers one that offers nothing".to_owned(),
            "Right for a backend that speaks no HTTP. Browsers get nothing from it; for them it must offer http/1.1 or h2."
                .to_owned(),
        ));
    }
    match handshake.late_alert {
        Some(alert) if !handshake.asked_for_client_certificate => findings.push(place.finding(
            asked.gravity(),
            Kind::HandshakeRefused,
            asked,
            format!("ended the handshake well and then sent the alert {alert}"),
            "The backend's own log tells why.".to_owned(),
        )),
        alert if handshake.asked_for_client_certificate => {
            let without = alert.map_or(String::new(), |alert| format!(", and refuses without one ({alert})"));
            let seen = format!("asks for the client's certificate{without}");
            findings.push(place.finding(
                Severity::Info,
                Kind::ClientCertificate,
                asked,
                seen,
                CLIENT_CERTIFICATE.to_owned(),
            ));
        }
        _ => {}
    }
}

pub(super) fn judge_more(place: &Place<'_>, exam: &Exam, more: &More, findings: &mut Vec<Finding>) {
    match (&exam.versions()[..], &more.tls12) {
        ([Version::Tls12], _) => findings.push(place.whole(
            Severity::Warning,
            Kind::OldTls,
            "speaks no TLS 1.3".to_owned(),
            "Handshakes take one round trip more, and names and certificates travel in the clear. Enable TLS 1.3 (nginx \
             before 1.23.4: `ssl_protocols TLSv1.2 TLSv1.3`)."
                .to_owned(),
        )),
        // An unsupported version is rejected with an alert; a closed connection has another cause.
        ([Version::Tls13], Err(Failure::Handshake(HandshakeError::Alert(_) | HandshakeError::Tls(_)))) => findings.push(place.whole(
            Severity::Info,
            Kind::NoTls12,
            "speaks only TLS 1.3".to_owned(),
            "Fine for browsers; older clients and devices cannot connect.".to_owned(),
        )),
        _ => {}
    }
    findings.extend(default_certificate(place, exam, more));
    cut_hellos(place, more, findings);
}

/// The fix for a backend that requests client certificates.
pub(super) const CLIENT_CERTIFICATE: &str =
    "Fine if its clients have one: snigate passes it through unseen. The doctor has none.";

fn cut_hellos(place: &Place<'_>, more: &More, findings: &mut Vec<Finding>) {
    if let Err(failure) = &more.large {
        findings.push(place.whole(
            Severity::Error,
            Kind::LargeHello,
            format!("takes a small hello, but not the larger one of a browser with post-quantum keys: {}", describe(failure)),
            "Browsers send X25519MLKEM768 in a hello larger than one packet, and fail or hang here. The TLS library of the \
             backend, or a firewall before it, is too old to take a hello in two packets: update it."
                .to_owned(),
        ));
    }
    if let Err(failure) = &more.in_records {
        findings.push(place.whole(
            Severity::Warning,
            Kind::SplitHello,
            format!("does not take a hello in records of {RECORD_BYTES} bytes: {}", describe(failure)),
            "A hello may be cut into records (RFC 8446 section 5.1), and some clients cut it; they fail here. Update the TLS \
             library of the backend, or what looks into the hello before it."
                .to_owned(),
        ));
    }
    if let Err(failure) = &more.in_segments {
        findings.push(place.whole(
            Severity::Error,
            Kind::SegmentedHello,
            format!("does not take a hello in TCP segments of {PIECE_BYTES} bytes: {}", describe(failure)),
            "TCP may cut anywhere, and does so on slow or narrow ways; clients there fail at random. The backend, or what \
             looks into the hello before it, reads only once: update it."
                .to_owned(),
        ));
    }
}

/// Whether the backend answers an unknown name as if it were a known one.
fn default_certificate(place: &Place<'_>, exam: &Exam, more: &More) -> Option<Finding> {
    let takes_any = exam.subject.asked.iter().any(|asked| matches!(asked.why, Why::AnyName | Why::Unrouted));
    let known =
        exam.answers.iter().find(|answer| answer.asked == more.name).and_then(|answer| leaf(&answer.outcome))?;
    let unknown = leaf(&more.unknown)?;
    if takes_any || unknown.fingerprint != known.fingerprint || unknown.covers(UNKNOWN) {
        return None;
    }
    let nameless = leaf(&more.nameless).is_some_and(|nameless| nameless.fingerprint == known.fingerprint);
    let (also, name) = (if nameless { ", and a hello without a name," } else { "" }, &more.name);
    Some(place.whole(
        Severity::Info,
        Kind::DefaultCertificate,
        format!("answers {UNKNOWN}, which is nobody's{also} with the certificate of {name}"),
        "It does not tell a wrong name from a right one, so a name that is routed here by mistake shows a wrong certificate, not \
         a clear refusal. To have it refuse: nginx, a default server with `ssl_reject_handshake on`; HAProxy, `strict-sni`."
            .to_owned(),
    ))
}
