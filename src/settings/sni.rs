//! What the list of names of a route may hold.
//!
//! In:  serde, both ways.
//! Out: [`SniEntry`].

use std::fmt;
use std::path::PathBuf;

use super::text::Word;
use crate::server_name::{Pattern, PatternError};

/// A pattern, or a file of patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SniEntry {
    /// A pattern.
    Pattern(Pattern),
    /// `@FILE`, relative to the file that names it.
    File(PathBuf),
}

impl Word for SniEntry {
    const EXPECTED: &'static str = "a pattern or `@FILE`";
    const SCHEMA: &'static str = r#"{ "type": "string", "description": "`a.example.com`, `*.example.com`, `**.example.com`, `*`, or `@FILE`: a file with one pattern a line, relative to this file. In YAML, a value that begins with `*` or `@` needs quotes." }"#;

    fn read(text: &str) -> Result<Self, String> {
        match text.strip_prefix('@') {
            Some("") => Err("the name of a file is missing; write it as `@lists/names.txt`".to_owned()),
            Some(file) if file.contains('\0') => Err("the name of the file contains a NUL byte".to_owned()),
            Some(file) => Ok(Self::File(file.into())),
            None => text.parse().map(Self::Pattern).map_err(|error: PatternError| error.to_string()),
        }
    }
}

impl fmt::Display for SniEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(pattern) => pattern.fmt(f),
            Self::File(file) => write!(f, "@{}", file.display()),
        }
    }
}
