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

mod api_path;
mod api_server;
mod cluster;
mod leaders;
mod objects;
mod outages;
mod serving;

use self::harness::{backend, bytes, wire};
