//! The life of the process against the real binary: reloads that change its sockets, its end, its successors, the
//! service manager.
//!
//! Each row runs under churn, of which nothing may be lost, and ends with the accounting law. The long forms are asked
//! for by `SNIGATE_SOAK=1`.

#[path = "../harness/mod.rs"]
mod harness;

mod admin;
mod ending;
mod listeners;
mod service_manager;
mod upgrades;

mod churn;
mod lineage;

#[path = "../hostile/backend.rs"]
#[expect(dead_code, reason = "shared with the hostile suite, which uses more of it")]
mod backend;
#[path = "../hostile/bytes.rs"]
#[expect(dead_code, reason = "shared with the hostile suite, which uses more of it")]
mod bytes;
#[path = "../hostile/wire.rs"]
#[expect(dead_code, reason = "shared with the hostile suite, which uses more of it")]
mod wire;

/// Whether the long forms are asked for.
fn soaking() -> bool {
    std::env::var_os("SNIGATE_SOAK").is_some_and(|value| value == "1")
}
