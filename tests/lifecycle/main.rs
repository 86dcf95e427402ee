//! The life of the process against the real binary: reloads that change its sockets, its end, its successors, the
//! service manager.
//!
//! Each row runs under churn, of which nothing may be lost, and ends with the accounting law. The long forms are asked
//! for by `SNIGATE_SOAK=1`.

#[path = "../harness/mod.rs"]
mod harness;

mod admin;
mod broken;
mod ending;
mod events;
mod listeners;
mod log_outputs;
mod logs;
mod sandbox;
mod reports;
mod service_manager;
mod system_calls;
mod upgrades;

mod churn;
mod lineage;
mod tour;

use self::harness::trial::soaking;
use self::harness::{backend, bytes, wire};
