//! The settings of the source that serves the Gateways of a Kubernetes cluster.
//!
//! In:  nothing.
//! Out: [`Kubernetes`].
//! Source: docs/kubernetes.md.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::text::{Word, serde_as_word};
use super::word_or_pool::{WordOrPool, serde_as_word_or_pool};

/// Listeners, routes and pools from the Gateway, TLSRoute, Service and EndpointSlice objects of a Kubernetes cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kubernetes {
    /// The controller of the GatewayClasses that snigate serves: a domain, a slash, a path.
    pub controller_name: ControllerName,
    /// What this process does: it serves connections, it writes statuses, or both.
    pub role: KubernetesRole,
    /// How clients reach a Gateway: through a Service that snigate makes for it, or at the addresses that the Gateway names.
    pub addresses: KubernetesAddresses,
    /// The Services that are made with `addresses: service`.
    pub service: GatewayService,
    /// The ports that snigate listens on with `addresses: service`; the Services send their connections there.
    pub ports: PortRange,
    /// What happens to a connection for which no route of its listener matches.
    pub unmatched: KubernetesUnmatched,
    /// The namespaces whose objects are read: `all`, or a list.
    pub namespaces: Namespaces,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            controller_name: ControllerName("snigate.dev/gateway-controller".into()),
            role: KubernetesRole::Both,
            addresses: KubernetesAddresses::Service,
            service: GatewayService::default(),
            ports: PortRange(20_000..=29_999),
            unmatched: KubernetesUnmatched::Close,
            namespaces: Namespaces::All,
        }
    }
}

/// What a process does for the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KubernetesRole {
    /// It serves connections and writes statuses.
    Both,
    /// It serves connections, and writes nothing.
    DataPlane,
    /// It writes statuses and Services, and serves no connections of Gateways.
    Controller,
}

/// How clients reach a Gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KubernetesAddresses {
    /// Through a Service, which sends each port of the Gateway to one of `ports`.
    Service,
    /// Directly: snigate binds the addresses and ports of the Gateway as they are.
    Bind,
}

/// The Services that are made for Gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayService {
    /// The type of the Services.
    pub r#type: ServiceType,
    /// `Local` keeps the addresses of clients.
    pub external_traffic_policy: TrafficPolicy,
}

impl Default for GatewayService {
    fn default() -> Self {
        Self { r#type: ServiceType::LoadBalancer, external_traffic_policy: TrafficPolicy::Local }
    }
}

/// The type of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// With an address of the cloud's load balancer.
    LoadBalancer,
    /// At a port of every node.
    NodePort,
    /// Only within the cluster.
    #[serde(rename = "ClusterIP")]
    ClusterIp,
}

/// Where a Service sends connections from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrafficPolicy {
    /// Only to pods of the node that they arrive at.
    Local,
    /// To all pods; the address of the client is lost.
    Cluster,
}

/// The name of a controller, as GatewayClasses have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerName(pub Arc<str>);

impl Word for ControllerName {
    const EXPECTED: &'static str = "the name of a controller";
    const SCHEMA: &'static str = r#"{ "type": "string", "maxLength": 253, "description": "A domain, a slash and a path: `example.com/gateway-controller`." }"#;

    fn read(text: &str) -> Result<Self, String> {
        let is_domain = |domain: &str| {
            let is_label = |label: &str| {
                !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            };
            domain.split('.').all(is_label)
        };
        let is_path = |path: &str| {
            !path.is_empty()
                && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte))
        };
        match text.split_once('/') {
            Some((domain, path)) if text.len() <= 253 && is_domain(domain) && is_path(path) => Ok(Self(text.into())),
            _ => Err(format!(
                "`{}` is not the name of a controller; write a domain, a slash and a path: `example.com/gateway-controller`",
                text.escape_debug()
            )),
        }
    }
}

impl fmt::Display for ControllerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A range of ports, the first and the last included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRange(pub RangeInclusive<u16>);

impl Word for PortRange {
    const EXPECTED: &'static str = "a range of ports";
    const SCHEMA: &'static str = r#"{ "type": "string", "pattern": "^[0-9]+-[0-9]+$", "description": "The first and the last port: `20000-29999`." }"#;

    fn read(text: &str) -> Result<Self, String> {
        let ports =
            text.split_once('-').and_then(|(first, last)| Some((u16::read(first).ok()?, u16::read(last).ok()?)));
        match ports {
            Some((first, last)) if first <= last => Ok(Self(first..=last)),
            _ => Err(format!(
                "`{}` is not a range of ports; write the first and the last one, 1 to 65535: `20000-29999`",
                text.escape_debug()
            )),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

serde_as_word!(ControllerName as "ControllerName", PortRange as "PortRange");

/// What happens to a connection of a Kubernetes listener that no route matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubernetesUnmatched {
    /// It is closed (FIN), which the conformance tests of the Gateway API count as rejected.
    Close,
    /// It is reset (RST).
    Reset,
    /// It gets a TLS alert.
    Alert,
    /// It goes to the pool of this name, which the file has.
    Pool(Arc<str>),
}

impl WordOrPool for KubernetesUnmatched {
    const DESCRIPTION: &'static str = "`close`, `reset`, `alert`, or the pool of the file that such connections go to.";
    const WORDS: &'static [(&'static str, Self)] =
        &[("close", Self::Close), ("reset", Self::Reset), ("alert", Self::Alert)];

    fn pool(name: Arc<str>) -> Self {
        Self::Pool(name)
    }

    fn name_of_pool(&self) -> Option<&str> {
        if let Self::Pool(name) = self { Some(name) } else { None }
    }
}

serde_as_word_or_pool!(KubernetesUnmatched as "KubernetesUnmatched");

/// Which namespaces are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// Every one.
    All,
    /// Only these.
    Only(Vec<Arc<str>>),
}

impl Namespaces {
    /// Whether objects of `namespace` are read.
    pub fn include(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|name| **name == *namespace),
        }
    }
}

impl Serialize for Namespaces {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Only(names) => serializer.collect_seq(names.iter().map(|name| &**name)),
        }
    }
}

impl<'de> Deserialize<'de> for Namespaces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AllOrSome;

        impl<'de> Visitor<'de> for AllOrSome {
            type Value = Namespaces;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`all` or a list of namespaces")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Namespaces, E> {
                match text {
                    "all" => Ok(Namespaces::All),
                    name => namespace(name).map(|name| Namespaces::Only(vec![name])).map_err(E::custom),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Namespaces, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element::<String>()? {
                    names.push(namespace(&name).map_err(A::Error::custom)?);
                }
                match names.is_empty() {
                    true => Err(A::Error::custom("the list is empty; name a namespace, or write `all`")),
                    false => Ok(Namespaces::Only(names)),
                }
            }
        }

        deserializer.deserialize_any(AllOrSome)
    }
}

/// A DNS label (RFC 1123), as Kubernetes has it.
fn namespace(text: &str) -> Result<Arc<str>, String> {
    let is_of_it = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = (1..=63).contains(&text.len()) && text.bytes().all(is_of_it);
    match is_label && !text.starts_with('-') && !text.ends_with('-') {
        true => Ok(text.into()),
        false => Err(format!(
            "`{}` is not the name of a namespace; it has 1 to 63 lower-case letters, digits and `-`",
            text.escape_debug()
        )),
    }
}

impl JsonSchema for Namespaces {
    fn schema_name() -> Cow<'static, str> {
        "Namespaces".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string", "description": "`all`, or the only namespace." },
                { "type": "array", "items": { "type": "string" }, "minItems": 1 }
            ]
        })
    }
}
