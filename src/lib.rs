//! Routes TLS by its server name without decrypting it.
#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod server_name;
pub mod telemetry;
