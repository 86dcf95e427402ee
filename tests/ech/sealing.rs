//! Clients that seal what they are given, right or wrong. Not the code under test: HPKE is rustls', the rest is written here.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::hpke::{
    DH_KEM_X25519_HKDF_SHA256_AES_128, DH_KEM_X25519_HKDF_SHA256_AES_256, DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305,
};
use rustls::crypto::hpke::{Hpke, HpkePublicKey};
use snigate::internals::ech::{Inner, Key, Keys, Opened, generate, open, read_key_file};
use snigate::internals::{ClientHello, Hello, parse};

pub const PUBLIC: &str = "public.example";
pub const INNER: &str = "secret.example";
pub const LIMIT: usize = 64 << 10;

/// A new key with this id.
pub fn key(id: u8) -> Arc<Key> {
    let pem = generate(id, 64, PUBLIC).expect("randomness").pem;
    read_key_file("new.pem", pem.as_bytes()).expect("a key").keys.remove(0)
}

pub fn keys(of: &[&Arc<Key>]) -> Keys {
    Keys::new(of.iter().map(|&key| Arc::clone(key)).collect(), false, false)
}

/// The hello at the beginning of `wire`.
pub fn read(wire: &[u8]) -> ClientHello {
    match parse(wire, 1 << 20) {
        Ok(Hello::Whole(hello)) => hello,
        other => panic!("not whole: {other:?}"),
    }
}

pub fn accepted(wire: &[u8], keys: &Keys) -> Box<Inner> {
    match open(wire, &read(wire), keys, LIMIT) {
        Ok(Opened::Inner(inner)) => inner,
        other => panic!("not opened: {other:?}"),
    }
}

/// Seals hellos for a configuration.
pub struct Client<'a> {
    pub config: &'a [u8],
    pub public_key: &'a [u8],
    pub id: u8,
    pub aead: u16,
    /// The extensions of the outer hello before the sealed one.
    pub outer: Vec<u8>,
    pub session_id: Vec<u8>,
}

impl<'a> Client<'a> {
    pub fn of(key: &'a Key) -> Self {
        let (config, public_key) = (&*key.config.bytes, &*key.config.public_key);
        let outer = [sni(PUBLIC), versions(&[0x0304, 0x0303]), shared()].concat();
        Self { config, public_key, id: key.config.id, aead: 1, outer, session_id: vec![7; 32] }
    }

    /// The outer hello in one record, with `encoded` sealed in it.
    pub fn seal(&self, encoded: &[u8]) -> Vec<u8> {
        let hpke: &dyn Hpke = match self.aead {
            1 => DH_KEM_X25519_HKDF_SHA256_AES_128,
            2 => DH_KEM_X25519_HKDF_SHA256_AES_256,
            _ => DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305,
        };
        let info = [b"tls ech\0", self.config].concat();
        let (enc, mut sealer) = hpke.setup_sealer(&info, &HpkePublicKey(self.public_key.to_vec())).expect("a key");
        let authenticated = self.body(&enc.0, &vec![0; encoded.len() + 16]);
        let payload = sealer.seal(&authenticated, encoded).expect("sealed");
        record(&message(&self.body(&enc.0, &payload)))
    }

    fn body(&self, enc: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut sealed = vec![0, 0, 1];
        sealed.extend(self.aead.to_be_bytes());
        sealed.push(self.id);
        sealed.extend([u16_prefixed(enc), u16_prefixed(payload)].concat());
        body(&self.session_id, &[&self.outer[..], &extension(0xfe0d, &sealed)].concat())
    }
}

/// An outer hello with this content of the extension, in one record.
pub fn outer_with(content: &[u8]) -> Vec<u8> {
    let extensions = [sni(PUBLIC), versions(&[0x0304]), extension(0xfe0d, content)].concat();
    record(&message(&body(&[7; 32], &extensions)))
}

/// An inner hello as it is sealed: with these extensions, and no session id.
pub fn encoded(extensions: &[u8]) -> Vec<u8> {
    body(&[], extensions)
}

/// The extensions of a usual inner hello, which takes some from the outer one.
pub fn usual() -> Vec<u8> {
    [sni(INNER), outer_extensions(&[10, 51]), versions(&[0x1a1a, 0x0304]), mark()].concat()
}

/// Extensions that both hellos have.
pub fn shared() -> Vec<u8> {
    [extension(10, &[0, 2, 0, 0x1d]), extension(13, &[0, 2, 4, 3]), extension(51, &u16_prefixed(&[9; 36]))].concat()
}

pub fn mark() -> Vec<u8> {
    extension(0xfe0d, &[1])
}

pub fn outer_extensions(kinds: &[u16]) -> Vec<u8> {
    extension(0xfd00, &u8_prefixed(&kinds.iter().flat_map(|kind| kind.to_be_bytes()).collect::<Vec<_>>()))
}

pub fn versions(versions: &[u16]) -> Vec<u8> {
    extension(43, &u8_prefixed(&versions.iter().flat_map(|version| version.to_be_bytes()).collect::<Vec<_>>()))
}

pub fn sni(name: &str) -> Vec<u8> {
    extension(0, &u16_prefixed(&[&[0][..], &u16_prefixed(name.as_bytes())].concat()))
}

pub fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &u16_prefixed(data)].concat()
}

pub fn body(session_id: &[u8], extensions: &[u8]) -> Vec<u8> {
    let fixed = [&[3, 3][..], &[5; 32], &u8_prefixed(session_id), &[0, 2, 0x13, 1, 1, 0]].concat();
    [fixed, u16_prefixed(extensions)].concat()
}

pub fn message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[1][..], &length[1..], body].concat()
}

/// One record, or several if it does not fit.
pub fn record(message: &[u8]) -> Vec<u8> {
    records(message, 1 << 14)
}

pub fn records(message: &[u8], fragment_bytes: usize) -> Vec<u8> {
    let fragments = message.chunks(fragment_bytes);
    fragments.flat_map(|fragment| [&[0x16, 3, 1][..], &u16_prefixed(fragment)].concat()).collect()
}

pub fn u16_prefixed(data: &[u8]) -> Vec<u8> {
    [&u16::try_from(data.len()).expect("short").to_be_bytes()[..], data].concat()
}

fn u8_prefixed(data: &[u8]) -> Vec<u8> {
    [&[u8::try_from(data.len()).expect("short")][..], data].concat()
}
