//! A Kubernetes API server that a test scripts: the part of the API that snigate uses, over plain HTTP.
//!
//! In:  objects that a test puts and deletes; faults on demand.
//! Out: list (in pages), watch (resourceVersion, bookmarks, 410), create, replace and merge patch (with conflicts), the
//!      `status` subresource, generations, the deletion of what a deleted object owns; what was asked, in order.
//! Source: <https://kubernetes.io/docs/reference/using-api/api-concepts/>
//!
//! Objects that the types of the crates would not read are refused with 422, whoever writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::api_path::{Call, Target};
use crate::harness::poll;

/// The server. Its objects outlive [`ApiServer::vanish`].
pub struct ApiServer {
    address: SocketAddr,
    inner: Arc<Inner>,
    runtime: Mutex<Option<Runtime>>,
}

struct Inner {
    state: Mutex<Store>,
    /// Changes with every event, and with whatever must end open watches.
    wake: watch::Sender<Wake>,
}

#[derive(Clone, Copy, Default)]
struct Wake {
    version: u64,
    /// Watches of an earlier epoch end.
    epoch: u64,
}

#[derive(Default)]
struct Store {
    version: u64,
    objects: BTreeMap<Key, Value>,
    events: Vec<Event>,
    /// A watch from before this version is answered with 410.
    oldest: u64,
    fault: Fault,
    missing: BTreeSet<String>,
    /// Namespaces where no Service may be written.
    forbidden: BTreeSet<String>,
    conflicts: usize,
    requests: Vec<(Instant, Call)>,
    uids: u64,
    load_balancer: bool,
}

struct Event {
    version: u64,
    resource: String,
    kind: &'static str,
    object: Value,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    resource: String,
    namespace: String,
    name: String,
}

/// How requests are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// With this status.
    Status(u16),
    /// With 429, and the seconds after which to ask again.
    Busy(u32),
    /// Not at all: the connection stays open.
    Silence,
    /// Watches and lists with bytes that are not JSON.
    Garbage,
    /// Watches and lists with the first half of a line, after which the connection ends.
    HalfLine,
    /// Watches with an answer that ends at once.
    ShortWatches,
}

impl ApiServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner { state: Mutex::default(), wake: watch::Sender::default() });
        inner.state().load_balancer = true;
        let server = Self { address, inner, runtime: Mutex::new(None) };
        server.serve(listener);
        for name in ["default", "kube-system"] {
            server.put(json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}));
        }
        server
    }

    /// Where clients of this machine find it: a kubeconfig in `directory`.
    pub fn kubeconfig(&self, directory: &Path) -> PathBuf {
        self.kubeconfig_from(Ipv4Addr::LOCALHOST, directory)
    }

    /// Where clients find it that reach this machine by another address.
    pub fn kubeconfig_from(&self, ip: Ipv4Addr, directory: &Path) -> PathBuf {
        let file = directory.join(format!("kubeconfig-{ip}"));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{ name: test, cluster: {{ server: \"http://{ip}:{}\" }} }}]\n\
             users: [{{ name: test, user: {{ token: {TOKEN} }} }}]\n\
             contexts: [{{ name: test, context: {{ cluster: test, user: test, namespace: default }} }}]\n",
            self.address.port()
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Goes away, with all its connections. Its objects stay.
    pub fn vanish(&self) {
        let runtime = self.runtime.lock().unwrap().take();
        runtime.into_iter().for_each(|runtime| runtime.shutdown_timeout(Duration::from_secs(5)));
    }

    /// Comes back at the same address.
    pub fn come_back(&self) {
        let listener = poll(|| TcpListener::bind(self.address));
        self.serve(listener.expect("its port is free"));
    }

    fn serve(&self, listener: TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&self.inner));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
        *self.runtime.lock().unwrap() = Some(runtime);
    }

    /// Creates an object, or replaces all of it but its status.
    #[track_caller]
    pub fn put(&self, object: Value) -> Value {
        let (version, kind) = (text(&object, "apiVersion"), text(&object, "kind"));
        let target = Target::of_object(&version, &kind, &object);
        let mut state = self.inner.state();
        let key = Key::of(&target);
        let done = if state.objects.contains_key(&key) {
            state.replace(&key, object, Part::Spec, Check::Nothing)
        } else {
            state.create(&key, object)
        };
        let done = done.unwrap_or_else(|refusal| panic!("{refusal:?}"));
        self.inner.announce(&state);
        done
    }

    /// Stores an object as it is, as one that was stored before its definition had its present schema.
    pub fn put_unchecked(&self, object: Value) {
        let target = Target::of_object(&text(&object, "apiVersion"), &text(&object, "kind"), &object);
        let mut state = self.inner.state();
        state.store(&Key::of(&target), "ADDED", object);
        self.inner.announce(&state);
    }

    /// Deletes an object and all that it owns. Whether it was there.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) -> bool {
        let mut state = self.inner.state();
        let is_gone = state.delete(&Key::new(resource, namespace, name));
        self.inner.announce(&state);
        is_gone
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.inner.state().objects.get(&Key::new(resource, namespace, name)).cloned()
    }

    /// Waits until `wanted` finds something in an object.
    #[track_caller]
    pub fn wait_for<T>(&self, resource: &str, namespace: &str, name: &str, wanted: impl Fn(&Value) -> Option<T>) -> T {
        let look = || {
            let object = self.get(resource, namespace, name).unwrap_or_default();
            wanted(&object).ok_or(object)
        };
        poll(look).unwrap_or_else(|object| panic!("{resource} {namespace}/{name} stays {object:#}"))
    }

    #[track_caller]
    pub fn wait_until_gone(&self, resource: &str, namespace: &str, name: &str) {
        let look = || self.get(resource, namespace, name).map_or(Ok(()), Err);
        poll(look).unwrap_or_else(|object| panic!("{resource} {namespace}/{name} stays {object:#}"));
    }

    /// Adds an entry of another controller to the status of a route, as that would.
    pub fn write_along(&self, resource: &str, namespace: &str, name: &str, parent: &str) {
        let mut state = self.inner.state();
        let key = Key::new(resource, namespace, name);
        let mut object = state.objects[&key].clone();
        let entry = json!({ "controllerName": "example.com/other", "parentRef": { "name": parent }, "conditions": [] });
        object["status"]["parents"].as_array_mut().expect("it has a status").push(entry);
        state.replace(&key, object, Part::Status, Check::Nothing).expect("it is valid");
        self.inner.announce(&state);
    }

    /// Answers every request from now on in this way, and ends the watches that are open.
    pub fn fault(&self, fault: Fault) {
        self.inner.state().fault = fault;
        self.end_watches();
    }

    /// Answers the next so many writes, except for those of leases, with a conflict.
    pub fn conflict(&self, writes: usize) {
        self.inner.state().conflicts = writes;
    }

    pub fn end_watches(&self) {
        self.inner.wake.send_modify(|wake| wake.epoch += 1);
    }

    /// Forgets the history: a watch that begins with a version from before is answered with 410.
    pub fn compact(&self) {
        let mut state = self.inner.state();
        state.version += 1;
        state.oldest = state.version;
        state.events.clear();
        drop(state);
        self.end_watches();
    }

    /// Behaves as if the definition of this resource was not installed.
    pub fn without(&self, resource: &str) {
        self.inner.state().missing.insert(resource.to_owned());
    }

    pub fn with(&self, resource: &str) {
        self.inner.state().missing.remove(resource);
    }

    /// Forbids, or allows, Services to be written in a namespace, as a Role does.
    pub fn forbid_services(&self, namespace: &str, is_forbidden: bool) {
        let forbidden = &mut self.inner.state().forbidden;
        if is_forbidden {
            forbidden.insert(namespace.to_owned());
        } else {
            forbidden.remove(namespace);
        }
    }

    /// What was asked so far, oldest first.
    pub fn requests(&self) -> Vec<Call> {
        self.inner.state().requests.iter().map(|(_, call)| call.clone()).collect()
    }

    /// The Event objects.
    pub fn events(&self) -> Vec<Value> {
        let state = self.inner.state();
        state.objects.iter().filter(|(key, _)| key.resource == "events").map(|(_, object)| object.clone()).collect()
    }

    /// When a resource was listed or watched after `since`.
    pub fn reads_since(&self, since: Instant, resource: &str) -> Vec<Instant> {
        let state = self.inner.state();
        let is_read = |call: &Call| call.target.resource == resource && matches!(call.verb, "list" | "watch");
        let reads = state.requests.iter().filter(|(at, call)| *at > since && is_read(call));
        reads.map(|(at, _)| *at).collect()
    }

    /// The resources that were listed after `since`.
    pub fn listed_since(&self, since: Instant) -> BTreeSet<String> {
        let state = self.inner.state();
        let lists = state.requests.iter().filter(|(at, call)| *at > since && call.verb == "list");
        lists.map(|(_, call)| call.target.resource.clone()).collect()
    }

    /// The requests that change something, except for leases.
    pub fn writes(&self) -> Vec<Call> {
        let mut calls = self.requests();
        calls.retain(|call| !matches!(call.verb, "get" | "list" | "watch") && call.target.resource != "leases");
        calls
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, Store> {
        self.state.lock().unwrap()
    }

    fn announce(&self, state: &Store) {
        self.wake.send_modify(|wake| wake.version = state.version);
    }
}

// The objects

enum Part {
    Spec,
    Status,
}

/// Whether a write names the version that it is about.
enum Check {
    Nothing,
    Version(String),
}

impl Key {
    fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn of(target: &Target) -> Self {
        Self::new(&target.resource, &target.namespace, &target.name)
    }
}

impl Store {
    fn create(&mut self, key: &Key, mut object: Value) -> Result<Value, Refusal> {
        if self.objects.contains_key(key) {
            return Err(Refusal(StatusCode::CONFLICT, "AlreadyExists", format!("{} already exists", key.name)));
        }
        self.uids += 1;
        let meta = &mut object["metadata"];
        meta["name"] = key.name.clone().into();
        if !key.namespace.is_empty() {
            meta["namespace"] = key.namespace.clone().into();
        }
        meta["uid"] = format!("00000000-0000-4000-8000-{:012}", self.uids).into();
        meta["generation"] = 1.into();
        if meta["creationTimestamp"].is_null() {
            let (minute, second) = (self.uids / 60 % 60, self.uids % 60);
            meta["creationTimestamp"] = format!("2026-01-01T00:{minute:02}:{second:02}Z").into();
        }
        if key.resource == "services" {
            self.give_addresses(&mut object);
        }
        check(&key.resource, &object)?;
        let stored = self.store(key, "ADDED", object);
        self.collect_garbage(key, &stored);
        Ok(stored)
    }

    /// Deletes an object whose owners are all gone, as the garbage collector of a cluster does.
    fn collect_garbage(&mut self, key: &Key, object: &Value) {
        let owners = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let is_there = |owner: &Value| self.objects.values().any(|object| object["metadata"]["uid"] == owner["uid"]);
        if !owners.is_empty() && !owners.iter().any(is_there) {
            self.delete(key);
        }
    }

    /// As the controllers of a cluster do.
    fn give_addresses(&self, service: &mut Value) {
        if service["spec"]["clusterIP"].is_null() {
            service["spec"]["clusterIP"] = format!("10.96.0.{}", self.uids % 250 + 1).into();
        }
        if service["spec"]["type"] == "LoadBalancer" && self.load_balancer {
            let ip = format!("198.51.100.{}", self.uids % 250 + 1);
            service["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": ip }] } });
        }
    }

    fn replace(&mut self, key: &Key, new: Value, part: Part, check_version: Check) -> Result<Value, Refusal> {
        let Some(before) = self.objects.get(key).cloned() else { return Err(Refusal::not_found(&key.name)) };
        if let Check::Version(version) = check_version
            && before["metadata"]["resourceVersion"] != version
        {
            return Err(Refusal::conflict());
        }
        let mut object = before.clone();
        match part {
            Part::Status => object["status"] = new["status"].clone(),
            Part::Spec => {
                object = new;
                for kept in ["uid", "generation", "creationTimestamp", "namespace", "name"] {
                    object["metadata"][kept] = before["metadata"][kept].clone();
                }
                if has_status(&key.resource) {
                    object["status"] = before["status"].clone();
                }
                if key.resource == "services" && object["spec"]["clusterIP"].is_null() {
                    object["spec"]["clusterIP"] = before["spec"]["clusterIP"].clone();
                }
                let without_meta = |of: &Value| {
                    let mut of = of.clone();
                    (of["metadata"], of["status"]) = (Value::Null, Value::Null);
                    of
                };
                if without_meta(&object) != without_meta(&before) {
                    object["metadata"]["generation"] = (before["metadata"]["generation"].as_u64().unwrap() + 1).into();
                }
            }
        }
        prune(&mut object);
        check(&key.resource, &object)?;
        let version = object["metadata"]["resourceVersion"].take();
        let mut before = before;
        before["metadata"]["resourceVersion"] = Value::Null;
        if object == before {
            // A write that changes nothing is no event.
            object["metadata"]["resourceVersion"] = self.objects[key]["metadata"]["resourceVersion"].clone();
            return Ok(object);
        }
        drop(version);
        Ok(self.store(key, "MODIFIED", object))
    }

    fn delete(&mut self, key: &Key) -> bool {
        let Some(mut object) = self.objects.remove(key) else { return false };
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let uid = object["metadata"]["uid"].clone();
        self.events.push(Event { version: self.version, resource: key.resource.clone(), kind: "DELETED", object });
        let owns = |object: &Value| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == uid))
        };
        let owned: Vec<Key> = self.objects.iter().filter(|(_, it)| owns(it)).map(|(key, _)| key.clone()).collect();
        owned.iter().for_each(|key| _ = self.delete(key));
        true
    }

    fn store(&mut self, key: &Key, kind: &'static str, mut object: Value) -> Value {
        self.version += 1;
        prune(&mut object);
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(key.clone(), object.clone());
        let event = Event { version: self.version, resource: key.resource.clone(), kind, object: object.clone() };
        self.events.push(event);
        object
    }

    /// The events of a resource after `version`, as lines.
    fn lines_after(&self, target: &Target, version: u64) -> String {
        let first = self.events.partition_point(|event| event.version <= version);
        let is_wanted = |event: &&Event| {
            event.resource == target.resource
                && (target.namespace.is_empty() || event.object["metadata"]["namespace"] == target.namespace)
        };
        let line = |event: &Event| format!("{}\n", json!({ "type": event.kind, "object": event.object }));
        self.events[first..].iter().filter(is_wanted).map(line).collect()
    }

    fn list(&self, call: &Call) -> Value {
        let target = &call.target;
        let limit = call.number("limit").unwrap_or(usize::MAX);
        let after = call.query.get("continue").map(|from| from.split_once('/').expect("as it was given"));
        let matching = self.objects.iter().filter(|(key, _)| {
            key.resource == target.resource && (target.namespace.is_empty() || key.namespace == target.namespace)
        });
        let mut rest = matching.filter(|(key, _)| after.is_none_or(|after| (&*key.namespace, &*key.name) > after));
        let page: Vec<(&Key, &Value)> = rest.by_ref().take(limit).collect();
        let last = page.last().map(|(key, _)| format!("{}/{}", key.namespace, key.name));
        let next = last.filter(|_| rest.next().is_some());
        let items: Vec<Value> = page.into_iter().map(|(_, object)| object.clone()).collect();
        json!({
            "apiVersion": target.api_version(),
            "kind": format!("{}List", target.kind),
            "metadata": { "resourceVersion": self.version.to_string(), "continue": next.unwrap_or_default() },
            "items": items,
        })
    }
}

/// Takes away the nulls that indexing has left.
fn prune(object: &mut Value) {
    if let Value::Object(map) = object {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(prune);
    }
}

fn has_status(resource: &str) -> bool {
    resource != "leases" && resource != "endpointslices"
}

/// RFC 7396.
fn merge(into: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *into = patch;
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(&key);
        } else {
            merge(&mut into[key], value);
        }
    }
}

/// Refuses what the types would not read, as the API server refuses what its schemas do not allow.
fn check(resource: &str, object: &Value) -> Result<(), Refusal> {
    use gateway_api::apis::standard::{gatewayclasses, gateways, referencegrants, tlsroutes};
    use k8s_openapi::api::{coordination, core, discovery};

    fn reads<T: serde::de::DeserializeOwned>(object: &Value) -> Result<(), String> {
        serde_json::from_value::<T>(object.clone()).map(drop).map_err(|error| error.to_string())
    }
    let read = match resource {
        "gatewayclasses" => reads::<gatewayclasses::GatewayClass>(object),
        "gateways" => reads::<gateways::Gateway>(object),
        "tlsroutes" => reads::<tlsroutes::TlsRoute>(object),
        "referencegrants" => reads::<referencegrants::ReferenceGrant>(object),
        "services" => reads::<core::v1::Service>(object),
        "endpointslices" => reads::<discovery::v1::EndpointSlice>(object),
        "namespaces" => reads::<core::v1::Namespace>(object),
        "leases" => reads::<coordination::v1::Lease>(object),
        "ingresses" => reads::<k8s_openapi::api::networking::v1::Ingress>(object),
        "events" => reads::<k8s_openapi::api::events::v1::Event>(object),
        other => Err(format!("no such resource {other}")),
    };
    read.map_err(|error| Refusal(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", error))
}

fn text(object: &Value, key: &str) -> String {
    object[key].as_str().unwrap_or_else(|| panic!("{key} of {object}")).to_owned()
}

// The requests

/// A request that is not carried out, as a Status object says it.
#[derive(Debug)]
struct Refusal(StatusCode, &'static str, String);

impl Refusal {
    fn not_found(what: &str) -> Self {
        Self(StatusCode::NOT_FOUND, "NotFound", format!("{what} not found"))
    }

    fn conflict() -> Self {
        Self(StatusCode::CONFLICT, "Conflict", "the object has been modified".to_owned())
    }

    fn expired() -> Self {
        Self(StatusCode::GONE, "Expired", "too old resource version".to_owned())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(code, reason, message) = self;
        let status = json!({ "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
            "reason": reason, "message": message, "code": code.as_u16() });
        (code, [("content-type", "application/json")], status.to_string()).into_response()
    }
}

async fn answer(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let is_known = parts.headers.get("authorization").is_some_and(|token| token == format!("Bearer {TOKEN}").as_str());
    if !is_known {
        return Refusal(StatusCode::UNAUTHORIZED, "Unauthorized", "no token".to_owned()).into_response();
    }
    let content_type = parts.headers.get("content-type").and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
    let Some(call) = Call::of(&parts.method, parts.uri.path(), parts.uri.query().unwrap_or_default()) else {
        return Refusal::not_found(parts.uri.path()).into_response();
    };
    let body = to_bytes(body, 1 << 20).await.unwrap_or_default();
    let fault = {
        let mut state = inner.state();
        state.requests.push((Instant::now(), call.clone()));
        if state.missing.contains(&call.target.resource) {
            return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
        }
        state.fault
    };
    let is_read = matches!(call.verb, "list" | "watch");
    match fault {
        Fault::Status(code) => {
            let code = StatusCode::from_u16(code).unwrap();
            return Refusal(code, "InternalError", "on demand".to_owned()).into_response();
        }
        Fault::Busy(seconds) => {
            let status = Refusal(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", "on demand".to_owned());
            return ([("retry-after", seconds.to_string())], status).into_response();
        }
        Fault::Silence => std::future::pending().await,
        Fault::Garbage if is_read => return Body::from("\u{0}\u{1}}{]]\n[\n").into_response(),
        Fault::HalfLine if is_read => {
            return Body::from("{\"type\":\"MODIFIED\",\"object\":{\"kind\":").into_response();
        }
        Fault::ShortWatches if call.verb == "watch" => return Body::empty().into_response(),
        Fault::None | Fault::Garbage | Fault::HalfLine | Fault::ShortWatches => {}
    }
    if call.verb == "watch" {
        return follow(&inner, call).unwrap_or_else(IntoResponse::into_response);
    }
    let done = carry_out(&inner, &call, &parts.method, &content_type, &body);
    done.map_or_else(IntoResponse::into_response, |value| {
        let code = if call.verb == "create" { StatusCode::CREATED } else { StatusCode::OK };
        (code, [("content-type", "application/json")], value.to_string()).into_response()
    })
}

fn carry_out(inner: &Inner, call: &Call, method: &Method, kind: &str, body: &Bytes) -> Result<Value, Refusal> {
    let mut state = inner.state();
    let key = Key::of(&call.target);
    if call.verb == "list" {
        return Ok(state.list(call));
    }
    if call.verb == "get" {
        return state.objects.get(&key).cloned().ok_or_else(|| Refusal::not_found(&key.name));
    }
    if key.resource == "services" && state.forbidden.contains(&key.namespace) {
        let message = format!("services is forbidden in the namespace \"{}\"", key.namespace);
        return Err(Refusal(StatusCode::FORBIDDEN, "Forbidden", message));
    }
    if call.verb == "delete" {
        let wanted: Value = serde_json::from_slice(body).unwrap_or_default();
        let meta = state.objects.get(&key).ok_or_else(|| Refusal::not_found(&key.name))?["metadata"].clone();
        let is_other =
            |name: &str| !wanted["preconditions"][name].is_null() && wanted["preconditions"][name] != meta[name];
        if is_other("uid") || is_other("resourceVersion") {
            return Err(Refusal::conflict());
        }
        state.delete(&key);
        inner.announce(&state);
        return Ok(json!({ "kind": "Status", "status": "Success" }));
    }
    if state.conflicts > 0 && call.target.resource != "leases" {
        state.conflicts -= 1;
        return Err(Refusal::conflict());
    }
    let sent: Value = serde_json::from_slice(body)
        .map_err(|error| Refusal(StatusCode::BAD_REQUEST, "BadRequest", error.to_string()))?;
    let part = if call.subresource == "status" { Part::Status } else { Part::Spec };
    let version = sent["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    let version = version.map_or(Check::Nothing, Check::Version);
    let done = if *method == Method::POST {
        let name = text(&sent["metadata"], "name");
        state.create(&Key { name, ..key }, sent)
    } else if *method == Method::PUT {
        state.replace(&key, sent, part, version)
    } else if kind == "application/merge-patch+json" {
        let mut object = state.objects.get(&key).cloned().ok_or_else(|| Refusal::not_found(&key.name))?;
        merge(&mut object, sent);
        state.replace(&key, object, part, version)
    } else {
        Err(Refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", kind.to_owned()))
    };
    inner.announce(&state);
    done
}

/// What a watch has sent so far.
struct Following {
    inner: Arc<Inner>,
    wake: watch::Receiver<Wake>,
    epoch: u64,
    call: Call,
    version: u64,
    until: tokio::time::Instant,
}

/// The events after a version, for as long as the client asked for.
fn follow(inner: &Arc<Inner>, call: Call) -> Result<Response, Refusal> {
    let version = call.number("resourceVersion").unwrap_or(0) as u64;
    let state = inner.state();
    if version < state.oldest {
        return Err(Refusal::expired());
    }
    let wake = inner.wake.subscribe();
    let epoch = wake.borrow().epoch;
    drop(state);
    let seconds = call.number("timeoutSeconds").unwrap_or(290) as u64;
    let until = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let following = Following { inner: Arc::clone(inner), wake, epoch, call, version, until };
    let lines = stream::unfold(following, |mut at| async move {
        let lines = at.next().await?;
        Some((Ok::<_, std::io::Error>(Bytes::from(lines)), at))
    });
    Ok(([("content-type", "application/json")], Body::from_stream(lines)).into_response())
}

impl Following {
    /// `None`: the watch is over.
    async fn next(&mut self) -> Option<String> {
        loop {
            let seen = *self.wake.borrow_and_update();
            if seen.epoch != self.epoch {
                return None;
            }
            let (lines, version) = {
                let state = self.inner.state();
                (state.lines_after(&self.call.target, self.version), state.version)
            };
            if !lines.is_empty() {
                self.version = version;
                return Some(lines);
            }
            tokio::select! {
                changed = self.wake.changed() => changed.ok()?,
                () = tokio::time::sleep(BOOKMARKS) => {
                    if self.call.query.get("allowWatchBookmarks").is_some_and(|it| it == "true") {
                        self.version = version;
                        let target = &self.call.target;
                        let object = json!({ "apiVersion": target.api_version(), "kind": target.kind,
                            "metadata": { "resourceVersion": version.to_string(), "creationTimestamp": null } });
                        return Some(format!("{}\n", json!({ "type": "BOOKMARK", "object": object })));
                    }
                }
                () = tokio::time::sleep_until(self.until) => return None,
            }
        }
    }
}

pub const TOKEN: &str = "let-me-in";
const BOOKMARKS: Duration = Duration::from_millis(500);
