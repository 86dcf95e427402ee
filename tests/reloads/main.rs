//! Changes of the configuration while the real binary serves: what is noticed, what comes into force, what becomes of
//! the connections that are open.
//!
//! Each test ends with the accounting law and with the process's open files where they were before, as in `hostile`.

#[path = "../harness/mod.rs"]
mod harness;

mod churn;
mod control;
mod files;
mod names;
mod removed;
mod unanswered;

mod calls;

use self::harness::{backend, bytes, trial, wire};
