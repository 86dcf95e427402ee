//! Drives one SNI passthrough proxy, and is its backend too: one thread, no TLS cryptography.
//!
//! In:  where the proxy listens, where it finds its backend, its process id, what to do and for how long.
//! Out: one line of JSON: work done, the proxy's CPU time and resident bytes, latencies, errors.
//!
//! What a proxy sees is TLS: a captured ClientHello, then records. See ../README.md for what is measured and why.
#![forbid(unsafe_code)]

mod arguments;
mod drive;
mod process;
mod report;
mod verify;
mod world;

use std::process::ExitCode;

use crate::arguments::Task;

fn main() -> ExitCode {
    let arguments = match arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("peers-load: {problem}\n\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    let done = match arguments.task {
        Task::Load(plan) => drive::run(&arguments.target, &plan),
        Task::Verify => verify::run(&arguments.target),
    };
    match done {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("peers-load: {problem}");
            ExitCode::FAILURE
        }
    }
}
