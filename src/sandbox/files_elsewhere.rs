//! Stands in for Landlock where there is none.

use super::{Entered, Needs};

/// # Errors
/// Always.
pub(super) fn restrict(_: &Needs) -> Result<Entered, String> {
    Err("only Linux has Landlock".to_owned())
}
