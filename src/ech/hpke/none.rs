//! No private key exists in a build without the cargo feature `ech`.

use crate::ech::config::{Suite, X25519_BYTES};

/// Never a value.
#[derive(Debug)]
pub(crate) enum PrivateKey {}

/// Never a value.
#[derive(Debug)]
pub(crate) enum Context {}

impl PrivateKey {
    pub(crate) fn new(_: [u8; X25519_BYTES]) -> Option<Self> {
        None
    }

    pub(crate) fn generate() -> Option<(Self, Vec<u8>)> {
        None
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match *self {}
    }

    pub(crate) fn fits(&self, _: &[u8]) -> bool {
        match *self {}
    }

    pub(crate) fn context(&self, _: Suite, _: &[u8], _: &[u8]) -> Option<Context> {
        match *self {}
    }
}

impl Context {
    pub(crate) fn open(&mut self, _: &[u8], _: &[u8]) -> Option<Vec<u8>> {
        match *self {}
    }
}
