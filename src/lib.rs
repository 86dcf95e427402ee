//! Routes TLS by its server name without decrypting it.
//!
//! This is the library behind the `snigate` binary, not an API for others: [`main`] is all that it offers.
//!
//! ```text
//! listener -> [PROXY header] -> peek -> client_hello -> route -> pool -> connect -> relay
//! ```
//!
//! `connection` walks that path. `process` starts the worker threads that hold the connections, and a control runtime
//! for everything else. A connection sees one `snapshot` of the configuration from its first byte to its last. Each
//! file opens with what it is for, what comes in and what goes out.
#![deny(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

/// In place of the macro of the standard library, which panics if nobody reads standard error any more (`2>&1 | head -1`).
macro_rules! eprintln {
    ($($arguments:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr().lock(), $($arguments)*);
    }};
}

// A module may use those below it, never one above: tests/architecture.rs reads this list.

// What starts everything.
mod cli;
mod export;
mod import;
mod process;
mod backends;
mod sources;

// The path of a connection, with what it asks on the way. The order is that of imports: `route` takes types of
// `client_hello`, and `connect` asks `pool` for each backend that it tries.
mod listener;
mod connection;
mod operate;
mod refuse;
mod snapshot;
mod config;
mod peek;
mod route;
mod ech;
mod client_hello;
mod request_head;
mod connect;
mod pool;
mod relay;

// What the path stands on; no module of these does more than one small thing.
mod self_loop;
mod limits;
mod client_limits;
mod hello_memory;
mod drain;
mod socket;
mod descriptors;
mod memory_limit;
mod sys;
mod supervise;
mod sandbox;
mod telemetry;
mod starttls;
mod settings;
mod proxy_header;
mod server_name;
mod alert;
mod ids;
mod networks;
mod prefix;
mod scratch;
mod way;
#[cfg(test)]
mod kept;

pub use self::cli::main;
pub use self::sys::give_memory_back;

/// For this crate's own tests, benches and fuzz targets; not a stable API.
#[doc(hidden)]
pub mod internals {
    pub use crate::alert::Alert;
    pub use crate::client_hello::{Alpn, ClientHello, Hello, MAX_RECORDS, NotHello, Reader, parse};
    pub use crate::client_limits::{ClientLimits, Entered, Exceeded, Over, Place};
    pub use crate::ids::{ConnectionId, ListenerIndex, RouteIndex};
    pub use crate::networks::Networks;
    pub use crate::server_name::{Pattern, ServerName, Sni};
    pub use crate::sys::{local_addresses, unsent_bytes};
    pub use crate::telemetry::{BackendState, Format, Metrics, State};
    pub use crate::way::Way;

    pub mod config {
        pub use crate::config::{Conditions, Config, Destination, Loaded, Place, Problem, Problems, Route, Severity};
    }
    pub mod ech {
        pub use crate::ech::{
            Awaited, Confirmation, Illegal, Inner, Key, KeyFileError, Keys, Opened, Second, generate, open,
            open_second, read_key_file,
        };
    }
    pub mod pool {
        pub use crate::pool::{Address, Health, PickRequest, Pool};
    }
    pub mod proxy_header {
        pub use crate::proxy_header::{
            Added, Addresses, Header, Kinds, Malformed, Parsed, Received, Values, Version, encode, local, parse,
        };
    }
    pub mod log {
        pub use crate::telemetry::{
            Alpn, ConnectionLine, ConnectionLog, Endpoint, Feature, FirstRecord, LoggedAddress,
        };
        pub use crate::telemetry::{Match, Reason};
    }
    pub mod registry {
        pub use crate::operate::registry::{Registries, Ticket, enter};
    }
    pub mod route {
        pub use crate::route::{Builder, By, Conditions, Found, Lookup, NameForm, RouteTable};
    }
    pub mod sandbox {
        pub use crate::sandbox::system_calls;
    }
    pub mod terminal {
        pub use crate::cli::top::on_a_terminal;
    }
    pub mod snapshot {
        pub use crate::snapshot::{RouteQuery, Snapshot, Terms};
    }
    pub mod settings {
        pub use crate::settings::*;
    }
}
