//! `snigate completions SHELL`: prints a shell completion script.
//!
//! In:  the shell, and the commands as they are declared.
//! Out: the script.

use std::io::{self, Write};

use clap::Command;
use clap_complete::{Shell, generate};

/// Prints the script for `shell`.
///
/// # Errors
/// Fails if `out` cannot be written.
pub(super) fn completions(shell: Shell, mut command: Command, out: &mut dyn Write) -> io::Result<()> {
    let mut script = Vec::new();
    generate(shell, &mut command, "snigate", &mut script);
    out.write_all(&script)
}
