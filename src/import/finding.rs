//! What an import reports: what the routing file does not say, and why.
//!
//! In:  a place, what stands there, why it was left out, what to do instead.
//! Out: [`Findings`], in the order of the files and without repetitions; [`Failure`], if there is no routing file at all.

use std::fmt;

use super::model::Origin;
use crate::telemetry::escape::readable;

/// Whether something is missing in the routing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// The routing file does not say this.
    LeftOut,
    /// The routing file says it in another way, or nothing depends on it.
    Note,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub origin: Origin,
    pub weight: Weight,
    pub message: String,
}

/// All lines of the report.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Finding>,
    /// Left-out ones beyond [`MOST`].
    more: usize,
}

impl Findings {
    /// `what` stands at `origin` and was left out: `why`, perhaps with what to do instead.
    pub(super) fn left_out(&mut self, origin: &Origin, what: &str, why: impl fmt::Display) {
        let what = readable(what, MOST_QUOTED);
        self.push(origin, Weight::LeftOut, format!("`{what}` was left out: {why}"));
    }

    /// `what` stands at `origin`, and the routing file does the same except for `others`.
    pub(super) fn left_out_in_part(&mut self, origin: &Origin, what: &str, others: impl fmt::Display) {
        let what = readable(what, MOST_QUOTED);
        self.push(origin, Weight::LeftOut, format!("`{what}` was left out in part: {others}"));
    }

    /// Something is written in another way.
    pub(super) fn note(&mut self, origin: &Origin, message: impl fmt::Display) {
        self.push(origin, Weight::Note, message.to_string());
    }

    fn push(&mut self, origin: &Origin, weight: Weight, message: String) {
        if self.list.len() < MOST {
            self.list.push(Finding { origin: origin.clone(), weight, message });
        } else if weight == Weight::LeftOut {
            self.more += 1;
        }
    }

    /// Sorts them by place, and removes duplicates: a `defaults` section counts for many others.
    pub(super) fn sort(&mut self) {
        self.list.sort_by(|a, b| (&a.origin, a.weight, &a.message).cmp(&(&b.origin, b.weight, &b.message)));
        self.list.dedup();
    }

    /// How many things were left out.
    pub(crate) fn count_left_out(&self) -> usize {
        self.list.iter().filter(|finding| finding.weight == Weight::LeftOut).count() + self.more
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.list.iter()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.weight {
            Weight::LeftOut => "",
            Weight::Note => "note: ",
        };
        write!(f, "{}: {word}{}", self.origin, self.message)
    }
}

/// Why there is no routing file.
#[derive(Debug)]
pub(crate) struct Failure {
    /// `file:line`, or the file.
    pub place: String,
    pub message: String,
    /// What was reported before.
    pub findings: Findings,
}

impl Failure {
    pub(super) fn at(place: impl fmt::Display, message: impl fmt::Display) -> Self {
        Self { place: place.to_string(), message: message.to_string(), findings: Findings::default() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for Failure {}

/// More would not be read, and would need memory without bound.
const MOST: usize = 10_000;
/// Characters of a line that are quoted.
const MOST_QUOTED: usize = 120;
