//! Routes TLS by its server name without decrypting it.
#![deny(unsafe_code)]

pub mod cli;
pub mod server;
pub mod worker;

pub mod listener;
pub mod connection;
pub mod proxy_header;
pub mod peek;
pub mod client_hello;
pub mod server_name;
pub mod route;
pub mod refuse;
pub mod pool;
pub mod connect;
pub mod relay;

pub mod config;
pub mod snapshot;
pub mod reload;
pub mod limits;
pub mod drain;
pub mod admin;
pub mod telemetry;
pub mod socket;
pub mod sys;
