//! What the objects of a cluster are told, as the status page shows it.
//!
//! In:  the statuses that the translation gives.
//! Out: Gateways and routes, those that are not accepted first; bounded.

use std::collections::HashMap;

use super::objects::{ObjectName, Objects};
use super::status::{Condition, Statuses};
use crate::operate::status::{KubernetesObjectStatus, KubernetesProblem};

#[derive(Clone, Debug, Default)]
pub(super) struct Reports {
    pub objects: Vec<KubernetesObjectStatus>,
    /// How many more there are.
    pub left_off: usize,
}

impl Reports {
    pub(super) fn of(statuses: &Statuses, objects: &Objects) -> Self {
        let generation = |meta: &kube::api::ObjectMeta| (ObjectName::of(meta), meta.generation.unwrap_or_default());
        let gateways: HashMap<_, _> = objects.gateways.iter().map(|gateway| generation(&gateway.metadata)).collect();
        let routes: HashMap<_, _> = objects.tls_routes.iter().map(|route| generation(&route.metadata)).collect();
        let mut all = Vec::new();
        for (name, status) in &statuses.gateways {
            let mut problems: Vec<KubernetesProblem> =
                status.conditions.iter().filter_map(|it| problem(None, it)).collect();
            for listener in &status.listeners {
                let of = || Some(format!("listener {}", listener.name));
                problems.extend(listener.conditions.iter().filter_map(|condition| problem(of(), condition)));
            }
            all.push(object("Gateway", name, gateways.get(name).copied(), problems));
        }
        for (name, status) in &statuses.tls_routes {
            let of_parent = status.parents.iter().flat_map(|parent| {
                let of = parent.parent.name.clone();
                parent.conditions.iter().filter_map(move |condition| problem(Some(of.clone()), condition))
            });
            all.push(object("TLSRoute", name, routes.get(name).copied(), of_parent.collect()));
        }
        for (name, status) in &statuses.ingresses {
            let problems = status.problems.iter().map(|message| KubernetesProblem {
                of: None,
                condition: "Accepted".to_owned(),
                reason: "NotServed".to_owned(),
                message: message.clone(),
            });
            all.push(object("Ingress", name, None, problems.collect()));
        }
        // Stable: of the same kind by name.
        all.sort_by_key(|object| (object.accepted, object.problems.is_empty()));
        let left_off = all.len().saturating_sub(MOST);
        all.truncate(MOST);
        Self { objects: all, left_off }
    }
}

fn object(
    kind: &'static str,
    name: &ObjectName,
    generation: Option<i64>,
    problems: Vec<KubernetesProblem>,
) -> KubernetesObjectStatus {
    KubernetesObjectStatus {
        kind: kind.into(),
        name: name.to_string(),
        generation: generation.unwrap_or_default(),
        accepted: !problems.iter().any(|problem| problem.condition == "Accepted"),
        problems,
    }
}

/// `None`: the condition is as it should be.
fn problem(of: Option<String>, condition: &Condition) -> Option<KubernetesProblem> {
    (!condition.is_good()).then(|| KubernetesProblem {
        of,
        condition: condition.kind.to_owned(),
        reason: condition.reason.to_owned(),
        message: condition.message.clone(),
    })
}

const MOST: usize = 1000;
