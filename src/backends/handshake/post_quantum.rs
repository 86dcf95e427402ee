//! X25519MLKEM768, the key exchange that browsers offer first. Its key share makes a hello larger than one packet.
//!
//! Out: [`X25519MLKEM768`], for a client; rustls has it only in a crypto provider that we do not use.
//! Source: draft-ietf-tls-ecdhe-mlkem (shares and secrets, ML-KEM's before X25519's), FIPS 203 (ML-KEM).
//!
//! ```text
//! client share:  ML-KEM encapsulation key (1184 bytes) | X25519 public key (32)
//! backend share: ML-KEM ciphertext        (1088 bytes) | X25519 public key (32)
//! ```

use ml_kem::ml_kem_768::DecapsulationKey;
use ml_kem::{Decapsulate, KeyExport, Seed};
use rustls::crypto::ring::kx_group::X25519;
use rustls::crypto::{ActiveKeyExchange, GetRandomFailed, SharedSecret, SupportedKxGroup};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::{Error, NamedGroup, PeerMisbehaved, ProtocolVersion};

pub(super) static X25519MLKEM768: &dyn SupportedKxGroup = &Hybrid;

#[derive(Debug)]
struct Hybrid;

impl SupportedKxGroup for Hybrid {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut seed = Seed::default();
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut seed).map_err(|_| GetRandomFailed)?;
        let post_quantum = DecapsulationKey::from_seed(seed);
        let classical = X25519.start()?;
        let mut share = post_quantum.encapsulation_key().to_bytes().to_vec();
        share.extend(classical.pub_key());
        Ok(Box::new(Started { post_quantum, classical, share }))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        version == ProtocolVersion::TLSv1_3
    }
}

struct Started {
    post_quantum: DecapsulationKey,
    classical: Box<dyn ActiveKeyExchange>,
    share: Vec<u8>,
}

impl ActiveKeyExchange for Started {
    fn complete(self: Box<Self>, share: &[u8]) -> Result<SharedSecret, Error> {
        let wrong = || Error::from(PeerMisbehaved::InvalidKeyShare);
        let (ciphertext, public_key) = share.split_at_checked(CIPHERTEXT_BYTES).ok_or_else(wrong)?;
        let mut secret = self.post_quantum.decapsulate_slice(ciphertext).map_err(|_| wrong())?.to_vec();
        secret.extend(self.classical.complete(public_key)?.secret_bytes());
        Ok(SharedSecret::from(secret))
    }

    /// Offers a plain X25519 share as well, as browsers do, so that a backend without ML-KEM needs no
    /// HelloRetryRequest.
    fn hybrid_component(&self) -> Option<(NamedGroup, &[u8])> {
        Some((self.classical.group(), self.classical.pub_key()))
    }

    fn complete_hybrid_component(self: Box<Self>, share: &[u8]) -> Result<SharedSecret, Error> {
        self.classical.complete(share)
    }

    fn pub_key(&self) -> &[u8] {
        &self.share
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

const CIPHERTEXT_BYTES: usize = 1088;
