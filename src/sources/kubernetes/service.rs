//! The Service through which clients reach a Gateway.
//!
//! In:  an [`Exposure`], the settings, the Service that there is.
//! Out: the Service as it should be; no I/O.
//! Source: <https://gateway-api.sigs.k8s.io/geps/gep-1762/> (names, labels, owner).
//!
//! The target ports of a Service are where snigate listens for the Gateway. They are kept in no other place: after a
//! restart they are read from there.

use std::collections::{BTreeMap, HashMap};

use gateway_api::gateways::Gateway;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;

use super::gateway::{GATEWAY_CLASS_NAME, label, selector};
use super::objects::{ObjectName, Objects};
use super::translation::Exposure;
use crate::settings::{GatewayService, ServiceType, TrafficPolicy};

/// The Service of a Gateway.
pub(super) fn wanted(gateway: &ObjectName, exposure: &Exposure, settings: GatewayService) -> Service {
    let port = |(port, target): (&u16, &u16)| ServicePort {
        name: Some(format!("port-{port}")),
        port: i32::from(*port),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::Int(i32::from(*target))),
        ..ServicePort::default()
    };
    let (kind, has_policy) = match settings.r#type {
        ServiceType::LoadBalancer => ("LoadBalancer", true),
        ServiceType::NodePort => ("NodePort", true),
        ServiceType::ClusterIp => ("ClusterIP", false),
    };
    let policy = match settings.external_traffic_policy {
        TrafficPolicy::Local => "Local",
        TrafficPolicy::Cluster => "Cluster",
    };
    let mut labels = exposure.labels.clone();
    labels.insert(MANAGED_BY.to_owned(), "snigate".to_owned());
    let owner = OwnerReference {
        api_version: "gateway.networking.k8s.io/v1".to_owned(),
        kind: "Gateway".to_owned(),
        name: gateway.name.to_string(),
        uid: exposure.uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    Service {
        metadata: ObjectMeta {
            name: Some(exposure.service.name.to_string()),
            namespace: Some(exposure.service.namespace.to_string()),
            labels: Some(labels),
            annotations: Some(exposure.annotations.clone()).filter(|annotations| !annotations.is_empty()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some(kind.to_owned()),
            // What is left of asking for an address; not every cloud heeds it.
            load_balancer_ip: exposure.requested.first().filter(|_| kind == "LoadBalancer").map(ToString::to_string),
            external_traffic_policy: has_policy.then(|| policy.to_owned()),
            selector: Some(selector()),
            ports: Some(exposure.ports.iter().map(port).collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The Services of Gateways that have another class now, whoever serves that one.
pub(super) fn obsolete(objects: &Objects) -> Vec<&Service> {
    let gateways: HashMap<&str, &Gateway> =
        objects.gateways.iter().filter_map(|gateway| Some((gateway.metadata.uid.as_deref()?, &**gateway))).collect();
    let is_obsolete = |service: &&Service| {
        let Some(labels) = &service.metadata.labels else { return false };
        let mut owners = service.metadata.owner_references.iter().flatten().filter(|owner| owner.kind == "Gateway");
        let gateway = owners.find_map(|owner| gateways.get(owner.uid.as_str()));
        labels.get(MANAGED_BY).is_some_and(|by| by == "snigate")
            && gateway.is_some_and(|gateway| {
                labels.get(GATEWAY_CLASS_NAME).is_some_and(|class| *class != label(&gateway.spec.gateway_class_name))
            })
    };
    objects.services.iter().map(|service| &**service).filter(is_obsolete).collect()
}

/// Whether `has` is as `wanted`, as far as `wanted` says. What the cluster and others have added does not count.
pub(super) fn is_as_wanted(has: &Service, wanted: &Service) -> bool {
    let contains = |has: &Option<BTreeMap<String, String>>, wanted: &Option<BTreeMap<String, String>>| {
        let mut wanted = wanted.iter().flatten();
        wanted.all(|(key, value)| has.as_ref().and_then(|has| has.get(key)) == Some(value))
    };
    let (Some(spec), Some(wanted_spec)) = (&has.spec, &wanted.spec) else { return false };
    let port = |port: &ServicePort| (port.name.clone(), port.port, port.target_port.clone());
    let ports = |spec: &ServiceSpec| spec.ports.iter().flatten().map(port).collect::<Vec<_>>();
    let policy = &wanted_spec.external_traffic_policy;
    contains(&has.metadata.labels, &wanted.metadata.labels)
        && contains(&has.metadata.annotations, &wanted.metadata.annotations)
        && spec.type_ == wanted_spec.type_
        && (policy.is_none() || spec.external_traffic_policy == *policy)
        && (wanted_spec.load_balancer_ip.is_none() || spec.load_balancer_ip == wanted_spec.load_balancer_ip)
        && spec.selector == wanted_spec.selector
        && ports(spec) == ports(wanted_spec)
}

const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
