//! How the admin server of a routing file is reached, also when the rest of the file cannot be used.
//!
//! In:  the path of the routing file.
//! Out: [`AdminSection`]: from the whole file; or from its `admin` section alone; or the default.
//!
//! A process that runs may have read an earlier version of the file, so it can be asked although the file is broken or
//! gone now.

use std::path::{Path, PathBuf};

use super::parse::{self, NoAdmin};
use super::{Problems, files};
use crate::settings::Admin;

/// How the admin server of a file is reached.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AdminSection {
    pub admin: Admin,
    /// The path of the token file, whether or not the file can be read.
    pub token_file: Option<PathBuf>,
    /// Set if the file as a whole cannot be read.
    pub unreadable: Option<Unreadable>,
}

/// A file that has no tree of keys.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Unreadable {
    /// Why.
    pub problems: Problems,
    /// Its `admin` section could not be read alone either, so the addresses are the default.
    pub is_default: bool,
    /// And the file may well name other ones: it is not there, or has a section that cannot be read.
    pub is_guess: bool,
}

/// Errors outside the section do not matter.
///
/// # Errors
/// The `admin` section has errors.
pub(super) fn of(path: &Path) -> Result<AdminSection, Problems> {
    let mut problems = Problems::default();
    let Some(text) = files::read(path, &mut problems) else { return Ok(usual(problems, true)) };
    match parse::admin(&text, path) {
        Ok(section) => Ok(section),
        Err(NoAdmin::Section(problems)) => Err(problems),
        Err(NoAdmin::Tree(problems)) => {
            let block = block(&text);
            let alone = block.and_then(|block| parse::admin(block, path).ok());
            Ok(match alone {
                Some(section) => {
                    let unreadable = Unreadable { problems, is_default: false, is_guess: false };
                    AdminSection { unreadable: Some(unreadable), ..section }
                }
                None => usual(problems, block.is_some()),
            })
        }
    }
}

fn usual(problems: Problems, is_guess: bool) -> AdminSection {
    let unreadable = Some(Unreadable { problems, is_default: true, is_guess });
    AdminSection { admin: Admin::default(), token_file: None, unreadable }
}

/// The lines from `admin:` to the next key at the top.
fn block(text: &str) -> Option<&str> {
    let mut starts = text.split_inclusive('\n').scan(0, |next, line| {
        let start = *next;
        *next += line.len();
        Some((start, line))
    });
    let (start, _) = starts.find(|(_, line)| line.starts_with("admin:"))?;
    // A bracket may be closed in the first column.
    let goes_on = |line: &str| line.starts_with([' ', '\t', '#', '\r', '\n', '}', ']']);
    let end = starts.find(|(_, line)| !goes_on(line)).map_or(text.len(), |(end, _)| end);
    Some(&text[start..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMIN: &str = "admin:\n  # a comment\n  bind: [\n    \"127.0.0.1:7\",\n    \"unix:/run/a.sock\"\n  ]\n";

    /// What is read from a file with this text; `None`: from one that is not there.
    fn read(text: Option<&str>) -> Result<AdminSection, Problems> {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("config.yaml");
        if let Some(text) = text {
            std::fs::write(&file, text).expect("written");
        }
        of(&file)
    }

    #[test]
    fn a_section_is_found_in_a_file_that_is_no_yaml() {
        for broken in ["routes:\n\t- sni: a\n", "routes: [\n", "pool: a: b\n", "pools: { p: {\n", "\"a\n"] {
            for text in [format!("{ADMIN}{broken}"), format!("{broken}{ADMIN}"), format!("{broken}{ADMIN}{broken}")] {
                let section = read(Some(&text)).expect("found");
                let unreadable = section.unreadable.expect("no YAML");
                assert!(!unreadable.is_default && unreadable.problems.errors() == 1, "{text}{}", unreadable.problems);
                let bind: Vec<String> = section.admin.bind.iter().map(ToString::to_string).collect();
                assert_eq!(bind, ["127.0.0.1:7", "unix:/run/a.sock"], "{text}");
            }
        }
        let text = "routes: [\nadmin: { bind: 127.0.0.1:7, token_file: token }\n";
        let section = read(Some(text)).expect("found");
        assert!(section.token_file.is_some_and(|file| file.ends_with("token")));
    }

    #[test]
    fn otherwise_it_is_the_default() {
        let broken = ["admin: [\n", "admin:\n\tbind: a\n", "admin: {\nroutes: [\n"];
        let texts = [(None, true), (Some("routes: [\n"), false)];
        for (text, is_guess) in texts.into_iter().chain(broken.map(|text| (Some(text), true))) {
            let section = read(text).expect("the default");
            let unreadable = section.unreadable.expect("not read");
            assert!(unreadable.is_default && unreadable.problems.errors() == 1, "{text:?}: {}", unreadable.problems);
            assert_eq!(unreadable.is_guess, is_guess, "{text:?}");
            assert_eq!((section.admin, section.token_file), (Admin::default(), None), "{text:?}");
        }
        assert_eq!(read(Some("")).expect("the default").admin, Admin::default());
        assert!(read(Some("admin: { bind: 127.0.0.1 }\n")).is_err());
    }
}
