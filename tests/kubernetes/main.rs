//! The real binary with a Kubernetes API server that a test scripts: Gateways and TLSRoutes come, change and go while
//! clients connect, and the API server fails in every way there is.
//!
//! Each test runs in a network namespace that has the addresses of the pods.

#![cfg(feature = "kubernetes")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../hostile/namespace.rs"]
#[expect(dead_code, reason = "what is here is always possible, so nothing asks")]
mod namespace;
#[path = "../foreign/program.rs"]
mod program;

/// A test for each function, which runs it in a network namespace of its own.
macro_rules! in_a_namespace {
    ($module:literal: $($name:ident, $inside:ident;)*) => {$(
        #[test]
        fn $name() {
            crate::namespace::run_test(crate::cluster::ADDRESSES, concat!($module, "::", stringify!($inside)));
        }
    )*};
}

mod api_path;
mod api_server;
mod bound;
mod cluster;
mod ingresses;
mod kinds;
mod leaders;
mod nodes;
mod objects;
mod outages;
mod real_parts;
mod serving;

use self::harness::{backend, bytes, wire};
