//! The real binary between programs that were not written for it: Node.js, curl, OpenSSL, Python, Java, HAProxy,
//! nginx, PostgreSQL.
//! nginx, certbot, lego.
//!
//! A test whose program is not installed says so and passes, so that `cargo test` needs nothing but Rust. With
//! `SNIGATE_REQUIRE_FOREIGN=1` (as in CI) it fails instead.

#[path = "../harness/mod.rs"]
mod harness;

mod acme;
mod checks;
mod demo;
mod doctor;
mod failures;
mod imports;
mod names;
mod postgres;
mod proxy_headers;
mod refusals;
mod resumption;
mod retries;
mod symptoms;
mod transfers;
mod websocket;

mod client;
mod peer;
mod program;
mod reader;
mod site;
