//! Translates the objects of a cluster.
//!
//! In:  [`Objects`], the settings, what was observed, the addresses that the file binds.
//! Out: a [`Translation`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use gateway_api::gateways::Gateway;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::annotations;
use super::attach::{Attached, Attaching, Claim, MAX_SHOWN};
use super::backends::{Backends, Resolved};
use super::class::{self, Class};
use super::gateway::{self, Served};
use super::hostname;
use super::objects::{ObjectName, Objects, Observed};
use super::section::TLS_ROUTE;
use super::status::{ANNOTATIONS_VALID, Condition, IngressStatus, ParentStatus, RouteStatus, SHADOWED, Statuses};
use super::translation::{FoundPool, GatewayRoute, To, Translation};
use super::wish::{self, INGRESS, Wish};
use crate::server_name::Pattern;
use crate::settings::Kubernetes;

/// Translates `objects`. `bound` are the addresses that listeners of the file have.
pub(crate) fn translate(
    objects: &Objects,
    settings: &Kubernetes,
    observed: &Observed,
    bound: &[SocketAddr],
) -> Translation {
    let classes = class::ours(objects, &settings.controller_name.0, observed);
    let mut backends = Backends::new(objects, settings);
    let own_namespace = observed.namespace.as_deref();
    let mut gateways = gateways(objects, &classes, settings, own_namespace, &backends);
    gateway::bind(&mut gateways, settings, bound);
    let wishes = wishes(objects, &gateways, settings, own_namespace);
    let mut attaching = Attaching::new(objects, &mut gateways);
    let attached: Vec<Vec<Attached>> =
        wishes.all.iter().enumerate().map(|(number, wish)| attaching.attach(number, wish)).collect();
    let resolved: Vec<Resolved> = wishes.all.iter().map(|wish| backends.resolve(&wish.references)).collect();
    let claims = attaching.claims;
    let listeners = attaching.listeners;
    let mut statuses = Statuses::default();
    for (name, class) in &classes {
        statuses.gateway_classes.insert(class::name(name), class.status.clone());
    }
    for served in &gateways {
        statuses.gateways.insert(served.name.clone(), served.status(settings, observed));
    }
    let all = Wished { wishes: &wishes.all, attached: &attached, resolved: &resolved, claims: &claims };
    all.route_statuses(objects, settings, &mut statuses);
    all.ingress_statuses(&wishes.ingresses, &gateways, (settings, observed), &mut statuses);
    let mut translation = Translation { listeners, statuses, ..Translation::default() };
    for served in &gateways {
        translation.exposures.extend(served.exposure().map(|exposure| (served.name.clone(), exposure)));
    }
    all.routes(backends.pools, &mut translation);
    translation
}

/// The Gateways of our classes, the oldest first.
fn gateways<'o>(
    objects: &'o Objects,
    classes: &BTreeMap<&str, Class>,
    settings: &Kubernetes,
    own_namespace: Option<&str>,
    backends: &Backends<'o>,
) -> Vec<Served<'o>> {
    let mut found: Vec<(&Gateway, &Class)> = Vec::new();
    for gateway in objects.gateways.iter().filter(|gateway| is_read(&gateway.metadata, settings)) {
        found.extend(classes.get(gateway.spec.gateway_class_name.as_str()).map(|class| (&**gateway, class)));
    }
    found.sort_by_cached_key(|(gateway, _)| age(&gateway.metadata));
    let service = |name: &ObjectName| backends.service(&name.namespace, &name.name);
    found.into_iter().map(|(gateway, class)| Served::new(gateway, class, settings, own_namespace, service)).collect()
}

/// Everything that routes ask for.
struct Wishes<'o> {
    /// The oldest first.
    all: Vec<Wish<'o>>,
    ingresses: Vec<ReadIngress>,
}

/// An Ingress of a class of ours.
struct ReadIngress {
    name: ObjectName,
    gateway: Option<ObjectName>,
    problems: Vec<String>,
}

fn wishes<'o>(
    objects: &'o Objects,
    gateways: &[Served<'o>],
    settings: &Kubernetes,
    own_namespace: Option<&str>,
) -> Wishes<'o> {
    let mut all: Vec<(Age, Wish<'o>)> = Vec::new();
    for route in objects.tls_routes.iter().filter(|route| is_read(&route.metadata, settings)) {
        all.push((age(&route.metadata), Wish::of_route(route)));
    }
    let mut ingresses = Vec::new();
    let ours = objects.gateway_classes.iter().filter(|class| class.spec.controller_name == *settings.controller_name.0);
    let ours: BTreeSet<&str> = ours.filter_map(|class| class.metadata.name.as_deref()).collect();
    for ingress in objects.ingresses.iter().filter(|ingress| is_read(&ingress.metadata, settings)) {
        let Some(class) = wish::class_of(ingress).filter(|class| ours.contains(class)) else { continue };
        let (name, gateway) = (ObjectName::of(&ingress.metadata), default_gateway(gateways, class, own_namespace));
        let problems = match &gateway {
            _ if !wish::passes_through(ingress) => vec![format!(
                "snigate does not terminate TLS; if the backends do, add the annotation `{}ssl-passthrough: \"true\"`",
                annotations::PREFIX
            )],
            None => vec![format!("there is no Gateway of the class {class}; make one")],
            Some(gateway) => {
                let (wishes, problems) = Wish::of_ingress(ingress, gateway);
                all.extend(wishes.into_iter().map(|wish| (age(&ingress.metadata), wish)));
                problems
            }
        };
        ingresses.push(ReadIngress { name, gateway, problems });
    }
    all.sort_by(|(a, one), (b, other)| (a, one.kind, &one.patterns).cmp(&(b, other.kind, &other.patterns)));
    Wishes { all: all.into_iter().map(|(_, wish)| wish).collect(), ingresses }
}

/// The Gateway for Ingresses of a class: the one that says so, or else the oldest. Gateways beside snigate come before all
/// others: who may make one elsewhere must not get the names of everybody.
fn default_gateway(gateways: &[Served<'_>], class: &str, own_namespace: Option<&str>) -> Option<ObjectName> {
    let says_so = |served: &Served<'_>| {
        let annotations = served.gateway.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(DEFAULT_GATEWAY)).is_some_and(|value| value == "true")
    };
    let of_class = gateways.iter().filter(|served| served.gateway.spec.gateway_class_name == class);
    // Of equals, the first: the oldest.
    let last = |served: &&Served<'_>| (Some(&*served.name.namespace) != own_namespace, !says_so(served));
    of_class.min_by_key(last).map(|served| served.name.clone())
}

/// Older objects first; of equal age, by namespace and name.
type Age = (Option<k8s_openapi::jiff::Timestamp>, ObjectName);

fn age(meta: &ObjectMeta) -> Age {
    (meta.creation_timestamp.as_ref().map(|time| time.0), ObjectName::of(meta))
}

/// Whether an object is in a namespace that is read, and is not about to go.
fn is_read(meta: &ObjectMeta, settings: &Kubernetes) -> bool {
    meta.deletion_timestamp.is_none() && settings.namespaces.include(meta.namespace.as_deref().unwrap_or_default())
}

/// The wishes with what became of them, all in one order.
struct Wished<'a, 'o> {
    wishes: &'a [Wish<'o>],
    attached: &'a [Vec<Attached>],
    resolved: &'a [Resolved],
    claims: &'a HashMap<Claim, usize>,
}

impl Wished<'_, '_> {
    fn route_statuses(&self, objects: &Objects, settings: &Kubernetes, statuses: &mut Statuses) {
        let numbers = self.wishes.iter().enumerate().filter(|(_, wish)| wish.kind == TLS_ROUTE);
        let numbers: HashMap<&ObjectName, usize> = numbers.map(|(number, wish)| (&wish.name, number)).collect();
        for route in &objects.tls_routes {
            let name = ObjectName::of(&route.metadata);
            let generation = route.metadata.generation.unwrap_or_default();
            // A route that is not read any more has no parents.
            let attached = numbers
                .get(&name)
                .into_iter()
                .flat_map(|&number| self.attached[number].iter().map(move |attached| (number, attached)));
            let parents = attached.filter_map(|(number, attached)| {
                let parent = self.wishes[number].parents[attached.parent].written?.clone();
                Some(ParentStatus { parent, conditions: self.conditions(number, attached, generation) })
            });
            let parents: Vec<ParentStatus> = parents.collect();
            let written = route.status.iter().flat_map(|status| &status.parents);
            let was_ours = written.clone().any(|parent| parent.controller_name == *settings.controller_name.0);
            if was_ours || !parents.is_empty() {
                statuses.tls_routes.insert(name, RouteStatus { parents });
            }
        }
    }

    fn conditions(&self, number: usize, attached: &Attached, generation: i64) -> Vec<Condition> {
        let (wish, resolved) = (&self.wishes[number], &self.resolved[number]);
        let condition = |kind, is_true, reason, message| Condition { kind, is_true, reason, message, generation };
        let mut conditions = vec![match &attached.refused {
            _ if wish.patterns.is_empty() => condition(
                "Accepted",
                false,
                "UnsupportedValue",
                format!("no hostname is valid: {}", shown(&wish.problems)),
            ),
            Some((reason, message)) => condition("Accepted", false, reason, message.clone()),
            None => condition("Accepted", true, "Accepted", "the route is attached".to_owned()),
        }];
        conditions.push(match resolved.problems.first() {
            Some((reason, _)) => {
                let messages: Vec<String> = resolved.problems.iter().map(|(_, message)| message.clone()).collect();
                condition(
                    "ResolvedRefs",
                    false,
                    reason,
                    format!("connections for these references are refused: {}", shown(&messages)),
                )
            }
            None if resolved.shares.iter().all(|(_, weight)| *weight == 0) => {
                let message =
                    "no reference has a weight above 0, so all connections are refused; give one a weight of 1 or more";
                condition("ResolvedRefs", true, "ResolvedRefs", message.to_owned())
            }
            None => condition("ResolvedRefs", true, "ResolvedRefs", "all references are resolved".to_owned()),
        });
        if !wish.problems.is_empty() && !wish.patterns.is_empty() {
            conditions.push(condition("PartiallyInvalid", true, "UnsupportedValue", shown(&wish.problems)));
        }
        if !resolved.wrong_annotations.is_empty() {
            let message = format!("these annotations have no effect: {}", shown(&resolved.wrong_annotations));
            conditions.push(condition(ANNOTATIONS_VALID, false, "InvalidValue", message));
        }
        let lost = self.lost(number, attached);
        if !lost.is_empty() {
            conditions.push(condition(SHADOWED, true, "HostnameTaken", shown(&lost)));
        }
        conditions
    }

    /// The names that a wish does not get, and who has them.
    fn lost(&self, number: usize, attached: &Attached) -> Vec<String> {
        let lost = attached.wanted.iter().filter_map(|(claim, owner)| {
            let name = hostname::written(&claim.1);
            match (owner, self.claims.get(claim)) {
                (_, Some(winner)) if *winner == number => None,
                (Some(owner), _) => Some(format!(
                    "{name} belongs to the listener {owner}, whose hostname is more specific; attach the route there"
                )),
                (None, Some(winner)) => Some(format!(
                    "{name} goes to {}, which is older; remove it from one of the two",
                    self.wishes[*winner].object()
                )),
                (None, None) => None,
            }
        });
        lost.collect()
    }

    fn ingress_statuses(
        &self,
        ingresses: &[ReadIngress],
        gateways: &[Served<'_>],
        (settings, observed): (&Kubernetes, &Observed),
        statuses: &mut Statuses,
    ) {
        let mut problems: HashMap<&ObjectName, Vec<String>> = HashMap::new();
        let mut is_served: HashSet<&ObjectName> = HashSet::new();
        for (number, wish) in self.wishes.iter().enumerate().filter(|(_, wish)| wish.kind == INGRESS) {
            let problems = problems.entry(&wish.name).or_default();
            if self.attached[number].iter().any(|attached| attached.refused.is_none()) {
                is_served.insert(&wish.name);
            }
            let refused = self.attached[number].iter().filter_map(|attached| attached.refused.as_ref());
            problems.extend(refused.map(|(_, message)| message.clone()));
            problems.extend(self.attached[number].iter().flat_map(|attached| self.lost(number, attached)));
            problems.extend(self.resolved[number].problems.iter().map(|(_, message)| message.clone()));
            problems.extend(self.resolved[number].wrong_annotations.iter().cloned());
        }
        let served: HashMap<&ObjectName, &Served<'_>> = gateways.iter().map(|served| (&served.name, served)).collect();
        for ingress in ingresses {
            let mut all = ingress.problems.clone();
            all.extend(problems.remove(&ingress.name).unwrap_or_default());
            let gateway = ingress.gateway.as_ref().and_then(|name| served.get(name));
            let gateway = gateway.filter(|_| is_served.contains(&ingress.name));
            let addresses = gateway.map(|served| served.addresses(settings, observed)).unwrap_or_default();
            let status = IngressStatus { gateway: ingress.gateway.clone(), addresses, problems: all };
            statuses.ingresses.insert(ingress.name.clone(), status);
        }
    }

    /// Adds the routes, and the pools that they lead to.
    fn routes(&self, pools: BTreeMap<Arc<str>, FoundPool>, translation: &mut Translation) {
        let mut found: Vec<(usize, Vec<usize>, Vec<Pattern>)> = Vec::new();
        for (number, attached) in self.attached.iter().enumerate() {
            let mut names: BTreeMap<usize, BTreeSet<&Pattern>> = BTreeMap::new();
            let wanted = attached.iter().flat_map(|attached| attached.wanted.keys());
            for claim in wanted.filter(|claim| self.claims.get(claim) == Some(&number)) {
                names.entry(claim.0).or_default().insert(&claim.1);
            }
            let mut alike: BTreeMap<BTreeSet<&Pattern>, Vec<usize>> = BTreeMap::new();
            for (listener, patterns) in names {
                alike.entry(patterns).or_default().push(listener);
            }
            found.extend(alike.into_iter().map(|(names, at)| (number, at, names.into_iter().cloned().collect())));
        }
        let used: BTreeSet<&Arc<str>> =
            found.iter().flat_map(|(number, ..)| self.resolved[*number].shares.iter().map(|(pool, _)| pool)).collect();
        translation.pools = pools.into_values().filter(|pool| used.contains(&pool.pool.name)).collect();
        let numbers = translation.pools.iter().enumerate().map(|(number, pool)| (Arc::clone(&pool.pool.name), number));
        let numbers: HashMap<Arc<str>, usize> = numbers.collect();
        translation.routes = (found.into_iter())
            .map(|(number, listeners, patterns)| {
                let wish = &self.wishes[number];
                let name = wish.name.to_string().into();
                let to = destination(&self.resolved[number].shares, &numbers);
                GatewayRoute { name, object: wish.object().into(), listeners, patterns, to }
            })
            .collect();
        translation.routes.sort_by(|a, b| (&a.name, &a.object, &a.patterns).cmp(&(&b.name, &b.object, &b.patterns)));
    }
}

fn destination(shares: &[(Arc<str>, u32)], numbers: &HashMap<Arc<str>, usize>) -> To {
    let mut shares: Vec<(usize, u32)> = shares.iter().map(|(pool, weight)| (numbers[pool], *weight)).collect();
    // A split needs a sum below 2^32.
    while shares.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>() > u64::from(u32::MAX) {
        shares.iter_mut().filter(|(_, weight)| *weight > 1).for_each(|(_, weight)| *weight /= 2);
    }
    match shares.as_slice() {
        _ if shares.iter().all(|(_, weight)| *weight == 0) => To::Nowhere,
        [(pool, _)] => To::Pool(*pool),
        _ => To::Split(shares),
    }
}

/// The first of them.
fn shown(messages: &[String]) -> String {
    let more = messages.len().saturating_sub(MAX_SHOWN);
    let mut shown = messages.iter().take(MAX_SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if more > 0 {
        shown.push_str(&format!("; and {more} more"));
    }
    shown
}

/// The annotation of the Gateway that serves Ingresses.
const DEFAULT_GATEWAY: &str = "snigate.dev/default-gateway";
