//! Routes TLS by its server name without decrypting it.
#![deny(unsafe_code)]

pub mod cli;
pub mod server;
pub mod worker;

pub mod client_hello;
pub mod connect;
pub mod connection;
pub mod listener;
pub mod peek;
pub mod pool;
pub mod proxy_header;
pub mod refuse;
pub mod relay;
pub mod route;
pub mod server_name;

pub mod admin;
pub mod config;
pub mod drain;
pub mod limits;
pub mod reload;
pub mod snapshot;
pub mod socket;
pub mod sys;
pub mod telemetry;
