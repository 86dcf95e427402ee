//! Parses the fields of a certificate that operators need, and matches names against it.
//!
//! In:  DER.
//! Out: [`Certificate`], or [`Unreadable`].
//! Source: RFC 5280 §4 (the certificate), RFC 9525 §6.3 (which names it covers).

use std::fmt;
use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// DNS names from subjectAltName, verbatim, including wildcards.
    pub names: Vec<String>,
    /// IP addresses from subjectAltName.
    pub addresses: Vec<IpAddr>,
    /// The subject's common name, set only without a subjectAltName; clients no longer match it against the server
    /// name.
    pub common_name: Option<String>,
    /// Seconds since 1970, both inclusive.
    pub not_before: i64,
    pub not_after: i64,
    /// Untrusted, since the backend chose the certificate: escape it before display.
    pub issuer: String,
    pub subject: String,
    /// Issuer and subject are the same.
    pub self_signed: bool,
    /// It may sign others (basicConstraints).
    pub is_ca: bool,
    /// SHA-256 of the DER.
    pub fingerprint: [u8; 32],
}

/// The bytes are not a valid certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

impl Certificate {
    /// Parses one certificate.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Self, Unreadable> {
        let (_, read) = parse_x509_certificate(der).map_err(|_| Unreadable)?;
        let alternatives = read.subject_alternative_name().map_err(|_| Unreadable)?;
        let general_names = alternatives.as_ref().map_or(&[][..], |found| &found.value.general_names);
        let common_name = || Some(read.subject().iter_common_name().next()?.as_str().ok()?.to_owned());
        Ok(Self {
            names: general_names.iter().filter_map(dns_name).collect(),
            addresses: general_names.iter().filter_map(address).collect(),
            common_name: if alternatives.is_none() { common_name() } else { None },
            not_before: read.validity().not_before.timestamp(),
            not_after: read.validity().not_after.timestamp(),
            issuer: read.issuer().to_string(),
            subject: read.subject().to_string(),
            self_signed: read.issuer().as_raw() == read.subject().as_raw(),
            is_ca: read.is_ca(),
            fingerprint: sha256(der),
        })
    }

    /// Whether the certificate is valid for `name`, a DNS name or an IP address.
    pub(crate) fn covers(&self, name: &str) -> bool {
        match name.parse::<IpAddr>() {
            Ok(address) => self.addresses.contains(&address),
            Err(_) => self.names.iter().any(|presented| covers(presented, name)),
        }
    }
}

/// Whether `presented`, a name in a certificate, matches `name`: equal ignoring case, or with a wildcard as first
/// label.
///
/// A wildcard is the whole first label and matches exactly one label (RFC 9525 §6.3). As in OpenSSL and webpki, at
/// least two labels must follow it.
fn covers(presented: &str, name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let Some(suffix) = presented.strip_prefix("*.") else {
        return !name.is_empty() && presented.eq_ignore_ascii_case(name);
    };
    let Some((label, rest)) = name.split_once('.') else { return false };
    !label.is_empty() && suffix.contains('.') && suffix.eq_ignore_ascii_case(rest)
}

fn dns_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    }
}

fn address(name: &GeneralName<'_>) -> Option<IpAddr> {
    let GeneralName::IPAddress(octets) = name else { return None };
    let v4 = <[u8; 4]>::try_from(*octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from)).ok()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 is 32 bytes")
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the certificate cannot be read")
    }
}

impl std::error::Error for Unreadable {}
