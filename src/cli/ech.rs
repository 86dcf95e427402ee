//! `snigate ech`: makes and shows keys for Encrypted ClientHello, and opens captured hellos with them.
//!
//! In:  key files, a public name, a captured hello.
//! Out: a key file, text or JSON, exit codes.

mod keygen;
mod open;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::Exit;
use crate::config::ech_keys::{self, KeyFiles};

#[derive(Args, Debug)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a key: a private key and its configuration, in one PEM file
    Keygen(keygen::Options),
    /// Shows keys, and the HTTPS record that publishes them
    Show(show::Options),
    /// Shows what would happen to a captured ClientHello
    Open(open::Options),
}

pub(super) fn run(options: &Options) -> ExitCode {
    match &options.command {
        Command::Keygen(options) => keygen::run(options),
        Command::Show(options) => show::run(options),
        Command::Open(options) => open::run(options),
    }
}

/// The keys in these files; warnings go to standard error.
fn read_keys(paths: &[PathBuf]) -> Result<KeyFiles, ExitCode> {
    let read = ech_keys::read(paths).map_err(failed)?;
    read.skipped.iter().for_each(|skipped| eprintln!("snigate: warning: {skipped}"));
    read.remarks.iter().for_each(|remark| eprintln!("snigate: warning: {remark}"));
    Ok(read)
}

fn failed(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("snigate: {error}");
    Exit::Config.into()
}
