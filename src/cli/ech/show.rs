//! `snigate ech show`: shows keys, and the HTTPS record that publishes them.
//!
//! In:  key files or directories.
//! Out: text or JSON; nothing of the private keys.
//! Source: RFC 9848 (the `ech` parameter), RFC 9460 (HTTPS records).

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueHint};
use data_encoding::BASE64;
use serde_json::{Value, json};

use super::super::printable::printable;
use super::super::{print_json, printed};
use super::{failed, read_keys};
use crate::ech::{Key, encode_list};

#[derive(Args, Debug)]
pub(super) struct Options {
    /// Key files, the one to publish first before the others; or a directory, whose files are taken from the last name to
    /// the first
    #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    keys: Vec<PathBuf>,
    /// Prints the keys as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> ExitCode {
    let keys = match read_keys(&options.keys) {
        Ok(read) => read.keys,
        Err(exit) => return exit,
    };
    let Ok(list) = encode_list(keys.iter().map(|key| &key.config)) else {
        return failed("there are too many keys for one list of configurations");
    };
    let list = BASE64.encode(&list);
    if options.json {
        let keys: Vec<_> = keys.iter().map(|key| as_json(key)).collect();
        return printed(print_json(&json!({ "keys": keys, "ech": list })));
    }
    printed(text(&keys, &list, &mut io::stdout().lock()))
}

fn as_json(key: &Key) -> Value {
    let config = &key.config;
    json!({
        "file": key.file,
        "config_id": config.id,
        "public_name": config.public_name,
        "maximum_name_length": config.maximum_name_length,
        "suites": config.suites.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn text(keys: &[Arc<Key>], list: &str, out: &mut dyn Write) -> io::Result<()> {
    for key in keys {
        let config = &key.config;
        writeln!(out, "{}", printable(&key.file))?;
        writeln!(out, "  config_id    {}", config.id)?;
        writeln!(out, "  public name  {}", config.public_name)?;
        let suites: Vec<_> = config.suites.iter().map(ToString::to_string).collect();
        writeln!(out, "  suites       {}", suites.join(", "))?;
        writeln!(out, "  names are padded to {} bytes", config.maximum_name_length)?;
    }
    writeln!(out, "\nThe record of each name that these keys protect, with its own name and TTL:\n")?;
    writeln!(out, "NAME. 300 IN HTTPS 1 . ech={list}")
}
