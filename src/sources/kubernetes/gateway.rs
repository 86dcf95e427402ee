//! Decides where the listeners of Gateways are bound, and what the statuses of Gateways say.
//!
//! In:  the Gateways of our classes, the Services made for them, the addresses that the file binds.
//! Out: a [`Served`] for each Gateway: its listeners, its ports, its Service, its status.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hasher;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use gateway_api::gateways::Gateway;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::class::Class;
use super::hostname::Owners;
use super::objects::{ObjectName, Observed};
use super::section::{CONFLICT, Section, sections};
use super::status::{Condition, GatewayAddress, GatewayStatus, ListenerStatus};
use super::translation::Exposure;
use crate::settings::{Kubernetes, KubernetesAddresses};

/// A Gateway of ours.
pub(super) struct Served<'o> {
    pub name: ObjectName,
    pub gateway: &'o Gateway,
    pub sections: Vec<Section<'o>>,
    /// The reason of `Accepted=False`, and how to mend it.
    refused: Option<(&'static str, String)>,
    /// Where each of its ports is bound.
    pub binds: BTreeMap<u16, Vec<SocketAddr>>,
    /// The listeners of each port, by hostname.
    pub owners: BTreeMap<u16, Owners>,
    exposure: Exposure,
    service: Option<&'o Service>,
}

impl<'o> Served<'o> {
    pub(super) fn new(
        gateway: &'o Gateway,
        class: &Class,
        settings: &Kubernetes,
        own_namespace: Option<&str>,
        service: impl Fn(&ObjectName) -> Option<&'o Service>,
    ) -> Self {
        let name = ObjectName::of(&gateway.metadata);
        let exposure = exposure(gateway, &name);
        let refused =
            gateway_problem(gateway, class, settings).or_else(|| out_of_reach(&name, settings, own_namespace));
        let ours = |service: &&Service| is_made_for(service, &exposure.uid) && leads_to_us(service);
        let service = service(&exposure.service).filter(ours);
        Self {
            sections: sections(gateway),
            refused,
            binds: BTreeMap::new(),
            owners: BTreeMap::new(),
            exposure,
            service,
            name,
            gateway,
        }
    }

    pub(super) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// The ports of the listeners that are served.
    fn ports(&self) -> BTreeSet<u16> {
        let served = self.sections.iter().filter(|section| section.refused.is_none());
        if self.is_refused() { BTreeSet::new() } else { served.map(|section| section.port).collect() }
    }

    /// Sorts the listeners that are served by port and hostname.
    pub(super) fn sort(&mut self) {
        for (number, section) in self.sections.iter().enumerate() {
            if self.refused.is_none() && section.refused.is_none() {
                self.owners.entry(section.port).or_default().insert(section.hostname.as_ref(), number);
            }
        }
        self.binds.retain(|port, _| self.owners.contains_key(port));
        self.exposure.ports.retain(|port, _| self.owners.contains_key(port));
    }

    /// `None`: there is nothing to lead clients to.
    pub(super) fn exposure(&self) -> Option<Exposure> {
        (!self.exposure.ports.is_empty()).then(|| self.exposure.clone())
    }

    fn refuse_port(&mut self, port: u16, message: &str) {
        for section in self.sections.iter_mut().filter(|section| section.port == port) {
            section.refuse("PortUnavailable", message.to_owned());
            section.kinds.clear();
        }
    }

    pub(super) fn status(&self, settings: &Kubernetes, observed: &Observed) -> GatewayStatus {
        let generation = self.gateway.metadata.generation.unwrap_or_default();
        let addresses = self.addresses(settings, observed);
        let accepted = self.accepted();
        let (is_programmed, reason, message) = match accepted.0 {
            false => (false, "Invalid", accepted.2.clone()),
            true => self.programmed(settings, observed, &addresses, generation),
        };
        let condition = |kind, (is_true, reason, message)| Condition { kind, is_true, reason, message, generation };
        let listener = |section: &Section<'_>| {
            listener_status(section, self.refused.as_ref(), (is_programmed, reason), generation)
        };
        GatewayStatus {
            conditions: vec![
                condition("Accepted", accepted),
                condition("Programmed", (is_programmed, reason, message)),
            ],
            listeners: self.sections.iter().map(listener).collect(),
            addresses: if self.is_refused() { Vec::new() } else { addresses },
        }
    }

    fn accepted(&self) -> (bool, &'static str, String) {
        if let Some((reason, message)) = &self.refused {
            return (false, reason, message.clone());
        }
        let refused: Vec<&str> =
            self.sections.iter().filter(|section| section.refused.is_some()).map(|section| section.name).collect();
        let message = format!("not served: {}; their conditions show why", refused.join(", "));
        match (refused.len(), self.sections.len()) {
            (0, _) => (true, "Accepted", "all listeners are valid".to_owned()),
            (refused, all) if refused == all => {
                (false, "ListenersNotValid", format!("no listener is valid: {message}"))
            }
            _ => (true, "ListenersNotValid", message),
        }
    }

    fn programmed(
        &self,
        settings: &Kubernetes,
        observed: &Observed,
        addresses: &[GatewayAddress],
        generation: i64,
    ) -> (bool, &'static str, String) {
        if let Some(why) = observed.unbindable.get(&self.name) {
            return (false, "AddressNotUsable", why.clone());
        }
        if addresses.is_empty() {
            if let Some(error) = observed.service_errors.get(&self.exposure.service) {
                let service = &self.exposure.service;
                return (false, "AddressNotAssigned", format!("Service {service} cannot be written: {error}"));
            }
            let message = match settings.addresses {
                KubernetesAddresses::Service => format!(
                    "Service {} has no address yet; `kubectl -n {} describe service {}` shows why. Without load balancers, \
                     set `kubernetes.service.type: NodePort` or `kubernetes.addresses: bind`",
                    self.exposure.service, self.exposure.service.namespace, self.exposure.service.name
                ),
                KubernetesAddresses::Bind => {
                    "the address of this node is not known; set POD_IPS, or write spec.addresses".to_owned()
                }
            };
            return (false, "AddressNotAssigned", message);
        }
        let has = |asked: &IpAddr| {
            let is_it = |one: &GatewayAddress| matches!(one, GatewayAddress::Ip(ip) if ip.parse() == Ok(*asked));
            addresses.iter().any(is_it)
        };
        if let Some(missing) = self.exposure.requested.iter().find(|asked| !has(asked)) {
            let service = &self.exposure.service;
            return (
                false,
                "AddressNotUsable",
                format!(
                    "Service {service} did not get the address {missing}; ask for one that the load balancer can give"
                ),
            );
        }
        match observed.in_force.get(&self.name) {
            Some(in_force) if *in_force >= generation => {
                (true, "Programmed", "every data plane has it in force".to_owned())
            }
            _ => (false, "Pending", "not every ready data plane has it in force yet; if this stays, see whether the pods reach each other's admin port".to_owned()),
        }
    }

    /// Where clients reach it.
    pub(super) fn addresses(&self, settings: &Kubernetes, observed: &Observed) -> Vec<GatewayAddress> {
        if settings.addresses == KubernetesAddresses::Bind {
            let requested = &self.exposure.requested;
            let bound = if requested.is_empty() { &observed.own_addresses } else { requested };
            return bound.iter().map(|address| GatewayAddress::Ip(address.to_string())).collect();
        }
        let Some(service) = self.service else { return Vec::new() };
        let assigned = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
        let spec = service.spec.as_ref();
        if spec.and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer") {
            let address = |one: &k8s_openapi::api::core::v1::LoadBalancerIngress| {
                let ip = one.ip.clone().map(GatewayAddress::Ip);
                ip.or_else(|| one.hostname.clone().map(GatewayAddress::Hostname))
            };
            return assigned.into_iter().flatten().filter_map(address).collect();
        }
        let ips = spec.and_then(|spec| spec.cluster_ips.clone().or_else(|| Some(vec![spec.cluster_ip.clone()?])));
        let ips = ips.into_iter().flatten().filter(|ip| !ip.is_empty() && ip != "None");
        ips.map(GatewayAddress::Ip).collect()
    }
}

fn listener_status(
    section: &Section<'_>,
    gateway_refused: Option<&(&'static str, String)>,
    (is_programmed, why): (bool, &'static str),
    generation: i64,
) -> ListenerStatus {
    let condition = |kind, is_true, reason, message: &str| Condition {
        kind,
        is_true,
        reason,
        message: message.to_owned(),
        generation,
    };
    let refused = section.refused.as_ref().map(|(reason, message)| (*reason, message.as_str()));
    let is_conflicted = refused.is_some_and(|(reason, _)| reason == CONFLICT);
    let of_gateway = gateway_refused.map(|(_, message)| ("Invalid", message.as_str()));
    let accepted = match refused.or(of_gateway) {
        Some((reason, message)) => condition("Accepted", false, reason, message),
        None => condition("Accepted", true, "Accepted", "the listener is valid"),
    };
    let programmed = match refused {
        Some((_, message)) => condition("Programmed", false, if is_conflicted { CONFLICT } else { "Invalid" }, message),
        None if is_programmed => condition("Programmed", true, "Programmed", "every data plane has it in force"),
        None if why == "Invalid" => condition("Programmed", false, "Invalid", "the Gateway is not served"),
        None => condition("Programmed", false, "Pending", "the Gateway is not programmed yet; its conditions show why"),
    };
    let resolved = match &section.invalid_kinds {
        Some(message) => condition("ResolvedRefs", false, "InvalidRouteKinds", message),
        None => condition("ResolvedRefs", true, "ResolvedRefs", "all kinds of routes that it allows are supported"),
    };
    let conflicted = match refused.filter(|_| is_conflicted) {
        Some((_, message)) => condition("Conflicted", true, CONFLICT, message),
        None => condition("Conflicted", false, "NoConflicts", "no other listener has its port and hostname"),
    };
    ListenerStatus {
        name: section.name.to_owned(),
        attached_routes: section.attached,
        supported_kinds: section.kinds.clone(),
        conditions: vec![accepted, programmed, resolved, conflicted],
    }
}

/// A Service leads to pods of its own namespace only.
fn out_of_reach(
    gateway: &ObjectName,
    settings: &Kubernetes,
    own_namespace: Option<&str>,
) -> Option<(&'static str, String)> {
    let own = own_namespace.filter(|own| **own != *gateway.namespace)?;
    (settings.addresses == KubernetesAddresses::Service).then(|| {
        let message = format!(
            "a Service finds pods of its own namespace only: make this Gateway in the namespace {own}, where snigate is, and \
             let its listeners allow routes from others (allowedRoutes)"
        );
        ("Invalid", message)
    })
}

fn gateway_problem(gateway: &Gateway, class: &Class, settings: &Kubernetes) -> Option<(&'static str, String)> {
    let spec = &gateway.spec;
    if let Some(refused) = &class.refused {
        return Some((
            "InvalidParameters",
            format!("GatewayClass {} is not accepted: {refused}", spec.gateway_class_name),
        ));
    }
    let parameters = spec.infrastructure.as_ref().and_then(|infrastructure| infrastructure.parameters_ref.as_ref());
    if let Some(parameters) = parameters {
        let (kind, name) = (&parameters.kind, &parameters.name);
        let message = format!(
            "remove infrastructure.parametersRef ({kind} {name}): snigate reads no parameters; its settings are in its routing file"
        );
        return Some(("InvalidParameters", message));
    }
    for address in spec.addresses.iter().flatten() {
        let kind = address.r#type.as_deref().unwrap_or("IPAddress");
        let value = address.value.as_deref().unwrap_or_default();
        if kind != "IPAddress" {
            return Some((
                "UnsupportedAddress",
                format!("an address of the type {kind} is not supported; write IPAddress"),
            ));
        }
        if value.is_empty() && settings.addresses == KubernetesAddresses::Service {
            continue;
        }
        if value.parse::<IpAddr>().is_err() {
            return Some(("UnsupportedAddress", format!("`{}` is not an IP address", value.escape_debug())));
        }
    }
    None
}

/// Finds where each port of each Gateway is bound. `gateways` are in the order of their age: the older one keeps a port that
/// two ask for.
pub(super) fn bind(gateways: &mut [Served<'_>], settings: &Kubernetes, bound: &[SocketAddr]) {
    match settings.addresses {
        KubernetesAddresses::Bind => bind_directly(gateways, bound),
        KubernetesAddresses::Service => bind_behind_services(gateways, settings, bound),
    }
    gateways.iter_mut().for_each(Served::sort);
}

fn bind_directly(gateways: &mut [Served<'_>], bound: &[SocketAddr]) {
    // Who has each address: `None` for listeners of the file.
    let mut taken: HashMap<u16, Vec<(IpAddr, Option<ObjectName>)>> = HashMap::new();
    for address in bound {
        taken.entry(address.port()).or_default().push((address.ip(), None));
    }
    let overlap = |a: IpAddr, b: IpAddr| a == b || a.is_unspecified() || b.is_unspecified();
    for gateway in gateways {
        let requested = &gateway.exposure.requested;
        let ips = if requested.is_empty() { vec![IpAddr::V6(Ipv6Addr::UNSPECIFIED)] } else { requested.clone() };
        for port in gateway.ports() {
            let others = taken.entry(port).or_default();
            if let Some((ip, other)) = others.iter().find(|(other, _)| ips.iter().any(|ip| overlap(*ip, *other))) {
                let other = other
                    .as_ref()
                    .map_or("a listener of the routing file".to_owned(), |other| format!("Gateway {other}"));
                let address = SocketAddr::new(*ip, port);
                gateway.refuse_port(port, &format!("{other} has {address}; choose another port or address"));
                continue;
            }
            others.extend(ips.iter().map(|ip| (*ip, Some(gateway.name.clone()))));
            gateway.exposure.ports.insert(port, port);
            gateway.binds.insert(port, ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect());
        }
    }
}

/// A port that a Service leads to already stays, so that a restart changes nothing.
fn bind_behind_services(gateways: &mut [Served<'_>], settings: &Kubernetes, bound: &[SocketAddr]) {
    let range = &settings.ports.0;
    let mut taken: BTreeSet<u16> = bound.iter().map(SocketAddr::port).collect();
    for gateway in gateways.iter_mut() {
        let known = gateway.service.map(target_ports).unwrap_or_default();
        for port in gateway.ports() {
            let target = known.get(&port).copied().filter(|target| range.contains(target));
            if let Some(target) = target.filter(|target| taken.insert(*target)) {
                gateway.exposure.ports.insert(port, target);
            }
        }
    }
    // Clients of a listener that is not served are not led to those of another one, as long as the Service does.
    for gateway in gateways.iter() {
        taken.extend(gateway.service.map(target_ports).unwrap_or_default().into_values());
    }
    let mut free = range.clone();
    for gateway in gateways {
        for port in gateway.ports() {
            if gateway.exposure.ports.contains_key(&port) {
                continue;
            }
            match free.find(|port| taken.insert(*port)) {
                Some(target) => _ = gateway.exposure.ports.insert(port, target),
                None => gateway
                    .refuse_port(port, &format!("no port of {} is free; widen `kubernetes.ports`", settings.ports)),
            }
        }
        let bind = |target: &u16| vec![SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), *target)];
        gateway.binds = gateway.exposure.ports.iter().map(|(port, target)| (*port, bind(target))).collect();
    }
}

/// The ports of a Service, and where they lead.
fn target_ports(service: &Service) -> BTreeMap<u16, u16> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let target = |port: &k8s_openapi::api::core::v1::ServicePort| match port.target_port {
        Some(IntOrString::Int(target)) => Some((u16::try_from(port.port).ok()?, u16::try_from(target).ok()?)),
        _ => None,
    };
    ports.filter_map(target).collect()
}

/// Whether a Service was made for the Gateway with this uid, and not by somebody else under the same name.
pub(super) fn is_made_for(service: &Service, gateway: &str) -> bool {
    let mut owners = service.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.kind == "Gateway" && owner.uid == gateway)
}

/// Whether a Service leads to the pods of snigate.
fn leads_to_us(service: &Service) -> bool {
    let selected = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selected.is_some_and(|selected| *selected == selector())
}

/// What the Services of Gateways select.
pub(super) fn selector() -> BTreeMap<String, String> {
    SELECTOR.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn exposure(gateway: &Gateway, name: &ObjectName) -> Exposure {
    let class = &gateway.spec.gateway_class_name;
    let infrastructure = gateway.spec.infrastructure.as_ref();
    let mut labels = infrastructure.and_then(|infrastructure| infrastructure.labels.clone()).unwrap_or_default();
    labels.insert(GATEWAY_NAME.to_owned(), label(&name.name));
    labels.insert(GATEWAY_CLASS_NAME.to_owned(), label(class));
    let addresses = gateway.spec.addresses.iter().flatten();
    Exposure {
        service: ObjectName {
            namespace: Arc::clone(&name.namespace),
            name: label(&format!("{}-{class}", name.name)).into(),
        },
        class: class.as_str().into(),
        uid: gateway.metadata.uid.clone().unwrap_or_default(),
        ports: BTreeMap::new(),
        labels,
        annotations: infrastructure.and_then(|infrastructure| infrastructure.annotations.clone()).unwrap_or_default(),
        requested: addresses
            .filter_map(|address| address.value.as_deref()?.parse::<IpAddr>().ok())
            .map(|ip| ip.to_canonical())
            .collect(),
    }
}

/// A DNS label (RFC 1035), as names of Services and values of labels are: a longer text is cut, and its hash told apart.
pub(super) fn label(text: &str) -> String {
    let is_plain = |text: &str| {
        text.len() <= MAX_LABEL_BYTES
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && !text.contains('.')
    };
    if is_plain(text) {
        return text.to_owned();
    }
    // Stable across processes and versions: SipHash-1-3 with a zero key.
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(text.as_bytes());
    let hash = format!("{:08x}", hasher.finish() as u32);
    let start = if text.starts_with(|first: char| first.is_ascii_lowercase()) { "" } else { "g-" };
    let kept = text.replace('.', "-").chars().take(MAX_LABEL_BYTES - hash.len() - 1 - start.len()).collect::<String>();
    format!("{start}{}-{hash}", kept.trim_end_matches('-'))
}

/// Labels of a Service that was made for a Gateway.
pub(super) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
pub(super) const GATEWAY_CLASS_NAME: &str = "gateway.networking.k8s.io/gateway-class-name";
const MAX_LABEL_BYTES: usize = 63;
/// The pods that serve connections.
const SELECTOR: &[(&str, &str)] =
    &[("app.kubernetes.io/name", "snigate"), ("app.kubernetes.io/component", "data-plane")];
