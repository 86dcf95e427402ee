//! Attaches routes to the listeners of Gateways.
//!
//! In:  wishes, the oldest first; the Gateways with their listeners.
//! Out: what became of each parent of a wish; which wish has each name of each listener.
//!
//! Nothing here depends on the order in which objects were read: it is that of their age, then of their names.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::gateway::Served;
use super::hostname;
use super::objects::{ObjectName, Objects};
use super::section::TLS_ROUTE;
use super::translation::GatewayListener;
use super::wish::{Parent, Wish};
use crate::server_name::Pattern;

/// A name of a listener, by its number.
pub(super) type Claim = (usize, Pattern);

/// What became of a parent of a wish.
#[derive(Clone, Debug)]
pub(super) struct Attached {
    /// The number of the parent.
    pub parent: usize,
    /// Why the wish is not accepted there: a reason and how to mend it.
    pub refused: Option<(&'static str, String)>,
    /// The names that it asks for there; with the listener of the Gateway that they belong to, if that is another one.
    pub wanted: BTreeMap<Claim, Option<String>>,
}

pub(super) struct Attaching<'a, 'o> {
    gateways: &'a mut [Served<'o>],
    by_name: HashMap<ObjectName, usize>,
    labels: HashMap<&'o str, &'o BTreeMap<String, String>>,
    numbers: HashMap<(usize, u16), usize>,
    counted: HashSet<(usize, usize, usize)>,
    pub listeners: Vec<GatewayListener>,
    /// The first wish that asked for each name.
    pub claims: HashMap<Claim, usize>,
}

impl<'a, 'o> Attaching<'a, 'o> {
    pub(super) fn new(objects: &'o Objects, gateways: &'a mut [Served<'o>]) -> Self {
        let labels = objects.namespaces.iter();
        let labels = labels.filter_map(|one| Some((one.metadata.name.as_deref()?, one.metadata.labels.as_ref()?)));
        let by_name = gateways.iter().enumerate().map(|(number, served)| (served.name.clone(), number)).collect();
        let mut listeners: Vec<(GatewayListener, usize)> = Vec::new();
        for (number, served) in gateways.iter().enumerate() {
            listeners.extend(served.binds.iter().map(|(port, bind)| {
                let of_port = served.sections.iter().filter(|one| one.refused.is_none() && one.port == *port);
                let mut hostnames: Vec<Pattern> = of_port.filter_map(|one| one.hostname.clone()).collect();
                hostnames.sort();
                let name = format!("{}:{port}", served.name).into();
                (
                    GatewayListener { name, gateway: served.name.clone(), port: *port, bind: bind.clone(), hostnames },
                    number,
                )
            }));
        }
        listeners.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let numbers = listeners.iter().enumerate().map(|(index, (listener, number))| ((*number, listener.port), index));
        Self {
            by_name,
            labels: labels.collect(),
            numbers: numbers.collect(),
            counted: HashSet::new(),
            listeners: listeners.into_iter().map(|(listener, _)| listener).collect(),
            claims: HashMap::new(),
            gateways,
        }
    }

    /// One for each parent of `wish` that is a Gateway of ours. Call it for older wishes first.
    pub(super) fn attach(&mut self, number: usize, wish: &Wish<'_>) -> Vec<Attached> {
        let parents = wish.parents.iter().enumerate();
        parents.filter_map(|(index, parent)| self.parent(number, wish, index, parent)).collect()
    }

    fn parent(&mut self, number: usize, wish: &Wish<'_>, index: usize, parent: &Parent<'_>) -> Option<Attached> {
        let gateway = *self.by_name.get(&parent.gateway)?;
        let refused = |reason, message| {
            Some(Attached { parent: index, refused: Some((reason, message)), wanted: BTreeMap::new() })
        };
        let allowed = match self.allowed(gateway, wish, parent) {
            Ok(allowed) => allowed,
            Err((reason, message)) => return refused(reason, message),
        };
        let (mut wanted, mut met) = (BTreeMap::new(), Vec::new());
        let served = &self.gateways[gateway];
        for section_number in allowed {
            let section = &served.sections[section_number];
            let Some(&listener) = self.numbers.get(&(gateway, section.port)) else { continue };
            let names: Vec<Pattern> =
                wish.patterns.iter().filter_map(|pattern| hostname::meet(section.hostname.as_ref(), pattern)).collect();
            if !names.is_empty() {
                met.push(section_number);
            }
            for name in names {
                let owner = served.owners.get(&section.port).and_then(|owners| owners.of(&name));
                let other = owner.filter(|owner| *owner != section_number);
                let other = other.map(|owner| served.sections[owner].name.to_owned());
                if other.is_none() {
                    self.claims.entry((listener, name.clone())).or_insert(number);
                    wanted.insert((listener, name), None);
                } else {
                    wanted.entry((listener, name)).or_insert(other);
                }
            }
        }
        if met.is_empty() {
            let hostnames: Vec<String> = wish.patterns.iter().take(MAX_SHOWN).map(hostname::written).collect();
            let message = format!(
                "no listener of Gateway {} that allows this route has a hostname that meets {}; change one of them",
                parent.gateway,
                hostnames.join(", ")
            );
            return refused("NoMatchingListenerHostname", message);
        }
        if wish.kind == TLS_ROUTE {
            for section in met {
                if self.counted.insert((number, gateway, section)) {
                    self.gateways[gateway].sections[section].attached += 1;
                }
            }
        }
        Some(Attached { parent: index, refused: None, wanted })
    }

    /// The listeners of a Gateway that a parent selects and that allow the wish.
    fn allowed(
        &self,
        gateway: usize,
        wish: &Wish<'_>,
        parent: &Parent<'_>,
    ) -> Result<Vec<usize>, (&'static str, String)> {
        let served = &self.gateways[gateway];
        let name = &served.name;
        let selects = |section: &super::section::Section<'_>| {
            parent.section.is_none_or(|asked| asked == section.name)
                && parent.port.is_none_or(|asked| asked == i32::from(section.port))
        };
        let selected: Vec<usize> = (0..served.sections.len()).filter(|one| selects(&served.sections[*one])).collect();
        if selected.is_empty() {
            let known: Vec<String> =
                served.sections.iter().map(|section| format!("{} (port {})", section.name, section.port)).collect();
            let message =
                format!("Gateway {name} has no listener with this sectionName and port; it has {}", known.join(", "));
            return Err(("NoMatchingParent", message));
        }
        if served.is_refused() {
            return Err(("NotAllowedByListeners", format!("Gateway {name} is not accepted; its conditions show why")));
        }
        let labels = self.labels.get(&*wish.name.namespace).copied();
        let allows = |number: &usize| {
            let section = &served.sections[*number];
            section.kinds.contains(&TLS_ROUTE) && section.allows(&name.namespace, &wish.name.namespace, labels)
        };
        let allowed: Vec<usize> = selected.iter().copied().filter(allows).collect();
        if !allowed.is_empty() {
            return Ok(allowed);
        }
        let why = selected.iter().map(|number| {
            let section = &served.sections[*number];
            match (&section.refused, section.kinds.is_empty()) {
                (Some((_, message)), _) => format!("{} is not served: {message}", section.name),
                (None, true) => format!("{} allows no TLSRoutes; add the kind to allowedRoutes.kinds", section.name),
                (None, false) => format!(
                    "{} allows routes from {}; see allowedRoutes.namespaces",
                    section.name,
                    section.allowed_namespaces()
                ),
            }
        });
        let why: Vec<String> = why.take(MAX_SHOWN).collect();
        Err(("NotAllowedByListeners", format!("no listener of Gateway {name} allows it: {}", why.join("; "))))
    }
}

/// In a message.
pub(super) const MAX_SHOWN: usize = 8;
