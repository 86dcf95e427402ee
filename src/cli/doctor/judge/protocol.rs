//! Judges what a backend supports: versions, protocols, and hellos that are large or split.

use super::failures::{CLIENT_CERTIFICATE, describe};
use super::{Place, leaf};
use crate::backends::handshake::{Handshake, HandshakeError, Version};
use crate::cli::doctor::examine::{Answer, Examination, Failure, More, RECORD_BYTES};
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
            "refuses clients that offer only h2 and http/1.1, but accepts one that offers no protocol".to_owned(),
            "Correct for a backend that does not serve HTTP. For browsers, it must offer http/1.1 or h2.".to_owned(),
        ));
    }
    match handshake.late_alert {
        Some(alert) if !handshake.asked_for_client_certificate => findings.push(place.finding(
            asked.severity(),
            Kind::HandshakeRefused,
            asked,
            format!("completed the handshake and then sent the alert {alert}"),
            "See the backend's own log for the reason.".to_owned(),
        )),
        alert if handshake.asked_for_client_certificate => {
            let without = alert.map_or(String::new(), |alert| format!(", and refuses without one ({alert})"));
            let seen = format!("requests a client certificate{without}");
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

pub(super) fn judge_more(place: &Place<'_>, exam: &Examination, more: &More, findings: &mut Vec<Finding>) {
    match (&exam.versions()[..], &more.tls12) {
        ([Version::Tls12], _) => findings.push(
            place.whole(
                Severity::Warning,
                Kind::OldTls,
                "does not support TLS 1.3".to_owned(),
                "Handshakes take one more round trip, and certificates are sent in the clear. Enable TLS 1.3 (nginx \
             before 1.23.4: `ssl_protocols TLSv1.2 TLSv1.3`)."
                    .to_owned(),
            ),
        ),
        // An unsupported version is rejected with an alert; a closed connection has another cause.
        ([Version::Tls13], Err(Failure::Handshake(HandshakeError::Alert(_) | HandshakeError::Tls(_)))) => findings
            .push(place.whole(
                Severity::Info,
                Kind::NoTls12,
                "supports only TLS 1.3".to_owned(),
                "Fine for browsers; older clients and devices cannot connect.".to_owned(),
            )),
        _ => {}
    }
    findings.extend(default_certificate(place, exam, more));
    cut_hellos(place, more, findings);
}

fn cut_hellos(place: &Place<'_>, more: &More, findings: &mut Vec<Finding>) {
    if let Err(failure) = &more.large {
        findings.push(place.whole(
            Severity::Error,
            Kind::LargeHello,
            format!("accepts a small ClientHello, but not the larger one of a browser with post-quantum keys: {}", describe(failure)),
            "Browsers send X25519MLKEM768 in a ClientHello larger than one packet, and fail or hang here. The TLS library of \
             the backend, or a firewall in front of it, does not handle a ClientHello in two packets: update it."
                .to_owned(),
        ));
    }
    if let Err(failure) = &more.in_records {
        findings.push(place.whole(
            Severity::Warning,
            Kind::SplitHello,
            format!("does not accept a ClientHello in records of {RECORD_BYTES} bytes: {}", describe(failure)),
            "A ClientHello may be split into records (RFC 8446 section 5.1), and some clients do so; they fail here. Update the \
             TLS library of the backend, or the firewall or proxy in front of it."
                .to_owned(),
        ));
    }
    if let Err(failure) = &more.in_segments {
        findings.push(place.whole(
            Severity::Error,
            Kind::SegmentedHello,
            format!("does not accept a ClientHello in TCP segments of {PIECE_BYTES} bytes: {}", describe(failure)),
            "TCP may split data anywhere, and does so on paths with a small MTU; clients there fail at random. The backend, or a \
             firewall or proxy in front of it, reads only once: update it."
                .to_owned(),
        ));
    }
}

/// Whether the backend answers an unknown name as if it were a known one.
fn default_certificate(place: &Place<'_>, exam: &Examination, more: &More) -> Option<Finding> {
    let takes_any = exam.target.asked.iter().any(|asked| matches!(asked.why, Why::AnyName | Why::Unrouted));
    let known =
        exam.answers.iter().find(|answer| answer.asked == more.name).and_then(|answer| leaf(&answer.outcome))?;
    let unknown = leaf(&more.unknown)?;
    if takes_any || unknown.fingerprint != known.fingerprint || unknown.covers(UNKNOWN) {
        return None;
    }
    let nameless = leaf(&more.nameless).is_some_and(|nameless| nameless.fingerprint == known.fingerprint);
    let (also, name) = (if nameless { ", and a ClientHello without a name," } else { "" }, &more.name);
    Some(place.whole(
        Severity::Info,
        Kind::DefaultCertificate,
        format!("answers the unknown name {UNKNOWN}{also} with the certificate of {name}"),
        "The backend does not reject unknown names, so for a name routed here by mistake clients see a wrong certificate, not a \
         clear refusal. To make it reject them: nginx, a default server with `ssl_reject_handshake on`; HAProxy, `strict-sni`."
            .to_owned(),
    ))
}
