//! `snigate schema`: prints the JSON Schema of the routing file, for editors and linters.
//!
//! In:  nothing.
//! Out: the document checked in as `config.schema.json`.

use std::io::{self, Write};

use crate::config::Config;

/// Prints the schema.
///
/// # Errors
/// Fails if `out` cannot be written.
pub(super) fn schema(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(Config::json_schema().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_schema_is_what_the_command_prints() {
        let mut printed = Vec::new();
        schema(&mut printed).expect("a vector takes everything");
        let kept = include_str!("../../config.schema.json");
        assert!(printed == kept.as_bytes(), "run `snigate schema > config.schema.json`");
    }
}
