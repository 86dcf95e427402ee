//! Turns the backends' answers into findings that a person can act on.
//!
//! In:  all [`Exam`]s, the configuration, the time.
//! Out: [`Finding`]s. Pure: depends only on its input.

mod certificates;
mod failures;
mod pools;
mod protocol;

pub(super) use self::failures::describe;
use super::destinations::Destinations;
use super::examine::{Exam, Outcome};
use super::finding::{Finding, Kind, Severity, gather};
use super::plan::{Asked, Round, Why};
use crate::backends::handshake::{Certificate, Handshake};
use crate::config::Config;

/// The context of the judgement.
pub(super) struct Bench<'a> {
    pub config: &'a Config,
    pub destinations: &'a Destinations<'a>,
    /// Seconds since 1970.
    pub now: i64,
    /// Report certificates that expire within this many days.
    pub days: i64,
    /// For each pool, whether an untrusted chain is a fault or only information.
    pub trust_matters: Vec<bool>,
}

/// Judges all results, pool by pool.
pub(super) fn judge(bench: &Bench<'_>, rounds: &[Round], exams: &[Exam]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for round in rounds {
        let exams: Vec<_> = exams.iter().filter(|exam| exam.subject.pool == round.pool).collect();
        for exam in &exams {
            judge_backend(bench, exam, &mut findings);
        }
        pools::judge(bench, round, &exams, &mut findings);
    }
    gather(findings)
}

fn judge_backend(bench: &Bench<'_>, exam: &Exam, findings: &mut Vec<Finding>) {
    let place = Place::of(bench, exam);
    for answer in &exam.answers {
        match &answer.outcome {
            Ok(handshake) => {
                certificates::judge(bench, &place, &answer.asked, handshake, findings);
                protocol::judge_answer(&place, answer, handshake, findings);
            }
            Err(failure) => findings.push(failures::finding(&place, &answer.asked, failure)),
        }
    }
    let missed = exam.subject.asked.len() - exam.answers.len();
    if missed > 0 && exam.answers.len() > 1 {
        findings.push(not_asked(&place, missed));
    }
    if let Some(more) = &exam.more {
        protocol::judge_more(&place, exam, more, findings);
    }
}

/// Where something was observed.
struct Place<'a> {
    pool: &'a str,
    backend: &'a str,
    /// An index into the configuration's pools.
    number: usize,
}

impl<'a> Place<'a> {
    fn of(bench: &Bench<'a>, exam: &'a Exam) -> Self {
        Self {
            pool: &bench.config.pools[exam.subject.pool].name,
            backend: &exam.subject.label,
            number: exam.subject.pool,
        }
    }

    /// A finding about a name.
    fn finding(&self, severity: Severity, kind: Kind, asked: &Asked, seen: String, mend: String) -> Finding {
        Finding { names: vec![asked.to_string()], ..self.whole(severity, kind, seen, mend) }
    }

    /// A finding about the backend, independent of the name.
    fn whole(&self, severity: Severity, kind: Kind, seen: String, mend: String) -> Finding {
        let (pool, backends) = (self.pool.to_owned(), vec![self.backend.to_owned()]);
        Finding { severity, kind, pool, backends, names: Vec::new(), seen, mend }
    }
}

fn not_asked(place: &Place<'_>, missed: usize) -> Finding {
    place.whole(
        Severity::Info,
        Kind::NamesLeftOut,
        format!("{missed} more name{} not asked for", if missed == 1 { " was" } else { "s were" }),
        "The backend gave no answer to several names in a row; mend that first.".to_owned(),
    )
}

impl Asked {
    /// The severity if the backend fails for this name.
    fn gravity(&self) -> Severity {
        match self.why {
            Why::Routed => Severity::Error,
            // Other names that the wildcard matches may work.
            Why::MadeUpFor(_) | Why::NoName | Why::Unrouted => Severity::Warning,
            // A backend need not know a name that does not exist.
            Why::AnyName => Severity::Info,
        }
    }
}

/// The leaf certificate of an answer, if it can be parsed.
fn leaf(outcome: &Outcome) -> Option<&Certificate> {
    outcome.as_ref().ok().and_then(|handshake: &Handshake| handshake.leaf.as_ref().ok())
}
