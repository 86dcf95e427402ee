//! Finds the addresses behind a port of a Service.
//!
//! In:  the EndpointSlices of the Service.
//! Out: the addresses of its ready endpoints; if there is none, of those that serve while they terminate.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::objects::ObjectName;
use crate::pool::{Address, ResolvedAddress};

/// The port of a Service that a pool stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub service: ObjectName,
    /// Its name in the Service, by which slices call it; empty if the Service has only one port.
    pub port: String,
}

/// The Service that a slice belongs to; `None`: it has no label that says so.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<ObjectName> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
    Some(ObjectName::new(slice.metadata.namespace.as_deref().unwrap_or_default(), service))
}

/// The addresses of `port` in the slices of its Service, in ascending order.
pub(crate) fn addresses<'o>(
    port: &ServicePort,
    slices: impl IntoIterator<Item = &'o EndpointSlice>,
) -> BTreeSet<SocketAddr> {
    let (mut ready, mut terminating) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let numbers = slice.ports.iter().flatten().filter(|of| {
            let is_tcp = of.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
            is_tcp && of.name.as_deref().unwrap_or_default() == port.port
        });
        let numbers: Vec<u16> =
            numbers.filter_map(|of| u16::try_from(of.port?).ok().filter(|number| *number > 0)).collect();
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.as_ref();
            // Unknown counts as ready; `serving` and `terminating` are what it says.
            let is_ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
            let serves = conditions.and_then(|conditions| conditions.serving).unwrap_or(is_ready);
            let terminates = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
            let addresses = match (is_ready, serves && terminates) {
                (true, _) => &mut ready,
                (false, true) => &mut terminating,
                (false, false) => continue,
            };
            // Names, of the address type `FQDN`, are not looked up.
            let ips = endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
            addresses.extend(ips.flat_map(|ip| numbers.iter().map(move |number| SocketAddr::new(ip, *number))));
        }
    }
    if ready.is_empty() { terminating } else { ready }
}

/// As a pool takes them.
pub(crate) fn resolved(addresses: &BTreeSet<SocketAddr>) -> Vec<ResolvedAddress> {
    let resolved =
        |address: &SocketAddr| ResolvedAddress { address: Address::Inet(*address), weight: 1, backup: false };
    addresses.iter().map(resolved).collect()
}

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
