//! HPKE by rustls and aws-lc, with DHKEM(X25519, HKDF-SHA256) and HKDF-SHA256.

use std::fmt;

use rustls::crypto::aws_lc_rs::hpke::{
    DH_KEM_X25519_HKDF_SHA256_AES_128, DH_KEM_X25519_HKDF_SHA256_AES_256, DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305,
};
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkeOpener, HpkePrivateKey, HpkePublicKey};

use crate::ech::config::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, HKDF_SHA256, Suite, X25519_BYTES};

/// An X25519 key; wiped when dropped.
pub(crate) struct PrivateKey(HpkePrivateKey);

/// The state that client and server share: the next message it opens is the one after the last that it opened.
pub(crate) struct Context(Box<dyn HpkeOpener>);

impl PrivateKey {
    /// `None`: this build opens nothing.
    pub(crate) fn new(bytes: [u8; X25519_BYTES]) -> Option<Self> {
        Some(Self(HpkePrivateKey::from(bytes.to_vec())))
    }

    /// A new key and its public key; `None` if there is no randomness.
    pub(crate) fn generate() -> Option<(Self, Vec<u8>)> {
        let (public, private) = DH_KEM_X25519_HKDF_SHA256_AES_128.generate_key_pair().ok()?;
        Some((Self(private), public.0))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.secret_bytes()
    }

    /// Whether it opens what is sealed for `public_key`.
    pub(crate) fn fits(&self, public_key: &[u8]) -> bool {
        let hpke = DH_KEM_X25519_HKDF_SHA256_AES_128;
        let sealed = hpke.seal(b"", b"", b"a message", &HpkePublicKey(public_key.to_vec()));
        sealed.is_ok_and(|(enc, sealed)| hpke.open(&enc, b"", b"", &sealed, &self.0).is_ok())
    }

    /// `None`: the suite is not supported, or `enc` is not a valid encapsulated key.
    pub(crate) fn context(&self, suite: Suite, enc: &[u8], info: &[u8]) -> Option<Context> {
        let hpke: &dyn Hpke = match (suite.kdf, suite.aead) {
            (HKDF_SHA256, AES_128_GCM) => DH_KEM_X25519_HKDF_SHA256_AES_128,
            (HKDF_SHA256, AES_256_GCM) => DH_KEM_X25519_HKDF_SHA256_AES_256,
            (HKDF_SHA256, CHACHA20_POLY1305) => DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305,
            _ => return None,
        };
        if enc.len() != X25519_BYTES {
            return None;
        }
        hpke.setup_opener(&EncapsulatedSecret(enc.to_vec()), info, &self.0).ok().map(Context)
    }
}

impl Context {
    /// Opens the next message; one that does not open is not counted.
    pub(crate) fn open(&mut self, authenticated: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.0.open(authenticated, sealed).ok()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").finish_non_exhaustive()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER.decode(text.as_bytes()).expect("hexadecimal")
    }

    /// The first two messages of RFC 9180 A.1.1 (AES-128-GCM) and A.2.1 (ChaCha20Poly1305).
    #[test]
    fn the_vectors_of_the_rfc_are_opened() {
        let vectors = [
            (
                AES_128_GCM,
                "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8",
                "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431",
                [
                    "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a",
                    "af2d7e9ac9ae7e270f46ba1f975be53c09f8d875bdc8535458c2494e8a6eab251c03d0c22a56b8ca42c2063b84",
                ],
            ),
            (
                CHACHA20_POLY1305,
                "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb",
                "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a",
                [
                    "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28",
                    "6b53c051e4199c518de79594e1c4ab18b96f081549d45ce015be002090bb119e85285337cc95ba5f59992dc98c",
                ],
            ),
        ];
        for (aead, private, enc, sealed) in vectors {
            let key = PrivateKey::new(hex(private).try_into().expect("32 bytes")).expect("a key");
            let suite = Suite { kdf: HKDF_SHA256, aead };
            let mut context = key.context(suite, &hex(enc), b"Ode on a Grecian Urn").expect("a context");
            for (count, sealed) in sealed.iter().enumerate() {
                let authenticated = format!("Count-{count}");
                assert_eq!(context.open(b"something else", &hex(sealed)), None);
                let opened = context.open(authenticated.as_bytes(), &hex(sealed));
                assert_eq!(opened.as_deref(), Some(&b"Beauty is truth, truth beauty"[..]));
            }
        }
    }

    #[test]
    fn an_encapsulated_key_that_is_not_one_opens_nothing() {
        let (key, public) = PrivateKey::generate().expect("randomness");
        let suite = Suite { kdf: HKDF_SHA256, aead: AES_128_GCM };
        for enc in [&[][..], &[9; 31], &[9; 33], &[0; 32]] {
            assert!(key.context(suite, enc, b"").is_none(), "{enc:?}");
        }
        assert!(key.fits(&public) && !key.fits(&[9; 32]) && !key.fits(&[0; 32]) && !key.fits(&[]));
    }
}
