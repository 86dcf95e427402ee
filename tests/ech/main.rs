//! Encrypted ClientHello: inner hellos are opened by the rules of RFC 9849, with key files of RFC 9934.
#![cfg(feature = "ech")]

#[path = "../harness/mod.rs"]
mod harness;

use harness::{backend, bytes, wire};

mod commands;
mod confirming;
mod illegal;
mod keys;
mod load;
mod opening;
mod other_servers;
mod real_parts;
mod routing;
mod sealing;
