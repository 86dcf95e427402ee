//! The shapes of a reload: its result, and the problems of the file.
//!
//! In:  nothing.
//! Out: types.
//! Source: docs/admin.md, "Reload".

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{At, Word};

/// The latest reload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct LastReload {
    /// `applied`, `unchanged` or `rejected`.
    pub result: Word,
    pub trigger: Word,
    pub at: At,
    pub took_ms: u64,
    /// Why it was rejected.
    pub error: Option<String>,
    /// All errors, or the warnings about an accepted file; at most a hundred of each.
    pub problems: Vec<ReloadProblem>,
    pub problems_left_off: usize,
}

/// The answer to a request to reload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ReloadAnswer {
    /// `applied`, `unchanged` or `rejected`.
    pub result: Word,
    /// Of the configuration in force.
    pub hash: String,
    pub took_ms: u64,
    /// All errors, or the warnings about an accepted file; at most a hundred of each.
    pub problems: Vec<ReloadProblem>,
    /// Why it was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many more problems there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub problems_left_off: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A problem of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ReloadProblem {
    /// `error` or `warning`.
    pub severity: Word,
    pub file: String,
    pub line: u32,
    pub column: u32,
    /// Of the key; empty for the file as a whole.
    pub path: String,
    pub message: String,
    /// The line of the file when it was rejected, cut to 200 characters.
    pub text: Option<String>,
}
