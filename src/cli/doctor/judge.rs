//! Turns the backends' answers into findings that a person can act on.
//!
//! In:  all [`Examination`]s, the configuration, the time.
//! Out: [`Finding`]s. Pure: depends only on its input.

mod certificates;
mod failures;
mod pools;
mod protocol;

pub(super) use self::failures::describe;
use super::destinations::{Destinations, InnerNames};
use super::examine::{Examination, Outcome};
use super::finding::{Finding, Kind, Severity, merge_equal};
use super::plan::{PoolPlan, Question, Why};
use crate::backends::handshake::{Certificate, Handshake};
use crate::config::Config;
use crate::ech::Confirmation;

/// The context of the judgement.
pub(super) struct Context<'a> {
    pub config: &'a Config,
    pub destinations: &'a Destinations<'a>,
    /// Seconds since 1970.
    pub now: i64,
    /// Report certificates that expire within this many days.
    pub days: i64,
    /// For each pool, how names that were encrypted reach it.
    pub inner: Vec<Option<InnerNames>>,
    /// For each pool, whether an untrusted chain is a fault or only information.
    pub trust_matters: Vec<bool>,
}

/// Judges all results, pool by pool.
pub(super) fn judge(context: &Context<'_>, plans: &[PoolPlan], exams: &[Examination]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for plan in plans {
        let exams: Vec<_> = exams.iter().filter(|exam| exam.target.pool == plan.pool).collect();
        for exam in &exams {
            judge_backend(context, exam, &mut findings);
        }
        pools::judge(context, plan, &exams, &mut findings);
    }
    merge_equal(findings)
}

fn judge_backend(context: &Context<'_>, exam: &Examination, findings: &mut Vec<Finding>) {
    let place = Place::of(context, exam);
    for answer in &exam.answers {
        match &answer.outcome {
            Ok(handshake) => {
                certificates::judge(context, &place, &answer.asked, handshake, findings);
                protocol::judge_answer(&place, answer, handshake, findings);
            }
            Err(failure) => findings.push(failures::finding(&place, &answer.asked, failure)),
        }
    }
    if let Some(why) = &exam.check_failed {
        findings.push(place.whole(
            Severity::Error,
            Kind::CheckFails,
            format!("its health check fails: {why}"),
            CHECK_FAILS.to_owned(),
        ));
    }
    if let (Some(names), Some(Confirmation::Unconfirmed)) = (context.inner[place.number], exam.confirmation) {
        findings.push(unconfirmed(&place, names));
    }
    let missed = exam.target.asked.len() - exam.answers.len();
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
    fn of(context: &Context<'a>, exam: &'a Examination) -> Self {
        Self {
            pool: &context.config.pools[exam.target.pool].name,
            backend: &exam.target.label,
            number: exam.target.pool,
        }
    }

    /// A finding about a name.
    fn finding(&self, severity: Severity, kind: Kind, asked: &Question, seen: String, mend: String) -> Finding {
        Finding { names: vec![asked.to_string()], ..self.whole(severity, kind, seen, mend) }
    }

    /// A finding about the backend, independent of the name.
    fn whole(&self, severity: Severity, kind: Kind, seen: String, mend: String) -> Finding {
        let (pool, backends) = (self.pool.to_owned(), vec![self.backend.to_owned()]);
        Finding { severity, kind, pool, backends, names: Vec::new(), seen, mend }
    }
}

fn unconfirmed(place: &Place<'_>, names: InnerNames) -> Finding {
    let severity = match names {
        InnerNames::Only => Severity::Error,
        // Perhaps no client has a key for the names that lead here.
        InnerNames::Some => Severity::Warning,
    };
    place.whole(
        severity,
        Kind::EchUnconfirmed,
        "does not accept the inner hellos of Encrypted ClientHello".to_owned(),
        "Clients whose name was encrypted fail here, and do not try without. Use a TLS library that accepts inner hellos, such \
         as OpenSSL 4.0; or keep them away: `ech: never` at the routes that lead here, or `health_check: { ech: true }` in \
         the pool, which lets such clients connect by the public name."
            .to_owned(),
    )
}

fn not_asked(place: &Place<'_>, missed: usize) -> Finding {
    place.whole(
        Severity::Info,
        Kind::NamesLeftOut,
        format!("{missed} more name{} not tested", if missed == 1 { " was" } else { "s were" }),
        "The backend did not answer for several names in a row; fix that first.".to_owned(),
    )
}

impl Question {
    /// The severity if the backend fails for this name.
    fn severity(&self) -> Severity {
        match self.why {
            Why::Routed => Severity::Error,
            // Other names that the wildcard matches may work.
            Why::MadeUpFor(_) | Why::NoName | Why::Unrouted => Severity::Warning,
            // A backend need not know a name that does not exist.
            Why::AnyName => Severity::Info,
        }
    }
}

const CHECK_FAILS: &str = "snigate takes such a backend for down, and sends it no connections while another one is up. Mend \
     the backend, or correct `health_check` of the pool.";

/// The leaf certificate of an answer, if it can be parsed.
fn leaf(outcome: &Outcome) -> Option<&Certificate> {
    outcome.as_ref().ok().and_then(|handshake: &Handshake| handshake.leaf.as_ref().ok())
}
