//! `snigate import PROGRAM FILE…`: writes a routing file from the configuration of another program.
//!
//! In:  the files of HAProxy, nginx and others.
//! Out: the routing file on standard output; on standard error, what it leaves out, with the place and the reason.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueHint;

use super::Exit;
use super::figures::counted;
use super::output_file::Output;
use super::printable::printable;
use crate::config::{Config, find_files, read_file};
use crate::import::{Files, Findings, Imported, Outside, Program, import};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Options {
    /// The program whose configuration to read
    program: Program,
    /// The configuration files, in the order in which the program reads them; - is standard input
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// Also reads maps, lists and included files outside the directories of FILE
    #[arg(long)]
    allow_outside: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(options: &Options) -> ExitCode {
    let outside = if options.allow_outside { Outside::Allowed } else { Outside::Refused };
    match import(options.program, &options.files, outside, &Disk) {
        Ok(imported) => finish(&imported, &options.output),
        Err(failure) => {
            report(&failure.findings);
            eprintln!("snigate: {}", printable(&failure.to_string()));
            Exit::Config.into()
        }
    }
}

fn finish(imported: &Imported, output: &Output) -> ExitCode {
    let Imported { text, findings } = imported;
    report(findings);
    if let Err(error) = output.write(text) {
        eprintln!("snigate: {}", printable(&error));
        return Exit::Config.into();
    }
    // What was valid there may not be valid here, such as a backend that is one of the listeners.
    if let Err(problems) = Config::parse(text, Path::new("result")) {
        eprintln!("{problems}");
        eprintln!("snigate: the result has {}; correct it before you use it", counted(problems.errors(), "error"));
        return Exit::Config.into();
    }
    match findings.count_left_out() {
        0 => ExitCode::SUCCESS,
        left_out => {
            let what = if left_out == 1 { "1 thing was".to_owned() } else { format!("{left_out} things were") };
            eprintln!("snigate: {what} left out, as listed above; everything else is in the routing file");
            Exit::LeftOut.into()
        }
    }
}

fn report(findings: &Findings) {
    for finding in findings.iter() {
        eprintln!("{}", printable(&finding.to_string()));
    }
}

/// Files on disk, and standard input.
struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path, most_bytes: u64) -> Result<Vec<u8>, String> {
        if path != Path::new("-") {
            return read_file(path, most_bytes).map_err(|error| error.to_string());
        }
        let mut bytes = Vec::new();
        let read = io::stdin().lock().take(most_bytes + 1).read_to_end(&mut bytes);
        match read {
            Ok(_) if bytes.len() as u64 > most_bytes => {
                Err(format!("the input is larger than {} MiB", most_bytes >> 20))
            }
            Ok(_) => Ok(bytes),
            Err(error) => Err(format!("standard input cannot be read: {error}")),
        }
    }

    fn matching(&self, pattern: &Path) -> Result<Vec<PathBuf>, String> {
        let Some(text) = pattern.to_str() else { return Err("the pattern is not UTF-8 text".to_owned()) };
        find_files(text, Path::new("")).map_err(|error| error.to_string())
    }

    fn real(&self, path: &Path) -> Result<PathBuf, String> {
        path.canonicalize().map_err(|error| format!("it cannot be read: {error}"))
    }
}
