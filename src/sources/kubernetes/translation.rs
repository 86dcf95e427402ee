//! What the objects of a cluster ask for, as plain values.
//!
//! In:  nothing; `translate` makes them.
//! Out: [`Translation`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::endpoints::ServicePort;
use super::objects::ObjectName;
use super::status::Statuses;
use crate::server_name::Pattern;
use crate::settings;

/// What the objects of a cluster ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Translation {
    /// One for each port of each Gateway; sorted by name.
    pub listeners: Vec<GatewayListener>,
    /// Sorted by name.
    pub routes: Vec<GatewayRoute>,
    /// Sorted by name.
    pub pools: Vec<FoundPool>,
    pub statuses: Statuses,
    /// For each Gateway that is served, the Service that leads clients to it.
    pub exposures: BTreeMap<ObjectName, Exposure>,
}

/// A port of a Gateway: where it is bound, and which hostnames its connections are sorted by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GatewayListener {
    /// `NAMESPACE/GATEWAY:PORT`
    pub name: Arc<str>,
    pub gateway: ObjectName,
    /// As the Gateway has it.
    pub port: u16,
    pub bind: Vec<SocketAddr>,
    /// Of the listeners of this port. A name belongs to the most specific one.
    pub hostnames: Vec<Pattern>,
}

/// The names of a TLSRoute, or of a host of an Ingress, at some listeners. An object may have several.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GatewayRoute {
    /// `NAMESPACE/NAME`
    pub name: Arc<str>,
    /// Which objects it is from, for messages: `TLSRoute NAMESPACE/NAME`.
    pub object: Arc<str>,
    /// Numbers of [`Translation::listeners`].
    pub listeners: Vec<usize>,
    pub patterns: Vec<Pattern>,
    pub to: To,
}

/// Where the connections of a route go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// A number of [`Translation::pools`].
    Pool(usize),
    /// Numbers of [`Translation::pools`], with weights that are not all 0.
    Split(Vec<(usize, u32)>),
    /// Every weight is 0, or there is no reference at all.
    Nowhere,
}

/// A port of a Service, or a reference that cannot be followed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FoundPool {
    /// `NAMESPACE/SERVICE:PORT`; followed by the reason if it cannot be followed. One entry, a
    /// [`BackendAddress::Service`](settings::BackendAddress::Service), or none.
    pub pool: settings::Pool,
    /// `None`: its connections are refused.
    pub port: Option<ServicePort>,
}

impl FoundPool {
    /// The name of its entry; `None`: it has none.
    pub(crate) fn entry(&self) -> Option<&str> {
        self.port.as_ref().map(|_| &*self.pool.name)
    }
}

/// The Service that leads clients to a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exposure {
    /// `GATEWAY-CLASS`, in the namespace of the Gateway.
    pub service: ObjectName,
    pub class: Arc<str>,
    /// Of the Gateway, for the reference to its owner.
    pub uid: String,
    /// Each port of the Gateway, and the port that snigate listens on.
    pub ports: BTreeMap<u16, u16>,
    /// Those of `spec.infrastructure`, and the two of the Gateway API.
    pub labels: BTreeMap<String, String>,
    /// Those of `spec.infrastructure`.
    pub annotations: BTreeMap<String, String>,
    /// The addresses that the Gateway asks for.
    pub requested: Vec<IpAddr>,
}
