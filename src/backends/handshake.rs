//! Makes one TLS handshake with a backend as a client, and reports what it observed.
//!
//! In:  a connected stream (TCP or unix), and an [`Offer`]: the name, protocols and versions to offer, the roots to
//!      trust.
//! Out: [`Handshake`]: what was negotiated, the certificates, and whether they are trusted; or [`HandshakeError`].
//! Source: RFC 8446 §4 and §6 (TLS 1.3), RFC 5246 §7 (TLS 1.2).
//!
//! For active checks and `snigate doctor`; proxied connections never use it. An untrusted certificate does not end the
//! handshake, so that one handshake reports everything; nothing secret is ever sent over it.

mod certificate;
mod observed;
mod verifier;

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768;
use rustls::pki_types::{CertificateDer, DnsName, IpAddr, ServerName};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) use self::certificate::{Certificate, Unreadable};
use self::observed::ObservedStream;
use self::verifier::{CertificateObserver, NameCheck, Verifier};
pub(crate) use self::verifier::{Roots, RootsError, Verdict};
use crate::alert::Alert;

/// What to offer a backend. The default sends no name and no ALPN, offers both versions, and verifies nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offer {
    /// Sent as SNI if it is a DNS name. `None`: the hello has no server name.
    pub server_name: Option<Arc<str>>,
    /// In order of preference; empty: the hello has no ALPN.
    pub alpn: Vec<Vec<u8>>,
    pub versions: Versions,
    pub key_exchange: KeyExchange,
    /// Verify the chain against these roots, and the certificate against the server name. `None`: verify nothing.
    pub roots: Option<Roots>,
    /// Splits the hello into records of at most this many bytes, including the five-byte record header; 32 or more.
    pub max_record_bytes: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Versions {
    #[default]
    Tls12And13,
    Tls12,
    #[cfg_attr(not(test), expect(dead_code, reason = "tests ask with it"))]
    Tls13,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum KeyExchange {
    /// X25519 and the NIST curves: the hello fits into one packet.
    #[default]
    Classical,
    /// X25519MLKEM768 first, as browsers do: the hello is larger than one Ethernet packet.
    PostQuantum,
}

/// The server name in a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameSent {
    /// A name whose connections the backend receives.
    Served,
    /// No name, or one that is not routed to the backend.
    NoneOrForeign,
}

/// What a backend answered.
#[derive(Clone, Debug)]
pub(crate) struct Handshake {
    pub version: Version,
    /// The IANA name of the cipher suite.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests compare it"))]
    pub cipher: &'static str,
    /// The name of the key exchange group, such as `X25519`.
    pub group: Option<String>,
    /// The size of our hello, including record headers.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests compare it"))]
    pub hello_bytes: u64,
    /// Whether the backend sent a HelloRetryRequest.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests compare it"))]
    pub retried: bool,
    pub alpn: Option<Vec<u8>>,
    /// As sent: leaf first, at least one.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// The first certificate of the chain, parsed.
    pub leaf: Result<Certificate, Unreadable>,
    pub verdict: Verdict,
    /// The backend sent a CertificateRequest; we answered without a certificate.
    pub asked_for_client_certificate: bool,
    /// An alert received after the client side finished the handshake, as happens in TLS 1.3 when a client certificate
    /// is missing.
    pub late_alert: Option<Alert>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    Tls12,
    Tls13,
}

/// Why the handshake failed.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// The backend rejected the hello.
    Alert(Alert),
    /// The backend requested a client certificate, and ended the handshake because we have none: with an alert, or by
    /// closing.
    WantsClientCertificate {
        alert: Option<Alert>,
        verdict: Verdict,
    },
    /// The backend closed or reset the connection without sending a byte.
    ClosedWithoutAnswer,
    /// The backend closed or reset the connection after sending `got` bytes of TLS.
    ClosedEarly {
        got: u64,
    },
    /// The backend does not speak TLS; its first bytes, at most 64.
    NotTls {
        first: Vec<u8>,
    },
    /// The backend speaks TLS, but violates the protocol or has no parameters in common with us.
    Tls(rustls::Error),
    /// The name is not a DNS name, so it cannot be sent.
    NotAName,
    Io(io::Error),
}

/// Makes a handshake over `stream`, then closes it.
///
/// There is no timeout here: the caller sets the deadline. Cancel-safe: dropping the future leaves nothing behind.
///
/// # Errors
/// [`HandshakeError`].
pub(crate) async fn with<S>(stream: S, asking: &Offer) -> Result<Handshake, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let observer = Arc::new(CertificateObserver::default());
    let name = match &asking.server_name {
        Some(name) => ServerName::DnsName(DnsName::try_from(name.to_string()).map_err(|_| HandshakeError::NotAName)?),
        // A placeholder that is never sent: rustls requires a server name.
        None => ServerName::IpAddress(IpAddr::from(std::net::IpAddr::from([192, 0, 2, 1]))),
    };
    let config = asking.config(&observer).map_err(HandshakeError::Tls)?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, ObservedStream::new(stream)).into_fallible();
    let mut stream = connecting.await.map_err(|(error, stream)| HandshakeError::of(error, &stream, &observer))?;
    let late_alert = close(&mut stream).await;
    Ok(Handshake::of(&stream, &observer, late_alert))
}

impl Offer {
    fn config(&self, observer: &Arc<CertificateObserver>) -> Result<ClientConfig, rustls::Error> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.kx_groups.retain(|group| group.name() != X25519MLKEM768.name());
        if self.key_exchange == KeyExchange::PostQuantum {
            // Its key share makes the hello larger than one packet. A plain X25519 share comes with it, as from browsers.
            provider.kx_groups.insert(0, X25519MLKEM768);
        }
        let provider = Arc::new(provider);
        let name_check = if self.server_name.is_some() { NameCheck::Required } else { NameCheck::Skipped };
        let verifier = Verifier::new(self.roots.clone(), name_check, &provider, Arc::clone(observer));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions.supported())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(observer) as _);
        config.alpn_protocols.clone_from(&self.alpn);
        config.enable_sni = self.server_name.is_some();
        config.max_fragment_size = self.max_record_bytes;
        // A resumed session does not send a certificate.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }
}

impl Versions {
    fn supported(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Tls12And13 => rustls::ALL_VERSIONS,
            Self::Tls12 => &ONLY_TLS12,
            Self::Tls13 => &ONLY_TLS13,
        }
    }
}

/// Sends close_notify and reads for a moment what the backend still sends: closing with unread data would send RST
/// instead of FIN.
async fn close<S>(stream: &mut TlsStream<ObservedStream<S>>) -> Option<Alert>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let farewell = async {
        // What the backend sent before it closed is read all the same.
        let _ = stream.shutdown().await;
        let mut heard = [0; 1024];
        for _ in 0..FAREWELL_READS {
            if stream.read(&mut heard).await? == 0 {
                break;
            }
        }
        Ok(())
    };
    match timeout(FAREWELL, farewell).await {
        Ok(Err(error)) => match tls_error(&error) {
            Some(rustls::Error::AlertReceived(alert)) => Some(Alert::new(u8::from(*alert))),
            _ => None,
        },
        _ => None,
    }
}

impl Handshake {
    fn of<S>(stream: &TlsStream<ObservedStream<S>>, observer: &CertificateObserver, late_alert: Option<Alert>) -> Self {
        let tls = stream.get_ref().1;
        let chain: Arc<[_]> = tls.peer_certificates().unwrap_or_default().into();
        Self {
            version: match tls.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => Version::Tls13,
                _ => Version::Tls12,
            },
            cipher: tls.negotiated_cipher_suite().and_then(|cipher| cipher.suite().as_str()).unwrap_or("unknown"),
            group: tls.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())),
            hello_bytes: stream.get_ref().0.said_first(),
            retried: tls.handshake_kind() == Some(HandshakeKind::FullWithHelloRetryRequest),
            alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
            leaf: chain.first().ok_or(Unreadable).and_then(|leaf| Certificate::read(leaf)),
            chain,
            verdict: observer.verdict(),
            asked_for_client_certificate: observer.was_asked_for_a_certificate(),
            late_alert,
        }
    }
}

impl HandshakeError {
    fn of<S>(error: io::Error, stream: &ObservedStream<S>, observer: &CertificateObserver) -> Self {
        let got = stream.got();
        if let Some(error) = tls_error(&error) {
            return match error {
                rustls::Error::AlertReceived(alert) if observer.was_asked_for_a_certificate() => {
                    let alert = Some(Alert::new(u8::from(*alert)));
                    Self::WantsClientCertificate { alert, verdict: observer.verdict() }
                }
                rustls::Error::AlertReceived(alert) => Self::Alert(Alert::new(u8::from(*alert))),
                _ if !looks_like_tls(stream.first()) => Self::NotTls { first: stream.first().to_vec() },
                error => Self::Tls(error.clone()),
            };
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => match (got, looks_like_tls(stream.first())) {
                (0, _) => Self::ClosedWithoutAnswer,
                (_, true) if observer.was_asked_for_a_certificate() => {
                    Self::WantsClientCertificate { alert: None, verdict: observer.verdict() }
                }
                (got, true) => Self::ClosedEarly { got },
                (_, false) => Self::NotTls { first: stream.first().to_vec() },
            },
            _ => Self::Io(error),
        }
    }

    /// Whether the backend answered in TLS and rejected only what this hello offered: versions, ciphers, groups,
    /// protocols, a client without a certificate. It may well serve clients that offer something else.
    ///
    /// An alert about the name, or an internal error, which servers send for a name without a certificate, counts only
    /// if the backend need not know the name.
    pub(crate) fn is_about_the_offer(&self, name: NameSent) -> bool {
        match self {
            Self::WantsClientCertificate { .. } => true,
            Self::Alert(Alert::INTERNAL_ERROR | Alert::UNRECOGNIZED_NAME) => name == NameSent::NoneOrForeign,
            Self::Alert(_) => true,
            // Such as a ServerHello of TLS 1.1, or one that selects what was not offered.
            Self::Tls(error) => {
                matches!(error, rustls::Error::PeerIncompatible(_) | rustls::Error::PeerMisbehaved(_))
            }
            Self::ClosedWithoutAnswer | Self::ClosedEarly { .. } | Self::NotTls { .. } => false,
            Self::NotAName | Self::Io(_) => false,
        }
    }

    /// The kind of failure as one word.
    #[cfg(test)]
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Alert(_) | Self::WantsClientCertificate { .. } => "alert",
            Self::ClosedWithoutAnswer | Self::ClosedEarly { .. } => "closed",
            Self::NotTls { .. } => "not_tls",
            Self::Tls(_) => "tls",
            Self::NotAName => "name",
            Self::Io(_) => "io",
        }
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Whether the first bytes can be the start of a TLS record: a content type, then a major version of 3 (RFC 8446 §5.1).
fn looks_like_tls(first: &[u8]) -> bool {
    matches!(first, [] | [20..=24]) || matches!(first, [20..=24, 3, ..])
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        })
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alert(alert) => write!(f, "refused by the alert {alert}"),
            Self::WantsClientCertificate { alert: Some(alert), .. } => {
                write!(f, "requires a client certificate: alert {alert}")
            }
            Self::WantsClientCertificate { alert: None, .. } => {
                f.write_str("requires a client certificate: closed when the client sent none")
            }
            Self::ClosedWithoutAnswer => f.write_str("closed without an answer"),
            Self::ClosedEarly { got } => write!(f, "closed during the handshake, after {got} bytes"),
            Self::NotTls { first } => write!(f, "not TLS: the answer begins with \"{}\"", first.escape_ascii()),
            Self::Tls(error) => error.fmt(f),
            Self::NotAName => f.write_str("the name is not a valid DNS name"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for HandshakeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Tls(error) => Some(error),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

static ONLY_TLS12: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
static ONLY_TLS13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

/// How long to read a backend's last bytes before closing, and in how many reads of 1 KiB.
const FAREWELL: Duration = Duration::from_millis(250);
const FAREWELL_READS: usize = 64;

#[cfg(test)]
mod tests;
