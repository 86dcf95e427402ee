//! Describes why a handshake with a backend failed.

use std::io;

use super::Place;
use crate::alert::Alert;
use crate::backends::handshake::HandshakeError;
use crate::cli::doctor::examine::Failure;
use crate::cli::doctor::finding::{Finding, Kind, Severity};
use crate::cli::doctor::plan::Question;
use crate::connect::StarttlsError;
use crate::starttls::Declined;

/// A finding about `asked`, or about the backend if the failure does not depend on the name.
pub(super) fn finding(place: &Place<'_>, asked: &Question, failure: &Failure) -> Finding {
    match failure {
        Failure::Connect(error) => {
            place.whole(Severity::Error, Kind::Unreachable, describe(failure), mend_connect(error).to_owned())
        }
        Failure::ConnectTimedOut { .. } => place.whole(
            Severity::Error,
            Kind::Unreachable,
            describe(failure),
            "Nothing answers at this address: no host has it, or a firewall drops the packets. Correct the address, or allow \
             this machine in the firewall."
                .to_owned(),
        ),
        Failure::Starttls(error) => {
            let mend = match error {
                StarttlsError::Declined(Declined::NoTls) => STARTTLS_OFF,
                StarttlsError::Io(_) | StarttlsError::Closed | StarttlsError::TimedOut { .. } => SILENT,
                StarttlsError::Declined(_) => STARTTLS_FOREIGN,
            };
            place.whole(Severity::Error, Kind::NotTls, describe(failure), mend.to_owned())
        }
        Failure::Silent { .. } => {
            place.finding(Severity::Error, Kind::Silent, asked, describe(failure), SILENT.to_owned())
        }
        Failure::ProxyHeader { sent } => {
            let mend = if *sent { HEADER_UNWANTED } else { HEADER_MISSING };
            place.whole(Severity::Error, Kind::ProxyHeader, describe(failure), mend.to_owned())
        }
        Failure::Handshake(error) => handshake(place, asked, error, describe(failure)),
    }
}

fn handshake(place: &Place<'_>, asked: &Question, error: &HandshakeError, seen: String) -> Finding {
    match error {
        HandshakeError::WantsClientCertificate { .. } => {
            place.finding(Severity::Info, Kind::ClientCertificate, asked, seen, CLIENT_CERTIFICATE.to_owned())
        }
        HandshakeError::Alert(alert) => self::alert(place, asked, *alert, seen),
        HandshakeError::ClosedWithoutAnswer | HandshakeError::ClosedEarly { .. } => {
            let mend = "See the backend's own log for the reason.";
            place.finding(asked.severity(), Kind::Closed, asked, seen, mend.to_owned())
        }
        HandshakeError::NotTls { first } => {
            place.whole(Severity::Error, Kind::NotTls, seen, not_tls(first).to_owned())
        }
        HandshakeError::NotAName => place.finding(
            Severity::Warning,
            Kind::NameNotSendable,
            asked,
            seen,
            "TLS clients send only DNS names, so none sends this one. Correct the pattern.".to_owned(),
        ),
        HandshakeError::Tls(_) | HandshakeError::Io(_) => place.finding(
            Severity::Error,
            Kind::HandshakeFailed,
            asked,
            seen,
            "The backend uses TLS, but violates the protocol, or supports neither TLS 1.2 nor 1.3 with a cipher in current \
             use. Update its TLS library or settings."
                .to_owned(),
        ),
    }
}

fn alert(place: &Place<'_>, asked: &Question, alert: Alert, seen: String) -> Finding {
    let mend = match (alert.name(), &asked.name) {
        ("unrecognized_name", Some(_)) => {
            let mend = "The backend has no site with this name. Add the name to its configuration (server_name, ServerName, \
                        Host rule), or route the name to another pool.";
            return place.finding(asked.severity(), Kind::NameRefused, asked, seen, mend.to_owned());
        }
        (_, None) => {
            "The backend rejects clients that send no server name. If that is intended, refuse them here with `no_sni`."
        }
        ("handshake_failure" | "insufficient_security" | "protocol_version", _) => {
            "The backend and current clients have no protocol version or cipher in common, or it has no certificate for this \
             name. See its log; enable TLS 1.2 and 1.3 with ECDHE ciphers, and give it a certificate for the name."
        }
        ("internal_error" | "access_denied" | "certificate_unknown", _) => {
            "Backends often send this alert when they have no certificate for the name. See the backend's log, and add the name \
             there."
        }
        _ => "See the backend's own log for the reason.",
    };
    place.finding(asked.severity(), Kind::HandshakeRefused, asked, seen, mend.to_owned())
}

/// What happened, as the end of a sentence about the backend.
pub(crate) fn describe(failure: &Failure) -> String {
    match failure {
        Failure::Connect(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => "cannot connect: connection refused".to_owned(),
            _ => format!("cannot connect: {error}"),
        },
        Failure::Starttls(error) => error.to_string(),
        Failure::ConnectTimedOut { after } => format!("cannot connect: no answer within {} ms", after.as_millis()),
        Failure::Silent { after } => {
            format!("accepted the connection and did not answer within {} ms", after.as_millis())
        }
        Failure::ProxyHeader { sent: true } => "does not expect the PROXY header that the pool sends".to_owned(),
        Failure::ProxyHeader { sent: false } => "expects a PROXY header, and the pool sends none".to_owned(),
        Failure::Handshake(error) => match error {
            HandshakeError::NotTls { first } => {
                let line = first.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
                format!("does not speak TLS; its answer begins with \"{}\"", line.escape_ascii())
            }
            other => other.to_string(),
        },
    }
}

fn mend_connect(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "Nothing listens at this address and port, or a firewall refuses. Start the backend, or correct the address."
        }
        io::ErrorKind::NotFound => {
            "There is no socket at this path: the backend is not running, uses another path, or the directory is not mounted here."
        }
        io::ErrorKind::PermissionDenied => {
            "This user may not use the socket, or a firewall on this machine blocks it. Run the doctor as the user that runs snigate."
        }
        io::ErrorKind::AddrNotAvailable => {
            "This machine cannot connect from that address: no port is free, or an address in `source_addresses` is not its own."
        }
        _ => {
            "There is no route from this machine to that address. Run the doctor on the machine where snigate runs, or correct the address."
        }
    }
}

fn not_tls(first: &[u8]) -> &'static str {
    if first.starts_with(b"HTTP/") {
        "This port serves plain HTTP. snigate passes TLS through and never adds or removes it: enable TLS on the backend with \
         a certificate, or use its HTTPS port."
    } else if first.starts_with(b"SSH-") {
        "This is an SSH server. Correct the port."
    } else {
        "snigate passes TLS through and never adds or removes it: the backend must speak TLS itself. Correct the port, or \
         enable TLS on the backend."
    }
}

const SILENT: &str = "Something listens there but does not answer a ClientHello, with or without a PROXY header. Check whether it hangs, \
                      and whether this is its TLS port.";
const STARTTLS_OFF: &str = "Set `ssl = on` and a certificate in postgresql.conf, and reload the server.";
const STARTTLS_FOREIGN: &str = "Clients of these listeners speak PostgreSQL (`starttls: postgres`), but this is not a PostgreSQL server, or it cannot \
                                start. Correct the address, or see the server's log.";
const HEADER_MISSING: &str = "Set `send_proxy_protocol: v2` on the pool, or configure the backend not to expect a header (nginx `listen` without \
                              `proxy_protocol`, HAProxy `bind` without `accept-proxy`).";
const HEADER_UNWANTED: &str = "Remove `send_proxy_protocol` from the pool, or configure the backend to expect the header (nginx `listen … \
                               proxy_protocol`, HAProxy `accept-proxy`).";
/// The fix for a backend that requests client certificates.
pub(super) const CLIENT_CERTIFICATE: &str =
    "Fine if its clients have one: snigate passes it through. The doctor has none.";
