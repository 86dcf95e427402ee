//! `snigate ech keygen`: makes a key file.
//!
//! In:  the public name; where the file is to be.
//! Out: a file that only its owner can read, complete as soon as it has its name; or the same on standard output.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueHint};

use super::super::{Exit, output_failed};
use super::failed;
use crate::config::ech_keys::{self, KeyFilesError};
use crate::ech;
use crate::server_name::{Pattern, ServerName};

#[derive(Args, Debug)]
pub(super) struct Options {
    /// The server name that everybody sees: clients send it in the clear in place of the protected one
    #[arg(long, value_name = "NAME")]
    public_name: String,
    /// The file to make; without it, the key is printed. It must not exist
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
    /// The length to which clients pad server names, so that it says less about them
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    maximum_name_length: u8,
}

pub(super) fn run(options: &Options) -> ExitCode {
    let public_name = match public_name(&options.public_name) {
        Ok(name) => name,
        Err(error) => {
            eprintln!("snigate: --public-name: {error}");
            return Exit::Usage.into();
        }
    };
    let id = match unused_id(options.out.as_deref()) {
        Ok(Some(id)) => id,
        Ok(None) => return failed("the keys in this directory use all 256 values of config_id; remove old ones"),
        Err(error) => return failed(error),
    };
    let key = match ech::generate(id, options.maximum_name_length, &public_name) {
        Ok(key) => key,
        Err(error) => return failed(error),
    };
    let Some(out) = &options.out else {
        return match io::stdout().lock().write_all(key.pem.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => output_failed(&error),
        };
    };
    match write(out, &key.pem) {
        Ok(()) => {
            if let Err(error) =
                writeln!(io::stdout().lock(), "{}: config_id {id}, public name {public_name}", out.display())
            {
                return output_failed(&error);
            }
            if !ech_keys::is_key_file(out) {
                eprintln!(
                    "snigate: warning: in a directory that `ech.keys` names, only files `*.pem` and `*.ech` are read; rename \
                     this one, or name the file itself"
                );
            }
            ExitCode::SUCCESS
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            failed(format_args!("`{}` exists already; a key is never overwritten: name another file", out.display()))
        }
        Err(error) => failed(format_args!("`{}` cannot be written: {error}", out.display())),
    }
}

/// A name that a client accepts as public name (RFC 9849 §4); Unicode becomes A-labels.
fn public_name(text: &str) -> Result<Box<str>, String> {
    match text.parse::<Pattern>() {
        Ok(Pattern::Exact(name)) => match name.as_str() {
            odd if odd.contains('_') => Err(format!("clients do not accept `{odd}`: a `_` is not allowed in it")),
            name => Ok(name.into()),
        },
        Ok(_) => Err(format!("`{}` is a pattern; one DNS name is needed", text.escape_debug())),
        Err(error) => {
            // What is said of a wrong name in a routing file does not fit here.
            let error = text.parse::<ServerName>().map_or_else(|error| error.to_string(), |_| error.to_string());
            Err(format!("`{}` is not a valid DNS name: {error}", text.escape_debug()))
        }
    }
}

/// A config_id that no key beside `out` has; any, if the key is printed. Files that are not keys have none. `None`: all
/// are used.
fn unused_id(out: Option<&Path>) -> Result<Option<u8>, KeyFilesError> {
    let beside = out.map(|out| out.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(".")));
    let used = beside.map(ech_keys::ids_in).transpose()?.unwrap_or_default();
    let first = fastrand::u8(..);
    Ok((0..=u8::MAX).map(|offset| first.wrapping_add(offset)).find(|id| !used.contains(id)))
}

/// The file gets its name when it is complete: a reload that happens meanwhile must not see half of it.
fn write(out: &Path, pem: &str) -> io::Result<()> {
    let name = out.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    let unfinished = out.with_file_name(hidden);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()?;
        // Unlike a rename, it does not replace a file.
        fs::hard_link(&unfinished, out)
    })();
    // It may not be there.
    let _ = fs::remove_file(&unfinished);
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_public_name_is_a_dns_name() {
        assert_eq!(public_name("Public.Example.com").as_deref(), Ok("public.example.com"));
        assert_eq!(public_name("b\u{fc}cher.example").as_deref(), Ok("xn--bcher-kva.example"));
        for wrong in ["*.example.com", "192.0.2.1", "", "a b", "a_b.example", "https://example.com", "*", "::1"] {
            let error = public_name(wrong).expect_err(wrong);
            assert!(!error.contains("YAML"), "{error}");
        }
    }

    #[test]
    fn no_two_keys_of_a_directory_have_one_id() {
        let directory = tempfile::tempdir().expect("a directory");
        let keep = fastrand::u8(..);
        for id in (0..=u8::MAX).filter(|&id| id != keep) {
            let key = ech::generate(id, 0, "a.example").expect("a key");
            write(&directory.path().join(format!("{id}.pem")), &key.pem).expect("written");
        }
        // A file that does not keep its secret has an id all the same.
        let open = directory.path().join(format!("{}.pem", keep.wrapping_add(1)));
        fs::set_permissions(open, fs::Permissions::from_mode(0o644)).expect("changed");
        let unused = || unused_id(Some(&directory.path().join("new.pem"))).expect("read");
        assert_eq!(unused(), Some(keep));
        let last = ech::generate(keep, 0, "a.example").expect("a key");
        write(&directory.path().join("last.ech"), &last.pem).expect("written");
        assert_eq!(unused(), None);
    }
}
