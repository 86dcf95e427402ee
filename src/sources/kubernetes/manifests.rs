//! Reads manifests as `kubectl` does.
//!
//! In:  the text of a file with any number of YAML or JSON documents, each an object or a List.
//! Out: [`Objects`]; the kinds that were left out; what cannot be read, with its line.

mod documents;
mod unknown;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::Resource as _;
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::objects::{ObjectName, Objects};
use documents::documents;

/// What several files hold.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    pub objects: Objects,
    /// How many objects there were that snigate does not read, by kind and `apiVersion`.
    pub left_out: BTreeMap<(String, String), usize>,
    pub problems: Vec<String>,
    /// Where each object was found.
    found: HashMap<(String, ObjectName), String>,
}

impl Manifests {
    /// Adds the documents of a file that is called `file` in messages.
    pub(crate) fn read(&mut self, file: &str, text: &str) {
        for (line, document) in documents(text) {
            match document {
                Ok(Value::Null) => {}
                Ok(value) => self.add(&format!("{file}:{line}"), value),
                Err(error) => self.problems.push(format!("{file}:{line}: {error}")),
            }
        }
    }

    fn add(&mut self, at: &str, mut value: Value) {
        let text = |key| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, version) = (text("kind"), text("apiVersion"));
        if kind.is_empty() || version.is_empty() {
            let missing = if value.is_object() { "`apiVersion` or `kind` is missing" } else { "this is not an object" };
            return self.problems.push(format!("{at}: {missing}; is it a Kubernetes manifest?"));
        }
        if kind.ends_with("List")
            && let Some(Value::Array(items)) = value.get_mut("items").map(Value::take)
        {
            let item_kind = kind.strip_suffix("List").unwrap_or_default();
            for (number, mut item) in (1..).zip(items) {
                // The items of a typed list are without their kind.
                if let Some(item) = item.as_object_mut().filter(|_| !item_kind.is_empty()) {
                    item.entry("kind").or_insert_with(|| item_kind.into());
                    item.entry("apiVersion").or_insert_with(|| version.as_str().into());
                }
                self.add(&format!("{at}: item {number}"), item);
            }
            return;
        }
        self.add_object(at, &kind, &version, value);
    }

    fn add_object(&mut self, at: &str, kind: &str, version: &str, mut value: Value) {
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let is_cluster_wide = matches!(kind, "GatewayClass" | "Namespace");
        if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            match is_cluster_wide {
                true => _ = meta.remove("namespace"),
                // As `kubectl` without a namespace in its context.
                false => _ = meta.entry("namespace").or_insert_with(|| "default".into()),
            }
        }
        let mut to = Reader { at, kind, found: &mut self.found, problems: &mut self.problems };
        let objects = &mut self.objects;
        match (group, kind) {
            (GATEWAY_API, "GatewayClass") => to.push_strictly(value, &mut objects.gateway_classes),
            (GATEWAY_API, "Gateway") => to.push_strictly(value, &mut objects.gateways),
            (GATEWAY_API, "TLSRoute") => to.push_strictly(value, &mut objects.tls_routes),
            (GATEWAY_API, "ReferenceGrant") => to.push_strictly(value, &mut objects.reference_grants),
            ("", "Service") => _ = to.push(value, &mut objects.services),
            ("", "Namespace") => _ = to.push(value, &mut objects.namespaces),
            ("discovery.k8s.io", "EndpointSlice") => _ = to.push(value, &mut objects.endpoint_slices),
            (group, "Ingress") if group == k8s_openapi::api::networking::v1::Ingress::GROUP => {
                _ = to.push(value, &mut objects.ingresses);
            }
            _ => match mistaken(group, kind) {
                Some(cure) => self.problems.push(format!("{at}: there is no {kind} in `{version}`; {cure}")),
                None => *self.left_out.entry((kind.to_owned(), version.to_owned())).or_default() += 1,
            },
        }
    }
}

/// Reads one object.
struct Reader<'a> {
    at: &'a str,
    kind: &'a str,
    found: &'a mut HashMap<(String, ObjectName), String>,
    problems: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn problem(&mut self, name: &ObjectName, what: impl std::fmt::Display) {
        self.problems.push(format!("{}: {} {name}: {what}", self.at, self.kind));
    }

    /// All versions that are served have the same fields; what a status says is for the cluster.
    fn push<T: DeserializeOwned + ResourceExt>(&mut self, value: Value, to: &mut Vec<Arc<T>>) -> Option<Arc<T>> {
        let meta = |key| value.get("metadata").and_then(|meta| meta.get(key)).and_then(Value::as_str);
        let Some(name) = meta("name").filter(|name| !name.is_empty()) else {
            self.problems.push(format!("{}: {}: `metadata.name` is missing, or is not text", self.at, self.kind));
            return None;
        };
        let name = ObjectName::new(meta("namespace").unwrap_or_default(), name);
        match serde_path_to_error::deserialize::<_, T>(value) {
            Ok(object) => {
                if let Some(before) = self.found.insert((self.kind.to_owned(), name.clone()), self.at.to_owned()) {
                    self.problem(&name, format_args!("it is also at {before}; remove one: the later one replaces it"));
                    to.retain(|object| ObjectName::of(object.meta()) != name);
                }
                let object = Arc::new(object);
                to.push(Arc::clone(&object));
                Some(object)
            }
            Err(error) => {
                let path = error.path().to_string();
                let place = if path == "." { String::new() } else { format!("`{path}`: ") };
                self.problem(&name, format_args!("{place}{}", error.inner()));
                None
            }
        }
    }

    /// Also reports fields that there are not. Newer versions of Kubernetes add fields to its own kinds, which are no
    /// mistake there; snigate can do nothing with a field of a Gateway that it does not know.
    fn push_strictly<T>(&mut self, value: Value, to: &mut Vec<Arc<T>>)
    where
        T: DeserializeOwned + serde::Serialize + ResourceExt,
    {
        let written = value.clone();
        let Some(object) = self.push(value, to) else { return };
        let name = ObjectName::of(object.meta());
        for path in unknown::fields(&written, &*object) {
            let (parents, field) = path.rsplit_once('.').unwrap_or(("", &path));
            // `spec.listeners[0]` is `gateway.spec.listeners` there.
            let mut kind = self.kind.to_lowercase();
            for parent in parents.split('.').filter(|parent| !parent.is_empty()) {
                kind.push('.');
                kind.push_str(parent.split('[').next().unwrap_or(parent));
            }
            self.problem(
                &name,
                format_args!(
                    "`{path}`: there is no field `{field}`; `kubectl explain {kind}` lists those that there are"
                ),
            );
        }
    }
}

/// How to mend a kind that is misspelt, or is one that snigate reads in a group that does not have it; `None`: it is
/// some other kind.
fn mistaken(group: &str, kind: &str) -> Option<String> {
    let is_meant = |(_, known): &&(&str, &str)| known.eq_ignore_ascii_case(kind);
    let meant = KINDS.iter().find(is_meant);
    match (group, meant) {
        // Other projects have a Gateway, and more, in groups of their own.
        ("" | GATEWAY_API, Some((version, known))) => {
            Some(format!("write `apiVersion: {version}` and `kind: {known}`"))
        }
        (GATEWAY_API, None) if !OTHER_KINDS.contains(&kind) => {
            let near = |known: &&str| strsim::damerau_levenshtein(known, kind) <= 2;
            let mut known = KINDS.iter().map(|(_, kind)| *kind).chain(OTHER_KINDS.iter().copied());
            Some(match known.find(near) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "`kubectl api-resources --api-group gateway.networking.k8s.io` lists its kinds".to_owned(),
            })
        }
        _ => None,
    }
}

const GATEWAY_API: &str = super::status::GROUP;
/// The kinds that are read, with the version to write.
const KINDS: &[(&str, &str)] = &[
    ("gateway.networking.k8s.io/v1", "GatewayClass"),
    ("gateway.networking.k8s.io/v1", "Gateway"),
    ("gateway.networking.k8s.io/v1", "TLSRoute"),
    ("gateway.networking.k8s.io/v1", "ReferenceGrant"),
    ("v1", "Service"),
    ("v1", "Namespace"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("networking.k8s.io/v1", "Ingress"),
];
/// The other kinds of the Gateway API.
const OTHER_KINDS: &[&str] =
    &["HTTPRoute", "GRPCRoute", "TCPRoute", "UDPRoute", "BackendTLSPolicy", "ListenerSet", "ReferencePolicy"];

#[cfg(test)]
mod tests;
