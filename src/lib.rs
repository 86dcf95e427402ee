//! Routes TLS by its server name without decrypting it.
#![deny(unsafe_code)]

pub mod client_hello;
pub mod config;
pub mod relay;
pub mod route;
pub mod server_name;
pub mod socket;
pub mod sys;
pub mod telemetry;
