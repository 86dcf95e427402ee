//! `snigate man [COMMAND]`: prints a man page, made from the declarations that `--help` is made from.
//!
//! In:  a command, or none for the program as a whole.
//! Out: roff, for `man -l -` or a file in `man1`.

use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;

/// Prints the page of the command called `name`, or of `program` itself. `None`: there is no such command.
pub(super) fn man(name: Option<&str>, mut program: Command, out: &mut dyn Write) -> Option<io::Result<()>> {
    // Gives each command the options that it shares with the program.
    program.build();
    let page = match name {
        None => program,
        // `snigate-explain`, as the page is called.
        Some(name) => {
            let command = program.find_subcommand(name)?.clone();
            command.display_name(format!("snigate-{name}")).disable_help_subcommand(true)
        }
    };
    Some(Man::new(page).source(concat!("snigate ", env!("CARGO_PKG_VERSION"))).render(out))
}
