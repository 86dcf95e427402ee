//! Opens messages that were sealed for a private key: HPKE in base mode, by aws-lc.
//!
//! In:  a private key, the encapsulated key, what both sides have bound it to.
//! Out: [`Context`], which opens one message after the other.
//! Source: RFC 9180 §5.1.1 (SetupBaseR), §5.2 (ContextR.Open).
//!
//! Without the cargo feature `ech` there are no private keys, so that nothing is ever opened.

#[cfg(feature = "ech")]
mod aws_lc;
#[cfg(not(feature = "ech"))]
mod none;

#[cfg(feature = "ech")]
pub(super) use self::aws_lc::Context;
#[cfg(feature = "ech")]
pub(super) use self::aws_lc::PrivateKey;
#[cfg(not(feature = "ech"))]
pub(super) use self::none::Context;
#[cfg(not(feature = "ech"))]
pub(super) use self::none::PrivateKey;
