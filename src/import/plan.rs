//! Turns listeners with rules of their own into one table of routes for all.
//!
//! In:  a [`Model`].
//! Out: [`Plan`]: listeners, routes, fallbacks, and the pools that they lead to.

use std::collections::HashSet;
use std::sync::Arc;

use ipnet::IpNet;

use super::finding::Findings;
use super::model::{Key, Listener, Model, Origin, Pool, Rule, Target};
use super::order;
use crate::server_name::Pattern;

/// What the routing file says.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub listeners: Vec<PlannedListener>,
    pub routes: Vec<Route>,
    /// `no_sni`, `unmatched`, `not_tls`.
    pub fallbacks: Vec<(&'static str, Target, Option<Origin>)>,
    pub pools: Vec<Pool>,
    pub settings: Vec<Key>,
}

/// A listener without its rules.
#[derive(Debug)]
pub(crate) struct PlannedListener {
    pub name: String,
    pub origin: Option<Origin>,
    pub bind: Vec<(String, Option<Origin>)>,
    pub keys: Vec<Key>,
}

/// Neighbouring rules that lead to one place.
#[derive(Debug)]
pub(crate) struct Route {
    pub patterns: Vec<(Pattern, Option<Origin>)>,
    pub source: Vec<IpNet>,
    /// Empty: all listeners.
    pub listeners: Vec<String>,
    pub to: Target,
}

/// Listeners with the same rules.
struct Group {
    listeners: Vec<String>,
    rules: Vec<Rule>,
    no_sni: Option<(Target, Origin)>,
    not_tls: Option<(Target, Origin)>,
}

/// Writes the rules of all listeners as routes.
pub(super) fn plan(model: Model, findings: &mut Findings) -> Plan {
    let mut plan = Plan { settings: model.settings, ..Plan::default() };
    let groups = groups(&model.listeners);
    let is_alone = groups.len() == 1;
    for group in &groups {
        let listeners = if is_alone { &[][..] } else { &group.listeners };
        add_rules(&mut plan, group.rules.clone(), listeners, findings);
    }
    let fallback = |of: fn(&Group) -> &Option<(Target, Origin)>| groups.iter().map(of).collect::<Vec<_>>();
    add_fallback(&mut plan, "no_sni", &fallback(|group| &group.no_sni), findings);
    add_fallback(&mut plan, "not_tls", &fallback(|group| &group.not_tls), findings);
    plan.pools = used(model.pools, &plan);
    plan.listeners = model.listeners.into_iter().map(PlannedListener::from).collect();
    plan
}

fn groups(listeners: &[Listener]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let is_http = |listener: &Listener| listener.keys.iter().any(|key| key.path == "protocol");
    for listener in listeners.iter().filter(|listener| !is_http(listener)) {
        let Listener { name, rules, no_sni, not_tls, .. } = listener.clone();
        match groups.iter_mut().find(|group| same_rules(group, listener)) {
            Some(group) => group.listeners.push(name),
            None => groups.push(Group { listeners: vec![name], rules, no_sni, not_tls }),
        }
    }
    groups
}

/// Whether a client goes to the same place through this listener; where the rules are from does not matter.
fn same_rules(group: &Group, listener: &Listener) -> bool {
    let fallback = |of: &Option<(Target, Origin)>| of.as_ref().map(|(target, _)| target.clone());
    let same = |(a, b): (&Rule, &Rule)| (&a.pattern, &a.source, &a.to) == (&b.pattern, &b.source, &b.to);
    fallback(&group.no_sni) == fallback(&listener.no_sni)
        && fallback(&group.not_tls) == fallback(&listener.not_tls)
        && group.rules.len() == listener.rules.len()
        && group.rules.iter().zip(&listener.rules).all(same)
}

fn add_rules(plan: &mut Plan, rules: Vec<Rule>, listeners: &[String], findings: &mut Findings) {
    let first = plan.routes.len();
    for Rule { pattern, source, to, origin, .. } in order::most_specific_wins(rules, findings) {
        if pattern == Pattern::Any && source.is_empty() && listeners.is_empty() {
            plan.fallbacks.push(("unmatched", to, Some(origin)));
            continue;
        }
        let entry = (pattern, Some(origin));
        match plan.routes[first..].last_mut() {
            Some(route) if route.to == to && route.source == source => route.patterns.push(entry),
            _ => plan.routes.push(Route { patterns: vec![entry], source, listeners: listeners.to_vec(), to }),
        }
    }
}

/// `no_sni` and `not_tls` are the same for all listeners of a routing file.
fn add_fallback(plan: &mut Plan, key: &'static str, of: &[&Option<(Target, Origin)>], findings: &mut Findings) {
    let Some((target, origin)) = of.iter().find_map(|of| of.as_ref()) else { return };
    for other in of.iter().filter_map(|of| of.as_ref()).filter(|(other, _)| other != target) {
        let why = format!("`{key}` is the same for all listeners, and the one from {origin} was used");
        findings.left_out(&other.1, key, why);
    }
    if of.iter().any(|of| of.is_none()) {
        let why = format!("in snigate, `{key}` applies to all listeners, and now also to those that had none");
        findings.left_out(origin, &format!("{key}, for some listeners only"), why);
    }
    // Closing is the default for clients that do not speak TLS.
    if (key, target) != ("not_tls", &Target::Close) {
        plan.fallbacks.push((key, target.clone(), Some(origin.clone())));
    }
}

/// The pools that something leads to.
fn used(pools: Vec<Pool>, plan: &Plan) -> Vec<Pool> {
    let routes = plan.routes.iter().map(|route| &route.to);
    let targets = routes.chain(plan.fallbacks.iter().map(|(_, target, _)| target));
    let names: HashSet<&Arc<str>> = targets.flat_map(Target::pools).collect();
    pools.into_iter().filter(|pool| names.contains(&pool.name)).collect()
}

impl From<Listener> for PlannedListener {
    fn from(listener: Listener) -> Self {
        let Listener { name, origin, bind, keys, .. } = listener;
        let bind = bind.into_iter().map(|(address, origin)| (address, Some(origin))).collect();
        Self { name, origin: Some(origin), bind, keys }
    }
}
