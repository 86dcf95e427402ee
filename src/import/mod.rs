//! Turns the configuration of another program into a routing file.
//!
//! In:  the files of HAProxy, nginx, sniproxy or Traefik, read through [`Files`].
//! Out: [`Imported`]: a routing file with the origin of each line, and a list of what it does not say.
//!
//! Each reader fills one neutral [`model::Model`]: listeners with rules of which the first that matches wins. [`plan`] turns
//! those into routes of which the most specific wins, and [`writer`] writes them.

mod finding;
mod haproxy;
pub(crate) mod model;
mod names;
mod nginx;
mod order;
mod plan;
mod sniproxy;
mod source;
mod traefik;
mod values;
pub(crate) mod writer;

use std::path::PathBuf;

pub(crate) use self::finding::{Failure, Findings};
use self::source::Library;
pub(crate) use self::source::{Files, Outside};
pub(crate) use self::writer::scalar;

/// The program whose files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Program {
    /// Frontends in tcp mode with rules on req.ssl_sni
    Haproxy,
    /// Servers of the stream module with ssl_preread
    Nginx,
    /// Listeners for TLS and their tables
    Sniproxy,
    /// TCP routers with tls.passthrough, in files or in labels of a compose file
    Traefik,
}

/// A routing file, and what it leaves out.
#[derive(Debug)]
pub(crate) struct Imported {
    pub text: String,
    pub findings: Findings,
}

/// Reads `paths`, which `files` opens, and the files that they include.
///
/// # Errors
/// A file cannot be read or is broken, or nothing in it routes TLS by its server name.
pub(crate) fn import(
    program: Program,
    paths: &[PathBuf],
    outside: Outside,
    files: &dyn Files,
) -> Result<Imported, Failure> {
    let mut findings = Findings::default();
    let mut library = Library::new(files, paths, outside);
    let model = match program {
        Program::Haproxy => haproxy::read(paths, &mut library, &mut findings),
        Program::Nginx => nginx::read(paths, &mut library, &mut findings),
        Program::Sniproxy => sniproxy::read(paths, &mut library, &mut findings),
        Program::Traefik => traefik::read(paths, &mut library, &mut findings),
    }?;
    if model.listeners.is_empty() {
        return Err(nothing_found(program, paths, findings));
    }
    let plan = plan::plan(model, &mut findings);
    let text = writer::routing_file(&plan, &heading(program, paths));
    findings.sort();
    Ok(Imported { text, findings })
}

fn nothing_found(program: Program, paths: &[PathBuf], findings: Findings) -> Failure {
    let wanted = match program {
        Program::Haproxy => "no frontend in tcp mode has a rule on `req.ssl_sni`",
        Program::Nginx => "no server in `stream` has `ssl_preread on` and a `proxy_pass`",
        Program::Sniproxy => "there is no `listener` with `proto tls`",
        Program::Traefik => "no TCP router has `HostSNI` and `tls.passthrough: true`",
    };
    let file = paths.first().map(|path| path.display().to_string()).unwrap_or_default();
    Failure { place: file, message: format!("there is nothing to import: {wanted}"), findings }
}

fn heading(program: Program, paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths.iter().map(|path| writer::comment(&path.display().to_string())).collect();
    let word = match program {
        Program::Haproxy => "haproxy",
        Program::Nginx => "nginx",
        Program::Sniproxy => "sniproxy",
        Program::Traefik => "traefik",
    };
    format!("Made by `snigate import {word} {}`. The comments show where each line comes from.", names.join(" "))
}

#[cfg(test)]
mod tests;
