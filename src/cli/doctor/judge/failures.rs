//! Describes why a handshake with a backend failed.

use std::io;

use super::Place;
use super::protocol::CLIENT_CERTIFICATE;
use crate::alert::Alert;
use crate::backends::handshake::HandshakeError;
use crate::cli::doctor::examine::Failure;
use crate::cli::doctor::finding::{Finding, Kind, Severity};
use crate::cli::doctor::plan::Asked;

/// A finding about `asked`, or about the backend if the failure does not depend on the name.
pub(super) fn finding(place: &Place<'_>, asked: &Asked, failure: &Failure) -> Finding {
    match failure {
        Failure::Connect(error) => {
            place.whole(Severity::Error, Kind::Unreachable, describe(failure), mend_connect(error).to_owned())
        }
        Failure::ConnectTimedOut { .. } => place.whole(
            Severity::Error,
            Kind::Unreachable,
            describe(failure),
            "Nothing answers at this address: it is nobody's, or a firewall drops the packets. Correct the address, or let \
             this machine through."
                .to_owned(),
        ),
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

fn handshake(place: &Place<'_>, asked: &Asked, error: &HandshakeError, seen: String) -> Finding {
    match error {
        HandshakeError::WantsClientCertificate { .. } => {
            place.finding(Severity::Info, Kind::ClientCertificate, asked, seen, CLIENT_CERTIFICATE.to_owned())
        }
        HandshakeError::Alert(alert) => self::alert(place, asked, *alert, seen),
        HandshakeError::ClosedWithoutAnswer | HandshakeError::ClosedEarly { .. } => {
            let mend = "The backend's own log tells why it hangs up.";
            place.finding(asked.gravity(), Kind::Closed, asked, seen, mend.to_owned())
        }
        HandshakeError::NotTls { first } => {
            place.whole(Severity::Error, Kind::NotTls, seen, not_tls(first).to_owned())
        }
        HandshakeError::NotAName => place.finding(
            Severity::Warning,
            Kind::NameNotSendable,
            asked,
            seen,
            "TLS clients send DNS names only, so no client of theirs ever asks for it. Correct the pattern.".to_owned(),
        ),
        HandshakeError::Tls(_) | HandshakeError::Io(_) => place.finding(
            Severity::Error,
            Kind::HandshakeFailed,
            asked,
            seen,
            "The backend speaks TLS, but not so that a handshake comes about: it breaks the protocol, or offers neither \
             TLS 1.2 nor 1.3 with a cipher that is still in use. Its TLS library or settings need an update."
                .to_owned(),
        ),
    }
}

fn alert(place: &Place<'_>, asked: &Asked, alert: Alert, seen: String) -> Finding {
    let mend = match (alert.name(), &asked.name) {
        ("unrecognized_name", Some(_)) => {
            let mend = "The backend has no site of this name. Add the name to its configuration (server_name, ServerName, \
                        Host rule), or route the name to another pool.";
            return place.finding(asked.gravity(), Kind::NameRefused, asked, seen, mend.to_owned());
        }
        (_, None) => {
            "The backend answers no client that sends no name. That is right if nobody without a name should get there; then \
             let `no_sni` refuse them already here."
        }
        ("handshake_failure" | "insufficient_security" | "protocol_version", _) => {
            "The backend and a client of today have no protocol version or cipher in common, or it has no certificate for \
             this name. Its log tells which; enable TLS 1.2 and 1.3 with ECDHE ciphers, and give it a certificate for the name."
        }
        ("internal_error" | "access_denied" | "certificate_unknown", _) => {
            "The backend often says so when it has no certificate for this name. Its log tells; add the name there."
        }
        _ => "The backend's own log tells why it refuses.",
    };
    place.finding(asked.gravity(), Kind::HandshakeRefused, asked, seen, mend.to_owned())
}

/// What happened, as the end of a sentence about the backend.
pub(crate) fn describe(failure: &Failure) -> String {
    match failure {
        Failure::Connect(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => "cannot connect: connection refused".to_owned(),
            _ => format!("cannot connect: {error}"),
        },
        Failure::ConnectTimedOut { after } => format!("cannot connect: no answer within {} ms", after.as_millis()),
        Failure::Silent { after } => format!("took the connection and gave no answer within {} ms", after.as_millis()),
        Failure::ProxyHeader { sent: true } => "does not expect the PROXY header that the pool sends".to_owned(),
        Failure::ProxyHeader { sent: false } => "expects a PROXY header, and the pool sends none".to_owned(),
        Failure::Handshake(error) => match error {
            HandshakeError::NotTls { first } => {
                let line = first.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
                format!("speaks no TLS; its answer begins with \"{}\"", line.escape_ascii())
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
            "There is no socket at this path: the backend does not run, or has it elsewhere, or the directory is not mounted here."
        }
        io::ErrorKind::PermissionDenied => {
            "This user may not use the socket, or a firewall of this machine forbids it. Run the doctor as the user that snigate runs as."
        }
        io::ErrorKind::AddrNotAvailable => {
            "This machine cannot connect from there: no port is left, or an address of `source_addresses` is not its own."
        }
        _ => {
            "There is no way from this machine to that address. Ask from the machine where snigate runs, or correct the address."
        }
    }
}

fn not_tls(first: &[u8]) -> &'static str {
    if first.starts_with(b"HTTP/") {
        "This port speaks plain HTTP. snigate passes TLS on as it is and never adds or takes it off: give the backend a \
         certificate and let it speak TLS, or name its HTTPS port."
    } else if first.starts_with(b"SSH-") {
        "This is an SSH server. Correct the port."
    } else {
        "snigate passes TLS on as it is and never adds or takes it off: the backend must speak TLS itself. Correct the port, \
         or let the backend speak TLS."
    }
}

const SILENT: &str = "Something listens there but does not answer a ClientHello, with or without a PROXY header. Look whether it hangs, or \
                      whether this is its TLS port.";
const HEADER_MISSING: &str = "Set `send_proxy_protocol: v2` on the pool, or have the backend expect no header (nginx `listen` without \
                              `proxy_protocol`, HAProxy `bind` without `accept-proxy`).";
const HEADER_UNWANTED: &str = "Take `send_proxy_protocol` from the pool, or have the backend expect the header (nginx `listen … \
                               proxy_protocol`, HAProxy `accept-proxy`).";
