//! Checks one listener of a Gateway.
//!
//! In:  the listener, as the Gateway has it.
//! Out: a [`Section`]: which hostname, routes and namespaces it takes, or why it is not served.

use std::collections::BTreeMap;

use gateway_api::gateways::{
    Gateway, GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From,
    GatewayListenersAllowedRoutesNamespacesSelector as SelectorSpec, GatewayListenersTlsMode as Mode,
};

use super::hostname;
use super::status::GROUP;
use crate::server_name::Pattern;

/// A listener of a Gateway.
#[derive(Clone, Debug)]
pub(super) struct Section<'o> {
    pub name: &'o str,
    pub port: u16,
    /// `None`: it takes all names.
    pub hostname: Option<Pattern>,
    pub allowed: Allowed<'o>,
    /// Of the kinds that it allows; empty if it is refused.
    pub kinds: Vec<&'static str>,
    /// The reason of `Accepted=False`, and how to mend it.
    pub refused: Option<(&'static str, String)>,
    /// Other kinds that it allows.
    pub invalid_kinds: Option<String>,
    pub attached: i32,
}

/// The namespaces whose routes may attach.
#[derive(Clone, Debug)]
pub(super) enum Allowed<'o> {
    /// By a selector that is not there.
    None,
    Same,
    All,
    Selector(&'o SelectorSpec),
}

impl<'o> Section<'o> {
    pub(super) fn new(listener: &'o GatewayListeners) -> Self {
        let hostname = listener.hostname.as_deref().filter(|hostname| !hostname.is_empty()).map(hostname::read);
        let namespaces = listener.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
        let allowed = match namespaces.and_then(|namespaces| namespaces.from.as_ref()) {
            None | Some(From::Same) => Allowed::Same,
            Some(From::All) => Allowed::All,
            Some(From::Selector) => {
                namespaces.and_then(|namespaces| namespaces.selector.as_ref()).map_or(Allowed::None, Allowed::Selector)
            }
        };
        let (kinds, invalid_kinds) = kinds(listener);
        let port = u16::try_from(listener.port).ok().filter(|port| *port > 0);
        let refused = protocol_problem(listener)
            .or_else(|| hostname.as_ref()?.as_ref().err().map(|error| ("UnsupportedValue", error.clone())))
            .or_else(|| {
                port.is_none()
                    .then(|| ("UnsupportedValue", format!("{} is not a port; write 1 to 65535", listener.port)))
            })
            .or_else(|| match &allowed {
                Allowed::Selector(selector) => wrong_selector(selector).map(|error| ("UnsupportedValue", error)),
                Allowed::None | Allowed::Same | Allowed::All => None,
            });
        Self {
            name: &listener.name,
            port: port.unwrap_or_default(),
            hostname: hostname.and_then(Result::ok),
            allowed,
            kinds: if refused.is_some() { Vec::new() } else { kinds },
            refused,
            invalid_kinds,
            attached: 0,
        }
    }

    pub(super) fn refuse(&mut self, reason: &'static str, message: String) {
        if self.refused.is_none() {
            self.refused = Some((reason, message));
            self.kinds.clear();
        }
    }

    /// Whether routes of `namespace`, which has these `labels`, may attach.
    pub(super) fn allows(&self, gateway: &str, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        match &self.allowed {
            Allowed::None => false,
            Allowed::Same => namespace == gateway,
            Allowed::All => true,
            Allowed::Selector(selector) => selects(selector, namespace, labels),
        }
    }

    /// For messages: which namespaces it allows.
    pub(super) fn allowed_namespaces(&self) -> &'static str {
        match self.allowed {
            Allowed::None => "no namespace, since `from: Selector` has no selector",
            Allowed::Same => "its own namespace only",
            Allowed::All => "all namespaces",
            Allowed::Selector(_) => "the namespaces that its selector matches",
        }
    }
}

/// The listeners of a Gateway, those of a port with an equal hostname refused.
pub(super) fn sections(gateway: &Gateway) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = gateway.spec.listeners.iter().map(Section::new).collect();
    let mut same: BTreeMap<(u16, Option<Pattern>), Vec<usize>> = BTreeMap::new();
    for (number, section) in sections.iter().enumerate().filter(|(_, section)| section.refused.is_none()) {
        same.entry((section.port, section.hostname.clone())).or_default().push(number);
    }
    for (number, equal) in
        same.values().filter(|equal| equal.len() > 1).flat_map(|all| all.iter().map(move |one| (*one, all)))
    {
        let others =
            equal.iter().filter(|other| **other != number).map(|other| gateway.spec.listeners[*other].name.as_str());
        let others = others.collect::<Vec<_>>().join(", ");
        let message = format!("{others} has the same port and hostname; change one of them");
        sections[number].refuse(CONFLICT, message);
    }
    sections
}

fn protocol_problem(listener: &GatewayListeners) -> Option<(&'static str, String)> {
    if listener.protocol != "TLS" {
        let message =
            format!("the protocol {} is not supported; write `TLS`, with `tls.mode: Passthrough`", listener.protocol);
        return Some(("UnsupportedProtocol", message));
    }
    match listener.tls.as_ref().and_then(|tls| tls.mode.as_ref()) {
        Some(Mode::Passthrough) => None,
        Some(Mode::Terminate) | None => Some((
            "UnsupportedValue",
            "snigate does not terminate TLS; write `tls.mode: Passthrough`, and let the backends have the certificates"
                .to_owned(),
        )),
    }
}

/// The kinds of ours that a listener allows, and what it allows besides.
fn kinds(listener: &GatewayListeners) -> (Vec<&'static str>, Option<String>) {
    let Some(kinds) = listener.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_ref()) else {
        return (vec![TLS_ROUTE], None);
    };
    let is_ours = |group: &Option<String>, kind: &str| group.as_deref().unwrap_or(GROUP) == GROUP && kind == TLS_ROUTE;
    let (ours, others): (Vec<_>, Vec<_>) = kinds.iter().partition(|kind| is_ours(&kind.group, &kind.kind));
    let others: Vec<&str> = others.iter().map(|kind| kind.kind.as_str()).collect();
    let invalid = (!others.is_empty())
        .then(|| format!("a listener with TLS Passthrough takes TLSRoutes only; remove {}", others.join(", ")));
    // No kinds at all is the same as none given.
    let ours = if ours.is_empty() && !others.is_empty() { Vec::new() } else { vec![TLS_ROUTE] };
    (ours, invalid)
}

fn wrong_selector(selector: &SelectorSpec) -> Option<String> {
    let known = ["In", "NotIn", "Exists", "DoesNotExist"];
    selector.match_expressions.iter().flatten().find_map(|one| match one.operator.as_str() {
        "In" | "NotIn" if one.values.as_ref().is_none_or(Vec::is_empty) => {
            Some(format!("the selector has {} for `{}` without values; write at least one", one.operator, one.key))
        }
        operator if known.contains(&operator) => None,
        other => Some(format!("the selector has the operator `{other}`; write In, NotIn, Exists or DoesNotExist")),
    })
}

fn selects(selector: &SelectorSpec, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
    // The API server sets this label on every namespace.
    let value = |key: &str| match labels.and_then(|labels| labels.get(key)) {
        Some(value) => Some(value.as_str()),
        None => (key == "kubernetes.io/metadata.name").then_some(namespace),
    };
    let labels = selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted));
    labels
        && selector.match_expressions.iter().flatten().all(|one| {
            let is_in = || one.values.iter().flatten().any(|wanted| value(&one.key) == Some(wanted));
            match one.operator.as_str() {
                "In" => is_in(),
                "NotIn" => !is_in(),
                "Exists" => value(&one.key).is_some(),
                "DoesNotExist" => value(&one.key).is_none(),
                _ => false,
            }
        })
}

/// The reason of listeners of a port with an equal hostname.
pub(super) const CONFLICT: &str = "HostnameConflict";
/// The kind of routes that is supported.
pub(super) const TLS_ROUTE: &str = "TLSRoute";
