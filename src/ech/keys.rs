//! The keys that open inner hellos, as their files hold them.
//!
//! In:  the content of key files: a private key in PKCS#8, then an `ECHConfigList`, both in PEM.
//! Out: [`Keys`]; or what is wrong with a file. New keys in the same form.
//! Source: RFC 9934 §3 (the file), RFC 8410 §7 (the private key), RFC 9849 §7.1 (which keys are tried).

use std::fmt;
use std::sync::Arc;

use data_encoding::BASE64;
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use zeroize::{Zeroize, Zeroizing};

use super::config::{Config, ConfigError, X25519_BYTES, encode_list, read_list};
use super::hpke::{Context, PrivateKey};
use super::sealed::Sealed;

/// The keys in force, the one that clients should use first.
#[derive(Debug, Default, PartialEq)]
pub struct Keys {
    keys: Vec<Arc<Key>>,
    /// Try each key on each hello, also those with another id.
    try_all: bool,
    /// Refuse a hello whose outer name is not the public name of the key that opens it.
    check_public_name: bool,
}

/// A private key with one of its configurations.
pub struct Key {
    /// The name of its file.
    pub file: Box<str>,
    /// What clients know of it.
    pub config: Config,
    /// What its hellos are bound to.
    info: Box<[u8]>,
    private: Arc<PrivateKey>,
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct KeyFile {
    pub keys: Vec<Arc<Key>>,
    /// Configurations in it that cannot be used.
    pub skipped: Vec<KeyFileError>,
}

/// A key that was just made.
pub struct NewKey {
    pub config: Config,
    /// The content of its file.
    pub pem: Zeroizing<String>,
}

/// Why a key file, or one of its configurations, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFileError {
    /// It cannot be read as PEM; the text says why.
    Pem(Box<str>),
    /// It has no private key.
    NoPrivateKey,
    /// It has more than one.
    TwoPrivateKeys,
    /// The private key is not an X25519 key in PKCS#8.
    NotX25519,
    /// It has no list of configurations.
    NoConfig,
    /// The list or a configuration in it cannot be used.
    Config(ConfigError),
    /// The configuration with this id has the public key of another private key.
    OtherKey {
        /// Its config_id.
        id: u8,
    },
    /// This build cannot use any key.
    Unsupported,
}

impl Keys {
    /// Keys to use, the one that clients should use first before the others.
    pub fn new(keys: Vec<Arc<Key>>, try_all: bool, check_public_name: bool) -> Self {
        Self { keys, try_all, check_public_name }
    }

    /// In the order in which they are published.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Key>> {
        self.keys.iter()
    }

    /// The keys that may open `sealed`.
    pub(super) fn candidates(&self, sealed: &Sealed<'_>) -> impl Iterator<Item = &Arc<Key>> {
        let (id, suite) = (sealed.config_id, sealed.suite);
        self.keys
            .iter()
            .filter(move |key| (self.try_all || key.config.id == id) && key.config.suites.contains(&suite))
            .filter(move |_| suite.is_supported())
    }

    /// Whether a hello with this name may be opened by `key`.
    pub(super) fn takes_public_name(&self, key: &Key, name: Option<&str>) -> bool {
        !self.check_public_name || name == Some(&*key.config.public_name)
    }
}

impl Key {
    pub(super) fn context(&self, sealed: &Sealed<'_>) -> Option<Context> {
        self.private.context(sealed.suite, sealed.enc, &self.info)
    }
}

/// Reads a key file. `name` is how the log and the metrics call it.
///
/// # Errors
/// [`KeyFileError`], if nothing in it can be used.
pub fn read_key_file(name: &str, pem: &[u8]) -> Result<KeyFile, KeyFileError> {
    let (private, list) = sections(pem)?;
    let private = Arc::new(x25519(&private)?);
    let mut read = KeyFile::default();
    for config in read_list(&list).map_err(KeyFileError::Config)? {
        match config {
            Ok(config) if private.fits(&config.public_key) => {
                let info = [INFO, &config.bytes].concat().into();
                read.keys.push(Arc::new(Key { file: name.into(), config, info, private: Arc::clone(&private) }));
            }
            Ok(Config { id, .. }) => read.skipped.push(KeyFileError::OtherKey { id }),
            Err(error) => read.skipped.push(KeyFileError::Config(error)),
        }
    }
    Ok(read)
}

/// The private key and the first list of configurations. What follows that list is not looked at, apart from a second
/// private key: the file may be two that were joined by mistake.
fn sections(file: &[u8]) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), KeyFileError> {
    let (mut private, mut list) = (None, None);
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(file) {
        let (kind, content) = section.map_err(|error| KeyFileError::Pem(pem_error(&error).into()))?;
        match kind {
            SectionKind::PrivateKey if private.is_some() => return Err(KeyFileError::TwoPrivateKeys),
            SectionKind::PrivateKey => private = Some(Zeroizing::new(content)),
            SectionKind::EchConfigList => list = list.or(Some(content)),
            _ => {}
        }
    }
    let private = private.ok_or(KeyFileError::NoPrivateKey)?;
    Ok((private, list.ok_or(KeyFileError::NoConfig)?))
}

/// Reads `OneAsymmetricKey` of RFC 5958 with the algorithm of RFC 8410. A public key or attributes may follow.
fn x25519(der: &[u8]) -> Result<PrivateKey, KeyFileError> {
    let key = || -> Option<[u8; X25519_BYTES]> {
        let (&[SEQUENCE, length], fields) = der.split_first_chunk()? else { return None };
        if usize::from(length) != fields.len() || fields.len() > MAX_SHORT_LENGTH {
            return None;
        }
        let (&version, fields) = fields.split_first_chunk()?;
        let rest = fields.strip_prefix(X25519_KEY)?;
        matches!(version, VERSION_1 | VERSION_2).then(|| rest.first_chunk().copied())?
    };
    let mut bytes = key().ok_or(KeyFileError::NotX25519)?;
    let key = PrivateKey::new(bytes);
    bytes.zeroize();
    key.ok_or(KeyFileError::Unsupported)
}

/// Makes a key. Clients pad names to `maximum_name_length`.
///
/// # Errors
/// [`KeyFileError::Unsupported`]
pub fn generate(id: u8, maximum_name_length: u8, public_name: &str) -> Result<NewKey, KeyFileError> {
    let (private, public) = PrivateKey::generate().ok_or(KeyFileError::Unsupported)?;
    let config = Config::new(id, &public, maximum_name_length, public_name);
    let list = encode_list([&config]).expect("one configuration fits into a list");
    let length = u8::try_from(VERSION_1.len() + X25519_KEY.len() + X25519_BYTES).expect("48 bytes");
    let der = Zeroizing::new([&[SEQUENCE, length], &VERSION_1[..], X25519_KEY, private.bytes()].concat());
    let mut pem = Zeroizing::new(String::with_capacity(1024));
    section(&mut pem, "PRIVATE KEY", &der);
    section(&mut pem, "ECHCONFIG", &list);
    Ok(NewKey { config, pem })
}

/// Appends a section in PEM (RFC 7468 §2).
fn section(pem: &mut String, label: &str, content: &[u8]) {
    let text = Zeroizing::new(BASE64.encode(content));
    pem.push_str(&format!("-----BEGIN {label}-----\n"));
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|&byte| char::from(byte)));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
}

/// Without the lines of the file: they may be those of the key.
fn pem_error(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no END line; the file may be half written",
        pem::Error::IllegalSectionStart { .. } => "a malformed BEGIN line",
        pem::Error::Base64Decode(_) => "a section is not base64; the file may be half written",
        _ => "it cannot be read as PEM",
    }
}

/// A configuration belongs to one private key.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file && self.config == other.config
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("file", &self.file).field("config", &self.config).finish_non_exhaustive()
    }
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem(what) => f.write_str(what),
            Self::NoPrivateKey => f.write_str("no PRIVATE KEY section"),
            Self::TwoPrivateKeys => f.write_str("more than one PRIVATE KEY section; write one file for each key"),
            Self::NotX25519 => f.write_str("the private key is not an X25519 key in PKCS#8"),
            Self::NoConfig => f.write_str("no ECHCONFIG section; the file may be half written"),
            Self::Config(error) => write!(f, "a configuration cannot be used: {error}"),
            Self::OtherKey { id } => {
                write!(f, "the configuration with config_id {id} does not belong to the private key of the file")
            }
            Self::Unsupported => f.write_str("this snigate was built without the cargo feature `ech`"),
        }
    }
}

impl std::error::Error for KeyFileError {}

/// RFC 9849 §6.1.
const INFO: &[u8] = b"tls ech\0";
const SEQUENCE: u8 = 0x30;
const MAX_SHORT_LENGTH: usize = 127;
const VERSION_1: [u8; 3] = [2, 1, 0];
const VERSION_2: [u8; 3] = [2, 1, 1];
/// The algorithm, then the headers of the key: an OCTET STRING in an OCTET STRING.
const X25519_KEY: &[u8] = &[0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 4, 0x22, 4, 0x20];
