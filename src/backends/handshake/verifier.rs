//! Verifies a backend's certificates without ending the handshake, and records the result.
//!
//! In:  the certificates and signatures passed by rustls, the roots to trust.
//! Out: [`Verdict`].
//! Source: RFC 5280 §6 (by webpki), RFC 9525 §6 (the name).

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate::Certificate;
use crate::config::{self, FileError};

/// What a client that trusts these roots would do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Not verified: there are no roots.
    NotAsked,
    /// Continue: chain, validity period and signature are valid, and so is the name if one was sent.
    Verified,
    /// Abort. The chain is verified before the name, so a name error implies a valid chain.
    Refused(Error),
}

/// The trusted root certificates.
#[derive(Clone)]
pub(crate) struct Roots {
    store: Arc<RootCertStore>,
    /// The same, for backends whose own certificate is among them.
    certificates: Arc<HashSet<CertificateDer<'static>>>,
}

/// Why the roots could not be loaded.
#[derive(Debug)]
pub(crate) enum RootsError {
    Unreadable(FileError),
    /// The file is not valid PEM.
    Pem(pem::Error),
    /// No usable certificate was found.
    None,
}

impl Roots {
    /// Takes the certificates that are usable as roots.
    ///
    /// # Errors
    /// [`RootsError::None`] if none is usable.
    pub(crate) fn new(certificates: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<Self, RootsError> {
        let mut store = RootCertStore::empty();
        let certificates: HashSet<_> = certificates.into_iter().collect();
        match store.add_parsable_certificates(certificates.iter().cloned()) {
            (0, _) => Err(RootsError::None),
            _ => Ok(Self { store: Arc::new(store), certificates: Arc::new(certificates) }),
        }
    }

    /// Reads them from a PEM file.
    ///
    /// # Errors
    /// [`RootsError`].
    pub(crate) fn from_file(file: &Path) -> Result<Self, RootsError> {
        let bytes = config::read_file(file, MOST_BYTES).map_err(RootsError::Unreadable)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        Self::new(certificates.map_err(RootsError::Pem)?)
    }

    /// Loads the system's trusted roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` override the location).
    ///
    /// # Errors
    /// [`RootsError::None`] if there are none.
    pub(crate) fn of_the_system() -> Result<Self, RootsError> {
        Self::new(rustls_native_certs::load_native_certs().certs)
    }
}

/// Records what the rustls callbacks see during the handshake.
#[derive(Debug, Default)]
pub(super) struct CertificateObserver {
    /// Set once, by the first error.
    fault: OnceLock<Error>,
    judged: AtomicBool,
    asked_for_a_certificate: AtomicBool,
}

impl CertificateObserver {
    pub(super) fn verdict(&self) -> Verdict {
        match self.fault.get() {
            Some(fault) => Verdict::Refused(fault.clone()),
            None if self.judged.load(Ordering::Relaxed) => Verdict::Verified,
            None => Verdict::NotAsked,
        }
    }

    pub(super) fn was_asked_for_a_certificate(&self) -> bool {
        self.asked_for_a_certificate.load(Ordering::Relaxed)
    }

    /// Records only the first error: later ones follow from it.
    fn note(&self, judgement: Result<(), Error>) {
        if let Err(fault) = judgement {
            let _ = self.fault.set(fault);
        }
    }
}

/// Offers no client certificate, and records that one was requested.
impl ResolvesClientCert for CertificateObserver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked_for_a_certificate.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Whether the certificate must be valid for the server name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameCheck {
    Required,
    /// No server name was sent.
    Skipped,
}

pub(super) struct Verifier {
    roots: Option<Roots>,
    name_check: NameCheck,
    algorithms: WebPkiSupportedAlgorithms,
    observer: Arc<CertificateObserver>,
}

impl Verifier {
    pub(super) fn new(
        roots: Option<Roots>,
        name_check: NameCheck,
        provider: &CryptoProvider,
        observer: Arc<CertificateObserver>,
    ) -> Self {
        Self { roots, name_check, algorithms: provider.signature_verification_algorithms, observer }
    }

    fn judge(
        &self,
        roots: &Roots,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let trusted_itself = roots.certificates.contains(leaf);
        if trusted_itself {
            check_dates(leaf, now)?;
        }
        let leaf = ParsedCertificate::try_from(leaf)?;
        // As in OpenSSL and curl, a certificate that is itself trusted needs no chain, even if it is a CA's.
        if !trusted_itself {
            verify_server_cert_signed_by_trust_anchor(&leaf, &roots.store, intermediates, now, self.algorithms.all)?;
        }
        match self.name_check {
            NameCheck::Required => verify_server_name(&leaf, name),
            NameCheck::Skipped => Ok(()),
        }
    }
}

fn check_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let Ok(certificate) = Certificate::read(certificate) else { return Err(CertificateError::BadEncoding.into()) };
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    match () {
        () if now > certificate.not_after => Err(CertificateError::Expired.into()),
        () if now < certificate.not_before => Err(CertificateError::NotValidYet.into()),
        () => Ok(()),
    }
}

/// Accepts everything, so that the handshake completes; the verdict is recorded in the observer.
impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            self.observer.judged.store(true, Ordering::Relaxed);
            self.observer.note(self.judge(roots, leaf, intermediates, name, now));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.roots.is_some() {
            self.observer.note(verify_tls12_signature(message, leaf, signed, &self.algorithms).map(drop));
        }
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.roots.is_some() {
            self.observer.note(verify_tls13_signature(message, leaf, signed, &self.algorithms).map(drop));
        }
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("roots", &self.roots).finish_non_exhaustive()
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({})", self.store.len())
    }
}

impl fmt::Display for RootsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::Pem(error) => error.fmt(f),
            Self::None => f.write_str("no trusted certificate is available"),
        }
    }
}

impl std::error::Error for RootsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(error) => Some(error),
            Self::Pem(error) => Some(error),
            Self::None => None,
        }
    }
}

/// Far more than the certificates of all public CAs take.
const MOST_BYTES: u64 = 16 << 20;
