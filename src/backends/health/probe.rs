//! Performs one check: a TCP connect, a whole TLS handshake, or a request and its answer.
//!
//! In:  an address; the health-check settings of its pool.
//! Out: [`Passed`], or [`Failed`] with the reason.

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::answer::{PlainCheck, WrongAnswer};
use crate::backends::confirmation;
use crate::backends::handshake::{
    self, Certificate, Handshake, HandshakeError, NameSent, Offer, Roots, RootsError, Verdict,
};
use crate::connect::{self, BackendStream, StarttlsError};
use crate::ech::Confirmation;
use crate::pool::{Address, Pool, Shown};
use crate::proxy_header::{self, Addresses};
use crate::settings::{CheckKind, HealthCheck};
use crate::socket;
use crate::starttls::WithBackend;
use crate::telemetry::CheckResult;

/// The check that all backends of one pool get.
pub(super) struct Probe {
    pool: Arc<Pool>,
    port: Option<u16>,
    asking: Asking,
    name: NameSent,
    /// Also ask whether the backend accepts inner hellos.
    ech: bool,
}

/// What a check does once it has connected.
enum Asking {
    Nothing,
    /// A handshake. An error fails every check and gives the reason.
    Tls(Box<Result<Offer, RootsError>>),
    Plain(PlainCheck),
}

/// A passed check.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// The certificate the backend sent.
    pub certificate: Option<Shown>,
    /// What the backend rejected that only the check offers or lacks. It is up: other clients may be served.
    pub rejected: Option<String>,
    /// Whether it accepts inner hellos, if that was asked.
    pub confirmation: Option<Confirmation>,
}

/// Why a check failed.
#[derive(Debug)]
pub(super) enum Failed {
    Connect(io::Error),
    /// The exchange before the handshake failed.
    Starttls(StarttlsError),
    Handshake(HandshakeError),
    /// The handshake succeeded, but the certificate is not trusted.
    Untrusted {
        error: String,
        certificate: Option<Shown>,
    },
    Roots(String),
    /// Not the answer that was expected.
    Answer(WrongAnswer),
}

impl Probe {
    pub(super) fn new(pool: Arc<Pool>, check: &HealthCheck, name: NameSent) -> Self {
        let asking = match (check.kind, PlainCheck::new(check)) {
            (_, Some(asking)) => Asking::Plain(asking),
            (CheckKind::Tls, None) => Asking::Tls(Box::new(roots(check).map(|roots| Offer {
                server_name: check.sni.as_ref().map(|name| name.as_str().into()),
                alpn: check.alpn.iter().map(|protocol| protocol.0.to_vec()).collect(),
                roots,
                ..Offer::default()
            }))),
            (_, None) => Asking::Nothing,
        };
        Self { pool, port: *check.port, asking, name, ech: check.ech }
    }

    /// Checks the backend at `address`. The caller ends the check at `deadline`.
    ///
    /// # Errors
    /// [`Failed`].
    pub(super) async fn once(&self, address: &Address, deadline: Instant) -> Result<Passed, Failed> {
        let mut address = address.clone();
        if let (Address::Inet(inet), Some(port)) = (&mut address, self.port) {
            inet.set_port(port);
        }
        let passed = self.check(&address, deadline).await?;
        match &self.asking {
            Asking::Tls(asking) if self.ech => {
                let asking = asking.as_ref().as_ref().map_err(|error| Failed::Roots(error.to_string()))?;
                // A connection that fails right after one that did not says nothing about inner hellos; neither does a
                // silence, which must not take the backend down for all others.
                let confirmation = timeout_at(deadline, self.confirmation(asking, &address)).await;
                let confirmation = confirmation.ok().and_then(Result::ok).unwrap_or(Confirmation::Unknown);
                Ok(Passed { confirmation: Some(confirmation), ..passed })
            }
            _ => Ok(passed),
        }
    }

    /// Asks the backend, over a connection of its own, whether it accepts inner hellos.
    async fn confirmation(&self, asking: &Offer, address: &Address) -> Result<Confirmation, Failed> {
        let (name, alpn) = (asking.server_name.as_deref(), &asking.alpn);
        match connect::to_one(&self.pool, address).await.map_err(Failed::Connect)? {
            BackendStream::Tcp(mut stream) => {
                let own = stream.local_addr().and_then(|client| Ok(Addresses { client, local: stream.peer_addr()? }));
                self.introduce(&mut stream, Some(own.map_err(Failed::Connect)?)).await?;
                self.begin_tls(&mut stream).await?;
                // The handshake ends half way: a reset leaves no TIME_WAIT behind.
                socket::reset_on_drop(&stream);
                confirmation::ask(stream, name, alpn).await.map_err(Failed::Connect)
            }
            BackendStream::Unix(mut stream) => {
                self.introduce(&mut stream, None).await?;
                self.begin_tls(&mut stream).await?;
                confirmation::ask(stream, name, alpn).await.map_err(Failed::Connect)
            }
        }
    }

    async fn check(&self, address: &Address, deadline: Instant) -> Result<Passed, Failed> {
        match connect::to_one(&self.pool, address).await.map_err(Failed::Connect)? {
            BackendStream::Tcp(mut stream) => {
                let own = stream.local_addr().and_then(|client| Ok(Addresses { client, local: stream.peer_addr()? }));
                self.introduce(&mut stream, Some(own.map_err(Failed::Connect)?)).await?;
                if matches!(self.asking, Asking::Nothing) {
                    // There is no data to lose, and RST leaves no TIME_WAIT behind.
                    socket::reset_on_drop(&stream);
                }
                self.over(stream, address, deadline).await
            }
            BackendStream::Unix(mut stream) => {
                self.introduce(&mut stream, None).await?;
                self.over(stream, address, deadline).await
            }
        }
    }

    async fn over<S>(&self, mut stream: S, address: &Address, deadline: Instant) -> Result<Passed, Failed>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match &self.asking {
            Asking::Nothing => Ok(Passed::default()),
            Asking::Tls(asking) => {
                self.begin_tls(&mut stream).await?;
                self.judge(asking, async |asking| handshake::with(stream, asking).await).await
            }
            Asking::Plain(asking) => {
                asking.over(stream, address, deadline).await.map_err(Failed::Answer)?;
                Ok(Passed::default())
            }
        }
    }

    /// Sends the PROXY header of a connection of our own, where the backend expects one.
    async fn introduce(&self, stream: &mut (impl AsyncWriteExt + Unpin), own: Option<Addresses>) -> Result<(), Failed> {
        match self.pool.settings.send_proxy_protocol.version() {
            Some(version) => stream.write_all(&proxy_header::local(version, own)).await.map_err(Failed::Connect),
            None => Ok(()),
        }
    }

    /// Makes the exchange after which TLS begins, where the backend expects one.
    async fn begin_tls(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(), Failed> {
        match WithBackend::new(self.pool.settings.starttls) {
            Some(exchange) => connect::begin_tls(stream, &[], exchange).await.map_err(Failed::Starttls),
            None => Ok(()),
        }
    }

    async fn judge(
        &self,
        asking: &Result<Offer, RootsError>,
        shake: impl AsyncFnOnce(&Offer) -> Result<Handshake, HandshakeError>,
    ) -> Result<Passed, Failed> {
        let asking = asking.as_ref().map_err(|error| Failed::Roots(error.to_string()))?;
        let handshake = match shake(asking).await {
            Ok(handshake) => handshake,
            Err(HandshakeError::WantsClientCertificate { verdict: Verdict::Refused(error), .. }) => {
                return Err(Failed::Untrusted { error: error.to_string(), certificate: None });
            }
            Err(error) if error.is_about_the_offer(self.name) => {
                return Ok(Passed { rejected: Some(error.to_string()), ..Passed::default() });
            }
            Err(error) => return Err(Failed::Handshake(error)),
        };
        let certificate = handshake.leaf.as_ref().ok().map(shown);
        let late = handshake.late_alert.filter(|_| handshake.asked_for_client_certificate);
        let rejected = late.map(|alert| format!("requires a client certificate: alert {alert}"));
        match handshake.verdict {
            Verdict::NotAsked | Verdict::Verified => Ok(Passed { certificate, rejected, confirmation: None }),
            Verdict::Refused(error) => Err(Failed::Untrusted { error: error.to_string(), certificate }),
        }
    }
}

fn shown(certificate: &Certificate) -> Shown {
    Shown { names: certificate.names.clone(), not_after: certificate.not_after }
}

fn roots(check: &HealthCheck) -> Result<Option<Roots>, RootsError> {
    match &*check.ca_file {
        _ if !check.verify => Ok(None),
        Some(file) => Roots::from_file(&file.0).map(Some),
        None => Roots::of_the_system().map(Some),
    }
}

impl Failed {
    pub(super) fn result(&self) -> CheckResult {
        match self {
            Self::Connect(_) | Self::Handshake(HandshakeError::Io(_)) => CheckResult::Connect,
            Self::Starttls(StarttlsError::Io(_)) => CheckResult::Connect,
            Self::Handshake(_) | Self::Starttls(_) => CheckResult::Tls,
            Self::Untrusted { .. } | Self::Roots(_) => CheckResult::Certificate,
            Self::Answer(_) => CheckResult::Answer,
        }
    }

    pub(super) fn certificate(&self) -> Option<Shown> {
        match self {
            Self::Untrusted { certificate, .. } => certificate.clone(),
            _ => None,
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Starttls(error) => error.fmt(f),
            Self::Handshake(error) => error.fmt(f),
            Self::Untrusted { error, .. } => write!(f, "the certificate is not trusted: {error}"),
            Self::Roots(error) => write!(f, "cannot load the CA certificates: {error}"),
            Self::Answer(error) => error.fmt(f),
        }
    }
}
