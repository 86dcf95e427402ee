//! `snigate schema`: prints the JSON Schema of the routing file, for editors and linters.
//!
//! In:  nothing.
//! Out: `config.schema.json`.

use std::io::{self, Write};

use crate::config::Config;

/// Prints the schema.
///
/// # Errors
/// Fails if `out` cannot be written.
pub(super) fn schema(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(Config::json_schema().as_bytes())
}
