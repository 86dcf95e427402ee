//! Does what the admin address is asked for.
//!
//! In:  calls of [`Control`].
//! Out: answers from what is in force now, as JSON; reloads.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use super::pools;
use crate::admin::{Access, Allow, Control, ExplainQuery, Reloaded, Soon, WantedState};
use crate::config::{AllowControl, Problem, Severity};
use crate::explain::{Question, explain};
use crate::reload::{Asker, Outcome};
use crate::snapshot::Snapshot;
use crate::telemetry::{ReloadResult, Trigger};

/// What the admin address reaches.
pub(super) struct Controls {
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) reloads: Asker,
}

impl Control for Controls {
    fn access(&self) -> Access {
        let admin = &self.snapshot.load().config.admin;
        let allow = match admin.allow_control {
            AllowControl::Auto => Allow::Auto,
            AllowControl::Token => Allow::Token,
            AllowControl::Never => Allow::Never,
        };
        Access { allow, token: admin.token.as_ref().map(|token| Arc::clone(token.secret())) }
    }

    fn explain(&self, query: ExplainQuery) -> Result<Value, String> {
        let ExplainQuery { name, alpn, source, listener } = query;
        let alpn = alpn.unwrap_or_default().split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let question = Question { name, alpn, source, listener };
        let explanation = explain(&self.snapshot.load(), &question).map_err(|error| error.to_string())?;
        serde_json::to_value(explanation).map_err(|error| error.to_string())
    }

    fn pools(&self) -> Value {
        pools::told(&self.snapshot.load())
    }

    fn set_backend_state(&self, pool: &str, backend: &str, wanted: WantedState) -> Result<Value, String> {
        pools::set_state(&self.snapshot.load(), pool, backend, wanted)
    }

    fn reload(&self) -> Soon<'_, Reloaded> {
        Box::pin(async {
            match self.reloads.outcome(Trigger::Api).await {
                None => Reloaded::Ending,
                Some(outcome) if outcome.result == ReloadResult::Rejected => Reloaded::Rejected(told(&outcome)),
                Some(outcome) => Reloaded::InForce(told(&outcome)),
            }
        })
    }
}

fn told(outcome: &Outcome) -> Value {
    let Outcome { result, hash, took, why, problems } = outcome;
    let listed: Vec<Value> = problems.iter().map(problem).collect();
    let mut told = json!({
        "result": result.as_str(),
        "hash": hash,
        "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "problems": listed,
    });
    if let Some(why) = why {
        told["error"] = json!(why);
    }
    if problems.left_off() > 0 {
        told["problems_left_off"] = json!(problems.left_off());
    }
    told
}

fn problem(problem: &Problem) -> Value {
    let Problem { severity, place, path, message } = problem;
    json!({
        "severity": match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        "file": place.file.display().to_string(),
        "line": place.line,
        "column": place.column,
        "path": path,
        "message": message,
    })
}
