//! Writes the statuses that manifests would get.
//!
//! In:  [`Made`].
//! Out: each object with its conditions, those to mend on lines of their own; whether there are any.

use std::process::ExitCode;

use gateway_api::gateways::Gateway;
use gateway_api::tlsroutes::{TlsRoute, TlsRouteParentRefs};

use super::Made;
use crate::cli::Exit;
use crate::cli::figures::counted;
use crate::cli::printable::printable;
use crate::sources::kubernetes::status::{Condition, Statuses};
use crate::sources::kubernetes::{ObjectName, Objects};

/// What is printed, and whether all is accepted.
pub(super) fn check(made: &Made) -> (String, ExitCode) {
    let (statuses, objects) = (&made.translation.statuses, &made.objects);
    let mut out = Lines::default();
    for (name, status) in &statuses.gateway_classes {
        out.line(format_args!("GatewayClass {name}"));
        out.conditions("  ", &status.conditions);
    }
    let mut gateways: Vec<&Gateway> = objects.gateways.iter().map(|gateway| &**gateway).collect();
    gateways.sort_by_cached_key(|gateway| ObjectName::of(&gateway.metadata));
    gateways.iter().for_each(|gateway| out.gateway(gateway, statuses, objects));
    let mut routes: Vec<&TlsRoute> = objects.tls_routes.iter().map(|route| &**route).collect();
    routes.sort_by_cached_key(|route| ObjectName::of(&route.metadata));
    routes.iter().for_each(|route| out.route(route, statuses, objects));
    for (name, status) in &statuses.ingresses {
        out.line(format_args!("Ingress {name}"));
        if let Some(gateway) = &status.gateway {
            out.line(format_args!("  at Gateway {gateway}"));
        }
        status.problems.iter().for_each(|problem| out.bad("  ", problem));
    }
    let left_out = made.left_out.iter().map(|((kind, version), count)| format!("{count} {kind} ({version})"));
    let left_out: Vec<String> = left_out.collect();
    if !left_out.is_empty() {
        out.line(format_args!("not read: {}", left_out.join(", ")));
    }
    let seen = statuses.gateways.len() + objects.tls_routes.len() + statuses.ingresses.len() + objects.gateways.len();
    // What could not be read may be what is missing here.
    if seen == 0 && made.problems.is_empty() {
        out.bad("", "there is no Gateway, TLSRoute or Ingress of a class of ours in these files");
    }
    match (out.bad, made.problems.len()) {
        (0, 0) => out.line(format_args!("All of it is accepted.")),
        (bad, unread) => out.line(format_args!("{} to mend.", counted(bad + unread, "problem"))),
    }
    let exit = if out.bad > 0 { Exit::Config.into() } else { ExitCode::SUCCESS };
    (out.text, exit)
}

/// What is printed, and how much of it is not as it should be.
#[derive(Default)]
struct Lines {
    text: String,
    bad: usize,
}

impl Lines {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.text.push_str(&printable(&line.to_string()));
        self.text.push('\n');
    }

    /// What has to be mended is marked, so that it is found in a long list.
    fn bad(&mut self, indent: &str, what: impl std::fmt::Display) {
        self.bad += 1;
        self.line(format_args!("{indent}! {what}"));
    }

    /// Those that are as they should be on one line. Without a cluster nothing has an address, is in force or is
    /// installed.
    fn conditions<'c>(&mut self, indent: &str, conditions: impl IntoIterator<Item = &'c Condition>) {
        let known = |one: &&Condition| !matches!(one.kind, "Programmed" | "SupportedVersion");
        let (good, bad): (Vec<_>, Vec<_>) = conditions.into_iter().filter(known).partition(|one| one.is_good());
        let status = |one: &Condition| format!("{}={}", one.kind, if one.is_true { "True" } else { "False" });
        if !good.is_empty() {
            let good: Vec<String> = good.into_iter().map(status).collect();
            self.line(format_args!("{indent}{}", good.join(" ")));
        }
        for one in bad {
            self.bad(indent, format_args!("{} {}: {}", status(one), one.reason, one.message));
        }
    }

    fn gateway(&mut self, gateway: &Gateway, statuses: &Statuses, objects: &Objects) {
        let (name, class) = (ObjectName::of(&gateway.metadata), &gateway.spec.gateway_class_name);
        self.line(format_args!("Gateway {name}"));
        let Some(status) = statuses.gateways.get(&name) else { return self.not_ours(class, statuses, objects) };
        self.conditions("  ", &status.conditions);
        for listener in &status.listeners {
            let routes = counted(usize::try_from(listener.attached_routes).unwrap_or_default(), "route");
            self.line(format_args!("  listener {}: {routes} attached", listener.name));
            self.conditions("    ", &listener.conditions);
        }
    }

    /// Why a Gateway of `class` has no status.
    fn not_ours(&mut self, class: &str, statuses: &Statuses, objects: &Objects) {
        let found = objects.gateway_classes.iter().find(|one| one.metadata.name.as_deref() == Some(class));
        let ours = ObjectName::new("", class);
        match found {
            _ if statuses.gateway_classes.contains_key(&ours) => {
                self.line(format_args!(
                    "  not served: its namespace is not one of `kubernetes.namespaces`, or it is being deleted"
                ));
            }
            Some(found) => {
                let controller = &found.spec.controller_name;
                self.line(format_args!(
                    "  not served by snigate: its class {class} is for the controller {controller}"
                ));
            }
            None => self
                .bad("  ", format_args!("its GatewayClass {class} is not in these files; name the file that has it")),
        }
    }

    fn route(&mut self, route: &TlsRoute, statuses: &Statuses, objects: &Objects) {
        let name = ObjectName::of(&route.metadata);
        self.line(format_args!("TLSRoute {name}"));
        let reported = statuses.tls_routes.get(&name).map_or(&[][..], |status| &status.parents);
        let parents = route.spec.parent_refs.as_deref().unwrap_or_default();
        if parents.is_empty() {
            self.bad("  ", "it names no Gateway; write `parentRefs`");
        }
        for parent in parents {
            self.line(format_args!("  at {}", shown(parent, &name.namespace)));
            match reported.iter().find(|status| status.parent == *parent) {
                Some(status) => self.conditions("    ", &status.conditions),
                None => self.no_parent(parent, &name.namespace, objects),
            }
        }
    }

    /// Why a route has no status at a parent.
    fn no_parent(&mut self, parent: &TlsRouteParentRefs, namespace: &str, objects: &Objects) {
        let gateway = ObjectName::new(parent.namespace.as_deref().unwrap_or(namespace), &parent.name);
        let is_there = objects.gateways.iter().any(|one| ObjectName::of(&one.metadata) == gateway);
        match parent.kind.as_deref().unwrap_or("Gateway") {
            "Gateway" if !is_there => {
                self.bad("    ", "this Gateway is not in these files; name the file that has it, or mend its name");
            }
            "Gateway" => self.line(format_args!("    not served by snigate, see there")),
            kind => self.line(format_args!("    not served by snigate: it is no Gateway, but a {kind}")),
        }
    }
}

/// `Gateway NAMESPACE/NAME, listener NAME, port NUMBER`
fn shown(parent: &TlsRouteParentRefs, namespace: &str) -> String {
    let (kind, namespace) =
        (parent.kind.as_deref().unwrap_or("Gateway"), parent.namespace.as_deref().unwrap_or(namespace));
    let mut shown = format!("{kind} {namespace}/{}", parent.name);
    if let Some(section) = &parent.section_name {
        shown.push_str(&format!(", listener {section}"));
    }
    if let Some(port) = parent.port {
        shown.push_str(&format!(", port {port}"));
    }
    shown
}
