//! The statuses of objects as plain values, and how they change those that the cluster has.
//!
//! In:  [`Statuses`] of a translation; the status that an object has.
//! Out: the status to write, or `None` if it says the same already.
//!
//! Times are not part of the values: a condition keeps the time of its last change unless its status changes.

use std::collections::BTreeMap;

use gateway_api::gatewayclasses as classes;
use gateway_api::gateways;
use gateway_api::tlsroutes::{
    TlsRouteParentRefs, TlsRouteStatus, TlsRouteStatusParents, TlsRouteStatusParentsParentRef,
};
use k8s_openapi::api::networking::v1 as ingresses;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use super::objects::ObjectName;

/// The statuses of all objects that are ours to report on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Statuses {
    pub gateway_classes: BTreeMap<ObjectName, ClassStatus>,
    pub gateways: BTreeMap<ObjectName, GatewayStatus>,
    /// Also of routes that have lost their last parent of ours.
    pub tls_routes: BTreeMap<ObjectName, RouteStatus>,
    pub ingresses: BTreeMap<ObjectName, IngressStatus>,
}

/// A condition without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub kind: &'static str,
    pub is_true: bool,
    pub reason: &'static str,
    /// How to mend it, unless all is well.
    pub message: String,
    pub generation: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClassStatus {
    pub conditions: Vec<Condition>,
    /// Sorted.
    pub features: Vec<&'static str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GatewayStatus {
    pub conditions: Vec<Condition>,
    pub addresses: Vec<GatewayAddress>,
    /// In the order of the Gateway.
    pub listeners: Vec<ListenerStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GatewayAddress {
    Ip(String),
    Hostname(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListenerStatus {
    pub name: String,
    pub attached_routes: i32,
    /// Of the group of the Gateway API.
    pub supported_kinds: Vec<&'static str>,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RouteStatus {
    /// One for each reference to a Gateway of ours, in their order.
    pub parents: Vec<ParentStatus>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ParentStatus {
    /// As the route has it.
    pub parent: TlsRouteParentRefs,
    pub conditions: Vec<Condition>,
}

/// An Ingress has no conditions: the problems are for Events, the status page and `explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IngressStatus {
    /// The Gateway that serves it.
    pub gateway: Option<ObjectName>,
    /// Those of the Gateway, if it serves any part of the Ingress.
    pub addresses: Vec<GatewayAddress>,
    /// What is not served, and how to mend it.
    pub problems: Vec<String>,
}

impl Condition {
    /// Whether it is as its owner wants it.
    pub(crate) fn is_good(&self) -> bool {
        // Of all conditions, these three are bad news when they hold.
        let is_bad_news = matches!(self.kind, "Conflicted" | "PartiallyInvalid" | SHADOWED);
        self.is_true != is_bad_news && self.reason != "ListenersNotValid"
    }

    pub(crate) fn is_called(&self, kind: &str) -> bool {
        self.kind == kind
    }
}

impl ClassStatus {
    /// `None`: the class has this status.
    pub(crate) fn replace(
        &self,
        had: Option<&classes::GatewayClassStatus>,
        now: &meta::Time,
    ) -> Option<classes::GatewayClassStatus> {
        let feature = |name: &&str| classes::GatewayClassStatusSupportedFeatures { name: (*name).to_owned() };
        let conditions = had.and_then(|had| had.conditions.as_deref()).unwrap_or_default();
        let status = classes::GatewayClassStatus {
            conditions: Some(merged(conditions, &self.conditions, now)),
            supported_features: Some(self.features.iter().map(feature).collect()),
        };
        (had != Some(&status)).then_some(status)
    }
}

impl GatewayStatus {
    /// `None`: the Gateway has this status.
    pub(crate) fn replace(
        &self,
        had: Option<&gateways::GatewayStatus>,
        now: &meta::Time,
    ) -> Option<gateways::GatewayStatus> {
        let before = had.and_then(|had| had.listeners.as_deref()).unwrap_or_default();
        let listener = |listener: &ListenerStatus| {
            let had = before.iter().find(|had| had.name == listener.name).map_or(&[][..], |had| &had.conditions);
            let kind = |kind: &&str| gateways::GatewayStatusListenersSupportedKinds {
                group: Some(GROUP.to_owned()),
                kind: (*kind).to_owned(),
            };
            gateways::GatewayStatusListeners {
                name: listener.name.clone(),
                attached_routes: listener.attached_routes,
                conditions: merged(had, &listener.conditions, now),
                supported_kinds: Some(listener.supported_kinds.iter().map(kind).collect()),
            }
        };
        let address = |address: &GatewayAddress| {
            let (kind, value) = match address {
                GatewayAddress::Ip(value) => ("IPAddress", value),
                GatewayAddress::Hostname(value) => ("Hostname", value),
            };
            gateways::GatewayStatusAddresses { r#type: Some(kind.to_owned()), value: value.clone() }
        };
        let conditions = had.and_then(|had| had.conditions.as_deref()).unwrap_or_default();
        let status = gateways::GatewayStatus {
            addresses: Some(self.addresses.iter().map(address).collect()),
            attached_listener_sets: had.and_then(|had| had.attached_listener_sets),
            conditions: Some(merged(conditions, &self.conditions, now)),
            listeners: Some(self.listeners.iter().map(listener).collect()),
        };
        (had != Some(&status)).then_some(status)
    }
}

impl RouteStatus {
    /// `None`: the route has this status. The entries of other controllers stay; those of ours for parents that the
    /// route no longer names go.
    pub(crate) fn replace(
        &self,
        had: Option<&TlsRouteStatus>,
        controller: &str,
        now: &meta::Time,
    ) -> Option<TlsRouteStatus> {
        let before = had.map_or(&[][..], |had| &had.parents);
        let (ours, others): (Vec<_>, Vec<_>) = before.iter().partition(|had| had.controller_name == controller);
        let parent = |status: &ParentStatus| {
            let parent_ref = written(&status.parent);
            let had = ours.iter().find(|had| had.parent_ref == parent_ref).map_or(&[][..], |had| &had.conditions);
            TlsRouteStatusParents {
                conditions: merged(&kept(had, &status.conditions), &status.conditions, now),
                controller_name: controller.to_owned(),
                parent_ref,
            }
        };
        let mut parents: Vec<TlsRouteStatusParents> = others.into_iter().cloned().collect();
        parents.extend(self.parents.iter().map(parent));
        let same = before.len() == parents.len() && parents.iter().all(|parent| before.contains(parent));
        (!same).then_some(TlsRouteStatus { parents })
    }
}

impl IngressStatus {
    /// `None`: the Ingress has this status.
    pub(crate) fn replace(&self, had: Option<&ingresses::IngressStatus>) -> Option<ingresses::IngressStatus> {
        let before = had.and_then(|had| had.load_balancer.as_ref()?.ingress.as_ref());
        let address = |address: &GatewayAddress| {
            let (ip, hostname) = match address {
                GatewayAddress::Ip(ip) => (Some(ip.clone()), None),
                GatewayAddress::Hostname(hostname) => (None, Some(hostname.clone())),
            };
            ingresses::IngressLoadBalancerIngress { ip, hostname, ports: None }
        };
        let now: Vec<_> = self.addresses.iter().map(address).collect();
        let is_same = before.map_or(&[][..], |before| before) == now;
        let load_balancer = ingresses::IngressLoadBalancerStatus { ingress: Some(now) };
        (!is_same).then_some(ingresses::IngressStatus { load_balancer: Some(load_balancer) })
    }
}

/// As the API server would fill in the defaults.
fn written(parent: &TlsRouteParentRefs) -> TlsRouteStatusParentsParentRef {
    TlsRouteStatusParentsParentRef {
        group: parent.group.clone(),
        kind: parent.kind.clone(),
        name: parent.name.clone(),
        namespace: parent.namespace.clone(),
        port: parent.port,
        section_name: parent.section_name.clone(),
    }
}

/// Those of an entry of ours that still hold: nobody else writes there.
fn kept(had: &[meta::Condition], new: &[Condition]) -> Vec<meta::Condition> {
    had.iter().filter(|had| new.iter().any(|condition| condition.is_called(&had.type_))).cloned().collect()
}

/// The API server refuses a status with a message that is too long.
fn shortened(message: &str) -> String {
    match message.char_indices().nth(MOST_OF_A_MESSAGE) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

/// `new` in place of the conditions of the same types; others have been set by somebody else, and stay, unless they are
/// ours and no longer hold.
fn merged(had: &[meta::Condition], new: &[Condition], now: &meta::Time) -> Vec<meta::Condition> {
    let stays = |had: &&meta::Condition| {
        !had.type_.starts_with(OWN_PREFIX) && !new.iter().any(|condition| condition.is_called(&had.type_))
    };
    let mut conditions: Vec<meta::Condition> = had.iter().filter(stays).cloned().collect();
    conditions.extend(new.iter().map(|condition| {
        let status = if condition.is_true { "True" } else { "False" };
        let before = had.iter().find(|had| condition.is_called(&had.type_) && had.status == status);
        meta::Condition {
            last_transition_time: before.map_or_else(|| now.clone(), |before| before.last_transition_time.clone()),
            message: shortened(&condition.message),
            observed_generation: Some(condition.generation),
            reason: condition.reason.to_owned(),
            status: status.to_owned(),
            type_: condition.kind.to_owned(),
        }
    }));
    // The order in which they were written before, so that equal statuses are the same.
    let place = |condition: &meta::Condition| had.iter().position(|had| had.type_ == condition.type_);
    conditions.sort_by_key(|condition| place(condition).unwrap_or(usize::MAX));
    conditions
}

/// The group of the Gateway API.
pub(crate) const GROUP: &str = "gateway.networking.k8s.io";
/// Our own conditions.
pub(super) const SHADOWED: &str = "snigate.dev/Shadowed";
pub(super) const ANNOTATIONS_VALID: &str = "snigate.dev/AnnotationsValid";
/// Of the conditions that no other controller sets.
const OWN_PREFIX: &str = "snigate.dev/";
/// Characters. The definitions allow 32,768.
const MOST_OF_A_MESSAGE: usize = 8_000;
