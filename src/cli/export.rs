//! `snigate export FORMAT [FILE]`: writes a routing file as the configuration of another program.
//!
//! In:  a routing file.
//! Out: the configuration on standard output; on standard error, what could not be converted.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueHint;

use super::output_file::Output;
use super::printable::printable;
use super::{Exit, load};
use crate::export::{Exported, Format, export, too_many_names};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Options {
    /// The format to write
    format: Format,
    /// The routing file
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(options: &Options, file: &Path) -> ExitCode {
    let loaded = match load(file) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    if let Some(why) = too_many_names(&loaded.config) {
        eprintln!("{}: {why}", printable(&file.display().to_string()));
        return Exit::Config.into();
    }
    let Exported { text, left_out } = export(&loaded.config, options.format);
    left_out.iter().for_each(|line| eprintln!("{}: {}", printable(&file.display().to_string()), printable(line)));
    match options.output.write(&text) {
        Err(error) => {
            eprintln!("snigate: {}", printable(&error));
            Exit::Config.into()
        }
        Ok(()) if left_out.is_empty() => ExitCode::SUCCESS,
        Ok(()) => Exit::LeftOut.into(),
    }
}
