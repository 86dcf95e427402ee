//! What a request to the Kubernetes API is about.
//!
//! In:  the method and the URL of a request, or an object.
//! Out: [`Call`] with its [`Target`]: in the words of the rules for roles (RBAC).

use std::collections::BTreeMap;

use axum::http::Method;
use serde_json::Value;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// As in the rules for roles: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    pub verb: &'static str,
    pub target: Target,
    /// Empty, or `status`.
    pub subresource: String,
    pub query: BTreeMap<String, String>,
}

/// A resource, or one object of it if it has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Empty: the core group.
    pub group: String,
    pub version: String,
    /// In the plural and in lower case.
    pub resource: String,
    pub kind: &'static str,
    /// Empty: all of them, or the resource has none.
    pub namespace: String,
    pub name: String,
}

impl Call {
    /// `None`: there is nothing at that path.
    pub fn of(method: &Method, path: &str, query: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match &*parts {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, resource, rest) = match rest {
            ["namespaces", namespace, resource, rest @ ..] if *resource != "status" => (*namespace, *resource, rest),
            [resource, rest @ ..] => ("", *resource, rest),
            [] => return None,
        };
        let (name, subresource) = match rest {
            [] => ("", ""),
            [name] => (*name, ""),
            [name, subresource] => (*name, *subresource),
            _ => return None,
        };
        let kind = RESOURCES.iter().find(|known| known.0 == group && known.1 == version && known.2 == resource)?.3;
        let query: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let is_watch = query.get("watch").is_some_and(|it| it == "true" || it == "1");
        let verb = match *method {
            Method::GET if is_watch => "watch",
            Method::GET if name.is_empty() => "list",
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => return None,
        };
        let owned = str::to_owned;
        let target = Target {
            group: owned(group),
            version: owned(version),
            resource: owned(resource),
            kind,
            namespace: owned(namespace),
            name: owned(name),
        };
        Some(Self { verb, target, subresource: owned(subresource), query })
    }

    pub fn number(&self, key: &str) -> Option<usize> {
        self.query.get(key)?.parse().ok()
    }
}

impl Target {
    /// Where an object belongs.
    #[track_caller]
    pub fn of_object(api_version: &str, kind: &str, object: &Value) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let known = RESOURCES.iter().find(|known| known.0 == group && known.1 == version && known.3 == kind);
        let (group, version, resource, kind) = known.unwrap_or_else(|| panic!("no resource {api_version} {kind}"));
        let meta = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let is_of_cluster = matches!(*kind, "GatewayClass" | "Namespace");
        Self {
            group: (*group).to_owned(),
            version: (*version).to_owned(),
            resource: (*resource).to_owned(),
            kind,
            namespace: if is_of_cluster { String::new() } else { meta("namespace") },
            name: meta("name"),
        }
    }

    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// Group, version, resource and kind.
const RESOURCES: &[(&str, &str, &str, &str)] = &[
    ("gateway.networking.k8s.io", "v1", "gatewayclasses", "GatewayClass"),
    ("gateway.networking.k8s.io", "v1", "gateways", "Gateway"),
    ("gateway.networking.k8s.io", "v1", "tlsroutes", "TLSRoute"),
    ("gateway.networking.k8s.io", "v1", "referencegrants", "ReferenceGrant"),
    ("", "v1", "services", "Service"),
    ("", "v1", "namespaces", "Namespace"),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
    ("networking.k8s.io", "v1", "ingresses", "Ingress"),
    ("coordination.k8s.io", "v1", "leases", "Lease"),
    ("events.k8s.io", "v1", "events", "Event"),
];
