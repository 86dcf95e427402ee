//! Reads what a TLSRoute, or an Ingress with TLS passthrough, asks for.
//!
//! In:  the object; for an Ingress, the Gateway that it is served by.
//! Out: [`Wish`]es: hostnames, the Gateways to attach to, references to Services. What cannot be read is reported.

use std::collections::BTreeMap;

use gateway_api::tlsroutes::{TlsRoute, TlsRouteParentRefs};
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend};

use super::annotations::PREFIX;
use super::backends::{From, PortId, Reference};
use super::hostname;
use super::objects::ObjectName;
use super::section::TLS_ROUTE;
use super::status::GROUP;
use crate::server_name::Pattern;

/// What an object asks for: one of a TLSRoute, one for each host of an Ingress.
#[derive(Clone, Debug)]
pub(super) struct Wish<'o> {
    pub name: ObjectName,
    /// `TLSRoute` or `Ingress`.
    pub kind: &'static str,
    pub patterns: Vec<Pattern>,
    pub parents: Vec<Parent<'o>>,
    pub references: Vec<Reference<'o>>,
    /// Parts that are left out, and how to mend them.
    pub problems: Vec<String>,
}

/// A Gateway, or listeners of it, to attach to.
#[derive(Clone, Debug)]
pub(super) struct Parent<'o> {
    pub gateway: ObjectName,
    pub section: Option<&'o str>,
    pub port: Option<i32>,
    /// As a TLSRoute has it.
    pub written: Option<&'o TlsRouteParentRefs>,
}

impl<'o> Wish<'o> {
    pub(super) fn of_route(route: &'o TlsRoute) -> Self {
        let name = ObjectName::of(&route.metadata);
        let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
        let (mut patterns, mut problems) = (Vec::new(), Vec::new());
        for hostname in &route.spec.hostnames {
            match hostname::read(hostname) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => problems.push(error),
            }
        }
        distinct(&mut patterns);
        if route.spec.rules.len() > 1 {
            problems.push("only the first rule can ever match; remove the others".to_owned());
        }
        let from = From { kind: TLS_ROUTE, namespace };
        let references = route.spec.rules.first().into_iter().flat_map(|rule| &rule.backend_refs);
        let references = references.map(|reference| Reference {
            from,
            group: reference.group.as_deref().unwrap_or_default(),
            kind: reference.kind.as_deref().unwrap_or("Service"),
            namespace: reference.namespace.as_deref().unwrap_or(namespace),
            name: &reference.name,
            port: reference.port.map_or(PortId::Missing, PortId::Number),
            weight: reference.weight.map_or(1, |weight| u32::try_from(weight).unwrap_or_default().min(1_000_000)),
        });
        let parents = route.spec.parent_refs.iter().flatten().filter(|parent| {
            parent.group.as_deref().unwrap_or(GROUP) == GROUP
                && parent.kind.as_deref().unwrap_or("Gateway") == "Gateway"
        });
        let parents = parents.map(|parent| Parent {
            gateway: ObjectName::new(parent.namespace.as_deref().unwrap_or(namespace), &parent.name),
            section: parent.section_name.as_deref().filter(|section| !section.is_empty()),
            port: parent.port,
            written: Some(parent),
        });
        let (parents, references) = (parents.collect(), references.collect());
        Self { name, kind: TLS_ROUTE, patterns, parents, references, problems }
    }

    /// One for each host, and what is left out of the Ingress.
    pub(super) fn of_ingress(ingress: &'o Ingress, gateway: &ObjectName) -> (Vec<Self>, Vec<String>) {
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        let spec = ingress.spec.as_ref();
        let (mut hosts, mut problems): (BTreeMap<&str, Option<&IngressBackend>>, Vec<String>) = Default::default();
        for rule in spec.and_then(|spec| spec.rules.as_ref()).into_iter().flatten() {
            let Some(host) = rule.host.as_deref().filter(|host| !host.is_empty()) else {
                problems.push("a rule has no host: snigate routes by server name; add `host`".to_owned());
                continue;
            };
            // As the controller whose annotation it is: the path is of no use, the connection is not decrypted.
            let paths = rule.http.iter().flat_map(|http| &http.paths);
            let root = paths.clone().find(|path| path.path.as_deref().is_none_or(|path| path == "/"));
            let path = root.or_else(|| paths.clone().next());
            if paths.count() > 1 {
                problems.push(format!(
                    "{host}: TLS does not show paths; all connections go to the backend of `/`, or else of the first path"
                ));
            }
            hosts.entry(host).or_insert_with(|| path.map(|path| &path.backend));
        }
        if spec.is_some_and(|spec| spec.default_backend.is_some()) {
            problems.push(
                "defaultBackend is not served, since snigate routes by server name; add a rule with `host`".to_owned(),
            );
        }
        let mut wishes = Vec::new();
        for (host, backend) in hosts {
            let pattern = match hostname::read(host) {
                // In an Ingress a star is exactly one label.
                Ok(Pattern::ManyLabels(suffix)) => Pattern::OneLabel(suffix),
                Ok(pattern) => pattern,
                Err(error) => {
                    problems.push(error);
                    continue;
                }
            };
            let parent = Parent { gateway: gateway.clone(), section: None, port: None, written: None };
            wishes.push(Self {
                name: ObjectName::of(&ingress.metadata),
                kind: INGRESS,
                patterns: vec![pattern],
                parents: vec![parent],
                references: backend.into_iter().map(|backend| reference(backend, namespace)).collect(),
                problems: Vec::new(),
            });
        }
        (wishes, problems)
    }

    /// `TLSRoute NAMESPACE/NAME`
    pub(super) fn object(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

fn reference<'o>(backend: &'o IngressBackend, namespace: &'o str) -> Reference<'o> {
    let from = From { kind: INGRESS, namespace };
    match (&backend.service, &backend.resource) {
        (Some(service), _) => {
            let port = service.port.as_ref();
            let number = port.and_then(|port| port.number).map(PortId::Number);
            let port = number.or_else(|| port?.name.as_deref().map(PortId::Name)).unwrap_or(PortId::Missing);
            Reference { from, group: "", kind: "Service", namespace, name: &service.name, port, weight: 1 }
        }
        (None, resource) => {
            let (kind, name) = resource.as_ref().map_or(("", ""), |resource| (&*resource.kind, &*resource.name));
            Reference { from, group: "other", kind, namespace, name, port: PortId::Missing, weight: 1 }
        }
    }
}

/// Whether TLS passes through, by our annotation or that of the retired ingress-nginx.
pub(super) fn passes_through(ingress: &Ingress) -> bool {
    let annotations = ingress.metadata.annotations.as_ref();
    let is_true = |prefix: &str| {
        annotations.and_then(|all| all.get(&format!("{prefix}ssl-passthrough"))).is_some_and(|value| value == "true")
    };
    is_true(PREFIX) || is_true("nginx.ingress.kubernetes.io/")
}

/// The class that an Ingress names.
pub(super) fn class_of(ingress: &Ingress) -> Option<&str> {
    let old = || ingress.metadata.annotations.as_ref()?.get("kubernetes.io/ingress.class").map(String::as_str);
    ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref()).or_else(old)
}

/// Removes what occurs again; the first stays in its place.
fn distinct(patterns: &mut Vec<Pattern>) {
    let mut seen = std::collections::HashSet::new();
    patterns.retain(|pattern| seen.insert(pattern.clone()));
}

pub(super) const INGRESS: &str = "Ingress";
