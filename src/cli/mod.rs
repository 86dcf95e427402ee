//! One room a command.

pub mod check;
pub mod schema;
