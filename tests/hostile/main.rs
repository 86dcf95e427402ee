//! Hostile inputs and faults against the real binary.
//!
//! Each test ends with the accounting law (accepted = active + the sum over the reasons, none active) and with the
//! process's open files where they were before. What takes long runs only when asked for:
//! `SNIGATE_SOAK=1 cargo test --release --test hostile` makes the crowds larger and the churn longer.

#[path = "../harness/mod.rs"]
mod harness;

mod access;
mod addresses;
mod answers;
mod checks;
mod churn;
mod client_limits;
mod closing;
mod connecting;
mod containers;
mod descriptors;
mod discovery;
mod drops;
mod ending;
mod engine;
mod failover;
mod full;
mod fast_open;
mod floods;
mod hellos;
mod http;
mod leavers;
mod limits;
mod long_lived;
mod pipes;
mod pools;
mod ports;
mod names;
mod namespace;
mod odd_backends;
mod proxy_headers;
mod proxy_values;
mod queues;
mod pauses;
mod refusals;
mod second_hellos;
mod self_loops;
mod silent;
mod soft_errors;
mod splits;
mod stalled;
mod stalls;
mod starttls;
mod strangers;
mod uploads;
mod workers;

use self::harness::{backend, bytes, dice, trial, wire};
