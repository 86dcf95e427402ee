//! Reads manifests as `kubectl` does.
//!
//! In:  the text of a file with any number of YAML or JSON documents, each an object or a List.
//! Out: [`Objects`]; the kinds that were left out; what cannot be read, with its document.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::Resource as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::objects::Objects;

/// What several files hold.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    pub objects: Objects,
    /// How many objects of other kinds there were.
    pub left_out: BTreeMap<String, usize>,
    pub problems: Vec<String>,
}

impl Manifests {
    /// Adds the documents of a file that is called `file` in messages.
    pub(crate) fn read(&mut self, file: &str, text: &str) {
        for (number, document) in (1..).zip(documents(text)) {
            let at = format!("{file}: document {number}");
            match serde_yaml::from_str::<Value>(&document) {
                Ok(Value::Null) => {}
                Ok(value) => self.add(&at, value),
                Err(error) => self.problems.push(format!("{at}: {error}")),
            }
        }
    }

    fn add(&mut self, at: &str, mut value: Value) {
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
        if kind.is_empty() || version.is_empty() {
            return self.problems.push(format!("{at}: `apiVersion` and `kind` are missing; is this a manifest?"));
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
                self.add(&format!("{at}, item {number}"), item);
            }
            return;
        }
        self.add_object(at, &kind, &version, value);
    }

    fn add_object(&mut self, at: &str, kind: &str, version: &str, mut value: Value) {
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let is_cluster_wide = matches!(kind, "GatewayClass" | "Namespace");
        if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut).filter(|_| !is_cluster_wide) {
            // As `kubectl` without a namespace in its context.
            meta.entry("namespace").or_insert_with(|| "default".into());
        }
        let (objects, problems) = (&mut self.objects, &mut self.problems);
        match (group, kind) {
            (GATEWAY_API, "GatewayClass") => push(at, value, &mut objects.gateway_classes, problems),
            (GATEWAY_API, "Gateway") => push(at, value, &mut objects.gateways, problems),
            (GATEWAY_API, "TLSRoute") => push(at, value, &mut objects.tls_routes, problems),
            (GATEWAY_API, "ReferenceGrant") => push(at, value, &mut objects.reference_grants, problems),
            ("", "Service") => push(at, value, &mut objects.services, problems),
            ("", "Namespace") => push(at, value, &mut objects.namespaces, problems),
            ("discovery.k8s.io", "EndpointSlice") => push(at, value, &mut objects.endpoint_slices, problems),
            (group, "Ingress") if group == k8s_openapi::api::networking::v1::Ingress::GROUP => {
                push(at, value, &mut objects.ingresses, problems);
            }
            _ => *self.left_out.entry(kind.to_owned()).or_default() += 1,
        }
    }
}

fn push<T: DeserializeOwned>(at: &str, mut value: Value, to: &mut Vec<Arc<T>>, problems: &mut Vec<String>) {
    let name = |value: &Value| {
        let meta = value.get("metadata")?;
        let part = |key| meta.get(key).and_then(Value::as_str);
        Some(format!("{}/{}", part("namespace").unwrap_or_default(), part("name")?))
    };
    let Some(name) = name(&value) else {
        return problems.push(format!("{at}: `metadata.name` is missing"));
    };
    // All versions that are served have the same fields; what a status says is for the cluster.
    let kind = value.get("kind").cloned();
    match T::deserialize(value.take()) {
        Ok(object) => to.push(Arc::new(object)),
        Err(error) => {
            let kind = kind.as_ref().and_then(Value::as_str).unwrap_or_default();
            problems.push(format!("{at}: {kind} {}: {error}", name.trim_start_matches('/')));
        }
    }
}

/// The documents of a text, parted by lines of three dashes.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line == "---" || line.starts_with("--- ") {
            documents.push(String::new());
        } else if let Some(document) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    let is_empty =
        |text: &String| text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    documents.retain(|document| !is_empty(document));
    documents
}

const GATEWAY_API: &str = super::status::GROUP;
