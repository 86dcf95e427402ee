//! Reads and writes the configurations that clients find in DNS.
//!
//! In:  an `ECHConfigList`, or the parts of one configuration.
//! Out: [`Config`]s, with their bytes as they were sent; or what is wrong.
//! Source: RFC 9849 §4.

use std::fmt;

use super::walk::{u8_prefixed, u16_of, u16_prefixed};
use crate::server_name::Sni;

/// An `ECHConfig` of the version and the KEM that are supported here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// As serialized: it is part of what the client has sealed its hello with.
    pub bytes: Box<[u8]>,
    pub id: u8,
    pub public_key: Box<[u8]>,
    /// In the order of the configuration, also those that are not supported here.
    pub suites: Box<[Suite]>,
    /// The length to which clients pad the server name.
    pub maximum_name_length: u8,
    pub public_name: Box<str>,
}

/// `HpkeSymmetricCipherSuite`: numbers of RFC 9180 §7.2 and §7.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    pub kdf: u16,
    pub aead: u16,
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// A length field does not fit; the text says which.
    Malformed(&'static str),
    /// Another version than 0xfe0d.
    Version(u16),
    /// Another KEM than DHKEM(X25519, HKDF-SHA256).
    Kem(u16),
    /// No cipher suite that is supported here.
    NoSuite,
    /// Not a DNS name.
    PublicName(Box<str>),
}

/// Reads an `ECHConfigList`. Each configuration of it is usable or not.
///
/// # Errors
/// The list is malformed: nothing in it can be trusted.
pub(super) fn read_list(bytes: &[u8]) -> Result<Vec<Result<Config, ConfigError>>, ConfigError> {
    const BROKEN: ConfigError = ConfigError::Malformed("the length of the list");
    let (mut list, rest) = u16_prefixed(bytes).ok_or(BROKEN)?;
    if !rest.is_empty() || list.is_empty() {
        return Err(BROKEN);
    }
    let mut configs = Vec::new();
    while !list.is_empty() {
        const BROKEN: ConfigError = ConfigError::Malformed("the length of a configuration");
        let (version, rest) = u16_of(list).ok_or(BROKEN)?;
        let (contents, rest) = u16_prefixed(rest).ok_or(BROKEN)?;
        let whole = &list[..list.len() - rest.len()];
        configs.push(if version == VERSION {
            Config::read(whole, contents)
        } else {
            Err(ConfigError::Version(version))
        });
        list = rest;
    }
    Ok(configs)
}

/// The `ECHConfigList` of these configurations.
///
/// # Errors
/// They are longer than a list can be.
pub(crate) fn encode_list<'a>(configs: impl IntoIterator<Item = &'a Config>) -> Result<Vec<u8>, ListTooLong> {
    let configs: Vec<u8> = configs.into_iter().flat_map(|config| &config.bytes).copied().collect();
    let length = u16::try_from(configs.len()).map_err(|_| ListTooLong)?;
    Ok([&length.to_be_bytes()[..], &configs].concat())
}

/// An `ECHConfigList` has at most 65,535 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListTooLong;

impl Config {
    fn read(whole: &[u8], contents: &[u8]) -> Result<Self, ConfigError> {
        const BROKEN: fn() -> ConfigError = || ConfigError::Malformed("a field of a configuration");
        let (&id, rest) = contents.split_first().ok_or_else(BROKEN)?;
        let (kem, rest) = u16_of(rest).ok_or_else(BROKEN)?;
        let (public_key, rest) = u16_prefixed(rest).ok_or_else(BROKEN)?;
        let (suites, rest) = u16_prefixed(rest).ok_or_else(BROKEN)?;
        let (&maximum_name_length, rest) = rest.split_first().ok_or_else(BROKEN)?;
        let (name, rest) = u8_prefixed(rest).ok_or_else(BROKEN)?;
        let (mut extensions, rest) = u16_prefixed(rest).ok_or_else(BROKEN)?;
        while !extensions.is_empty() {
            let (_, after) = u16_of(extensions).ok_or_else(BROKEN)?;
            (_, extensions) = u16_prefixed(after).ok_or_else(BROKEN)?;
        }
        if !rest.is_empty() || suites.is_empty() || !suites.len().is_multiple_of(4) {
            return Err(BROKEN());
        }
        if kem != X25519_HKDF_SHA256 {
            return Err(ConfigError::Kem(kem));
        }
        if public_key.len() != X25519_BYTES {
            return Err(ConfigError::Malformed("a public key that does not have 32 bytes"));
        }
        let suites: Box<[Suite]> = suites.chunks_exact(4).map(Suite::of).collect();
        if !suites.iter().any(|suite| suite.is_supported()) {
            return Err(ConfigError::NoSuite);
        }
        let public_name = match Sni::from_wire(name) {
            Ok(Sni::Name(name)) => name.as_str().into(),
            _ => return Err(ConfigError::PublicName(name.escape_ascii().to_string().into())),
        };
        Ok(Self { bytes: whole.into(), id, public_key: public_key.into(), suites, maximum_name_length, public_name })
    }

    /// A configuration with all suites that are supported here. `public_name` is at most 253 bytes long, as every
    /// [`crate::server_name::ServerName`].
    pub(super) fn new(id: u8, public_key: &[u8], maximum_name_length: u8, public_name: &str) -> Self {
        let suites = [AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305].map(|aead| Suite { kdf: HKDF_SHA256, aead });
        let mut contents = vec![id];
        contents.extend_from_slice(&X25519_HKDF_SHA256.to_be_bytes());
        contents.extend_from_slice(&length16(public_key.len()));
        contents.extend_from_slice(public_key);
        contents.extend_from_slice(&length16(suites.len() * 4));
        for Suite { kdf, aead } in suites {
            contents.extend([kdf.to_be_bytes(), aead.to_be_bytes()].concat());
        }
        contents.push(maximum_name_length);
        contents.push(u8::try_from(public_name.len()).expect("a name is at most 253 bytes long"));
        contents.extend_from_slice(public_name.as_bytes());
        contents.extend_from_slice(&length16(0));
        let bytes = [&VERSION.to_be_bytes()[..], &length16(contents.len()), &contents].concat().into();
        let (public_key, public_name) = (public_key.into(), public_name.into());
        Self { bytes, id, public_key, suites: suites.into(), maximum_name_length, public_name }
    }
}

impl Suite {
    fn of(bytes: &[u8]) -> Self {
        Self { kdf: u16::from_be_bytes([bytes[0], bytes[1]]), aead: u16::from_be_bytes([bytes[2], bytes[3]]) }
    }

    /// Whether an inner hello that is sealed with it can be opened here.
    pub(crate) fn is_supported(self) -> bool {
        self.kdf == HKDF_SHA256 && matches!(self.aead, AES_128_GCM | AES_256_GCM | CHACHA20_POLY1305)
    }
}

fn length16(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("a configuration made here is short").to_be_bytes()
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kdf {
            HKDF_SHA256 => f.write_str("HKDF-SHA256")?,
            0x0002 => f.write_str("HKDF-SHA384")?,
            0x0003 => f.write_str("HKDF-SHA512")?,
            kdf => write!(f, "KDF 0x{kdf:04x}")?,
        }
        match self.aead {
            AES_128_GCM => f.write_str("/AES-128-GCM"),
            AES_256_GCM => f.write_str("/AES-256-GCM"),
            CHACHA20_POLY1305 => f.write_str("/ChaCha20Poly1305"),
            aead => write!(f, "/AEAD 0x{aead:04x}"),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(place) => write!(f, "malformed: {place}"),
            Self::Version(version) => write!(f, "version 0x{version:04x}; only 0xfe0d (RFC 9849) is supported"),
            Self::Kem(kem) => {
                write!(f, "KEM 0x{kem:04x}; only 0x0020, DHKEM(X25519, HKDF-SHA256), is supported")
            }
            Self::NoSuite => f.write_str(
                "no supported cipher suite; HKDF-SHA256 with AES-128-GCM, AES-256-GCM or ChaCha20Poly1305 is needed",
            ),
            Self::PublicName(name) => write!(f, "`{name}` is not a valid public name"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// <https://www.iana.org/assignments/hpke>
pub(super) const X25519_HKDF_SHA256: u16 = 0x0020;
pub(super) const HKDF_SHA256: u16 = 0x0001;
pub(super) const AES_128_GCM: u16 = 0x0001;
pub(super) const AES_256_GCM: u16 = 0x0002;
pub(super) const CHACHA20_POLY1305: u16 = 0x0003;
pub(super) const X25519_BYTES: usize = 32;
/// RFC 9849 §4.
const VERSION: u16 = 0xfe0d;
