//! Routes TLS by its server name without decrypting it.
//!
//! The rooms in the order of reading. The path of a connection comes first; what stands beside it follows. Each file
//! opens with what it is for, what comes in and what goes out.
//!
//! ```text
//! listener -> [PROXY header] -> peek -> client_hello -> route -> pool -> connect -> relay
//! ```
//!
//! [`connection`] walks that path. [`server`] starts the [`worker`] threads that hold the connections, and a control
//! runtime for [`reload`] and [`admin`]. A connection sees one [`snapshot`] from its first byte to its last.
#![deny(unsafe_code)]

// From the outside in: what starts everything.
pub mod cli;
pub mod server;
pub mod worker;

// The path of a connection, in the order it is walked.
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

// Beside the path.
pub mod config;
pub mod snapshot;
pub mod health;
pub mod resolve;
pub mod discovery;
pub mod explain;
pub mod reload;
pub mod self_loop;
pub mod process;
pub mod doors;
pub mod roster;
pub mod limits;
pub mod drain;
pub mod upgrade;
pub mod systemd;
pub mod admin;
pub mod telemetry;
pub mod handshake;
pub mod socket;
pub mod sys;
