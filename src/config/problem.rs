//! The problems found in a routing file, each with its place.
//!
//! In:  problems from the readers of the file, in any order.
//! Out: [`Problems`] sorted by place, one line each; bounded, however broken the file is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// All problems of a file, sorted by place. Only the first hundred of each severity are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    reported: Vec<Problem>,
    errors: usize,
    warnings: usize,
}

/// One problem, worded so that it shows how to fix it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether the file can still be used.
    pub severity: Severity,
    /// Where in the files.
    pub place: Place,
    /// The path of the key, such as `pools.web.backends[2].address`; empty for the file as a whole.
    pub path: String,
    /// The cause and the cure.
    pub message: String,
}

/// An error makes the file unusable; a warning does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// Probably a mistake.
    Warning,
}

/// A place in a file; lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// As it was named, or found by `include`.
    pub file: Arc<Path>,
    /// From 1; 0 for what is not in a file, such as a container, whose name then stands for the file.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

impl Problems {
    /// Adds a problem; beyond a hundred of its severity it is only counted.
    pub fn push(&mut self, problem: Problem) {
        self.add(problem.severity, || problem);
    }

    /// Counts a problem, and formats it only if it is kept.
    pub(super) fn add(&mut self, severity: Severity, problem: impl FnOnce() -> Problem) {
        let count = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        if *count <= MAX_TOLD {
            self.reported.push(problem());
        }
    }

    /// Whether there are no problems.
    pub fn is_empty(&self) -> bool {
        self.reported.is_empty()
    }

    /// The number of errors, including those that were not kept.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// The number of warnings, including those that were not kept.
    pub fn warnings(&self) -> usize {
        self.warnings
    }

    /// How many were counted but not kept.
    pub fn left_off(&self) -> usize {
        self.errors + self.warnings - self.reported.len()
    }

    /// The problems that were kept.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.reported.iter()
    }

    /// Sorts by place, with files in the order of `files`.
    pub(super) fn sort<'f>(&mut self, files: impl Iterator<Item = &'f PathBuf> + Clone) {
        let rank = |place: &Place| {
            let file = files.clone().position(|file| **file == *place.file).unwrap_or(usize::MAX);
            (file, place.line, place.column)
        };
        self.reported.sort_by_cached_key(|problem| rank(&problem.place));
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.reported.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        match self.left_off() {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => self.file.display().fmt(f),
            line => write!(f, "{}:{line}:{}", self.file.display(), self.column),
        }
    }
}

/// More would not help: a file with this many problems is the wrong file, or they all have one cause.
const MAX_TOLD: usize = 100;
