//! Resolves the references of routes to pools.
//!
//! In:  the Services, and the ReferenceGrants.
//! Out: a pool for each port of a Service that a route names; what is wrong with a reference.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use gateway_api::referencegrants::ReferenceGrant;
use k8s_openapi::api::core::v1::{Service, ServicePort as PortSpec};

use super::annotations;
use super::endpoints::ServicePort;
use super::objects::{ObjectName, Objects};
use super::status::GROUP;
use super::translation::FoundPool;
use crate::settings::{Backend, BackendAddress, Kubernetes, Origin, Pool};

/// A reference of a route.
#[derive(Clone, Debug)]
pub(super) struct Reference<'o> {
    /// Of the object that has the reference.
    pub from: From<'o>,
    pub group: &'o str,
    pub kind: &'o str,
    pub namespace: &'o str,
    pub name: &'o str,
    pub port: PortId<'o>,
    pub weight: u32,
}

/// The object that has a reference.
#[derive(Clone, Copy, Debug)]
pub(super) struct From<'o> {
    pub kind: &'static str,
    pub namespace: &'o str,
}

/// How a port of a Service is named.
#[derive(Clone, Copy, Debug)]
pub(super) enum PortId<'o> {
    Number(i32),
    Name(&'o str),
    Missing,
}

impl fmt::Display for PortId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Missing => f.write_str("?"),
        }
    }
}

/// Why a reference cannot be followed: a reason of `ResolvedRefs`, and how to mend it.
type Problem = (&'static str, String);

/// What the references of one route lead to.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolved {
    /// The pools with their weights; each once.
    pub shares: Vec<(Arc<str>, u32)>,
    /// In the order of the references.
    pub problems: Vec<Problem>,
    /// Of the annotations of Services.
    pub wrong_annotations: Vec<String>,
}

/// Everything that references lead to.
pub(super) struct Backends<'o> {
    settings: &'o Kubernetes,
    services: HashMap<(&'o str, &'o str), &'o Service>,
    grants: HashMap<&'o str, Vec<&'o ReferenceGrant>>,
    known: HashMap<(ObjectName, u16), (Arc<str>, Vec<String>)>,
    pub pools: BTreeMap<Arc<str>, FoundPool>,
}

impl<'o> Backends<'o> {
    pub(super) fn new(objects: &'o Objects, settings: &'o Kubernetes) -> Self {
        let services = objects.services.iter().filter_map(|service| {
            let meta = &service.metadata;
            Some(((meta.namespace.as_deref()?, meta.name.as_deref()?), &**service))
        });
        let mut grants: HashMap<&str, Vec<&ReferenceGrant>> = HashMap::new();
        for grant in &objects.reference_grants {
            grants.entry(grant.metadata.namespace.as_deref().unwrap_or_default()).or_default().push(grant);
        }
        Self { settings, services: services.collect(), grants, known: HashMap::new(), pools: BTreeMap::new() }
    }

    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&'o Service> {
        self.services.get(&(namespace, name)).copied()
    }

    /// Follows `references`; a share that cannot be followed leads to a pool without backends, which refuses it.
    pub(super) fn resolve(&mut self, references: &[Reference<'_>]) -> Resolved {
        let mut resolved = Resolved::default();
        for reference in references {
            let pool = match self.find(reference) {
                Ok((name, service, port)) => {
                    let (pool, wrong) = self.pool(name, service, port);
                    let new = wrong.iter().filter(|wrong| !resolved.wrong_annotations.contains(wrong)).cloned();
                    let new: Vec<String> = new.collect();
                    resolved.wrong_annotations.extend(new);
                    pool
                }
                Err((reason, message)) => {
                    resolved.problems.push((reason, message));
                    self.refusing(reference, reason)
                }
            };
            match resolved.shares.iter_mut().find(|(known, _)| *known == pool) {
                Some((_, weight)) => *weight = weight.saturating_add(reference.weight),
                None => resolved.shares.push((pool, reference.weight)),
            }
        }
        resolved
    }

    fn find(&self, reference: &Reference<'_>) -> Result<(ObjectName, &'o Service, &'o PortSpec), Problem> {
        let Reference { group, kind, namespace, name, port, .. } = *reference;
        if !matches!(group, "" | "core") || kind != "Service" {
            return Err((
                "InvalidKind",
                format!("{kind} {namespace}/{name}: only Services are supported; write `kind: Service`"),
            ));
        }
        if namespace != reference.from.namespace && !self.is_granted(reference) {
            let From { kind, namespace: from } = reference.from;
            let message = format!(
                "Service {namespace}/{name}: no ReferenceGrant in {namespace} allows it; make one from {kind} in {from} to Service {name}"
            );
            return Err(("RefNotPermitted", message));
        }
        let not_found = |message: String| Err(("BackendNotFound", message));
        if !self.settings.namespaces.include(namespace) {
            return not_found(format!(
                "Service {namespace}/{name}: snigate does not read {namespace}; add it to `kubernetes.namespaces`"
            ));
        }
        let Some(service) = self.service(namespace, name) else {
            return not_found(format!("there is no Service {namespace}/{name}; make it, or mend backendRefs"));
        };
        let spec = service.spec.as_ref();
        if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            let message = format!(
                "Service {namespace}/{name} has the type ExternalName, which could lead anywhere; make a Service with \
                 EndpointSlices, or a pool of the routing file"
            );
            return Err(("InvalidKind", message));
        }
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let is_asked = |of: &&PortSpec| match port {
            PortId::Number(number) => of.port == number,
            PortId::Name(name) => of.name.as_deref() == Some(name),
            PortId::Missing => false,
        };
        let is_tcp = |of: &&PortSpec| of.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        match ports.iter().filter(is_tcp).find(is_asked) {
            Some(found) if (1..=i32::from(u16::MAX)).contains(&found.port) => {
                Ok((ObjectName::new(namespace, name), service, found))
            }
            _ => {
                let known: Vec<String> = ports.iter().filter(is_tcp).map(|of| of.port.to_string()).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let asked = match port {
                    PortId::Missing => format!("Service {namespace}/{name}: the reference names no port"),
                    port => format!("Service {namespace}/{name} has no TCP port {port}"),
                };
                not_found(format!("{asked}; its ports: {known}"))
            }
        }
    }

    fn is_granted(&self, reference: &Reference<'_>) -> bool {
        let From { kind, namespace } = reference.from;
        // An Ingress may only name Services beside it.
        kind == "TLSRoute"
            && self.grants.get(reference.namespace).into_iter().flatten().any(|grant| {
                let from = |from: &gateway_api::referencegrants::ReferenceGrantFrom| {
                    from.group == GROUP && from.kind == kind && from.namespace == namespace
                };
                let to = |to: &gateway_api::referencegrants::ReferenceGrantTo| {
                    matches!(to.group.as_str(), "" | "core")
                        && to.kind == "Service"
                        && to.name.as_deref().is_none_or(|name| name.is_empty() || name == reference.name)
                };
                grant.spec.from.iter().any(from) && grant.spec.to.iter().any(to)
            })
    }

    /// The name of the pool of a port, and what is wrong with the annotations of its Service.
    fn pool(&mut self, service: ObjectName, object: &Service, port: &PortSpec) -> (Arc<str>, &[String]) {
        let number = u16::try_from(port.port).expect("checked when it was found");
        let pools = &mut self.pools;
        let known = self.known.entry((service, number)).or_insert_with_key(|(service, number)| {
            let name: Arc<str> = format!("{service}:{number}").into();
            let (annotations, wrong) = annotations::read(object.metadata.annotations.as_ref());
            let port = ServicePort { service: service.clone(), port: port.name.clone().unwrap_or_default() };
            let backend = Backend {
                address: BackendAddress::Service(Arc::clone(&name)),
                weight: 1,
                backup: false,
                max_connections: annotations.max_connections,
            };
            let pool = Pool {
                name: Arc::clone(&name),
                origin: Origin::Kubernetes,
                backends: vec![backend],
                balance: annotations.balance,
                send_proxy_protocol: annotations.send_proxy_protocol,
                connect: annotations.connect,
                idle_timeout: annotations.idle_timeout,
                ..Pool::default()
            };
            pools.insert(Arc::clone(&name), FoundPool { pool, port: Some(port) });
            (name, wrong)
        });
        (Arc::clone(&known.0), &known.1)
    }

    /// A pool that refuses the share of a reference that cannot be followed.
    fn refusing(&mut self, reference: &Reference<'_>, reason: &str) -> Arc<str> {
        let Reference { namespace, name, port, .. } = reference;
        let name: Arc<str> = format!("{namespace}/{name}:{port} ({reason})").into();
        let pool = Pool { name: Arc::clone(&name), origin: Origin::Kubernetes, ..Pool::default() };
        let refusing = FoundPool { pool, port: None };
        self.pools.entry(Arc::clone(&name)).or_insert(refusing);
        name
    }
}
