//! The current position while a configuration is read: file, key and line.
//!
//! In:  the file, then each step down, as [`At::key`] and [`At::index`].
//! Out: a [`Problem`] for that position. The path is formatted only then, since most steps never fail.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::problem::{Place, Problem, Problems, Severity};

/// One step of the path from the top of a file; the steps above are borrowed.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    file: &'a Arc<Path>,
    outer: Option<&'a At<'a>>,
    step: Step<'a>,
    pub spot: Spot,
}

/// A place in a file that is known from context; counts from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    pub line: u32,
    pub column: u32,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Top,
    Key(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    pub(super) fn top(file: &'a Arc<Path>) -> Self {
        Self { file, outer: None, step: Step::Top, spot: Spot::TOP }
    }

    pub(super) fn key<'b>(&'b self, key: &'b str, spot: Spot) -> At<'b> {
        At { file: self.file, outer: Some(self), step: Step::Key(key), spot }
    }

    pub(super) fn index<'b>(&'b self, index: usize, spot: Spot) -> At<'b> {
        At { file: self.file, outer: Some(self), step: Step::Index(index), spot }
    }

    pub(super) fn is_top(&self) -> bool {
        matches!(self.step, Step::Top)
    }

    pub(super) fn moved(self, spot: Spot) -> Self {
        Self { spot, ..self }
    }

    pub(super) fn place(&self) -> Place {
        Place { file: Arc::clone(self.file), line: self.spot.line, column: self.spot.column }
    }

    pub(super) fn problem(&self, severity: Severity, message: impl fmt::Display) -> Problem {
        Problem { severity, place: self.place(), path: self.to_string(), message: message.to_string() }
    }
}

impl Problems {
    /// Adds an error, which makes the file unusable.
    pub(super) fn error(&mut self, at: &At<'_>, message: impl fmt::Display) {
        self.add(Severity::Error, || at.problem(Severity::Error, message));
    }

    /// Adds a warning about a probable mistake.
    pub(super) fn warning(&mut self, at: &At<'_>, message: impl fmt::Display) {
        self.add(Severity::Warning, || at.problem(Severity::Warning, message));
    }
}

impl Spot {
    pub(super) const TOP: Self = Self { line: 1, column: 1 };
}

/// Formats the path: `pools.web.backends[2].address`.
impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(outer) = self.outer else { return Ok(()) };
        outer.fmt(f)?;
        match self.step {
            Step::Top => Ok(()),
            Step::Key(key) if outer.outer.is_none() => write!(f, "{}", key.escape_debug()),
            Step::Key(key) => write!(f, ".{}", key.escape_debug()),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}
