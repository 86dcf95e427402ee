//! Objects of a cluster, as short as tests want them.
//!
//! In:  names.
//! Out: manifests as JSON.

use std::net::SocketAddr;

use serde_json::{Value, json};

pub const CONTROLLER: &str = "snigate.dev/gateway-controller";
pub const CLASS: &str = "snigate";
pub const NAMESPACE: &str = "default";

pub fn class() -> Value {
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": { "name": CLASS },
        "spec": { "controllerName": CONTROLLER } })
}

/// With one listener, `tls`, for all names at port 443.
pub fn gateway(name: &str) -> Value {
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "gatewayClassName": CLASS, "listeners": [listener("tls", 443)] } })
}

pub fn listener(name: &str, port: u16) -> Value {
    json!({ "name": name, "protocol": "TLS", "port": port, "tls": { "mode": "Passthrough" } })
}

/// Of `hostname`, on the Gateway, to port 443 of these Services with these weights.
pub fn route(name: &str, gateway: &str, hostname: &str, services: &[(&str, u32)]) -> Value {
    let refs: Vec<Value> =
        services.iter().map(|(service, weight)| json!({ "name": service, "port": 443, "weight": weight })).collect();
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "TLSRoute",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "parentRefs": [{ "name": gateway }], "hostnames": [hostname], "rules": [{ "backendRefs": refs }] } })
}

pub fn service(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "https", "port": 443, "protocol": "TCP" }] } })
}

/// The endpoints of a Service, all at the port of the first one.
pub fn slice(service: &str, endpoints: &[Endpoint]) -> Value {
    slice_of(&format!("{service}-1"), service, endpoints)
}

pub fn slice_of(name: &str, service: &str, endpoints: &[Endpoint]) -> Value {
    let port = endpoints.first().map_or(443, |endpoint| endpoint.address.port());
    let list: Vec<Value> = endpoints
        .iter()
        .map(|Endpoint { address, ready, serving, terminating }| {
            assert_eq!(address.port(), port, "a slice has one port");
            json!({ "addresses": [address.ip().to_string()],
                "conditions": { "ready": ready, "serving": serving, "terminating": terminating } })
        })
        .collect();
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": name, "namespace": NAMESPACE, "labels": { "kubernetes.io/service-name": service } },
        "ports": [{ "name": "https", "port": port, "protocol": "TCP" }], "endpoints": list })
}

/// A pod of a Service.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

impl Endpoint {
    pub fn ready(address: SocketAddr) -> Self {
        Self { address, ready: true, serving: true, terminating: false }
    }

    pub fn leaving(address: SocketAddr) -> Self {
        Self { address, ready: false, serving: true, terminating: true }
    }
}

/// Of the class, with TLS passthrough, from `host` to port 443 of a Service.
pub fn ingress(name: &str, host: &str, service: &str) -> Value {
    let backend = json!({ "service": { "name": service, "port": { "number": 443 } } });
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": { "name": name, "namespace": NAMESPACE,
            "annotations": { "nginx.ingress.kubernetes.io/ssl-passthrough": "true" } },
        "spec": { "ingressClassName": CLASS, "rules": [{ "host": host,
            "http": { "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] } }] } })
}

/// That TLSRoutes of NAMESPACE may name the Services of `namespace`.
pub fn grant(namespace: &str) -> Value {
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant",
        "metadata": { "name": "allowed", "namespace": namespace },
        "spec": { "from": [{ "group": "gateway.networking.k8s.io", "kind": "TLSRoute", "namespace": NAMESPACE }],
            "to": [{ "group": "", "kind": "Service" }] } })
}

pub fn namespace(name: &str, team: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": { "team": team } } })
}

/// The same object in another namespace.
pub fn within(namespace: &str, mut object: Value) -> Value {
    object["metadata"]["namespace"] = namespace.into();
    object
}

/// The status, reason and message of a condition in a list of conditions.
pub fn condition(conditions: &Value, kind: &str) -> Option<(String, String, String)> {
    let found = conditions.as_array()?.iter().find(|condition| condition["type"] == kind)?;
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}
