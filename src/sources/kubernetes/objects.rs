//! The objects that a translation reads.
//!
//! In:  typed objects, as reflectors or manifests give them.
//! Out: [`Objects`], [`Observed`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use gateway_api::gatewayclasses::GatewayClass;
use gateway_api::gateways::Gateway;
use gateway_api::referencegrants::ReferenceGrant;
use gateway_api::tlsroutes::TlsRoute;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Everything that is read of a cluster, in any order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Objects {
    pub gateway_classes: Vec<Arc<GatewayClass>>,
    pub gateways: Vec<Arc<Gateway>>,
    pub tls_routes: Vec<Arc<TlsRoute>>,
    pub reference_grants: Vec<Arc<ReferenceGrant>>,
    /// Those that routes name, and those that were made for Gateways.
    pub services: Vec<Arc<Service>>,
    /// Of manifests. Those of a cluster change pools in place, see `members`.
    pub endpoint_slices: Vec<Arc<EndpointSlice>>,
    pub namespaces: Vec<Arc<Namespace>>,
    pub ingresses: Vec<Arc<Ingress>>,
}

/// What processes have found out about earlier translations. The default is a cluster in which nothing is in force yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// For each Gateway, the newest generation that every ready data plane has in force.
    pub in_force: BTreeMap<ObjectName, i64>,
    /// With `addresses: bind`, why a Gateway's addresses cannot be bound.
    pub unbindable: BTreeMap<ObjectName, String>,
    /// The namespace of snigate; `None`: it is not known, as for manifests that are checked without a cluster.
    pub namespace: Option<Arc<str>>,
    /// With `addresses: service`, why a Service cannot be made or changed.
    pub service_errors: BTreeMap<ObjectName, String>,
    /// With `addresses: bind`, the addresses of this machine, for Gateways that name none.
    pub own_addresses: Vec<IpAddr>,
    /// Why the installed definitions of the Gateway API cannot be used; `None`: they can.
    pub unsupported_version: Option<String>,
}

/// A namespace and a name in it. The namespace of a GatewayClass is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectName {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}
