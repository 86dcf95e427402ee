//! Routes TLS by its server name without decrypting it.
#![deny(unsafe_code)]

pub mod client_hello;
pub mod config;
pub mod route;
pub mod server_name;
pub mod telemetry;
