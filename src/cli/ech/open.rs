//! `snigate ech open`: shows what would happen to a captured ClientHello.
//!
//! In:  the bytes that a client sent, raw or in hexadecimal; key files.
//! Out: the outer name, whether a key opens it, and the inner name; or the alert that the client would get.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueHint};
use data_encoding::HEXLOWER_PERMISSIVE;

use super::super::{Exit, output_failed};
use super::{failed, read_keys};
use crate::client_hello::{self, ClientHello, Hello};
use crate::ech::{self, Illegal, Keys, Opened};
use crate::refuse::{self, Refusal, TurnedAway};

#[derive(Args, Debug)]
pub(super) struct Options {
    /// What the client sent, from its first byte on, raw or in hexadecimal; `-` is standard input
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Key files, or a directory with them
    #[arg(long, short, required = true, value_name = "PATH", num_args = 1.., value_hint = ValueHint::AnyPath)]
    keys: Vec<PathBuf>,
    /// Tries every key, also those with another config_id
    #[arg(long)]
    try_all: bool,
    /// Refuses a hello whose outer name is not the public name of the key that opens it
    #[arg(long)]
    check_public_name: bool,
}

pub(super) fn run(options: &Options) -> ExitCode {
    let keys = match read_keys(&options.keys) {
        Ok(read) => Keys::new(read.keys, options.try_all, options.check_public_name),
        Err(exit) => return exit,
    };
    let wire = match captured(&options.file) {
        Ok(wire) => wire,
        Err(error) => return failed(format_args!("`{}` cannot be read: {error}", options.file.display())),
    };
    let hello = match client_hello::parse(&wire, MOST_BYTES) {
        Ok(Hello::Whole(hello)) => hello,
        Ok(Hello::Needs(bytes)) => {
            return failed(format_args!(
                "`{}` ends before its hello does: {bytes} bytes are missing",
                options.file.display()
            ));
        }
        Err(error) => return failed(format_args!("`{}` is not a ClientHello: {error}", options.file.display())),
    };
    let opened = ech::open(&wire, &hello, &keys, MOST_BYTES);
    match text(&hello, &opened, &mut io::stdout().lock()) {
        Ok(()) if opened.is_err() => Exit::Refused.into(),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output_failed(&error),
    }
}

/// A record of a hello begins with a byte that is not text.
fn captured(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = 4 * MOST_BYTES as u64;
    if file == Path::new("-") {
        io::stdin().lock().take(most).read_to_end(&mut bytes)?;
    } else {
        File::open(file)?.take(most).read_to_end(&mut bytes)?;
    }
    let digits: Vec<u8> = bytes.iter().filter(|byte| !byte.is_ascii_whitespace()).copied().collect();
    Ok(HEXLOWER_PERMISSIVE.decode(&digits).unwrap_or(bytes))
}

fn text(outer: &ClientHello, opened: &Result<Opened, Illegal>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "outer name  {}", outer.name_or_literal().unwrap_or("none"))?;
    match opened {
        Ok(Opened::Absent) if outer.offers.ech => {
            writeln!(
                out,
                "result      absent: the hello does not offer TLS 1.3, so its encrypted_client_hello is ignored"
            )
        }
        Ok(Opened::Absent) => writeln!(out, "result      absent: the hello has no encrypted_client_hello extension"),
        Ok(Opened::NotForUs) => {
            writeln!(
                out,
                "result      not_for_us: no key opens it (GREASE, or a key that is gone); the outer name counts"
            )
        }
        Ok(Opened::Inner(inner)) => {
            writeln!(out, "result      accepted by {} (config_id {})", inner.key.file, inner.key.config.id)?;
            writeln!(out, "inner name  {}", inner.hello.name_or_literal().unwrap_or("none"))?;
            let protocols: Vec<_> = inner.hello.alpn.protocols().map(|name| name.escape_ascii().to_string()).collect();
            let protocols = if protocols.is_empty() { "none".to_owned() } else { protocols.join(", ") };
            writeln!(out, "inner ALPN  {protocols}")?;
            writeln!(out, "inner size  {} bytes in {} records", inner.hello.wire_bytes, inner.hello.records)
        }
        Err(illegal) => {
            let TurnedAway { refusal, .. } = refuse::for_illegal_ech(illegal);
            let alert = match refusal {
                Refusal::Alert { alert, .. } => format!("alert {alert}"),
                _ => "closed".to_owned(),
            };
            writeln!(out, "result      illegal: {illegal}; the client gets {alert}")
        }
    }
}

/// More than any client sends.
const MOST_BYTES: usize = 1 << 20;
