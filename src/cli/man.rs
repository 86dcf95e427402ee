//! `snigate man [COMMAND]`: prints a man page, generated from the same definitions as `--help`.
//!
//! In:  a command, or none for the program as a whole.
//! Out: roff, for `man -l -` or a file in `man1`.

use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;

/// Prints the man page of the command `name`, or of `program` itself. Returns `None` for an unknown command.
pub(super) fn man(name: Option<&str>, mut program: Command, out: &mut dyn Write) -> Option<io::Result<()>> {
    // Adds the global options to each command.
    program.build();
    let page = match name {
        None => program,
        // The name of the page, such as `snigate-explain`.
        Some(name) => {
            let command = program.find_subcommand(name)?.clone();
            command.display_name(format!("snigate-{name}")).disable_help_subcommand(true)
        }
    };
    Some(Man::new(page).source(concat!("snigate ", env!("CARGO_PKG_VERSION"))).render(out))
}
