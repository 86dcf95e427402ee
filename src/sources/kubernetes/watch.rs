//! Keeps copies of the objects of a cluster, one store for each kind.
//!
//! In:  a client; for each kind a list and then a watch, which goes on from where it was after an error, and begins anew
//!      with a list when the server no longer knows that version (410).
//! Out: [`Stores`]; a call for each change, and for each error. A store that has been filled once keeps what it has
//!      while the server is away.
//! Source: <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use gateway_api::apis::standard::gatewayclasses::GatewayClass;
use gateway_api::apis::standard::gateways::Gateway;
use gateway_api::apis::standard::referencegrants::ReferenceGrant;
use gateway_api::apis::standard::tlsroutes::TlsRoute;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{ListParams, ObjectList, WatchEvent, WatchParams};
use kube::runtime::reflector::{self, ObjectRef, Store, store::Writer};
use kube::runtime::watcher::Event;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::client::{NO_ANSWER, SILENCE, causes};
use super::objects::ObjectName;
use super::request::{self, Failure};
use crate::telemetry::KubernetesKind;

/// The objects of each kind, as they were seen last.
#[derive(Clone)]
pub(super) struct Stores {
    pub classes: Store<GatewayClass>,
    pub gateways: Store<Gateway>,
    pub routes: Store<TlsRoute>,
    pub grants: Store<ReferenceGrant>,
    pub services: Store<Service>,
    pub slices: Store<EndpointSlice>,
    pub namespaces: Store<Namespace>,
    pub ingresses: Store<Ingress>,
}

/// The other ends of [`Stores`].
pub(super) struct Writers {
    classes: Writer<GatewayClass>,
    gateways: Writer<Gateway>,
    routes: Writer<TlsRoute>,
    grants: Writer<ReferenceGrant>,
    services: Writer<Service>,
    slices: Writer<EndpointSlice>,
    namespaces: Writer<Namespace>,
    ingresses: Writer<Ingress>,
}

/// A kind of objects that can be kept in a store.
trait Watched: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static {
    /// Whether its status is written, and not read: a change of nothing else changes nothing for clients.
    const STATUS_IS_OURS: bool = false;

    fn as_slice(&self) -> Option<&EndpointSlice> {
        None
    }
}

impl Watched for GatewayClass {
    const STATUS_IS_OURS: bool = true;
}

impl Watched for Gateway {
    const STATUS_IS_OURS: bool = true;
}

impl Watched for TlsRoute {
    const STATUS_IS_OURS: bool = true;
}

impl Watched for ReferenceGrant {}

/// Its status has the addresses at which clients reach a Gateway.
impl Watched for Service {}

impl Watched for EndpointSlice {
    fn as_slice(&self) -> Option<&EndpointSlice> {
        Some(self)
    }
}

impl Watched for Namespace {}

impl Watched for Ingress {
    const STATUS_IS_OURS: bool = true;
}

/// What happened to a store.
#[derive(Debug)]
pub(super) enum Happened {
    /// It has all objects, after a list.
    Synced { count: usize },
    /// One object was added, changed or deleted.
    Changed { count: usize },
    /// The same for an EndpointSlice.
    Slice { slice: Box<EndpointSlice>, count: usize },
    /// Nothing but the status of one object has changed.
    StatusChanged,
    /// The server answers, and nothing has changed.
    Answered,
    /// An object that cannot be read is passed over.
    Unreadable { name: ObjectName, error: String },
    /// It cannot be kept up to date; it is tried again.
    Failed(Failure),
}

pub(super) fn stores() -> (Stores, Writers) {
    let (classes, of_classes) = reflector::store();
    let (gateways, of_gateways) = reflector::store();
    let (routes, of_routes) = reflector::store();
    let (grants, of_grants) = reflector::store();
    let (services, of_services) = reflector::store();
    let (slices, of_slices) = reflector::store();
    let (namespaces, of_namespaces) = reflector::store();
    let (ingresses, of_ingresses) = reflector::store();
    let stores = Stores { classes, gateways, routes, grants, services, slices, namespaces, ingresses };
    let writers = Writers {
        classes: of_classes,
        gateways: of_gateways,
        routes: of_routes,
        grants: of_grants,
        services: of_services,
        slices: of_slices,
        namespaces: of_namespaces,
        ingresses: of_ingresses,
    };
    (stores, writers)
}

/// Fills the stores, and keeps them up to date until it is dropped.
pub(super) async fn follow(client: &Client, writers: Writers, happened: &(dyn Fn(KubernetesKind, Happened) + Sync)) {
    let Writers { classes, gateways, routes, grants, services, slices, namespaces, ingresses } = writers;
    tokio::join!(
        Kept::new(client, KubernetesKind::GatewayClass, classes, happened).keep(),
        Kept::new(client, KubernetesKind::Gateway, gateways, happened).keep(),
        Kept::new(client, KubernetesKind::TlsRoute, routes, happened).keep(),
        Kept::new(client, KubernetesKind::ReferenceGrant, grants, happened).keep(),
        Kept::new(client, KubernetesKind::Service, services, happened).keep(),
        Kept::new(client, KubernetesKind::EndpointSlice, slices, happened).keep(),
        Kept::new(client, KubernetesKind::Namespace, namespaces, happened).keep(),
        Kept::new(client, KubernetesKind::Ingress, ingresses, happened).keep(),
    );
}

/// A store that is kept up to date.
struct Kept<'a, K: Watched>
where
    K::DynamicType: Clone + Default + Eq + Hash,
{
    client: &'a Client,
    kind: KubernetesKind,
    writer: Writer<K>,
    /// Up to where the store is; `None`: all objects have to be listed.
    version: Option<String>,
    happened: &'a (dyn Fn(KubernetesKind, Happened) + Sync),
}

impl<'a, K: Watched> Kept<'a, K>
where
    K::DynamicType: Clone + Default + Eq + Hash,
{
    fn new(
        client: &'a Client,
        kind: KubernetesKind,
        writer: Writer<K>,
        happened: &'a (dyn Fn(KubernetesKind, Happened) + Sync),
    ) -> Self {
        Self { client, kind, writer, version: None, happened }
    }

    async fn keep(mut self) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let (before, began) = (self.version.clone(), Instant::now());
            let ended = self.list_and_watch().await;
            let is_forward = self.version.is_some() && self.version != before;
            if is_forward || began.elapsed() >= LONG_ENOUGH {
                pause = SHORTEST_PAUSE;
            }
            let retry_after = match ended {
                Ok(()) if pause == SHORTEST_PAUSE => None,
                // A watch that ends at once, again and again, is not to keep anybody busy.
                Ok(()) => {
                    self.report(Happened::Failed(Failure::new("the API server ends each watch at once")));
                    None
                }
                Err(failure) => {
                    let retry_after = failure.retry_after;
                    self.report(Happened::Failed(failure));
                    retry_after
                }
            };
            // Many processes begin to wait at the same time when a server goes away.
            let wait = pause.mul_f64(0.5 + fastrand::f64());
            sleep(retry_after.map_or(wait, |asked| asked + wait)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn report(&self, what: Happened) {
        (self.happened)(self.kind, what);
    }

    /// Lists the objects if need be, and watches them until the server ends the watch.
    async fn list_and_watch(&mut self) -> Result<(), Failure> {
        let from = match &self.version {
            Some(version) => version.clone(),
            None => {
                let from = self.list().await?;
                self.report(Happened::Synced { count: self.writer.as_reader().len() });
                self.version.insert(from).clone()
            }
        };
        let watched = self.watch(&from).await;
        if watched.as_ref().is_err_and(Failure::is_gone) {
            // The server no longer knows the version: the objects are listed again.
            self.version = None;
        }
        watched
    }

    /// Puts all objects into the store, in place of those that it has. Returns the version to watch from.
    async fn list(&mut self) -> Result<String, Failure> {
        let path = kube::core::Request::new(K::url_path(&K::DynamicType::default(), None));
        let mut params = ListParams::default().limit(PAGE);
        self.writer.apply_watcher_event(&Event::Init);
        loop {
            let request = path.list(&params).map_err(|error| Failure::of(&error))?;
            let page: ObjectList<Value> = timeout(PATIENCE, request::object(self.client, request))
                .await
                .unwrap_or_else(|_| Err(Failure::new(NO_ANSWER)))?;
            for item in page.items {
                if let Some(object) = self.read(item).map_or_else(|name| self.known(&name), Some) {
                    self.writer.apply_watcher_event(&Event::InitApply(object));
                }
            }
            match page.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => params = ListParams::default().limit(PAGE).continue_token(&next),
                None => {
                    self.writer.apply_watcher_event(&Event::InitDone);
                    return Ok(page.metadata.resource_version.unwrap_or_default());
                }
            }
        }
    }

    /// Applies the changes after version `from` until the server ends the watch.
    async fn watch(&mut self, from: &str) -> Result<(), Failure> {
        let path = kube::core::Request::new(K::url_path(&K::DynamicType::default(), None));
        let params = WatchParams::default().timeout(WATCH_SECONDS);
        let request = path.watch(&params, from).map_err(|error| Failure::of(&error))?;
        let mut lines = timeout(PATIENCE, request::lines(self.client, request))
            .await
            .unwrap_or_else(|_| Err(Failure::new(NO_ANSWER)))?;
        // An answer that fails at its beginning is no sign that the server is back.
        let mut first = match timeout(LONG_ENOUGH, lines.next()).await {
            Ok(Ok(None)) => return Ok(()),
            Ok(line) => line?,
            Err(_) => None,
        };
        if first.is_none() {
            self.report(Happened::Answered);
        }
        loop {
            let line = match first.take() {
                Some(line) => line,
                None => match lines.next().await? {
                    Some(line) => line,
                    None => return Ok(()),
                },
            };
            let event: WatchEvent<Value> = serde_json::from_slice(&line).map_err(|error| Failure::of(&error))?;
            self.apply(event)?;
        }
    }

    /// An object; the name of one that the types cannot read. All others of its kind must not wait for that one.
    fn read(&self, value: Value) -> Result<K, ObjectName> {
        let text = |key: &str| value["metadata"][key].as_str().unwrap_or_default().to_owned();
        let name = ObjectName::new(&text("namespace"), &text("name"));
        serde_json::from_value(value).map(slim).map_err(|error| {
            self.report(Happened::Unreadable { name: name.clone(), error: causes(&error) });
            name
        })
    }

    /// An object as it was read last.
    fn known(&self, name: &ObjectName) -> Option<K> {
        let reference = ObjectRef::new(&name.name);
        let reference = if name.namespace.is_empty() { reference } else { reference.within(&name.namespace) };
        self.writer.as_reader().get(&reference).map(|object| (*object).clone())
    }

    fn apply(&mut self, event: WatchEvent<Value>) -> Result<(), Failure> {
        let (value, is_deleted) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
            WatchEvent::Bookmark(bookmark) => {
                self.version = Some(bookmark.metadata.resource_version);
                self.report(Happened::Answered);
                return Ok(());
            }
            WatchEvent::Error(status) => return Err(Failure::of_event(&status)),
        };
        let version = value["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        // What was read of it before stays, until it is deleted.
        let object = self.read(value).map_or_else(|name| self.known(&name).filter(|_| is_deleted), Some);
        let Some(object) = object else {
            self.version = version.or(self.version.take());
            return Ok(());
        };
        let object = if is_deleted { Event::Delete(object) } else { Event::Apply(object) };
        let store = self.writer.as_reader();
        let before = |object: &K| store.get(&ObjectRef::from_obj(object));
        let is_status_alone = matches!(&object, Event::Apply(object) if before(object).is_some_and(|was| is_same_but_status(&*was, object)));
        self.writer.apply_watcher_event(&object);
        let count = store.len();
        let (Event::Apply(object) | Event::Delete(object)) = object else { return Ok(()) };
        self.version = version.or(self.version.take());
        self.report(match object.as_slice() {
            _ if is_status_alone => Happened::StatusChanged,
            Some(slice) => Happened::Slice { slice: Box::new(slice.clone()), count },
            None => Happened::Changed { count },
        });
        Ok(())
    }
}

/// An object without what says who has set which field, which is often larger than the rest.
fn slim<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

/// Whether nothing of an object has changed but its status, which is ours. A change of everything else shows in the
/// generation, the labels, the annotations or the deletion.
fn is_same_but_status<K: Watched>(was: &K, is: &K) -> bool {
    let (was, is) = (was.meta(), is.meta());
    K::STATUS_IS_OURS
        && is.generation.is_some()
        && was.generation == is.generation
        && was.uid == is.uid
        && was.labels == is.labels
        && was.annotations == is.annotations
        && was.deletion_timestamp == is.deletion_timestamp
}

/// After so many seconds the server ends a watch, and the next one begins: without bookmarks, a connection that died
/// unnoticed is noticed then.
const WATCH_SECONDS: u32 = 60;
const _: () = assert!((WATCH_SECONDS as u64) < SILENCE.as_secs());
const PAGE: u32 = 500;
/// For the first byte of an answer to a watch, and for a page of a list.
const PATIENCE: Duration = Duration::from_secs(30);
/// A watch that has been open for so long works.
const LONG_ENOUGH: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
