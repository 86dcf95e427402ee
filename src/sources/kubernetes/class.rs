//! Decides which GatewayClasses are ours, and what their statuses say.
//!
//! In:  the classes, the name of our controller, whether the installed definitions can be used.
//! Out: one [`Class`] for each class of ours.

use std::collections::BTreeMap;

use gateway_api::gatewayclasses::GatewayClass;

use super::objects::{ObjectName, Objects, Observed};
use super::status::{ClassStatus, Condition};

/// A GatewayClass of ours.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Class {
    pub status: ClassStatus,
    /// Why its Gateways are not served.
    pub refused: Option<String>,
}

/// The classes whose controller is `controller`, by name.
pub(super) fn ours<'o>(objects: &'o Objects, controller: &str, observed: &Observed) -> BTreeMap<&'o str, Class> {
    let ours = objects.gateway_classes.iter().filter(|class| class.spec.controller_name == controller);
    ours.filter_map(|class| Some((class.metadata.name.as_deref()?, Class::new(class, observed)))).collect()
}

impl Class {
    fn new(class: &GatewayClass, observed: &Observed) -> Self {
        let generation = class.metadata.generation.unwrap_or_default();
        let parameters = class.spec.parameters_ref.as_ref();
        let refused = parameters.map(|parameters| {
            let (kind, name) = (&parameters.kind, &parameters.name);
            format!("remove parametersRef ({kind} {name}): snigate reads no parameters; its settings are in its routing file")
        });
        let (reason, message) = match &refused {
            None => ("Accepted", "snigate serves the Gateways of this class".to_owned()),
            Some(refused) => ("InvalidParameters", refused.clone()),
        };
        let accepted = Condition { kind: "Accepted", is_true: refused.is_none(), reason, message, generation };
        let version = match &observed.unsupported_version {
            None => Condition {
                kind: "SupportedVersion",
                is_true: true,
                reason: "SupportedVersion",
                message: "the installed version of the Gateway API is supported".to_owned(),
                generation,
            },
            Some(why) => Condition {
                kind: "SupportedVersion",
                is_true: false,
                reason: "UnsupportedVersion",
                message: why.clone(),
                generation,
            },
        };
        let status = ClassStatus { conditions: vec![accepted, version], features: FEATURES.to_vec() };
        Self { status, refused }
    }
}

/// The name of a class, without a namespace.
pub(super) fn name(name: &str) -> ObjectName {
    ObjectName::new("", name)
}

/// The features of the Gateway API that are supported completely, in the order of the alphabet.
const FEATURES: &[&str] = &["Gateway", "ReferenceGrant", "TLSRoute"];
