//! `snigate`: reads the arguments and runs the command.

use std::process::ExitCode;

fn main() -> ExitCode {
    snigate::cli::main()
}
